"""Recorded rows in the order of time: each once, slice by slice, whatever upkeep and erasure do meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monitoring.lake import upkeep
from monitoring.lake.lake import Key, Lake
from monitoring.reading.recorded import Newest, Recorded, mark_of, recorded_versions
from monitoring.reading.usage import usage
from registry.contract import Column, Contract, Output
from registry.errors import StoreUnavailable
from tests.integration.recorded_toy import DAY, NOON, Recorder, plain_rows

COLUMNS = (Column("temp", "float", nullable=True), Column("hour", "int"), Column("late", "bool"))
CONTRACT = Contract("toy", (*COLUMNS, Column("carrier", "string")), Output("regression"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two processes and two versions over two days, out of order; three files hold rows that others hold too."""
    dice, made = random.Random(4), Lake(tmp_path / "lake")
    rows = plain_rows(200)
    for boot, version in (("b", 1), ("a", 1), ("a", 2)):
        recorder = Recorder(made, CONTRACT, boot=f"{boot}{version}", version=version)
        for _ in range(6):
            recorder.requests(
                rows, at=NOON + dice.choice((0, DAY)) + dice.randrange(100), every_s=dice.choice((0, 0.3))
            )
    twice = made.files("toy", "prediction")[::5]
    for key in twice:
        found = made.read("toy", "prediction", files=[key])
        _write(made, key.with_name(f"copy-{key.name}"), found.slice(0, found.num_rows // 2))
    return made


def _write(lake: Lake, key: Key, table: pa.Table) -> None:
    lake.storage.write(key, lake.encoded(key, table))


def _rows(slices: Iterator[pa.Table]) -> list[dict[str, Any]]:
    return [row for table in slices for row in table.to_pylist()]


def _recorded(lake: Lake, *, low: int | None = None, high: int | None = None) -> Recorded:
    return Recorded(lake, "toy", low=low, high=high)


def test_slices_are_what_a_whole_reading_is(lake: Lake) -> None:
    """In one slice or in many, with bounds and without."""
    whole = lake.read("toy", "prediction").to_pylist()
    assert len(whole) == 3_600
    for rows in (97, 100_000):
        assert _rows(_recorded(lake).slices(rows=rows)) == whole
    low, high = NOON + 20, NOON + DAY + 30
    bounded = lake.read("toy", "prediction", since=low, until=high).to_pylist()
    assert _rows(_recorded(lake, low=int(low * 1e6), high=int(high * 1e6)).slices(rows=250)) == bounded
    assert 0 < len(bounded) < len(whole)
    assert recorded_versions(_recorded(lake).files()) == [1, 2]


def test_a_reading_goes_on_after_any_row(lake: Lake) -> None:
    """Also where many rows have one time, and the mark's own file is there no more."""
    whole = lake.read("toy", "prediction").to_pylist()
    for cut in (1, 7, 200, 1_801, 3_599, 3_600):
        first = next(_recorded(lake).slices(rows=cut))
        assert first.num_rows <= cut
        assert _rows(_recorded(lake).slices(mark_of(first), rows=500)) == whole[first.num_rows :]


def test_files_that_are_merged_under_a_reading_change_nothing(lake: Lake) -> None:
    """Between two slices all files of the day become few."""
    whole = lake.read("toy", "prediction").to_pylist()
    slices = _recorded(lake).slices(rows=300)
    found = next(slices).to_pylist()
    merged = [
        upkeep.carry_out(lake, merge)
        for merge in upkeep.merges(
            "toy", "prediction", lake.files("toy", "prediction"), before=date(2026, 4, 1), rows=lake.rows
        )
    ]
    assert merged
    assert found + _rows(slices) == whole


def test_rows_that_are_erased_under_a_reading_shift_no_others(lake: Lake) -> None:
    """A file is written anew under its name with fewer rows: those that are left come once; memory may hold others."""
    whole = lake.read("toy", "prediction").to_pylist()
    slices = _recorded(lake).slices(rows=100)
    found = next(slices).to_pylist()
    for key in lake.files("toy", "prediction"):
        table = lake.read("toy", "prediction", files=[key])
        _write(lake, key, table.filter(pa.compute.not_equal(table.column("hour"), 5)))
    found += _rows(slices)
    left = [row for row in whole if row["hour"] != 5]
    assert [row for row in found if row["hour"] != 5] == left
    assert len(found) < len(whole)


def test_files_that_vanish_for_ever_are_told(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that is wrong again and again ends with the store's own error, not with half the rows."""
    listed = lake.files("toy", "prediction")
    monkeypatch.setattr(lake, "files", lambda *_: listed)
    lake.storage.remove(listed[3])
    with pytest.raises(StoreUnavailable, match="vanish"):
        _rows(_recorded(lake).slices())


def test_a_file_that_rotted_is_named(lake: Lake, tmp_path: Path) -> None:
    """A replay must not say that its own output cannot be written."""
    key = lake.files("toy", "prediction")[3]
    (tmp_path / "lake" / key).write_bytes(b"PAR1 no more PAR1")
    for work in (lambda: _rows(_recorded(lake).slices()), lambda: usage(lake, low=None, high=None)):
        with pytest.raises(StoreUnavailable, match=r"damaged|cannot be read") as caught:
            work()
        assert key.name in f"{caught.value.message} {caught.value.where}"


def test_a_file_in_a_folder_that_is_no_day_is_named(lake: Lake) -> None:
    """Somebody put it there; it is not for us to leave it out in silence."""
    key = lake.files("toy", "prediction")[3]
    stray = key.parent.with_name("date=backup") / key.name
    _write(lake, stray, lake.read("toy", "prediction", files=[key]))
    for work in (lambda: _rows(_recorded(lake).slices()), lambda: usage(lake, low=None, high=None)):
        with pytest.raises(StoreUnavailable, match=r"no folder of a day: .*date=backup"):
            work()


def test_labels_of_a_few_rows_are_those_of_a_join(tmp_path: Path) -> None:
    """The newest of several revisions, from later files, and nothing for those that have none."""
    lake = Lake(tmp_path)
    recorder = Recorder(lake, CONTRACT)
    recorder.requests(plain_rows(100))
    ids = list(recorder.ids)
    recorder.labels(ids[:50], 1.0, at=NOON + 60)
    recorder.labels(ids[20:30], 2.0, at=NOON + 9 * DAY)
    recorder.labels(ids[:10], 3.0, at=NOON + 61)
    joined = lake.joined("toy")
    newest = Newest(lake, "toy", "label", ["_label", "_at"])
    for start in range(0, 100, 15):
        some = joined.slice(start, 15)
        found = newest.of(some.column("_id").combine_chunks())
        assert found["_label"].to_pylist() == some.column("_label").to_pylist()
        assert found["_at"].to_pylist() == some.column("_label_at").to_pylist()
        assert found["_revision"].to_pylist() == some.column("_label_revisions").to_pylist()
