"""One loss for everything that compares models: bounded to 0..1, so that sequential tests on it are valid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from registry.contract import Output
from registry.errors import ConfigInvalid

Floats = npt.NDArray[np.float64]


def bounded_loss(output: Output, prediction: Any, label: Any, cap: float) -> Floats:
    """Loss of each row in [0, 1]; a row whose prediction or label is not usable gets NaN.

    Regression: min(|prediction - label| / cap, 1), `cap` in the units of the label.
    Classification: half the multiclass Brier score; `prediction` is probabilities [N, K] in the order of
    `output.classes`, `label` holds class values (or their text, as the event lake stores them).

    >>> bounded_loss(Output("regression"), [10.0, 12.0], [11.0, 40.0], cap=10.0).tolist()
    [0.1, 1.0]
    >>> bounded_loss(Output("classification", ("no", "yes")), [[0.25, 0.75]], ["yes"], cap=1.0).tolist()
    [0.0625]

    Raises:
        ConfigInvalid: `cap` is not a positive number, or the probabilities do not fit the classes.
    """
    if output.kind == "regression":
        if not cap > 0.0 or not np.isfinite(cap):
            raise ConfigInvalid("the loss cap is not usable", where="cap", expected="a positive number")
        difference = _first(prediction) - _first(label)
        return np.asarray(np.minimum(np.abs(difference) / cap, 1.0), np.float64)
    probabilities = np.asarray(prediction, np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(output.classes):
        raise ConfigInvalid(
            "the probabilities do not fit the classes",
            where="prediction",
            expected=f"[N, {len(output.classes)}]",
            got=str(list(probabilities.shape)),
        )
    index = class_index(output, label)
    truth = (index[:, None] == np.arange(len(output.classes))).astype(np.float64)
    loss = np.asarray(np.clip(((probabilities - truth) ** 2).sum(axis=1) / 2.0, 0.0, 1.0), np.float64)
    loss[index < 0] = np.nan
    return loss


def _first(values: Any) -> Floats:
    """The numbers [N], or of several a row [N, T] the first one: it is the one that is monitored."""
    array = np.asarray(values, np.float64)
    return array[:, 0] if array.ndim == 2 else array.ravel()


def class_index(output: Output, label: Any) -> npt.NDArray[np.int64]:
    """Position of each label in `output.classes`; -1 when it is none of them.

    Text matches a class by its text too: the event lake keeps class labels as strings.
    """
    positions: dict[Any, int] = {}
    for position, value in enumerate(output.classes):
        positions.setdefault(_key(value), position)
    values = np.asarray(label, dtype=object).ravel()
    return np.fromiter((positions.get(_key(value), -1) for value in values), np.int64, len(values))


def _key(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text.lower() if text in ("True", "False") else text
