"""The original estimator: what it answers, and its answers, in the form in which the served model's are compared."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from registry.contract import Contract, Output
from registry.errors import ConversionRefused
from registry.loss import class_index

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]

_ADAPTERS: Final[Mapping[str, str]] = {
    "sklearn": "registry.export.sklearn",
    "xgboost": "registry.export.xgboost",
    "lightgbm": "registry.export.lightgbm",
    "catboost": "registry.export.catboost",
    "torch": "registry.export.torch",
    "onnx": "registry.export.ready",
}
"""Package of an estimator's class (or of a base class) to the module that knows it; imported when one is met."""


@dataclass(frozen=True, slots=True)
class Answers:
    """N answers: `values` float64 [N, C], and for a classification the chosen class's position in `labels` [N].

    `values` are the predicted numbers, the probabilities, or the scores of a classifier that has no probabilities.
    """

    values: Array
    labels: Array | None = None


def known(estimator: Any) -> Any:
    """The estimator, after importing the module that knows its kind."""
    for base in type(estimator).__mro__:
        adapter = _ADAPTERS.get(base.__module__.partition(".")[0])
        if adapter is not None:
            import_module(adapter)
            break
    return estimator


def output_of(estimator: Any) -> Output:
    """What the fitted estimator answers.

    Raises:
        ConversionRefused: it is not fitted, or what it predicts cannot be served.
    """
    return output(known(estimator))


def predict_original(estimator: Any, contract: Contract, frame: pd.DataFrame) -> Answers:
    """The estimator's own answers to the rows of `frame`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows made to be unusual are what it would warn of
        return predict(known(estimator), contract, frame)


@singledispatch
def output(estimator: Any) -> Output:
    """Anything with scikit-learn's methods; other kinds are registered here."""
    from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor

    _require_fitted(estimator)
    if is_classifier(estimator):
        return _classes_output(estimator)
    if is_regressor(estimator):
        return Output("regression", targets=_targets(estimator))
    if is_outlier_detector(estimator) and hasattr(estimator, "predict"):
        return Output("classification", (-1, 1), scores=("decision",))
    if is_clusterer(estimator) and hasattr(estimator, "predict") and hasattr(estimator, "transform"):
        clusters = range(int(_last(estimator).n_clusters))
        return Output("classification", tuple(clusters), scores=tuple(f"distance_{n}" for n in clusters))
    raise ConversionRefused(
        f"the {type(estimator).__name__} predicts neither classes nor numbers nor clusters nor outliers",
        hint="log the estimator whose predict answers the question",
    )


@singledispatch
def predict(estimator: Any, contract: Contract, frame: pd.DataFrame) -> Answers:
    """Anything with scikit-learn's methods; other kinds are registered here."""
    predicted = np.asarray(estimator.predict(frame))
    if contract.output.kind == "regression":
        return Answers(predicted.astype(np.float64).reshape(len(frame), -1))
    labels = class_index(contract.output, predicted.ravel())
    if not contract.output.scores:
        return Answers(np.asarray(estimator.predict_proba(frame), np.float64), labels)
    score = estimator.decision_function if hasattr(estimator, "decision_function") else estimator.transform
    return Answers(np.asarray(score(frame), np.float64).reshape(len(frame), -1), labels)


def class_values(labels: Any) -> tuple[str | int | bool, ...]:
    """Classes as the contract keeps them: text, integers or booleans; whole floats become integers.

    Raises:
        ConversionRefused: a class is of another type.
    """
    values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in np.asarray(labels).tolist()]
    if not values or not all(isinstance(v, (str, int, bool)) for v in values):
        raise ConversionRefused(
            "the classes are not text, integers or booleans",
            expected="classes such as 'yes' and 'no', or 0 and 1",
            hint="fit on such labels",
        )
    return tuple(values)


def _require_fitted(estimator: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise ConversionRefused(
            f"the {type(estimator).__name__} is not a fitted estimator",
            expected="an estimator after fit",
            hint="call fit before log_model",
        ) from error


def _classes_output(estimator: Any) -> Output:
    classes = estimator.classes_
    if isinstance(classes, list) or np.asarray(classes).ndim != 1:
        raise ConversionRefused(
            f"the {type(estimator).__name__} predicts several classes a row", hint="log one model per output"
        )
    values = class_values(classes)
    if hasattr(estimator, "predict_proba"):
        return Output("classification", values)
    if not hasattr(estimator, "decision_function"):
        raise ConversionRefused(
            f"the {type(estimator).__name__} has neither probabilities nor scores",
            hint="vote softly (voting='soft'), or wrap it in CalibratedClassifierCV",
        )
    return Output("classification", values, scores=("decision",) if len(values) == 2 else tuple(map(str, values)))


def _targets(estimator: Any) -> tuple[str, ...]:
    """Names of the numbers of a regression of several; empty for the usual one."""
    number = _width(estimator)
    return tuple(f"target_{n}" for n in range(number)) if number > 1 else ()


def _width(estimator: Any) -> int:
    """How many numbers a fitted regressor predicts for a row."""
    last = _last(estimator)
    for name in ("best_estimator_", "regressor_"):
        if hasattr(last, name):
            return _width(getattr(last, name))
    if hasattr(last, "n_outputs_"):
        return int(last.n_outputs_)
    members = getattr(last, "estimators_", None)
    if isinstance(members, list) and members:
        several = type(last).__name__ in ("MultiOutputRegressor", "RegressorChain")
        return len(members) if several else _width(members[0])
    if members is None and hasattr(last, "estimator_"):
        return _width(last.estimator_)
    for name in ("_y", "y_train_", "_y_train"):  # neighbours and Gaussian processes keep what they were fitted on
        kept = getattr(last, name, None)
        if kept is not None:
            return 1 if np.ndim(kept) == 1 else int(np.shape(kept)[1])
    if hasattr(last, "X_fit_"):  # kernel ridge
        return 1 if np.ndim(last.dual_coef_) == 1 else int(np.shape(last.dual_coef_)[1])
    coefficients = getattr(last, "coef_", None)
    return 1 if coefficients is None or np.ndim(coefficients) < 2 else int(np.shape(coefficients)[0])


def _last(estimator: Any) -> Any:
    steps = getattr(estimator, "steps", None)
    return _last(steps[-1][1]) if steps else estimator
