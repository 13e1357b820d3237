"""What a backtest found: a row for each policy, by month, with every run and every move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final

from registry.html import table

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Backtest", "Course", "Month", "Move", "Run"]

COLUMNS: Final = ("policy", "mean error", "fits", "deployments", "gained per fit")


@dataclass(frozen=True, slots=True)
class Month:
    """Rows of one calendar month (UTC) and their mean error."""

    month: str
    rows: int
    error: float


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt: when, why, what came of it. `fits` counts calls of the trainer."""

    at: datetime
    reason: str
    outcome: str
    why: str
    fits: int
    best: str


@dataclass(frozen=True, slots=True)
class Move:
    """A deployment after the first; a former version that came back keeps its number."""

    at: datetime
    version: int
    why: str


@dataclass(frozen=True, slots=True)
class Course:
    """One policy. Errors are absolute errors of a regression, or half the Brier score of a classification.

    `gained` is by how much its mean error is below that of `never`; None in `gained_per_fit` when it never fitted.
    """

    policy: str
    rows: int
    error: float
    months: tuple[Month, ...]
    fits: int
    deployments: int
    gained: float
    gained_per_fit: float | None
    runs: tuple[Run, ...]
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Backtest:
    """All policies on the same rows; `first` is the window that their common first version learned from."""

    model: str
    kind: str
    start: datetime
    end: datetime
    first: tuple[datetime, datetime]
    promotion: str
    seed: int
    rows: int
    fits: int
    """Calls of the trainer in all: policies that ask for the same window share the fit."""
    policies: tuple[Course, ...]

    def __getitem__(self, policy: str) -> Course:
        """The course of one policy."""
        return next(course for course in self.policies if course.policy == policy)

    @property
    def measure(self) -> str:
        """What errors are."""
        return "mean absolute error" if self.kind == "regression" else "half the Brier score"

    def table(self) -> list[dict[str, Any]]:
        """A row for each policy: the columns `COLUMNS`, and one for each month."""
        return [
            {
                "policy": c.policy,
                "mean error": c.error,
                "fits": c.fits,
                "deployments": c.deployments,
                "gained per fit": c.gained_per_fit,
                **{m.month: m.error for m in c.months},
            }
            for c in self.policies
        ]

    def columns(self) -> Sequence[str]:
        """The columns of `table`, in order."""
        return (*COLUMNS, *(m.month for m in self.policies[0].months))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; times are ISO 8601."""
        found: dict[str, Any] = _plain(asdict(self))
        return found | {"measure": self.measure}

    def plot(self, to: Path | str) -> Path:
        """Save the errors by month, and when each policy deployed, as a PNG, SVG or PDF.

        Raises:
            ConfigInvalid: the name ends in something else, or there is no such folder.
        """
        from retrain.backtest.plot import save

        return save(self, to)

    def _repr_html_(self) -> str:
        span = f"{self.start:%Y-%m-%d} to {self.end:%Y-%m-%d}"
        head = f"<b>{escape(self.model)}</b>, {span}, {self.rows:,} rows: {self.measure}"
        rows = [[_cell(row[column]) for column in self.columns()] for row in self.table()]
        return f"<div>{head}{table(self.columns(), rows)}</div>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, datetime) else value
