"""What a look at a trial sees: sufficient statistics, small enough to be kept as evidence and decided on again."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.trials.guards import Counts
from retrain.trials.sequential import Stratum

__all__ = ["AbStats", "Alarm", "ShadowStats", "Stats", "Unfit", "WatchStats", "stats_from_dict"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alert that asks for a rollback, and its row of evidence."""

    name: str
    evidence_id: int


@dataclass(frozen=True)
class Unfit:
    """Why the candidate's bundle may not serve, found once it could be read."""

    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept as evidence."""
        return {"seen": "unfit", "problems": list(self.problems)}


@dataclass(frozen=True)
class ShadowStats:
    """Paired loss differences (champion - candidate) in the order in which their labels became known."""

    d: NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """Every difference, compressed: a bet cannot be recomputed from sums."""
        return {"seen": "shadow", "d": _packed(self.d)}


@dataclass(frozen=True)
class AbStats:
    """Canary and A/B: everything since the first request was drawn.

    Strata are of one step and one day, their keys `<step>/<day>`. `units` are *all* units of each step, labelled or
    not, for the split. In all else a unit is in one step only: `failed` are those that the candidate failed, `slow`
    those beyond the threshold; `classes` how often each class was answered; `answers` the answers of a regression in
    standard deviations around the champion's former mean; `labelled` are those whose loss, or metric, is known.
    """

    strata: tuple[Stratum, ...] = ()
    units: tuple[Counts, ...] = ()
    failed: tuple[Counts, ...] = ()
    slow: tuple[Counts, ...] = ()
    classes: Mapping[str, tuple[Counts, ...]] = field(default_factory=dict)
    answers: tuple[Stratum, ...] = ()
    outcomes: Mapping[str, tuple[Stratum, ...]] = field(default_factory=dict)
    labelled: tuple[Counts, ...] = ()

    @property
    def exposed(self) -> tuple[int, int]:
        """Units of champion and candidate; one that came back in a later step counts there again."""
        return sum(u.n_c for u in self.units), sum(u.n_t for u in self.units)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept as evidence."""
        return {
            "seen": "ab",
            "strata": [s.to_list() for s in self.strata],
            "units": [u.to_list() for u in self.units],
            "failed": [u.to_list() for u in self.failed],
            "slow": [u.to_list() for u in self.slow],
            "classes": {name: [u.to_list() for u in rows] for name, rows in self.classes.items()},
            "answers": [s.to_list() for s in self.answers],
            "outcomes": {name: [s.to_list() for s in rows] for name, rows in self.outcomes.items()},
            "labelled": [u.to_list() for u in self.labelled],
        }


@dataclass(frozen=True)
class WatchStats:
    """After a promotion: paired differences (former - present champion), and the trial's strata with late labels."""

    d: NDArray[np.float32]
    strata: tuple[Stratum, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept as evidence."""
        return {"seen": "watch", "d": _packed(self.d), "strata": [s.to_list() for s in self.strata]}


Stats = ShadowStats | AbStats | WatchStats | Unfit


def stats_from_dict(body: Mapping[str, Any]) -> Stats:
    """Read the JSON form of any of them."""
    if body["seen"] == "unfit":
        return Unfit(tuple(body["problems"]))
    if body["seen"] == "shadow":
        return ShadowStats(_unpacked(body["d"]))
    if body["seen"] == "watch":
        return WatchStats(_unpacked(body["d"]), _strata(body["strata"]))
    return AbStats(
        strata=_strata(body["strata"]),
        units=_counts(body["units"]),
        failed=_counts(body["failed"]),
        slow=_counts(body["slow"]),
        classes={name: _counts(rows) for name, rows in body["classes"].items()},
        answers=_strata(body["answers"]),
        outcomes={name: _strata(rows) for name, rows in body["outcomes"].items()},
        labelled=_counts(body.get("labelled", ())),  # rows of before it was counted have none
    )


def _strata(rows: Any) -> tuple[Stratum, ...]:
    return tuple(Stratum.from_list(row) for row in rows)


def _counts(rows: Any) -> tuple[Counts, ...]:
    return tuple(Counts.from_list(row) for row in rows)


def _packed(d: NDArray[np.float32]) -> str:
    return base64.b64encode(zlib.compress(np.asarray(d, dtype="<f4").tobytes())).decode("ascii")


def _unpacked(text: str) -> NDArray[np.float32]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4")
