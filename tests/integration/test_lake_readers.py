"""Readers that know nothing of us: DuckDB and Polars read the lake's folder as docs/events.md says, before and after
upkeep, with versions whose columns differ, and join labels as `Lake.joined` does."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from monitoring.intake.blocks import Block
from monitoring.intake.events import Event, LabelEvent, PredictionEvent
from monitoring.lake.lake import Lake
from monitoring.lake.upkeep_run import Job, round_of
from registry.contract import Column, Contract, Output

NOON = 1_772_366_400.0
"""2026-03-01T12:00:00Z"""
DAY = 86_400.0
NUMBERS = tuple(Column(name, "float") for name in ("x", "a.b", "c"))
OLD = Contract("bikes", (*NUMBERS, Column("n", "int")), Output("regression"))
NEW = Contract(
    "bikes", (*NUMBERS, Column("n", "int"), Column("s", "string"), Column("t", "bool")), Output("regression")
)
SINCE, UNTIL = "2026-03-01 06:00:00+00", "2026-03-02 18:00:00+00"

WINDOW = """
select * from read_parquet('{lake}/model=bikes/kind=prediction/*/*.parquet', hive_partitioning = true,
  union_by_name = true)
where date between '2026-03-01' and '2026-03-02' and _at >= timestamptz '{since}' and _at < timestamptz '{until}'
qualify row_number() over (partition by _boot, _seq) = 1
"""
LABELS = """
select _id, arg_max(_label, (_received, _boot, _seq)) as _label
from read_parquet('{lake}/model=bikes/kind=label/*/*.parquet', hive_partitioning = true) group by _id
"""
JOINED = "select p._id, p._prediction, l._label from ({window}) p left join ({labels}) l using (_id)"


def _duck(query: str) -> list[Any]:
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


def _prediction(number: int, version: int, at: float) -> PredictionEvent:
    own: list[Any] = [number / 3, float(number % 4), None if number % 5 == 0 else 1.5, number]
    own += ["north" if number % 2 else None, number % 3 == 0] if version == 2 else []
    return PredictionEvent(
        f"id-{number}", at, at + 0.1, "bikes", version, "champion", "", own, number * 2.0, None, 1.0, "k"
    )


@pytest.fixture(params=["as shipped", "after upkeep", "after a crash"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Four days, two versions, labels of every other prediction, some revised; after a crash a range lies twice."""
    made = Lake(tmp_path)
    number = 0
    for day in range(4):
        for part in range(6):
            first = number + 1
            rows: list[tuple[int, Event | Block]] = []
            for _ in range(10):
                number += 1
                at = NOON + day * DAY + part * 3600 - 6 * 3600 + number % 7
                rows.append((number * 3, _prediction(number, 1 + day % 2, at)))
                if number % 2:
                    rows.append((number * 3 + 1, LabelEvent(f"id-{number}", "bikes", 1.0, at + 60, at + 60)))
                if number % 4 == 1:
                    rows.append((number * 3 + 2, LabelEvent(f"id-{number}", "bikes", 2.0, at + 60, at + 90)))
            contracts = {("bikes", 1): OLD, ("bikes", 2): NEW}
            made.write(rows, boot="b", first=first * 3, last=number * 3 + 2, contracts=contracts)
    if request.param != "as shipped":
        again = {
            key: (tmp_path / key).read_bytes() for kind in ("prediction", "label") for key in made.files("bikes", kind)
        }
        round_of(made, [Job("bikes", date(2026, 4, 1))], seconds=60)
        assert len(made.files("bikes", "prediction")) == 4
        if request.param == "after a crash":
            for key, body in list(again.items())[:3]:
                (tmp_path / key).write_bytes(body)
    return tmp_path


def _ours(lake: Path) -> list[tuple[Any, ...]]:
    bounds = [datetime.fromisoformat(text).astimezone(UTC) for text in (SINCE, UNTIL)]
    table = Lake(lake).joined("bikes", since=bounds[0], until=bounds[1])
    assert table.num_rows == 120
    return sorted((row["_id"], row["_prediction"], row["_label"]) for row in table.to_pylist())


def test_duckdb_reads_what_we_read(lake: Path) -> None:
    """A window of the folder, each row once, with the newest label of each; a column that a version lacks is null."""
    window = WINDOW.format(lake=lake, since=SINCE, until=UNTIL)
    found = _duck(JOINED.format(window=window, labels=LABELS.format(lake=lake)))
    assert sorted(found) == _ours(lake)
    [(rows, own, words)] = _duck(f'select count(*), sum(x + "a.b" + n), count(s) from ({window})')
    table = Lake(lake).read("bikes", "prediction", since=_moment(SINCE), until=_moment(UNTIL))
    frame = table.to_pandas()
    assert (rows, words) == (len(frame), frame["s"].notna().sum())
    assert own == pytest.approx((frame["x"] + frame["a.b"] + frame["n"]).sum())
    [(model, kind)] = _duck(
        f"select distinct model, kind from read_parquet('{lake}/*/*/*/*.parquet', hive_partitioning = true, "
        "union_by_name = true) where kind = 'label'"
    )
    assert (model, kind) == ("bikes", "label")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_polars_reads_what_we_read(lake: Path) -> None:
    """The same, lazily."""
    since, until = _moment(SINCE), _moment(UNTIL)
    predictions = pl.scan_parquet(
        f"{lake}/model=bikes/kind=prediction/*/*.parquet",
        hive_partitioning=True,
        missing_columns="insert",
        extra_columns="ignore",
        schema=_schema(lake),
    )
    window = predictions.filter(
        pl.col("date").is_between(since.date(), until.date()), pl.col("_at") >= since, pl.col("_at") < until
    ).unique(["_boot", "_seq"])
    labels = (
        pl.scan_parquet(f"{lake}/model=bikes/kind=label/*/*.parquet", hive_partitioning=True)
        .sort("_received", "_boot", "_seq")
        .unique("_id", keep="last")
        .select("_id", "_label")
    )
    found = window.join(labels, on="_id", how="left").select("_id", "_prediction", "_label").collect()
    assert sorted(found.rows()) == _ours(lake)


def _schema(lake: Path) -> dict[str, Any]:
    """The columns of the newest file, which a file of an older version may lack."""
    newest = max(lake.glob("model=bikes/kind=prediction/*/*-v2.parquet"))
    return dict(pl.read_parquet_schema(newest))


def test_numbers_that_repeat_and_numbers_that_do_not_come_back_as_they_were(tmp_path: Path) -> None:
    """Whatever way a column is laid out in a file: null, zero, infinities, the smallest and the largest."""
    special = [0.0, -0.0, float("inf"), -float("inf"), 1.7e308, 5e-324, None]
    rows: list[tuple[int, Event | Block]] = []
    for n in range(2_000):
        own = [special[n % 7], n * 0.1234567890123, 4.0, (-1) ** n * 2**62 + n, f"s{n % 3}", n % 2 == 0]
        at = NOON + n
        rows.append(
            (n + 1, PredictionEvent(f"id-{n}", at, at, "bikes", 2, "champion", "", own, n / 7, [n / 9, 1.0], 1.0, "k"))
        )
    lake = Lake(tmp_path)
    [key] = lake.write(rows, boot="b", first=1, last=2_000, contracts={("bikes", 2): NEW})
    parts = pq.ParquetFile(tmp_path / key).metadata.row_group(0)
    used = {parts.column(n).path_in_schema: set(parts.column(n).encodings) for n in range(parts.num_columns)}
    assert "RLE_DICTIONARY" in used["x"]
    assert "BYTE_STREAM_SPLIT" in used["a.b"]
    assert "DELTA_BINARY_PACKED" in used["_seq"]
    assert "DELTA_BYTE_ARRAY" in used["_id"]
    ours = lake.read("bikes", "prediction", columns=["x", "a.b", "c", "n", "s", "t", "_id", "_prediction"])
    wanted = [tuple(row.values()) for row in ours.to_pylist()]
    assert [row[:2] for row in wanted] == [(special[n % 7], n * 0.1234567890123) for n in range(2_000)]
    assert [row[3] for row in wanted] == [(-1) ** n * 2**62 + n for n in range(2_000)]
    names = 'x, "a.b", c, n, s, t, _id, _prediction'
    assert _duck(f"select {names} from read_parquet('{tmp_path / key}') order by _seq") == wanted
    assert pl.read_parquet(tmp_path / key).sort("_seq").select(ours.column_names).rows() == wanted


def test_a_window_reads_only_its_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what footers say of the time; the rows are those of a reading without it."""
    monkeypatch.setattr("monitoring.lake.encodings.GROUP_ROWS", 100)
    rows: list[tuple[int, Event | Block]] = [(n + 1, _prediction(n, 1, NOON + n)) for n in range(1_000)]
    lake = Lake(tmp_path)
    [key] = lake.write(rows, boot="b", first=1, last=1_000, contracts={("bikes", 1): OLD})
    assert pq.ParquetFile(tmp_path / key).num_row_groups == 10
    since = datetime.fromtimestamp(NOON + 150, UTC)
    for seconds, wanted in ((1, 1), (50, 50), (51, 51), (700, 700), (5_000, 850)):
        found = lake.read("bikes", "prediction", since=since, until=since + timedelta(seconds=seconds))
        assert found.num_rows == wanted


def test_labels_of_a_window_are_found_among_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they lie, in whatever portions files are looked through; those of other predictions are left out."""
    lake = Lake(tmp_path)
    for number in range(30):
        at = NOON + number * 3600
        rows: list[tuple[int, Event | Block]] = [
            (2 * number + 1, _prediction(number, 1, at)),
            (2 * number + 2, LabelEvent(f"id-{number}", "bikes", float(number), at + 9 * DAY, at)),
        ]
        lake.write(rows, boot="b", first=2 * number + 1, last=2 * number + 2, contracts={("bikes", 1): OLD})
    since, until = (datetime.fromtimestamp(NOON + hours * 3600, UTC) for hours in (10, 20))
    found = []
    for rows_at_once in (1, 4, 1_000_000):
        monkeypatch.setattr("monitoring.lake.lake_rows.AT_ONCE", rows_at_once)
        found.append(lake.joined("bikes", since=since, until=until))
        ids = found[-1].column("_id")
        assert lake.read("bikes", "label", columns=["_label"], ids=ids).column_names == ["_label"]
        assert lake.read("bikes", "label", ids=ids).num_rows == 10
    assert found[0].column("_label").to_pylist() == [float(number) for number in range(10, 20)]
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    assert lake.read("bikes", "label", ids=ids.slice(0, 0)).num_rows == 0
