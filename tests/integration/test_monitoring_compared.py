"""Which rows are laid side by side: never the same ones twice, never more than are wanted."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from monitoring.lake.lake import Lake
from monitoring.reading.compared import LEAST, ROWS, Compared, Window, compared
from registry.contract import Column, Contract, Output
from tests.integration import retrain_toy as toy

CONTRACT = Contract(toy.MODEL, (Column("x", "float"), Column("z", "float", policy="drop")), Output("regression"))


def micros(at: datetime) -> int:
    """As bounds are written."""
    return int(at.timestamp() * 1e6)


def look(root: Path, window: Window, *, version: int = 1, accepted: str | None = None) -> Compared:
    """Both sides."""
    return compared(Lake(root / "events"), toy.MODEL, CONTRACT, version, window, accepted=accepted)


def span(table: pa.Table) -> tuple[datetime, datetime]:
    """First and last moment."""
    found = pc.min_max(table.column("_at")).as_py()
    return found["min"], found["max"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> toy.World:
    """Days of 2,000 rows."""
    monkeypatch.setattr(toy, "PER_DAY", 2_000)
    return toy.World(tmp_path)


def test_the_newest_rows_stand_beside_the_first(world: toy.World) -> None:
    """At most so many of each, of kept columns, and none of both."""
    world.play(6, shift=5.0)
    found = look(world.home, Window(None, None))
    assert found.current.num_rows == found.reference.num_rows == ROWS
    assert span(found.reference)[0] == toy.START
    assert span(found.reference)[1] < span(found.current)[0]
    assert "x" in found.current.column_names
    assert "z" not in found.current.column_names


def test_rows_after_a_finding_are_not_among_them(world: toy.World) -> None:
    """In the middle of a day, of a young model: what came before is halved."""
    world.play(2, shift=5.0)
    at = toy.START + timedelta(hours=13)
    found = look(world.home, Window(None, micros(at)))
    assert span(found.current)[1] < at
    assert found.enough
    assert abs(found.reference.num_rows - found.current.num_rows) <= 1
    assert found.reference.num_rows + found.current.num_rows > 1_000


def test_a_window_is_sampled_evenly(world: toy.World) -> None:
    """Of four days a fair part of each, beside what came before them."""
    world.play(6, shift=5.0)
    low = toy.START + timedelta(days=2)
    found = look(world.home, Window(micros(low), None))
    days = pc.value_counts(pc.strftime(found.current.column("_at"), format="%d")).to_pylist()
    assert len(days) == 4
    assert max(day["counts"] for day in days) - min(day["counts"] for day in days) <= 1
    assert span(found.reference)[1] < low


def test_the_first_rows_are_those_of_the_champion(world: toy.World) -> None:
    """Where it has answered enough: another version's rows, and rows before its own acceptance, say less."""
    world.play(2, shift=5.0)
    world.play(2, shift=15.0, champion=2)
    low = toy.START + timedelta(days=3)
    found = look(world.home, Window(micros(low), None), version=2)
    assert set(found.reference.column("_version").to_pylist()) == {2}
    accepted = (toy.START + timedelta(days=1)).isoformat()
    later = look(world.home, Window(micros(low), None), version=3, accepted=accepted)
    assert span(later.reference)[0] >= toy.START + timedelta(days=1)


@pytest.mark.parametrize("accepted", [None, "no time", "2099-01-01"])
def test_no_traffic_and_an_odd_reference_are_too_little_and_no_failure(world: toy.World, accepted: str | None) -> None:
    """Nothing at all, and a span without rows."""
    assert not look(world.home, Window(None, None), accepted=accepted).enough
    world.play(1, shift=5.0)
    assert not look(world.home, Window(micros(toy.START + timedelta(days=9)), None), accepted=accepted).enough
    assert LEAST < toy.PER_DAY
