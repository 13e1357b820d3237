"""False promotion against the number of looks, and what looking at any time costs, drawn from the saved figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

IMAGE = Path("docs/images/promotion-peeking.png")
NAMES = {
    "superiority": ("Perene", "#1b6ca8", "-"),
    "non_inferiority": ("Perene", "#1b6ca8", "-"),
    "z": ("z-test at every look", "#c0392b", "-"),
    "z_margin": ("z-test at every look", "#c0392b", "-"),
    "points": ("lower loss by points", "#7f8c8d", "--"),
    "argo": ("threshold rule, read as often", "#d68910", "-."),
}


def draw(known: Mapping[str, Any]) -> None:
    """Three panels: equal models, a candidate that is one point worse, and labels needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    panels = {"equal": (left, "Equal models: promoted as better"), "worse": (middle, "1 point worse: let through")}
    for row in known["looks"]["rows"]:
        axis, _ = panels[row["truth"]]
        name, colour, style = NAMES[row["rule"]]
        shares = [100 * share for share in row["by_look"]]
        axis.plot(range(1, len(shares) + 1), shares, style, color=colour, label=name)
    for axis, title in panels.values():
        axis.axhline(5, color="black", linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel="looks, one every 200 users", ylabel="trials, %", ylim=(0, 100), xlim=(1, 120))
        axis.legend(loc="center right", fontsize=8)
    rows = known["cost"]["rows"]
    gains = [100 * row["gain"] for row in rows]
    lines = (
        ("one look, planned for this gain", "fixed", "#7f8c8d", "--"),
        ("Perene, half of the trials", "median", "#1b6ca8", "-"),
    )
    for name, key, colour, style in (*lines, ("Perene, 80 % of the trials", "p80", "#1b6ca8", ":")):
        right.plot(gains, [row[key] for row in rows], style, color=colour, marker="o", markersize=3, label=name)
    right.set(title="What it costs", xlabel="true gain, points", ylabel="labels in an arm", yscale="log")
    right.legend(fontsize=8)
    figure.savefig(IMAGE, dpi=110, metadata={"Software": None})
