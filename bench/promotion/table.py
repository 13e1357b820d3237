"""`python -m bench.promotion.table`: the saved figures as Markdown and as a plot in docs/promotion-evidence.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.figures import Bar, Rows, claims, known, write
from bench.promotion.keep import FILE
from bench.promotion.plot import draw

PAGE = Path("docs/promotion-evidence.md")


def _a1(rows: Rows) -> tuple[str, bool]:
    superiority, margin = (max(row[name] for row in rows) for name in ("superiority", "non_inferiority"))
    worst = max(row["z"] for row in rows)
    z = f"z-test at every look: {_percent(rows[0]['z'])} in the plainest case, {_percent(worst)} at worst"
    return (
        f"at most {_percent(superiority)} (superiority) and {_percent(margin)} (non-inferiority); {z}",
        max(superiority, margin) <= 0.05,
    )


def _a2(rows: Rows) -> tuple[str, bool]:
    least = {name: min(row[name] for row in rows) for name in ("non_inferiority", "superiority")}
    return (
        f"at least {_percent(least['non_inferiority'])} and {_percent(least['superiority'])}",
        least["non_inferiority"] >= 0.95 and least["superiority"] >= 0.70,
    )


def _a3(rows: Rows) -> tuple[str, bool]:
    back, equal = min(row["harm"] for row in rows), max(row["equal"] for row in rows)
    treated = max(row["median_treated"] for row in rows)
    return (
        f"at least {_percent(back)}, median at most {treated:,.0f}; equal ones at most {_percent(equal)}",
        back >= 0.99 and treated <= 2_000 and equal <= 0.01,
    )


def _a4(rows: Rows) -> tuple[str, bool]:
    wins = max(row["won"] for row in rows[:-1])
    z = max(row["z_peeking"] for row in rows[:-1])
    labels = rows[-1]["median_labels"]
    return (
        f"at most {_percent(wins)} (z-test at every label: {_percent(z)}); median {labels:,.0f} labels",
        wins <= 0.05 and labels <= 2_000,
    )


def _a5(rows: Rows) -> tuple[str, bool]:
    false, found = max(row["stop"] for row in rows[:-1]), rows[-1]["stop"]
    chi = max(row["chi_square_peeking"] for row in rows[:-1])
    return (
        f"at most {100 * false:.2f} % (chi-square at every look: {_percent(chi)}); {_percent(found)} found",
        false <= 0.001 and found >= 0.9,
    )


def _a6(rows: Rows) -> tuple[str, bool]:
    most = max(row["most"] for row in rows)
    return f"at most {most:.0e}, {len(rows)} formulas, {rows[0]['cases']} cases each", most <= 1e-9


def _a10(rows: Rows) -> tuple[str, bool]:
    row = rows[0]
    return (
        f"{_percent(row['same'])} the same, {row['lost_by_ramp']} lost by a ramp, {row['sigma']:.1f} σ; "
        f"{row['entities']:,} entities",
        row["same"] == 1.0 and row["lost_by_ramp"] == 0 and row["sigma"] <= 3.0,
    )


BARS: dict[str, Bar] = {
    "a1": ("false promotion of equal models, and of one at the margin", "≤ 5 % each", _a1),
    "a2": ("+2 points on .20 within 24,000 users: not worse; better", "≥ 95 %; ≥ 70 %", _a2),
    "a3": ("−5 points: sent back, after how many treated; an equal model", "≥ 99 %, ≤ 2,000; ≤ 1 %", _a3),
    "a4": ("paired shadow: false wins; labels for +2 points at 10 % disagreement", "≤ 5 %; ≤ 2,000", _a4),
    "a5": ("split over 200 looks: falsely stopped; 48/52 found by 20,000 users", "≤ 0.1 %; ≥ 90 %", _a5),
    "a6": ("difference from an independent implementation (`ville`)", "1e-9", _a6),
    "a10": ("assignment: sticky, ramps let nobody go, split", "100 %, 0, 3 σ", _a10),
}


def nulls(rows: Rows) -> list[str]:
    """A1 in full, beside z-tests."""
    lines = [
        "| loss | base rate | split | labels | better, though equal | not worse, though 1 point worse "
        "| sent back, though equal | z-test at every look | z-test read once | lower by points |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        told = [row[k] for k in ("superiority", "non_inferiority", "harm", "z", "z_once", "points")]
        cells = " | ".join(_percent(value) for value in told)
        lines.append(f"| {row['loss']} | {row['base']} | {row['split']} | {row['labels']} | {cells} |")
    return lines


def power(kept: Mapping[str, Any]) -> list[str]:
    """A2 and A3 in full."""
    lines = [
        "| loss | split | +2 points: not worse | better | −5 points: sent back | treated until then, median | 95 % |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for gain, harm in zip(kept["a2"]["rows"], kept["a3"]["rows"], strict=True):
        shown = f"{_percent(gain['non_inferiority'])} | {_percent(gain['superiority'])} | {_percent(harm['harm'])}"
        treated = f"{harm['median_treated']:,.0f} | {harm['p95_treated']:,.0f}"
        lines.append(f"| {gain['loss']} | {gain['split']} | {shown} | {treated} |")
    return lines


def guardrails(rows: Rows) -> list[str]:
    """How often each fires, and how soon."""
    lines = [
        "| guardrail and truth | sent back | treated until then, median | z-test at 1 %, every look |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        median = "" if row["median_treated"] is None else f"{row['median_treated']:,.0f}"
        z = _percent(row["z_peeking"]) if "z_peeking" in row and row["null"] else ""
        lines.append(f"| {row['what']} | {_percent(row['fired'])} | {median} | {z} |")
    return lines


def hostile(rows: Rows) -> list[str]:
    """Set-ups in which a test goes wrong easily."""
    head = ["| equal models, or at the margin | ours | done naively |", "|---|---:|---:|"]
    naive = [_percent(row["naive"]) if "naive" in row else "" for row in rows]
    told = [f"| {row['what']} | {_percent(row['ours'])} | {n} |" for row, n in zip(rows, naive, strict=True)]
    return [*head, *told]


def cost(rows: Rows) -> list[str]:
    """Labels in an arm, beside a test that is read once."""
    lines = [
        "| true gain on .20, points | one look, planned for this gain | ours, median | ours, 80 % of the trials "
        "| foretold, 80 % |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = " | ".join(f"{row[k]:,.0f}" for k in ("fixed", "median", "p80", "said"))
        lines.append(f"| {100 * row['gain']:g} | {cells} |")
    return lines


def bandits(rows: Rows) -> list[str]:
    """What Thompson sampling does with 24,000 users."""
    lines = [
        "| candidates' gains | traffic of the best arm | the best promoted | any promoted |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        gains = ", ".join(f"{100 * gain:+g}" for gain in row["gains"])
        shares = " | ".join(_percent(row[k]) for k in ("best_share", "best_promoted", "promoted"))
        lines.append(f"| {gains} points | {shares} |")
    return lines


def page(kept: Mapping[str, Any]) -> str:
    """All tables."""
    machine = kept["a1"]["machine"]
    parts: list[str] = ["### The claims", *claims(BARS, kept), "", "### Nothing to find", *nulls(kept["a1"]["rows"])]
    parts += ["", "### Something to find", *power(kept), "", "### What it costs", *cost(kept["cost"]["rows"])]
    parts += ["", "### Guardrails", *guardrails(kept["guardrails"]["rows"])]
    parts += ["", "### What goes wrong easily", *hostile(kept["hostile"]["rows"])]
    parts += ["", "### Several candidates", *bandits(kept["bandits"]["rows"])]
    parts += ["", f"{kept['a1']['rows'][0]['runs']:,} trials each ({kept['bandits']['rows'][0]['runs']:,} with a "]
    parts[-1] += f"bandit), on {machine['processor']}, {machine['cores']} cores, Python {machine['python']}."
    spaced = []
    for line in parts:
        spaced += [line, ""] if line.startswith("###") else [line]
    return "\n".join(spaced)


def _percent(value: float) -> str:
    if 0.0 < value < 0.01 or 0.99 < value < 1.0:
        return f"{100 * value:.2f} %"
    return f"{100 * value:.1f} %".replace(".0 %", " %")


def main() -> None:
    """Write the page anew between its marks, and draw."""
    kept = known(FILE)
    write(PAGE, page(kept))
    draw(kept)


if __name__ == "__main__":
    main()
