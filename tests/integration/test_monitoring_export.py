"""Events as one file: what the lake holds, whole or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring.lake.lake import Lake
from monitoring.reading.export import ExportRefused, export
from monitoring.reading.recorded import Recorded
from registry.contract import Column, Contract, Output
from registry.errors import ConfigInvalid
from tests.integration.batch_files import left
from tests.integration.recorded_toy import DAY, NOON, Recorder, changed, plain_rows

COLUMNS = (Column("temp", "float", nullable=True), Column("hour", "int"), Column("late", "bool"))
CONTRACT = Contract("toy", (*COLUMNS, Column("carrier", "string")), Output("regression"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Three versions, of which the second has a column less and the third another type; some labels."""
    made = Lake(tmp_path / "lake")
    less = changed(CONTRACT, lambda c: None if c.name == "late" else c)
    other = changed(CONTRACT, lambda c: Column("hour", "float") if c.name == "hour" else c)
    for version, contract in ((1, CONTRACT), (2, less), (3, other)):
        recorder = Recorder(made, contract, boot=f"b{version}", version=version)
        recorder.requests(plain_rows(300), at=NOON + version * DAY)
        recorder.labels(recorder.ids[:40], 1.0)
        recorder.labels(recorder.ids[30:50], 2.0, at=NOON + 9 * DAY)
    return made


def test_a_file_has_what_a_reading_has(lake: Lake, tmp_path: Path) -> None:
    """With labels and without, in bounds; columns that a version lacks are null."""
    out = tmp_path / "events.parquet"
    assert export(lake, "toy", out, low=None, high=None, labelled=True) == 900
    assert pq.read_table(out).equals(lake.joined("toy").combine_chunks())
    low, high = NOON + 2 * DAY, NOON + 3 * DAY
    some = tmp_path / "some.parquet"
    assert export(lake, "toy", some, low=int(low * 1e6), high=int(high * 1e6)) == 300
    assert pq.read_table(some).column("_version").unique().to_pylist() == [2]
    assert left(tmp_path) == {"lake", "events.parquet", "some.parquet"}


def test_csv_has_the_same_and_lists_as_json(tmp_path: Path) -> None:
    """Empty cells for null; a text with a comma and a line break is one cell."""
    lake = Lake(tmp_path / "lake")
    rows = plain_rows(3)
    rows[0]["carrier"] = 'a, "b"\nc'
    Recorder(lake, CONTRACT).requests(rows)
    [key] = lake.files("toy", "prediction")
    table = lake.read("toy", "prediction")
    lists = pa.array([[0.5, 0.25], None, []], table.schema.field("_probabilities").type)
    place = table.column_names.index("_probabilities")
    lake.storage.write(key, lake.encoded(key, table.set_column(place, "_probabilities", lists)))
    export(lake, "toy", tmp_path / "events.csv", low=None, high=None)
    with (tmp_path / "events.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["carrier"] for row in found] == ['a, "b"\nc', "B6", "UA"]
    assert json.loads(found[0]["_probabilities"]) == [0.5, 0.25]
    assert found[1]["_probabilities"] == ""
    assert found[0]["_id"] == table.column("_id")[0].as_py()


def test_what_cannot_be_written_leaves_nothing(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there, a folder that is not, another ending, a full disk halfway, Ctrl-C."""
    (tmp_path / "mine.csv").write_text("mine")
    for name, words in (("mine.csv", "exists already"), ("none/a.csv", "no such folder"), ("a.txt", "neither")):
        with pytest.raises(ConfigInvalid, match=words):
            export(lake, "toy", tmp_path / name, low=None, high=None)
    slices = Recorded.slices
    for raised, seen in (
        (OSError(28, "No space left on device"), ExportRefused),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):

        def broken(self: Recorded, error: BaseException = raised) -> object:
            yield next(iter(slices(self, rows=100)))
            raise error

        monkeypatch.setattr(Recorded, "slices", broken)
        with pytest.raises(seen):
            export(lake, "toy", tmp_path / "a.parquet", low=None, high=None)
    assert left(tmp_path) == {"lake", "mine.csv"}
    assert (tmp_path / "mine.csv").read_text() == "mine"


def test_a_draft_that_a_crash_left_is_written_over(lake: Lake, tmp_path: Path) -> None:
    """The next export takes its place."""
    (tmp_path / ".a.parquet.draft").write_bytes(b"half")
    assert export(lake, "toy", tmp_path / "a.parquet", low=None, high=None) == 900
    assert left(tmp_path) == {"lake", "a.parquet"}
