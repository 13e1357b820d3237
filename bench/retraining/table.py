"""`python -m bench.retraining.table`: the saved figures as Markdown and as a picture in docs/retraining-evidence.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import Rows, known, write
from bench.retraining.keep import FILE

PAGE = Path("docs/retraining-evidence.md")
PICTURE = Path("docs/images/retraining.png")
POLICIES = ("never", "cron", "cron+gate", "trigger")
COLOURS = {"never": "#8a8a8a", "cron": "#b04a3a", "cron+gate": "#c9942e", "trigger": "#2a6f97"}


def of(rows: Rows, policy: str) -> list[Mapping[str, Any]]:
    """One policy's rows, a row for each quarter or seed."""
    return [row for row in rows if row["policy"] == policy]


def mean(rows: Rows, key: str) -> float:
    """Mean of one figure over quarters or seeds."""
    return float(np.mean([row[key] for row in rows]))


def policies(rows: Rows, digits: int) -> list[str]:
    """Error, fits, deployments and gain per fit of each policy: means over quarters, with their span."""
    unit = rows[0]["measure"]
    lines = [f"| policy | {unit} | span | fits | deployments | gained per fit |", "|---|---:|---:|---:|---:|---:|"]
    never = mean(of(rows, "never"), "error")
    for policy in POLICIES:
        own = of(rows, policy)
        errors = [row["error"] for row in own]
        fits = mean(own, "fits")
        gained = f"{(never - mean(own, 'error')) / fits:.{digits + 1}f}" if fits else "–"
        span = f"{min(errors):.{digits}f} to {max(errors):.{digits}f}"
        lines.append(
            f"| {policy} | {np.mean(errors):.{digits}f} | {span} | {fits:.1f} | {mean(own, 'deployments'):.1f} "
            f"| {gained} |"
        )
    return lines


def months(rows: Rows, digits: int) -> list[str]:
    """Error by month, means over quarters; what is more than 2 % worse than never retraining is marked."""
    names = list(rows[0]["months"])
    lines = [
        "| month | " + " | ".join(POLICIES) + " | trigger against never |",
        "|---|" + "---:|" * (len(POLICIES) + 1),
    ]
    for name in names:
        found = {policy: float(np.mean([row["months"][name] for row in of(rows, policy)])) for policy in POLICIES}
        against = found["trigger"] / found["never"] - 1.0
        cells = " | ".join(f"{found[policy]:.{digits}f}" for policy in POLICIES)
        lines.append(f"| {name} | {cells} | {against:+.1%}{' **missed**' if against > 0.02 else ''} |")
    return lines


def bars(model: str, rows: Rows) -> list[str]:
    """What was asked of the year, quarter by quarter, and what was seen."""
    lines = []
    for number in sorted({row["quarter"] for row in rows}):
        part = {row["policy"]: row for row in rows if row["quarter"] == number}
        best = min(part.values(), key=lambda row: row["error"])
        if best["policy"] == "trigger":
            best = min((part[p] for p in POLICIES if p != "trigger"), key=lambda row: row["error"])
        ours, never = part["trigger"], part["never"]
        over = ours["error"] / best["error"] - 1.0
        half = ours["deployments"] <= best["deployments"] / 2
        worse = {m: ours["months"][m] / never["months"][m] - 1.0 for m in never["months"]}
        late = [f"{m} {share:+.1%}" for m, share in worse.items() if share > 0.02]
        lines.append(
            f"| {model} | {number} | {best['policy']} | {over:+.1%} {_kept(over <= 0.03)} "
            f"| {ours['deployments']} of {best['deployments']} {_kept(half)} | {_kept(not late)} {', '.join(late)} |"
        )
    return lines


def _kept(held: Any) -> str:
    return "holds" if held else "**missed**"


def quiet(rows: Rows) -> list[str]:
    """The survey without drift."""
    lines = [
        "| policy | half the Brier score | fits | deployments, by seed | runs for harm |",
        "|---|---:|---:|---:|---:|",
    ]
    for policy in POLICIES:
        own = of(rows, policy)
        harm = sum(run.split(" ")[1] == "performance:" for row in own for run in row["runs"])
        moves = ", ".join(str(row["deployments"]) for row in own)
        lines.append(f"| {policy} | {mean(own, 'error'):.4f} | {mean(own, 'fits'):.1f} | {moves} | {harm} |")
    return lines


def streams(rows: Rows) -> list[str]:
    """Accuracy on streams of known drift."""
    lines = ["| stream | " + " | ".join(POLICIES) + " |", "|---|" + "---:|" * len(POLICIES)]
    for kind in dict.fromkeys(row["stream"] for row in rows):
        own = {row["policy"]: row for row in rows if row["stream"] == kind}
        cells = (
            f"{own[p]['accuracy']:.3f} ± {own[p]['accuracy_se']:.3f} ({own[p]['deployments']:.1f})" for p in POLICIES
        )
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def page(kept: Mapping[str, Any]) -> str:
    """All tables that there are figures for."""
    parts: list[str] = []
    years = {model: kept[model]["rows"] for model in ("flight-time", "flight-late") if model in kept}
    for model, rows in years.items():
        digits = 2 if model == "flight-time" else 4
        parts += [f"### {model}", *policies(rows, digits), "", *months(rows, digits), ""]
    if years:
        parts += [
            "### The bar",
            "| model | quarter | best other policy | mean error against it, at most +3 % | deployments, at most half "
            "| no month over never + 2 % |",
            "|---|---:|---|---|---|---|",
        ]
        for model, rows in years.items():
            parts += bars(model, rows)
        parts.append("")
    for model in years:
        tried = kept.get(f"{model}, tried", {"rows": []})["rows"]
        if tried:
            digits = 2 if model == "flight-time" else 4
            quarters = ", ".join(str(number) for number in sorted({row["quarter"] for row in tried}))
            parts += [f"### {model}, promoted after a paired trial", *policies(tried, digits), ""]
            parts += [f"Quarters: {quarters}.", ""]
    if "employment" in kept:
        parts += ["### No drift: employment in Massachusetts", *quiet(kept["employment"]["rows"]), ""]
    if "synthetic" in kept:
        seeds = kept["synthetic"]["rows"][0]["seeds"]
        parts += [
            "### Streams of known drift",
            *streams(kept["synthetic"]["rows"]),
            "",
            f"Accuracy ± its standard error, and deployments in brackets: means of {seeds} streams.",
            "",
        ]
    machine = next(iter(kept.values()))["machine"]
    parts.append(f"Seen on {machine['processor']}, {machine['cores']} cores, Python {machine['python']}.")
    spaced: list[str] = []
    for line in parts:
        spaced += [line, ""] if line.startswith("###") else [line]
    return "\n".join(spaced)


def picture(rows: Rows, to: Path) -> None:
    """Error by month: the mean of the quarters, and their span as a band."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for policy in POLICIES:
        own = of(rows, policy)
        names = list(own[0]["months"])
        found = np.array([[row["months"][name] for name in names] for row in own])
        label = f"{policy}: {mean(own, 'error'):.2f}, {mean(own, 'deployments'):.1f} deployments"
        axes.plot(names, found.mean(axis=0), "o-", color=COLOURS[policy], label=label)
        axes.fill_between(names, found.min(axis=0), found.max(axis=0), color=COLOURS[policy], alpha=0.15, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("mean absolute error, minutes")
    axes.set_title("Minutes in the air, 2013, under four policies of retraining")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(to, dpi=110)


def main() -> None:
    """Write the page anew between its marks, and the picture."""
    kept = known(FILE)
    write(PAGE, page(kept))
    if "flight-time" in kept:
        picture(kept["flight-time"]["rows"], PICTURE)


if __name__ == "__main__":
    main()
