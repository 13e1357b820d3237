"""The report beside a confirmed finding is written by a child and waits for nobody."""

from __future__ import annotations

import json
from pathlib import Path

from monitoring.lake import Lake
from registry.contract import Column, Contract, Output
from retrain.places import Places
from retrain.reports import Reports
from tests.integration import retrain_toy as toy

CONTRACT = Contract(toy.MODEL, (Column("x", "float"), Column("z", "float")), Output("regression"))


def test_a_report_is_written_when_nothing_else_needs_the_cores(tmp_path: Path) -> None:
    """First served rows against the latest, as HTML and JSON in the finding's folder."""
    toy.World(tmp_path).play(6, shift=5.0)
    places = Places(tmp_path)
    reports = Reports(places, Lake(places.lake))
    folder = places.report(toy.MODEL, 7)
    try:
        reports.ask(toy.MODEL, 7, CONTRACT)
        reports.tend(quiet=False)
        assert not folder.exists()
        toy.until(lambda: list(folder.glob("*.html")), lambda: reports.tend(quiet=True))
        toy.until(lambda: [f for f in folder.glob("*.json") if f.name != "contract.json"])
        assert json.loads((folder / "contract.json").read_text())["model"] == toy.MODEL
    finally:
        reports.stop()


def test_too_little_traffic_gives_no_report(tmp_path: Path) -> None:
    toy.World(tmp_path).play(1, shift=5.0)
    places = Places(tmp_path)
    reports = Reports(places, Lake(places.lake))
    reports.ask(toy.MODEL, 7, CONTRACT)
    reports.tend(quiet=True)
    assert not places.report(toy.MODEL, 7).exists()
