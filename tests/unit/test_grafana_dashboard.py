"""Panels ask only for metrics and labels that exist, lie on the grid, and the file is current."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from grafana.dashboard import build, render
from monitoring.alerting.catalogue import CATALOGUE
from monitoring.alerting.generated import keep_current

FILE = Path(__file__).parents[2] / "deploy/grafana/perene.json"
SERIES = {name: metric for metric in CATALOGUE for name in metric.series}
ALERT_LABELS = {"alertname", "alertstate", "severity", "model"}


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in build()["panels"] if panel["type"] != "row"]


def test_the_file_is_current_and_a_stale_one_is_refused(tmp_path: Path) -> None:
    """`--check` passes on the committed file only."""
    assert keep_current("grafana", render, ["--check", str(FILE)]) == 0
    stale = tmp_path / "perene.json"
    stale.write_text(render().replace("Traffic", "Trafic"))
    assert keep_current("grafana", render, ["--check", str(stale)]) == 1
    assert keep_current("grafana", render, ["--write", str(stale)]) == 0
    assert keep_current("grafana", render, ["--check", str(stale)]) == 0


@pytest.mark.parametrize("panel", _panels(), ids=lambda panel: panel["title"])
def test_a_panel_asks_only_for_metrics_and_labels_that_exist(panel: dict[str, Any]) -> None:
    """Names, matchers, groupings and legends are those of the catalogue."""
    assert panel["targets"]
    for target in panel["targets"]:
        expr = target["expr"]
        names = re.findall(r"perene_\w+", expr)
        assert names or "ALERTS{" in expr
        assert set(names) <= set(SERIES)
        allowed = {label for name in names for label in SERIES[name].labels} or ALERT_LABELS
        if any(name.endswith("_bucket") for name in names):
            allowed.add("le")
        used = set(re.findall(r"(\w+)\s*(?:=~|!=|=)\s*\"", expr))
        for group in re.findall(r"(?:by|on) \(([^)]*)\)", expr):
            used |= {label.strip() for label in group.split(",")}
        used |= set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert used <= allowed, expr
        assert expr.count("(") == expr.count(")")
        assert expr.count("{") == expr.count("}")


def test_every_room_of_the_loop_has_its_row() -> None:
    """What is wrong first, then from traffic to the ledger."""
    titles = [panel["title"] for panel in build()["panels"] if panel["type"] == "row"]
    expected = [
        "Now", "Traffic and errors", "Latency", "Capacity", "Events", "Jobs", "Data quality", "Drift", "Quality",
        "Labels", "Retraining", "Trial", "Ledger",
    ]  # fmt: skip
    assert expected == titles


def test_panels_lie_on_the_grid_without_overlap() -> None:
    """24 columns, each cell at most once, ids unique."""
    cells: list[tuple[int, int]] = []
    for panel in build()["panels"]:
        place = panel["gridPos"]
        cells += [(x, y) for x in range(place["x"], place["x"] + place["w"])
                  for y in range(place["y"], place["y"] + place["h"])]  # fmt: skip
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))
    ids = [panel["id"] for panel in build()["panels"]]
    assert len(set(ids)) == len(ids)
