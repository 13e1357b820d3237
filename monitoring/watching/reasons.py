"""Why a state is insufficient, in a sentence: a monitor that says nothing must say why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from monitoring.settings import MonitoringSettings
from monitoring.watching.findings import KINDS, Kind
from monitoring.watching.state import MonitorState

__all__ = ["MIN_REFERENCE", "reasons"]

MIN_REFERENCE: Final = 100
"""Rows of the reference below which drift is not judged: hardly anything could ever be significant."""


def reasons(s: MonitorState, reference: Mapping[str, Any], settings: MonitoringSettings) -> dict[Kind, str]:
    """A sentence for every kind whose state is `insufficient`."""
    known = {
        "data_quality": _window(s, settings),
        "feature_drift": _drift(s, reference, settings, of="rows"),
        "score_drift": _drift(s, reference, settings, of="the champion's answers"),
        "estimated": _estimated(s, reference, settings),
        "performance": _performance(s, settings),
    }
    return {kind: known[kind] for kind in KINDS if s.verdicts[kind].state == "insufficient"}


def _window(s: MonitorState, settings: MonitoringSettings) -> str:
    return f"no window has closed yet: {s.open.rows} of {settings.min_rows} rows"


def _drift(s: MonitorState, reference: Mapping[str, Any], settings: MonitoringSettings, *, of: str) -> str:
    if reference["rows"] < MIN_REFERENCE:
        return (
            f"the reference has {reference['rows']} rows, fewer than {MIN_REFERENCE}: log the model with more of them"
        )
    if not s.closed:
        return _window(s, settings)
    return f"no window holds {settings.min_rows} of {of} yet"


def _estimated(s: MonitorState, reference: Mapping[str, Any], settings: MonitoringSettings) -> str:
    if reference.get("estimate") is None:
        return "the reference teaches no estimate: log the model with 1,000 labelled rows, and probabilities"
    return _drift(s, reference, settings, of="the champion's answers")


def _performance(s: MonitorState, settings: MonitoringSettings) -> str:
    if s.detector is None:
        return "the reference has no losses to compare with: log the model with labels"
    return f"{s.detector.labels} of {settings.min_rows} labels have been used"
