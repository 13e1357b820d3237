"""From real rows and an estimator to a contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from registry.contract import EXACT_INT, Column, Contract, Dtype, Policy, Precision, Scalar
from registry.errors import ContractViolation
from registry.names import check_name
from registry.original import output_of

MAX_COLUMNS = 2_000
MAX_CATEGORIES = 1_000


def infer_contract(
    estimator: Any, frame: pd.DataFrame, name: str, *, policies: Mapping[str, Policy] | None = None
) -> Contract:
    """The contract of `estimator` as the rows of `frame` show it.

    Args:
        policies: columns whose values the event log hashes or drops; the others are stored.

    Raises:
        NameInvalid: `name` is not a model name.
        ContractViolation: no rows, unnamed or duplicate columns, a column of nulls or of mixed types, a policy for
            a column that is not there.
        ConversionRefused: the estimator is not fitted, or what it predicts cannot be served.
    """
    check_name(name)
    _check_frame(frame)
    wanted = dict(policies or {})
    missing = sorted(wanted.keys() - set(frame.columns))
    if missing or not set(wanted.values()) <= {"store", "hash", "drop"}:
        raise ContractViolation(
            f"a policy is for column '{missing[0]}', which X does not have" if missing else "a policy does not exist",
            where="policies",
            expected="store, hash or drop, by column",
        )
    columns = tuple(_column(str(n), frame[n], wanted.get(str(n), "store")) for n in frame.columns)
    precision: Precision = "float64" if any(_wide(column) for column in columns) else "float32"
    return Contract(name, columns, output_of(estimator), precision)


def _check_frame(frame: pd.DataFrame) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise ContractViolation("X must be a DataFrame", hint="pass pandas.DataFrame(X, columns=[...])")
    if len(frame) == 0:
        raise ContractViolation("X has no rows", hint="pass real rows, 1,000 or more")
    if not 1 <= len(frame.columns) <= MAX_COLUMNS:
        raise ContractViolation(f"X has {len(frame.columns)} columns; 1 to {MAX_COLUMNS} can be served")
    if not all(isinstance(label, str) and label and not label.startswith("_") for label in frame.columns):
        raise ContractViolation(
            "every column of X needs a name: a string that does not start with '_'",
            hint="pass pandas.DataFrame(X, columns=[...])",
        )
    doubled = sorted(set(frame.columns[frame.columns.duplicated()]))
    if doubled:
        raise ContractViolation(f"X has two columns named '{doubled[0]}'", hint="rename one of them")


def _column(name: str, values: pd.Series[Any], policy: Policy) -> Column:
    kind = values.dtype
    levels: tuple[str, ...] | None = None
    if isinstance(kind, pd.CategoricalDtype):
        if not all(isinstance(level, str) for level in kind.categories):
            raise ContractViolation(
                f"column '{name}' is categorical over values that are not text",
                expected="categories of text",
                hint=f"fit on X['{name}'].astype(str).astype('category')",
            )
        levels = tuple(kind.categories)
    seen = values.dropna()
    if len(seen) == 0:
        raise ContractViolation(
            f"column '{name}' holds nothing but nulls, so its type is unknown", hint=f"drop '{name}'"
        )
    column = Column(name, "string", bool(values.isna().any()), policy=policy, frame_dtype=_frame_dtype(kind))
    if levels is not None:
        return replace(column, categories=levels, example=str(seen.iloc[0]))
    dtype = _dtype(name, seen)
    if dtype == "string":
        found = sorted(set(seen.astype(str)))
        kept = tuple(found) if len(found) <= MAX_CATEGORIES else None
        return replace(column, categories=kept, example=str(seen.iloc[0]))
    numbers = seen.to_numpy(dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
    if dtype == "int" and max(abs(low or 0), abs(high or 0)) > EXACT_INT["float64"]:
        raise ContractViolation(
            f"column '{name}' has integers beyond ±{EXACT_INT['float64']:,}, which no number of the platform holds",
            hint=f"subtract an offset, use a coarser unit, or pass '{name}' as text if it is an id",
        )
    return replace(column, dtype=dtype, minimum=low, maximum=high, example=_example(dtype, numbers))


def _frame_dtype(kind: Any) -> str:
    return "category" if isinstance(kind, pd.CategoricalDtype) else str(kind)


def _wide(column: Column) -> bool:
    """Whether float32 would round the column's integers."""
    limit = EXACT_INT["float32"]
    return column.dtype == "int" and max(abs(column.minimum or 0), abs(column.maximum or 0)) > limit


def _dtype(name: str, seen: pd.Series[Any]) -> Dtype:
    kinds = pd.api.types
    if kinds.is_bool_dtype(seen):
        return "bool"
    if kinds.is_integer_dtype(seen):
        return "int"
    if kinds.is_float_dtype(seen):
        return "float"
    inner = {type(value) for value in seen}
    if inner == {str}:
        return "string"
    if inner == {bool}:
        return "bool"
    raise ContractViolation(
        f"column '{name}' is not of one type that can be served",
        expected="numbers, booleans or strings",
        got=", ".join(sorted(kind.__name__ for kind in inner)[:5]),
        hint=f"convert '{name}' to one type",
    )


def _example(dtype: Dtype, numbers: np.ndarray[Any, Any]) -> Scalar:
    middle = float(np.sort(numbers)[len(numbers) // 2])
    return bool(middle) if dtype == "bool" else int(middle) if dtype == "int" else middle
