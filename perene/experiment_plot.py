"""The picture of a trial: effect and anytime-valid interval over time, margin, stages, decisions."""

from __future__ import annotations

import io
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry.errors import ConfigInvalid
from registry.html import escaped
from retrain.plot_name import plot_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from perene.experiments import Experiment

__all__ = ["inline", "save"]

_BLUE, _RED, _GREEN, _GREY = "#2a6f97", "#b04a3a", "#3c7a4a", "#8a8a8a"
_ENDS: Final = {"promote": _GREEN, "keep": _GREEN, "reject": _RED, "rollback": _RED, "abort": _RED}


def save(trial: Experiment, to: Path | str) -> Path:
    """Write the plot of `trial` to `to`.

    Raises:
        ConfigInvalid: as `plot_path`, or the trial was never looked at.
    """
    path = plot_path(to, example="trial.png")
    if not trial.looks:
        raise ConfigInvalid(
            f"trial {trial.id} was never looked at: there is nothing to plot",
            where=trial.id,
            hint="the worker looks when labels have come",
        )
    _drawn(trial).savefig(path, dpi=120)
    return path


def inline(trial: Experiment) -> str:
    """The plot as SVG for a page; a sentence where there is nothing to show."""
    if not trial.looks:
        return f"<p>{escaped('not looked at yet: the worker looks when labels have come')}</p>"
    out = io.StringIO()
    _drawn(trial).savefig(out, format="svg")
    text = out.getvalue()
    return text[text.index("<svg") :]


def _drawn(trial: Experiment) -> Figure:
    from matplotlib import rc_context
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    looks = _labelled(trial)
    at = [_number(look["at"]) for look in looks]
    # stages compare other things: no line leads from one to the next
    parts = [list(part) for _, part in groupby(range(len(looks)), lambda n: looks[n]["stage"])]
    with rc_context({"svg.hashsalt": trial.id, "text.parse_math": False}):  # a text of users is no formula
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        axes = figure.subplots()
        for number, part in enumerate(parts):
            x, shown = [at[n] for n in part], "" if number else "{}"
            low, high, effect = ([looks[n][name] for n in part] for name in ("lower", "upper", "effect"))
            axes.fill_between(x, low, high, color=_BLUE, alpha=0.2, label=shown.format("interval"))
            axes.plot(x, effect, ".-", color=_BLUE, markersize=4, label=shown.format("effect"))
        axes.axhline(0.0, color=_GREY, linewidth=1)
        if trial.margin is not None:
            axes.axhline(-trial.margin, color=_RED, linewidth=1, linestyle="--", label=f"margin {-trial.margin:g}")
        _stages(axes, looks, at)
        for made in trial.decisions:
            when = _clock(made, at)
            axes.axvline(when, color=_ENDS.get(made["action"], _GREY), linewidth=1.5)
            side = "right" if when > at[len(at) // 2] else "left"
            text = f" {made['action']} "
            axes.text(when, 0.02, text, transform=axes.get_xaxis_transform(), fontsize=8, ha=side)
        axes.set_ylabel(f"{_metric(trial)}: candidate better above 0", fontsize=9)
        axes.set_title(
            f"{trial.model}: version {trial.candidate} against {trial.champion}, {trial.state.replace('_', ' ')}",
            fontsize=10,
            pad=18,
        )
        axes.grid(axis="y", alpha=0.3)
        axes.xaxis.set_major_locator(dates := AutoDateLocator())  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(ConciseDateFormatter(dates))  # type: ignore[no-untyped-call]
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, loc="upper right")
        _bound(axes, trial)
        return figure


def _labelled(trial: Experiment) -> tuple[dict[str, Any], ...]:
    """Looks that saw something; all, where none did."""
    return tuple(look for look in trial.looks if look["n_champion"] or look["n_candidate"]) or trial.looks


def _stages(axes: Any, looks: tuple[dict[str, Any], ...], at: list[float]) -> None:
    """A line where a stage began, and its name above."""
    before = ""
    for look, moment in zip(looks, at, strict=True):
        if look["stage"] != before:
            axes.axvline(moment, color=_GREY, linewidth=0.8, linestyle=":")
            axes.text(
                moment, 1.01, look["stage"], transform=axes.get_xaxis_transform(), fontsize=8, color=_GREY, ha="left"
            )
            before = look["stage"]


def _bound(axes: Any, trial: Experiment) -> None:
    """The first looks of a stage, at few labels, have intervals that leave no room for the others."""
    looks = _labelled(trial)
    widths = [look["upper"] - look["lower"] for look in looks]
    shown = [look for look, width in zip(looks, widths, strict=True) if width <= 4 * max(widths[-1], 1e-9)]
    low, high = min(look["lower"] for look in shown), max(look["upper"] for look in shown)
    edge = 0.1 * (high - low) or 0.01
    axes.set_ylim(min(low, -(trial.margin or 0.0)) - edge, max(high, 0.0) + edge)


def _clock(made: dict[str, Any], at: list[float]) -> float:
    """When it was decided, on the model's clock, which the row says."""
    return _number(made["now"]) if made.get("now") else at[-1]


def _number(moment: str) -> float:
    """A moment as axes have it: days."""
    from matplotlib.dates import date2num

    return float(date2num(datetime.fromisoformat(moment)))  # type: ignore[no-untyped-call]


def _metric(trial: Experiment) -> str:
    metric = str(trial.policy.get("metric") or "loss")
    return "loss difference" if metric == "loss" else metric
