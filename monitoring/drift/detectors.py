"""What decides that a column has drifted: one seam, chosen by the setting `detector`.

A detector is a function from counts to readings. `ladder` and `evidently` are built in; any other is named as
`module:name`, most simply a `Statistic`. `monitoring.drift.detector_checks` says what every one of them must do.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from monitoring.drift.drift import Floats, cells, judge, ordered
from monitoring.drift.season import matched
from monitoring.drift.windows import Window
from registry.errors import ConfigInvalid, PereneError

if TYPE_CHECKING:
    from monitoring.settings import MonitoringSettings

__all__ = ["BUILT_IN", "Detector", "DetectorFailed", "Distance", "Reading", "Statistic", "resolve"]

BUILT_IN: Final = {
    "ladder": "monitoring.drift.assess:by_ladder",
    "evidently": "monitoring.drift.evidently_detector:by_evidently",
}
Spec = Mapping[str, Any]


class DetectorFailed(PereneError):
    """A detector of drift failed, or gave no number."""

    code = "detector_failed"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a detector says of one column over the newest `scale` windows."""

    column: str
    scale: int
    psi: float
    """How far it moved, as corrected PSI: severity and ranking are by it, whatever decides."""
    p: float
    """The ladder's p-value, for comparison."""
    rows: int
    flagged: bool
    sure: bool = False
    """One window is enough."""
    unsettled: bool = False
    """No flag, but a confirmed drift stands."""


class Detector(Protocol):
    """Reads the newest of `closed` windows against the reference; it keeps nothing between calls."""

    def __call__(
        self,
        specs: Mapping[str, dict[str, Any]],
        closed: Sequence[Window],
        settings: MonitoringSettings,
        *,
        alarmed: Collection[str] = (),
    ) -> list[Reading]:
        """Readings in the order of `specs`; none of a column that has too few rows."""


Distance = Callable[[Spec, Floats, Floats], float]
"""Of a column's description, its window's counts and the reference's, over the same cells."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """A detector of one's own: a column is flagged where `distance` of its newest window reaches `threshold`.

    Cells are those of `monitoring.drift.drift.cells`: of a number null, infinite, then ordered bins; of a category
    null, others, then its values.
    """

    distance: Distance
    threshold: float

    def __call__(
        self,
        specs: Mapping[str, dict[str, Any]],
        closed: Sequence[Window],
        settings: MonitoringSettings,
        *,
        alarmed: Collection[str] = (),
    ) -> list[Reading]:
        """Read every column by itself.

        Raises:
            DetectorFailed: the function fails on a column, or gives no finite number.
        """
        found = []
        for name, spec in specs.items():
            window, reference = sides(spec, closed[-1], name)
            rows = int(window.sum())
            if rows < settings.min_rows or reference.sum() <= 0:
                continue
            value = self._value(name, spec, window, reference)
            far = value >= self.threshold
            near = name in alarmed and not far and value >= self.threshold / 2
            found.append(Reading(name, 1, *moved(spec, window, reference), rows, far, unsettled=near))
        return found

    def _value(self, name: str, spec: Spec, window: Floats, reference: Floats) -> float:
        try:
            value = float(self.distance(spec, window.copy(), reference.copy()))
        except Exception as error:  # somebody's function: whatever it raises is an answer to whoever set it
            raise DetectorFailed(
                "the statistic fails", where=name, got=type(error).__name__, hint="perene drift check tries it"
            ) from error
        if not math.isfinite(value):
            raise DetectorFailed("the statistic is no finite number", where=name, hint="perene drift check tries it")
        return value


def sides(spec: dict[str, Any], window: Window, name: str) -> tuple[Floats, Floats]:
    """Cells of a column's window, and of the reference for the hours of that window."""
    counted = cells(spec, window.counts[name]).astype(float)
    return counted, matched(spec, window.hours or [0] * 24)


def moved(spec: dict[str, Any], window: Floats, reference: Floats) -> tuple[float, float]:
    """Corrected PSI and the ladder's p-value of one column's cells."""
    p, psi = judge(window[None], reference[None], in_order=ordered(spec))
    return float(psi[0]), float(p[0])


@cache
def resolve(name: str) -> Detector:
    """The detector of this name.

    Raises:
        ConfigInvalid: it cannot be imported, or cannot be called.
    """
    module, _, attribute = BUILT_IN.get(name, name).partition(":")
    try:
        found: Detector = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigInvalid(
            f"the detector '{name}' cannot be imported: {type(error).__name__}",
            where="detector",
            expected="ladder, evidently, or module:name on the worker's import path",
            hint="start the worker in the folder that holds the module",
        ) from error
    if not callable(found):
        raise ConfigInvalid(
            f"'{name}' cannot be called", where="detector", expected="a monitoring.drift.detectors.Statistic"
        )
    return found
