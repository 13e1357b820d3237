"""Tensors back into the frame of training: every dtype a column may have, with and without nulls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from registry.contract import Column, Contract, Output
from registry.native.frame import NONE, frame_of
from registry.tensors import pack_frame

COLUMNS: dict[str, tuple[Column, Any]] = {
    "float32": (Column("x", "float", True), np.array([1.5, np.nan, -2.0], np.float32)),
    "float64": (Column("x", "float", True), np.array([1.5, np.nan, 1e300])),
    "int64": (Column("x", "int"), np.array([1, 2**40, -7])),
    "uint8": (Column("x", "int"), np.array([1, 255, 0], np.uint8)),
    "Int64": (Column("x", "int", True), pd.array([1, None, 2**40], dtype="Int64")),
    "Float64": (Column("x", "float", True), pd.array([1.5, None, 2.0], dtype="Float64")),
    "bool": (Column("x", "bool"), np.array([True, False, True])),
    "boolean": (Column("x", "bool", True), pd.array([True, None, False], dtype="boolean")),
    "int64[pyarrow]": (Column("x", "int", True), pd.Series([1, None, 3], dtype="Int64").astype("int64[pyarrow]")),
    "bool[pyarrow]": (
        Column("x", "bool", True),
        pd.Series([True, None, False], dtype="boolean").astype("bool[pyarrow]"),
    ),
    "object": (Column("x", "string", True), np.array(["a", np.nan, "b"], dtype=object)),
    "object without nulls": (Column("x", "string"), np.array(["a", "", "b"], dtype=object)),
    NONE: (Column("x", "string", True), np.array(["a", None, "b"], dtype=object)),
    "object of bool": (Column("x", "bool", True), np.array([True, np.nan, False], dtype=object)),
    "string": (Column("x", "string", True), pd.array(["a", None, "b"], dtype="string")),
    "category": (
        Column("x", "string", True, categories=("b", "a", "never")),
        pd.Categorical(["a", None, "b"], categories=["b", "a", "never"]),
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_back_as_it_was(name: str) -> None:
    """Values, nulls, dtype and the order of categories."""
    column, values = COLUMNS[name]
    frame = pd.DataFrame({"x": values})
    kind = "category" if name == "category" else NONE if name == NONE else str(frame["x"].dtype)
    contract = Contract("toy", (replace(column, frame_dtype=kind),), Output("regression"), "float64")
    tensors = pack_frame(contract, frame)
    numbers = tensors.get("numbers", np.zeros((len(frame), 0)))
    strings = tensors["strings"].tolist() if "strings" in tensors else []
    again = frame_of(contract, numbers, strings)
    assert_frame_equal(again, frame)
    if name in ("object", NONE):
        assert (again["x"][1] is None) == (name == NONE)


def test_columns_keep_the_contracts_order() -> None:
    """Numbers and text lie in two tensors, and the estimator takes them mixed."""
    columns = (
        Column("t", "string", frame_dtype="object"),
        Column("a", "float", frame_dtype="float64"),
        Column("u", "string", frame_dtype="object"),
    )
    contract = Contract("toy", columns, Output("regression"), "float64")
    frame = pd.DataFrame({"t": ["x", "y"], "a": [1.0, 2.0], "u": ["p", "q"]})
    tensors = pack_frame(contract, frame)
    assert_frame_equal(frame_of(contract, tensors["numbers"], tensors["strings"].tolist()), frame)


def test_a_category_that_training_did_not_have_is_a_null() -> None:
    """The frame of training could not hold it either."""
    column = Column("x", "string", categories=("a", "b"), frame_dtype="category")
    contract = Contract("toy", (column,), Output("regression"), "float64")
    assert frame_of(contract, np.zeros((1, 0)), [["z"]])["x"].isna().all()
