"""The picture of a backtest: errors by month, and when each policy deployed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from retrain.plot_name import plot_path

if TYPE_CHECKING:
    from retrain.backtest.result import Backtest

__all__ = ["save"]

COLOURS: Final = {"never": "#8a8a8a", "cron": "#b04a3a", "cron+gate": "#c9942e", "trigger": "#2a6f97"}


def save(found: Backtest, to: Path | str) -> Path:
    """Write the plot of `found` to `to`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = plot_path(to, example="backtest.png")
    figure = Figure(figsize=(9, 5), layout="constrained")  # no pyplot: its state is global and per thread
    FigureCanvasAgg(figure)
    axes, moves = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for row, course in enumerate(found.policies):
        colour = COLOURS.get(course.policy, "#444444")
        at = [_middle(month.month) for month in course.months]
        label = f"{course.policy}: {course.error:.3g}, {course.fits} fits, {course.deployments} deployments"
        axes.plot(at, [month.error for month in course.months], "o-", color=colour, label=label)
        when = [move.at for move in course.moves]
        moves.plot(when, [-row] * len(when), "|", color=colour, markersize=12, markeredgewidth=2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(found.measure)
    axes.set_title(f"{found.model}: retraining under several policies, promoted {found.promotion}")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    moves.set_yticks([-row for row in range(len(found.policies))], [c.policy for c in found.policies], fontsize=8)
    moves.set_ylim(0.7 - len(found.policies), 0.7)
    moves.set_xlabel("deployments")
    moves.set_xlim(found.start, found.end)
    moves.tick_params(axis="x", labelsize=8)
    figure.savefig(path, dpi=120)
    return path


def _middle(month: str) -> datetime:
    return datetime.strptime(month, "%Y-%m").replace(day=15, tzinfo=UTC)
