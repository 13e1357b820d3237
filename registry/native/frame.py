"""Tensors back into the frame that an estimator was fitted on: the inverse of `registry.tensors.pack_frame`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.contract import Column, Contract

Array = npt.NDArray[Any]
_USUAL: Final = {"float": "float64", "int": "int64", "bool": "bool", "string": "object"}
_WITH_NULLS: Final = {"float": "Float64", "int": "Int64", "bool": "boolean"}
NONE: Final = "object/None"
"""The `frame_dtype` of an object column whose nulls are None; those of `object` are NaN."""


def frame_of(contract: Contract, numbers: Array, strings: list[list[str]]) -> pd.DataFrame:
    """The rows as a frame with the contract's columns, in their order and with the dtypes of training."""
    kinds = {column.frame_dtype for column in contract.columns}
    if not contract.strings and len(kinds) == 1 and kinds <= {"float64", "float32"}:
        return pd.DataFrame(numbers.astype(kinds.pop()), columns=contract.names)
    texts = np.asarray(strings, dtype=object).reshape(len(strings), len(contract.strings))
    made: dict[str, Any] = {}
    for n, column in enumerate(contract.numbers):
        made[column.name] = _numbers(column, numbers[:, n])
    for n, column in enumerate(contract.strings):
        made[column.name] = _texts(column, texts[:, n])
    return pd.DataFrame({name: made[name] for name in contract.names})


def _numbers(column: Column, values: Array) -> Any:
    kind = column.frame_dtype or _USUAL[column.dtype]
    null = np.isnan(values)
    if kind in ("object", NONE):
        found = (values == 1.0).astype(object)
        found[null] = None if kind == NONE else np.nan
        return found
    if kind == "boolean":
        return pd.arrays.BooleanArray(values == 1.0, null)
    if kind[0].isupper():  # Int64, UInt8, Float32: pandas' own types with nulls
        return pd.array(values, dtype=kind)  # type: ignore[call-overload]
    if "[" in kind:  # of pyarrow
        plain = _numbers(replace(column, frame_dtype=_WITH_NULLS[column.dtype]), values)
        return pd.Series(plain).astype(kind)  # type: ignore[call-overload]
    # integers and booleans of numpy have no null: a column that has one now was without in training
    return values if null.any() and np.dtype(kind).kind != "f" else values.astype(kind)


def _texts(column: Column, values: Array) -> Any:
    kind = column.frame_dtype or _USUAL[column.dtype]
    null = values == "" if column.nullable else np.zeros(len(values), bool)
    if kind == "category":
        return pd.Categorical(np.where(null, None, values), categories=list(column.categories or ()))  # type: ignore[call-overload]
    if kind in ("object", NONE):
        found = values.copy()
        found[null] = None if kind == NONE else np.nan
        return found
    return pd.array(np.where(null, None, values).tolist(), dtype=kind)  # type: ignore[call-overload]
