"""How the cases of scikit-learn are made."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.families import rows
from tests.families.case import Case, Made

Data = Callable[[], rows.Data]


def case(key: str, title: str, make: Callable[[], Any], data: Data, **more: Any) -> Case:
    """A family that is fitted when it is asked for."""
    return Case(key, title, lambda: _fitted(make(), data), **more)


def _fitted(estimator: Any, data: Data) -> Made:
    frame, labels = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a search that stops early still answers, and that is all that is compared
        fitted = estimator.fit(frame, labels)
    return fitted, frame, labels


def scaled(estimator: Any) -> Any:
    """The estimator behind a StandardScaler."""
    return make_pipeline(StandardScaler(), estimator)


def unlabelled(data: Data) -> Data:
    """The rows alone."""
    return lambda: (data()[0], None)


def numeric(data: rows.Data) -> rows.Data:
    """The columns of numbers."""
    return data[0].select_dtypes("number"), data[1]
