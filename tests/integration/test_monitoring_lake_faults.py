"""The lake when things go wrong around it: drafts of a crash, files in any order, a disk that refuses."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import duckdb
import pytest

from monitoring.intake.events import Event, LabelEvent, PredictionEvent
from monitoring.intake.shipper import ship_once
from monitoring.intake.spool import Spool
from monitoring.lake.lake import Key, Lake
from monitoring.reading.api import events
from registry.contract import Column, Contract, Output

CONTRACT = Contract("m", (Column("x", "float"),), Output("classification", (0, 1)))
NOON = 1_772_366_400.0
"""2026-03-01T12:00:00Z"""


def _prediction(number: int, *, at: float | None = None) -> PredictionEvent:
    when = NOON + number if at is None else at
    return PredictionEvent(f"id-{number}", when, when, "m", 1, "champion", "", [number / 2], 1, [0.25, 0.75], 1.0, "k")


def _write(lake: Lake, boot: str, first: int, rows: list[Event]) -> list[Key]:
    numbered = list(enumerate(rows, start=first))
    return lake.write(numbered, boot=boot, first=first, last=first + len(rows) - 1, contracts={("m", 1): CONTRACT})


def test_draft_of_a_crashed_write_is_seen_by_no_reader(tmp_path: Path) -> None:
    """A hidden half file, as kill -9 leaves it, belongs to nobody: not to us, not to DuckDB, not to the next write."""
    lake = Lake(tmp_path)
    [whole] = _write(lake, "boot", 1, [_prediction(1), _prediction(2)])
    data = (tmp_path / whole).read_bytes()
    for name in (f".{whole.name}.draft", f".{whole.name}.tmp"):
        (tmp_path / whole).with_name(name).write_bytes(data[:100])
    assert lake.files("m", "prediction") == [whole]
    assert lake.read("m", "prediction").num_rows == 2
    with duckdb.connect() as db:
        assert db.execute("SELECT count(*) FROM read_parquet(?)", [f"{tmp_path}/**/*.parquet"]).fetchall() == [(2,)]
    assert _write(lake, "boot", 1, [_prediction(1), _prediction(2)]) == [whole]
    assert lake.read("m", "prediction").num_rows == 2


def test_order_of_writing_does_not_matter(tmp_path: Path) -> None:
    """Two boots and three ranges over two days, in every order: one table, sorted by event time."""
    ranges: list[tuple[str, int, list[Event]]] = [
        ("a", 1, [_prediction(5), _prediction(1), LabelEvent("id-1", "m", 1, NOON, NOON + 1)]),
        ("a", 4, [_prediction(9, at=NOON - 86_400), LabelEvent("id-1", "m", 0, NOON, NOON + 2)]),
        ("b", 1, [_prediction(3), LabelEvent("id-3", "m", 1, NOON, NOON)]),
    ]
    tables = []
    for number, order in enumerate(itertools.permutations(ranges)):
        lake = Lake(tmp_path / str(number))
        for boot, first, rows in order:
            _write(lake, boot, first, rows)
        tables.append(lake.joined("m"))
    assert all(table.equals(tables[0]) for table in tables)
    assert tables[0].select(["_id", "_label"]).to_pylist() == [
        {"_id": "id-9", "_label": None},
        {"_id": "id-1", "_label": "0"},
        {"_id": "id-3", "_label": "1"},
        {"_id": "id-5", "_label": None},
    ]


def test_classes_that_are_numbers_meet_their_labels(tmp_path: Path) -> None:
    """1 and 1.0 are one class in predictions and labels, and `events` gives both as the same text."""
    lake = Lake(tmp_path)
    _write(lake, "boot", 1, [_prediction(1), LabelEvent("id-1", "m", 1.0, NOON, NOON)])
    [row] = events(tmp_path, "m", labelled=True).to_dict("records")
    assert row["_prediction"] == row["_label"] == "1"
    assert row["x"] == 0.5


def test_disk_that_refuses_keeps_the_events(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The lake cannot be written: nothing is deleted from the spool, a living or a dead one; later all of it moves."""
    root = tmp_path / "lake"
    root.write_text("a file stands where the folder should be")
    dead = Spool.open(tmp_path / "spool")
    dead.append_durable([LabelEvent("id-0", "m", 1, NOON, NOON)]).result(60)
    dead.close()
    with Spool.open(tmp_path / "spool") as living, caplog.at_level(logging.CRITICAL):
        living.append_durable([LabelEvent("id-1", "m", 1, NOON, NOON)]).result(60)
        for _ in range(3):
            assert ship_once(tmp_path / "spool", Lake(root), min_rows=1, max_age_s=0, now=NOON) == 0
        assert dead.path.is_file()
        root.unlink()
        assert ship_once(tmp_path / "spool", Lake(root), min_rows=1, max_age_s=0, now=NOON) == 2
    assert sorted(Lake(root).read("m", "label").column("_id").to_pylist()) == ["id-0", "id-1"]
    assert not dead.path.exists()
