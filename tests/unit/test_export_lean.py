"""Wide layers in float32: only those of neural networks, only where the certificate stays exact."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

from registry.contract import Column, Contract, Output
from registry.convert import convert
from registry.export import to_onnx
from registry.export.lean import LARGE, lean

NAMES = [f"c{n}" for n in range(20)]
WIDE = (300, 300)
"""Its second layer has 90,000 weights."""


def _frame(rows: int = 400) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(generator.normal(size=(rows, len(NAMES))).astype(np.float32), columns=NAMES)


def _contract(output: Output) -> Contract:
    return Contract("m", tuple(Column(name, "float") for name in NAMES), output)


def _fitted(estimator: Any, target: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(_frame(), target)


def _types(graph: bytes) -> dict[int, int]:
    """Numbers held in large constants by their ONNX type."""
    found: dict[int, int] = {}
    for tensor in onnx.load_from_string(graph).graph.initializer:
        if np.prod(tensor.dims) >= LARGE:
            found[tensor.data_type] = found.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    return found


def test_a_wide_network_is_served_in_float32_and_exact() -> None:
    """Half the bytes of its widest layer, and no answer moves by 1e-5."""
    target = _frame().to_numpy()[:, :3].sum(1)
    estimator = _fitted(MLPRegressor(hidden_layer_sizes=WIDE, max_iter=5, random_state=0), target)
    made = convert(estimator, _contract(Output("regression")), _frame())
    assert made.certificate["verdict"] == "exact"
    assert _types(made.data) == {onnx.TensorProto.FLOAT: 90_000}


def test_classes_of_a_wide_network_are_the_same() -> None:
    """Labels and probabilities."""
    target = (_frame().to_numpy()[:, 0] > 0).astype(int) + (_frame().to_numpy()[:, 1] > 1)
    estimator = _fitted(MLPClassifier(hidden_layer_sizes=WIDE, max_iter=5, random_state=0), target)
    made = convert(estimator, _contract(Output("classification", (0, 1, 2))), _frame())
    assert (made.certificate["verdict"], made.certificate["label_flips"]) == ("exact", 0)
    assert _types(made.data) == {onnx.TensorProto.FLOAT: 90_000}


def test_a_network_that_needs_its_digits_keeps_them() -> None:
    """Weights that cancel: the form in float32 is not exact, so that of float64 is served."""
    frame = _frame().astype(np.float64)  # on float32 the original itself loses them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator = MLPRegressor(hidden_layer_sizes=WIDE, max_iter=2, random_state=0).fit(frame, frame["c0"])
    estimator.coefs_[1][:150] += 1e4
    estimator.coefs_[1][150:] -= 1e4
    estimator.coefs_[0][:, 150:] = estimator.coefs_[0][:, :150]
    estimator.intercepts_[0][150:] = estimator.intercepts_[0][:150]
    made = convert(estimator, _contract(Output("regression")), frame)
    assert made.certificate["verdict"] == "exact"
    assert _types(made.data) == {onnx.TensorProto.DOUBLE: 90_000}


@pytest.mark.parametrize(
    "estimator",
    [MLPRegressor(hidden_layer_sizes=(50,), max_iter=2, random_state=0), KNeighborsRegressor(algorithm="brute")],
    ids=["narrow", "neighbours"],
)
def test_nothing_else_is_touched(estimator: Any) -> None:
    """Narrow networks gain nothing; distances would lose their digits, however large their constants."""
    frame = _frame(4_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(frame, frame.to_numpy()[:, 0])
    assert lean(to_onnx(estimator, _contract(Output("regression")))) is None
