"""What the tests of exporters share: frames with everything in them, and the certificate of a conversion."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from registry.contract import Precision
from registry.export import to_onnx
from registry.graphs.check import check_graph
from registry.infer import infer_contract
from registry.parity import certify, onnx_runner


def needs(package: str) -> Any:
    """An optional package; without it the test fails in CI and is left out elsewhere."""
    try:
        return import_module(package)
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{package} is not installed here")


def frame(rows: int = 1_500) -> pd.DataFrame:
    """Numbers with nulls, zeros and large values, whole numbers, booleans and categories."""
    generator = np.random.default_rng(0)
    made = pd.DataFrame(
        {
            "normal": generator.normal(size=rows).astype(np.float32),
            "whole": generator.integers(0, 40, rows),
            "flag": generator.random(rows) < 0.3,
            "large": (generator.normal(size=rows) * 1e6).astype(np.float32),
            "sparse": np.where(generator.random(rows) < 0.5, 0.0, generator.normal(size=rows)).astype(np.float32),
            "few": pd.Categorical(generator.choice(list("abcde"), rows)),
            "many": pd.Categorical(generator.choice([f"k{n}" for n in range(90)], rows)),
        }
    )
    made.loc[::7, "normal"] = np.nan
    made.loc[::11, "few"] = np.nan
    return made


def numbers() -> pd.DataFrame:
    """The columns that are no categories."""
    return frame().select_dtypes(exclude="category")


def target(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """A positive number that depends on every column."""
    found = rows["normal"].fillna(3) * 2 + rows["whole"] % 5 + rows["flag"] * 3 + rows["sparse"] + rows["large"] / 1e6
    if "few" in rows:
        found = found + rows["few"].cat.codes % 3 + rows["many"].cat.codes % 7
    return np.asarray(found - found.min() + 0.1, np.float64)


def classes(rows: pd.DataFrame, count: int) -> npt.NDArray[np.int64]:
    """The target in `count` equal parts."""
    return np.asarray(pd.qcut(target(rows), count, labels=False), np.int64)


def certificate(estimator: Any, rows: pd.DataFrame, precision: Precision = "float32") -> dict[str, Any]:
    """Of the estimator's graph in `precision`."""
    contract = replace(infer_contract(estimator, rows, "exported"), precision=precision)
    graph = to_onnx(estimator, contract)
    check_graph(graph, contract)  # what is exported passes the checks of what others send
    with threadpool_limits(1):
        return certify(estimator, onnx_runner(graph), contract, rows)


def assert_exact(
    estimator: Any,
    rows: pd.DataFrame,
    *,
    beyond: float = 1e-5,
    precisions: tuple[Precision, ...] = ("float32", "float64"),
) -> None:
    """The graph answers as the estimator does in each precision, on real and on adversarial rows."""
    for precision in precisions:
        found = certificate(estimator, rows, precision)
        assert found["verdict"] == "exact", (precision, found)
        assert found["adversarial_rows"] > 0
        assert max(found["max_difference"], found["adversarial_max_difference"]) <= beyond
        assert found["adversarial_label_flips"] == 0
