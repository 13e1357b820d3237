"""From real rows and an estimator to a contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
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
    check_frame(frame)
    _check_features(estimator, frame)
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


def check_frame(frame: pd.DataFrame) -> None:
    """Refuse anything but rows under names that requests can use.

    Raises:
        ContractViolation: with the fix.
    """
    if not isinstance(frame, pd.DataFrame):
        raise _not_a_frame(frame)
    if isinstance(frame.columns, pd.MultiIndex):
        raise ContractViolation(
            "X has columns of several levels",
            hint="X.columns = ['_'.join(map(str, c)) for c in X.columns], and fit on that",
        )
    if len(frame) == 0:
        raise ContractViolation("X has no rows", hint="pass real rows, 1,000 or more")
    if not 1 <= len(frame.columns) <= MAX_COLUMNS:
        raise ContractViolation(
            f"X has {len(frame.columns)} columns; 1 to {MAX_COLUMNS} can be served",
            hint="select the features that the estimator uses, and fit on those",
        )
    for label in frame.columns:
        if not isinstance(label, str) or not label or label.startswith("_"):
            shown = f"a column of X is named '{label}'" if isinstance(label, str) else "a column of X has no name"
            raise ContractViolation(
                f"{shown}; every column of X needs a name that does not start with '_'",
                where="X",
                hint="rename it and fit again, for example X.columns = ['age', 'income', …]",
            )
    doubled = sorted(set(frame.columns[frame.columns.duplicated()]))
    if doubled:
        raise ContractViolation(f"X has two columns named '{doubled[0]}'", where=doubled[0], hint="rename one of them")


def check_holdout(contract: Contract, frame: pd.DataFrame) -> None:
    """Refuse rows that the model of `contract` cannot be asked about.

    Raises:
        ContractViolation: no rows, or a column is missing or of another type.
    """
    if not isinstance(frame, pd.DataFrame) or len(frame) == 0:
        raise ContractViolation("the holdout is no DataFrame with rows", where="holdout", expected="(X, y)")
    for column in contract.columns:
        if column.name not in frame.columns:
            raise ContractViolation(
                f"the holdout has no column '{column.name}'", where="holdout", hint="pass the columns of X"
            )
        seen = frame[column.name].dropna()
        if len(seen) and (_dtype(column.name, seen) == "string") != (column.dtype == "string"):
            raise ContractViolation(
                f"column '{column.name}' of the holdout has another type than in X", where="holdout"
            )


def _not_a_frame(given: Any) -> ContractViolation:
    kind = type(given).__module__.partition(".")[0]
    hints = {
        "polars": "pass X.to_pandas()",
        "pyarrow": "pass X.to_pandas()",
        "scipy": "pass pandas.DataFrame(X.toarray(), columns=[...])",
    }
    return ContractViolation(
        "X must be a DataFrame of pandas: its column names become the contract",
        where="X",
        got=f"{kind}.{type(given).__name__}",
        hint=hints.get(kind, "pass pandas.DataFrame(X, columns=[...]), and fit on that too"),
    )


def _check_features(estimator: Any, frame: pd.DataFrame) -> None:
    """The columns that the estimator was fitted on are those of `frame`, in their order."""
    fitted = getattr(estimator, "feature_names_in_", None)
    names = [str(name) for name in frame.columns]
    if fitted is None:
        count = getattr(estimator, "n_features_in_", None)
        if isinstance(count, (int, np.integer)) and int(count) != len(names):
            raise ContractViolation(
                f"the estimator was fitted on {int(count)} columns, X has {len(names)}",
                where="X",
                hint="pass the columns that it was fitted on",
            )
        return
    wanted = [str(name) for name in fitted]
    missing = [name for name in wanted if name not in set(names)]
    extra = [name for name in names if name not in set(wanted)]
    if not missing and not extra and names == wanted:
        return
    parts = [
        f"missing: {_listed(missing)}" if missing else "",
        f"not known to it: {_listed(extra)}" if extra else "",
        "" if missing or extra else "in another order",
    ]
    raise ContractViolation(
        "X has other columns than the estimator was fitted on; " + "; ".join(filter(None, parts)),
        where="X",
        hint="pass X[estimator.feature_names_in_]",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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
            f"column '{name}' holds nothing but nulls, so its type is unknown", where=name, hint=f"drop '{name}'"
        )
    column = Column(name, "string", bool(values.isna().any()), policy=policy, frame_dtype=_frame_dtype(values))
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


def _frame_dtype(values: pd.Series[Any]) -> str:
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype):
        return "category"
    nulls = values[values.isna()]
    # among objects scikit-learn tells None from NaN: the original must be given the one it was fitted on
    return "object/None" if pd.api.types.is_object_dtype(kind) and len(nulls) and nulls.iloc[0] is None else str(kind)


def _wide(column: Column) -> bool:
    """Whether float32 would round the column's integers."""
    limit = EXACT_INT["float32"]
    return column.dtype == "int" and max(abs(column.minimum or 0), abs(column.maximum or 0)) > limit


def _dtype(name: str, seen: pd.Series[Any]) -> Dtype:
    kinds = pd.api.types
    if isinstance(seen.dtype, pd.SparseDtype):
        raise ContractViolation(
            f"column '{name}' is sparse", where=name, hint="pass X.sparse.to_dense(), and fit on that"
        )
    if kinds.is_bool_dtype(seen):
        return "bool"
    if kinds.is_integer_dtype(seen):
        return "int"
    if kinds.is_float_dtype(seen):
        return "float"
    inner = {type(value) for value in seen} if seen.dtype == object or kinds.is_string_dtype(seen) else set()
    if inner == {str}:
        return "string"
    if inner <= {bool, np.bool_} and inner:
        return "bool"
    raise ContractViolation(
        f"column '{name}' is not of one type that can be served",
        where=name,
        expected="numbers, booleans or strings",
        got=", ".join(sorted(kind.__name__ for kind in inner)[:5]) or str(seen.dtype),
        hint=_fix(name, seen, inner),
    )


def _fix(name: str, seen: pd.Series[Any], inner: set[type]) -> str:
    """How a column of another type becomes one that can be served."""
    kinds = pd.api.types
    if kinds.is_datetime64_any_dtype(seen) or any(issubclass(kind, date) for kind in inner):
        return f"fit on parts of it, such as X['{name}'].dt.hour and .dt.dayofweek, or on days since a fixed day"
    if kinds.is_timedelta64_dtype(seen) or any(issubclass(kind, timedelta) for kind in inner):
        return f"fit on X['{name}'].dt.total_seconds()"
    if kinds.is_complex_dtype(seen):
        return f"fit on its real and imaginary part as two columns in place of '{name}'"
    if inner == {Decimal}:
        return f"fit on X['{name}'].astype(float)"
    if any(issubclass(kind, (list, tuple, dict, set, np.ndarray)) for kind in inner):
        return f"fit on one column for each element in place of '{name}'"
    return f"convert '{name}' to one type, for example X['{name}'].astype(str), and fit on that"


def _example(dtype: Dtype, numbers: np.ndarray[Any, Any]) -> Scalar:
    middle = float(np.sort(numbers)[len(numbers) // 2])
    return bool(middle) if dtype == "bool" else int(middle) if dtype == "int" else middle
