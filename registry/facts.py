"""What is known of a version beside its estimator: said by its owner, kept in the card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Metric = Callable[[Any, Any], float]
"""f(y, prediction): both [N], of a classification class values."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a version beside its estimator: goes to the card, the reference and the run's tags.

    `cap` is the error, in units of y, at which a regression's loss saturates; by default four times the mean
    absolute error. `window` is the span of training data as ISO dates. `slices` are columns by whose values the
    metrics are also computed. `metrics` are values, or functions of (y, prediction) that get an interval too.
    `at` are the event times of the reference's rows (the holdout's, else X's), anything pandas reads as times: columns
    that follow the hour of the day are then watched hour by hour. `leakage_ok` are columns that tell the label and are
    known at the time of a prediction all the same. `lineage` is free: parent version, run, reason.
    """

    owner: str = ""
    purpose: str = ""
    window: tuple[str, str] | None = None
    training_rows: int | None = None
    cap: float | None = None
    ethics: str = ""
    limits: Sequence[str] = ()
    slices: Sequence[str] = ()
    metrics: Mapping[str, float | Metric] = field(default_factory=dict)
    leakage_ok: Sequence[str] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)
    at: Sequence[Any] | None = None
