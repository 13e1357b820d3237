"""Export of a fitted estimator to ONNX: one entry per estimator type, the same tensors in and out for all."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from registry.contract import Contract
from registry.errors import ConversionRefused
from registry.original import known


def to_onnx(estimator: Any, contract: Contract) -> bytes:
    """The graph of `estimator`: `contract`'s tensors in (of its precision), its output's tensors out.

    Raises:
        ConversionRefused: the estimator, or one of its steps, has no equivalent graph in this precision.
    """
    return export(known(estimator), contract)


@singledispatch
def export(estimator: Any, contract: Contract) -> bytes:
    """Register a kind of estimator here: `@export.register`."""
    raise ConversionRefused(
        f"there is no ONNX export for {type(estimator).__module__}.{type(estimator).__name__}",
        expected="scikit-learn, XGBoost, LightGBM, CatBoost, PyTorch or an ONNX graph",
    )
