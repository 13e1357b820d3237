"""From real rows and an estimator to a contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from registry.contract import FLOAT32_EXACT_INT, Column, Contract, Dtype, Output, Scalar
from registry.errors import ContractViolation, ConversionRefused
from registry.names import check_name

MAX_COLUMNS = 2_000
MAX_CATEGORIES = 1_000


def infer_contract(estimator: Any, frame: pd.DataFrame, name: str) -> Contract:
    """The contract of `estimator` as the rows of `frame` show it.

    Raises:
        NameInvalid: `name` is not a model name.
        ContractViolation: no rows, unnamed or duplicate columns, a column of nulls or of mixed types.
        ConversionRefused: the estimator is not fitted, or predicts several outputs.
    """
    check_name(name)
    _check_frame(frame)
    columns = tuple(_column(str(label), frame[label]) for label in frame.columns)
    return Contract(name, columns, infer_output(estimator))


def infer_output(estimator: Any) -> Output:
    """Regression or classification, with the classes in the estimator's order."""
    from sklearn.base import is_classifier, is_regressor
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise ConversionRefused(
            f"the {type(estimator).__name__} is not a fitted scikit-learn estimator",
            expected="an estimator after fit",
            hint="call fit before log_model",
        ) from error
    if is_classifier(estimator):
        classes = np.asarray(estimator.classes_)
        if classes.ndim != 1 or not hasattr(estimator, "predict_proba"):
            raise ConversionRefused(
                f"the {type(estimator).__name__} has no predict_proba over one output",
                hint="wrap it in CalibratedClassifierCV, or log one model per output",
            )
        return Output("classification", tuple(classes.tolist()))
    if is_regressor(estimator):
        return Output("regression")
    raise ConversionRefused(
        f"the {type(estimator).__name__} is neither a classifier nor a regressor",
        hint="log the estimator whose predict answers the question",
    )


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


def _column(name: str, values: pd.Series[Any]) -> Column:
    seen = values.dropna()
    if len(seen) == 0:
        raise ContractViolation(
            f"column '{name}' holds nothing but nulls, so its type is unknown", hint=f"drop '{name}'"
        )
    nullable = bool(values.isna().any())
    dtype = _dtype(name, seen)
    if dtype == "string":
        categories = sorted(set(seen.astype(str)))
        return Column(
            name,
            dtype,
            nullable,
            categories=tuple(categories) if len(categories) <= MAX_CATEGORIES else None,
            example=str(seen.iloc[0]),
        )
    numbers = seen.to_numpy(dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
    if dtype == "int" and max(abs(low or 0), abs(high or 0)) > FLOAT32_EXACT_INT:
        raise ContractViolation(
            f"column '{name}' has integers beyond ±{FLOAT32_EXACT_INT:,}, which float32 rounds",
            hint=f"subtract an offset, use a coarser unit, or pass '{name}' as text if it is an id",
        )
    return Column(name, dtype, nullable, low, high, example=_example(dtype, numbers))


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
