"""What a request for a trial may set instead of the model's settings, and which values are possible.

The names and bounds are those of `[models.NAME.trial]`, which belong to the worker's room; a test compares the two.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from registry.errors import ExperimentInvalid

__all__ = ["OPTIONS", "checked_options"]

_STAGE: Final = re.compile(r"(shadow|(canary)(?::([0-9.]{1,20}))?|(ab):([0-9.]{1,20}))\Z")
_DURATION: Final = re.compile(r"[0-9]{1,7}[smhd]\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_OUTCOME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_MOST_STAGES: Final = 20
_MOST_LABELS: Final = 10_000_000
_MOST_OTHERS: Final = 9
_MOST_OPTIONS: Final = 32


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options in the form that the ledger keeps.

    >>> checked_options({"margin": 0.02, "stages": ["shadow", "ab:0.5"]})
    {'margin': 0.02, 'stages': ['shadow', 'ab:0.5']}

    Raises:
        ExperimentInvalid: a name is unknown, or a value is none that it takes. Values are not repeated.
    """
    if len(options) > _MOST_OPTIONS:
        raise ExperimentInvalid("too many options", where="options", expected=", ".join(OPTIONS))
    found = {}
    for name, value in options.items():
        if name not in OPTIONS:
            near = difflib.get_close_matches(str(name)[:100], OPTIONS, n=1)
            raise ExperimentInvalid(
                "there is no such option",
                where="options",
                expected=", ".join(OPTIONS),
                hint=f"did you mean '{near[0]}'?" if near else "",
            )
        expected, read = OPTIONS[name]
        made = read(value)
        if made is None:
            raise ExperimentInvalid(f"{name} cannot be that", where=f"options.{name}", expected=expected)
        found[name] = made
    return found


def _share(low: float, high: float, *, closed: bool = False) -> tuple[str, Callable[[Any], float | None]]:
    def read(value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None  # NaN is in no range, and integers are compared as they are: some are beyond all floats
        return float(value) if low < value < high or (closed and value == high) else None

    return f"a number above {low:g} and {'up to' if closed else 'below'} {high:g}", read


def _count(least: int) -> tuple[str, Callable[[Any], int | None]]:
    def read(value: Any) -> int | None:
        return value if type(value) is int and least <= value <= _MOST_LABELS else None

    return f"a whole number from {least:,}", read


def _text(pattern: re.Pattern[str], expected: str) -> tuple[str, Callable[[Any], str | None]]:
    return expected, lambda value: value if isinstance(value, str) and pattern.match(value) else None


def _span(value: Any) -> str | None:
    """A hundred years at most: dates that are counted from more are none."""
    if not isinstance(value, str) or not _DURATION.match(value):
        return None
    return value if int(value[:-1]) * _SECONDS[value[-1]] <= 36_500 * _SECONDS["d"] else None


def _stages(value: Any) -> list[str] | None:
    """Stages whose weights grow, shadow first and an A/B at the end."""
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= _MOST_STAGES:
        return None
    last = (-1, -1.0)
    for stage in value:
        match = _STAGE.match(stage) if isinstance(stage, str) else None
        if match is None:
            return None
        kind = stage.partition(":")[0]
        try:
            weight = 0.0 if kind == "shadow" else float(match[3] or match[5] or 0.01)
        except ValueError:
            return None
        here = (("shadow", "canary", "ab").index(kind), weight)
        if (kind != "shadow" and not 0.0 < weight < 1.0) or here[0] < last[0] or weight <= last[1]:
            return None
        last = here
    return list(value) if last[0] == 2 else None


def _versions(value: Any) -> list[int] | None:
    """Versions, each once."""
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= _MOST_OTHERS:
        return None
    good = all(type(version) is int and version > 0 for version in value) and len(set(value)) == len(value)
    return list(value) if good else None


_SPAN: Final = ('a span of time such as "90m", "12h" or "7d"', _span)
OPTIONS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "promotion": _text(re.compile(r"(auto|approve)\Z"), "auto or approve"),
    "stages": ('growing ones such as ["shadow", "canary", "ab:0.25", "ab:0.5"], the last an A/B', _stages),
    "metric": _text(_OUTCOME, "loss, or the name of an outcome"),
    "margin": _share(0.0, 0.5),
    "alpha": _share(0.0, 0.2, closed=True),
    "dwell": _SPAN,
    "limit": _SPAN,
    "watch": _SPAN,
    "shadow_labels": _count(30),
    "canary_units": _count(1),
    "step_labels": _count(10),
    "min_per_arm": _count(30),
    "planned_per_arm": _count(100),
    "others": ("further candidates, each a version once, such as [4, 5]", _versions),
}
"""By name: what is expected in words, and what reads a value, or returns None."""
