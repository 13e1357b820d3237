"""The lake on real Parquet files: typing, layout, determinism, reading, joining."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring.intake.events import Event, LabelEvent, PredictionEvent
from monitoring.lake.lake import Key, Lake
from monitoring.lake.storage import Storage
from monitoring.reading.api import events
from registry.contract import Column, Contract, Output
from registry.errors import ModelUnknown

DAY = 86_400.0
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
COLUMNS = (
    Column("x", "float", nullable=True),
    Column("n", "int", nullable=True),
    Column("ok", "bool"),
    Column("city", "string", nullable=True),
    Column("email", "string", policy="hash"),
    Column("age", "int", policy="hash"),
    Column("secret", "float", policy="drop"),
)


def _contract(kind: Literal["regression", "classification"] = "regression", model: str = "m") -> Contract:
    return Contract(model, COLUMNS, Output(kind, ("no", "yes") if kind == "classification" else ()))


def _prediction(number: int, **change: Any) -> PredictionEvent:
    event = PredictionEvent(
        id=f"id-{number}",
        at=NOON + number,
        received=NOON + number + 0.5,
        model="m",
        version=1,
        arm="champion",
        entity="e",
        features=[float(number), number, True, "Oslo", "aa", "bb", None],
        prediction=number / 2,
        probabilities=None,
        latency_ms=1.5,
        key="k",
    )
    return msgspec.structs.replace(event, **change)


def _write(lake: Lake, rows: list[Event], *, boot: str = "boot", first: int = 1, **contracts: Contract) -> list[Key]:
    known = {("m", 1): contracts.get("v1", _contract()), ("m", 2): contracts.get("v2", _contract())}
    numbered = list(enumerate(rows, first))
    return lake.write(numbered, boot=boot, first=first, last=numbered[-1][0], contracts=known)


def test_columns_are_typed_by_the_contract(tmp_path: Path) -> None:
    """Stored columns by dtype, hashed ones as text, dropped ones absent; nulls stay null."""
    lake = Lake(tmp_path)
    _write(lake, [_prediction(1), _prediction(2, features=[None, None, False, None, "cc", "dd", None])])
    table = lake.read("m", "prediction")
    types = {name: str(table.schema.field(name).type) for name in table.column_names if name[0] != "_"}
    assert types == {"x": "double", "n": "int64", "ok": "bool", "city": "string", "email": "string", "age": "string"}
    assert table.select(["x", "n", "ok", "city", "age", "_prediction", "_seq"]).to_pylist() == [
        {"x": 1.0, "n": 1, "ok": True, "city": "Oslo", "age": "bb", "_prediction": 0.5, "_seq": 1},
        {"x": None, "n": None, "ok": False, "city": None, "age": "dd", "_prediction": 1.0, "_seq": 2},
    ]
    assert table.column("_at")[0].as_py() == datetime.fromtimestamp(NOON + 1, UTC)
    assert table.schema.field("_at").type == pa.timestamp("us", tz="UTC")


def test_files_lie_by_model_kind_day_and_version(tmp_path: Path) -> None:
    """Names tell boot, range and version; the day is that of the event."""
    lake = Lake(tmp_path)
    rows: list[Event] = [
        _prediction(1),
        _prediction(2, at=NOON + DAY),
        _prediction(3, version=2, arm="candidate"),
        _prediction(1, arm="shadow", version=2, features=[]),
        LabelEvent("id-1", "m", 3.0, NOON, NOON),
    ]
    written = {str(key) for key in _write(lake, rows)}
    assert written == {
        "model=m/kind=prediction/date=2026-03-01/boot-1-5-v1-v2.parquet",
        "model=m/kind=prediction/date=2026-03-02/boot-1-5-v1.parquet",
        "model=m/kind=shadow/date=2026-03-01/boot-1-5-v2.parquet",
        "model=m/kind=label/date=2026-03-01/boot-1-5.parquet",
    }
    assert {str(key) for key in lake.files("m", "prediction")} == {w for w in written if "=prediction" in w}
    assert lake.models() == ["m"]
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_a_reader_sees_both_arms_of_a_range_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at after each file that is written: half of the traffic of a trial would prove its split wrong."""
    lake, seen = Lake(tmp_path), []
    write = Storage.write

    def look(storage: Storage, key: Key, body: pa.Buffer) -> None:
        write(storage, key, body)
        seen.append(sorted(lake.read("m", "prediction").column("_version").to_pylist()))

    monkeypatch.setattr(Storage, "write", look)
    _write(lake, [_prediction(n, version=1 + n % 2) for n in range(6)])
    _write(lake, [_prediction(n, version=1 + n % 2, at=NOON + n * DAY) for n in range(2)], first=7)
    assert seen[0] == [1, 1, 1, 2, 2, 2]
    assert len(seen) == 3  # a file a day


def test_versions_share_a_file_as_far_as_nothing_is_lost(tmp_path: Path) -> None:
    """Columns that one has alone, integers beside floats, text beside numbers; what would be rounded is apart."""
    told = _contract()
    float_n = tuple(Column("n", "float", nullable=True) if c.name == "n" else c for c in COLUMNS)
    more = Contract("m", (*float_n, Column("new", "string")), told.output)
    text = Contract("m", tuple(Column("x", "string") if c.name == "x" else c for c in COLUMNS), told.output)
    own = [2.0, 0.5, True, "Oslo", "aa", "bb", None]
    rows: list[Event] = [_prediction(1), _prediction(2, version=2, features=[*own, "added"])]

    lake = Lake(tmp_path / "more")
    [key] = _write(lake, rows, v2=more)
    assert key.name == "boot-1-2-v1-v2.parquet"
    found = lake.read("m", "prediction").select(["_version", "n", "new", "city"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [(1, 1.0, None, "Oslo"), (2, 0.5, "added", "Oslo")]

    lake = Lake(tmp_path / "text")
    [key] = _write(
        lake, [_prediction(1, features=[0.1, *own[1:]]), _prediction(2, version=2, features=["a", *own[1:]])], v2=text
    )
    assert lake.read("m", "prediction").column("x").to_pylist() == ["0.1", "a"]

    lake = Lake(tmp_path / "large")
    large = _prediction(1, features=[1.0, 2**53 + 1, *own[2:]])
    assert len(_write(lake, [large, rows[1]], v2=more)) == 2
    assert lake.read("m", "prediction").column("n").to_pylist() == [float(2**53), 0.5]  # where they meet it is rounded


def test_same_range_gives_the_same_bytes(tmp_path: Path) -> None:
    """Writing a range again replaces its files by equal ones."""
    rows: list[Event] = [_prediction(n) for n in range(50)]
    first = {key: (tmp_path / key).read_bytes() for key in _write(Lake(tmp_path), rows)}
    second = {key: (tmp_path / key).read_bytes() for key in _write(Lake(tmp_path), rows)}
    assert first == second


def test_overlapping_files_are_read_once(tmp_path: Path) -> None:
    """A row that lies in two files, by (boot, seq), is returned once; another boot's is another row."""
    lake = Lake(tmp_path)
    _write(lake, [_prediction(n) for n in range(4)])
    _write(lake, [_prediction(n) for n in range(6)])
    _write(lake, [_prediction(1)], boot="other", first=2)
    found = lake.read("m", "prediction").select(["_seq", "_boot"]).to_pylist()
    assert [(row["_seq"], row["_boot"]) for row in found] == [
        (1, "boot"),
        (2, "boot"),
        (2, "other"),
        (3, "boot"),
        (4, "boot"),
        (5, "boot"),
        (6, "boot"),
    ]


def test_bounds_columns_and_files(tmp_path: Path) -> None:
    """since <= at < until over several days, a choice of columns, a choice of files."""
    lake = Lake(tmp_path)
    _write(lake, [_prediction(n, at=NOON + n * DAY / 4) for n in range(12)])
    since, until = datetime.fromtimestamp(NOON + DAY, UTC), NOON + 2 * DAY
    table = lake.read("m", "prediction", since=since, until=until, columns=["_id", "absent", "x"])
    assert table.to_pydict() == {"_id": ["id-4", "id-5", "id-6", "id-7"], "x": [4.0, 5.0, 6.0, 7.0]}
    newest = lake.files("m", "prediction")[-1:]
    assert lake.read("m", "prediction", files=newest).column("_id").to_pylist() == ["id-10", "id-11"]
    assert lake.read("m", "prediction", files=[]).num_rows == 0


def test_nothing_yet_has_our_columns(tmp_path: Path) -> None:
    """An unknown model reads as no rows with the columns every reader asks for."""
    lake = Lake(tmp_path / "absent")
    assert (lake.models(), lake.files("m", "label")) == ([], [])
    assert {"_id", "_label", "_at", "_received", "_boot", "_seq"} == set(lake.read("m", "label").column_names)
    joined = lake.joined("m")
    assert joined.num_rows == 0
    assert {"_label", "_label_at", "_shadow_prediction", "_shadow_version"} <= set(joined.column_names)


def test_join_takes_the_last_revision_wherever_it_lies(tmp_path: Path) -> None:
    """Late, early and repeated labels: the one received last counts; what has none is null."""
    lake = Lake(tmp_path)
    _write(
        lake,
        [
            LabelEvent("id-2", "m", 9.0, NOON, NOON + 50),
            _prediction(1),
            _prediction(2),
            _prediction(3),
            _prediction(2, arm="shadow", version=2, features=[], prediction=7.0, probabilities=[0.25]),
            LabelEvent("id-1", "m", 1.0, NOON + 3 * DAY, NOON + 10),
        ],
    )
    _write(lake, [LabelEvent("id-1", "m", 2.0, NOON + 4 * DAY, NOON + 20)], first=7)
    _write(lake, [LabelEvent("id-2", "m", 8.0, NOON + DAY, NOON + 40)], boot="other")
    table = lake.joined("m", since=NOON, until=NOON + DAY)
    columns = ["_id", "_label", "_shadow_prediction", "_shadow_probabilities", "_shadow_version", "_version"]
    assert table.select(columns).to_pylist() == [
        dict(zip(columns, row, strict=True))
        for row in [
            ("id-1", 2.0, None, None, None, 1),
            ("id-2", 9.0, 7.0, [0.25], 2, 1),
            ("id-3", None, None, None, None, 1),
        ]
    ]
    assert table.column("_label_at")[0].as_py() == datetime.fromtimestamp(NOON + 4 * DAY, UTC)


def test_classification_answers_are_text(tmp_path: Path) -> None:
    """Predictions and labels of a classification are class names as text, probabilities float32."""
    lake = Lake(tmp_path)
    rows: list[Event] = [
        _prediction(1, prediction="yes", probabilities=[0.25, 0.75]),
        LabelEvent("id-1", "m", "no", 1, 1),
    ]
    _write(lake, rows, v1=_contract("classification"), v2=_contract("classification"))
    table = lake.joined("m")
    assert table.select(["_prediction", "_probabilities", "_label"]).to_pylist() == [
        {"_prediction": "yes", "_probabilities": [0.25, 0.75], "_label": "no"}
    ]


def test_versions_with_other_columns_are_read_together(tmp_path: Path) -> None:
    """A column only one version has is null for the other; a change from number to text reads as text."""
    lake = Lake(tmp_path)
    other = Contract("m", (Column("x", "string"), Column("new", "int")), Output("regression"))
    _write(lake, [_prediction(1), _prediction(2, version=2, features=["a", 5])], v2=other)
    found = lake.read("m", "prediction", columns=["x", "n", "new"]).to_pylist()
    assert found[1] == {"x": "a", "n": None, "new": 5}
    assert (type(found[0]["x"]), found[0]["n"], found[0]["new"]) == (str, 1, None)


def test_values_of_a_wrong_type_become_null(tmp_path: Path) -> None:
    """One bad value takes neither its row nor its neighbours with it."""
    lake = Lake(tmp_path)
    bad = _prediction(2, features=["text", 2**70, True, 5, "aa", "bb", None])
    _write(lake, [_prediction(1), bad, _prediction(3, features=[1.0])])
    found = lake.read("m", "prediction", columns=["x", "n", "city"]).to_pylist()
    assert found == [
        {"x": 1.0, "n": 1, "city": "Oslo"},
        {"x": None, "n": None, "city": None},
        {"x": 1.0, "n": None, "city": None},
    ]


def test_events_without_contract_keep_what_is_ours(tmp_path: Path) -> None:
    """Without a contract the features cannot be named; ids and answers are kept."""
    lake = Lake(tmp_path)
    rows: list[tuple[int, Event]] = [(1, _prediction(1)), (2, LabelEvent("id-1", "m", "a", NOON, NOON))]
    lake.write(rows, boot="boot", first=1, last=2, contracts={})
    table = lake.joined("m", since=NOON)
    assert "x" not in table.column_names
    assert table.select(["_id", "_label", "_prediction"]).to_pylist() == [
        {"_id": "id-1", "_label": "a", "_prediction": 0.5}
    ]


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -5.0, 1e300])
def test_impossible_times_stop_nothing(tmp_path: Path, at: float) -> None:
    """An event time no calendar knows is moved to the nearest that one does."""
    lake = Lake(tmp_path)
    _write(lake, [_prediction(1, at=at)])
    assert lake.read("m", "prediction").num_rows == 1


def test_model_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    """A hostile name is quoted."""
    lake = Lake(tmp_path / "lake")
    lake.write([(1, _prediction(1, model="../../x"))], boot="b", first=1, last=1, contracts={})
    assert lake.models() == ["../../x"]
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]
    assert lake.read("../../x", "prediction").num_rows == 1


def test_duckdb_reads_the_same_folder(tmp_path: Path) -> None:
    """No reader of ours is needed; the folders are columns."""
    lake = Lake(tmp_path)
    _write(lake, [_prediction(1), _prediction(2, at=NOON + DAY)])
    query = "SELECT model, kind, count(*), sum(x) FROM read_parquet(?, hive_partitioning=true) GROUP BY ALL"
    with duckdb.connect() as db:
        assert db.execute(query, [f"{tmp_path}/**/*.parquet"]).fetchall() == [("m", "prediction", 2, 3.0)]


def test_events_are_one_line_away(tmp_path: Path) -> None:
    """The public call gives a DataFrame, with labels on demand; an unknown model is named."""
    lake = Lake(tmp_path)
    _write(lake, [_prediction(1), _prediction(2), LabelEvent("id-2", "m", 5.0, NOON, NOON)])
    assert events(tmp_path, "m", since=NOON + 2)["_id"].tolist() == ["id-2"]
    assert events(tmp_path, "m", since="2026-03-02").empty
    labelled = events(tmp_path, "m", labelled=True)
    assert labelled["_label"].isna().tolist() == [True, False]
    assert "_label" not in events(tmp_path, "m").columns
    with pytest.raises(ModelUnknown):
        events(tmp_path, "other")


def test_files_are_compressed(tmp_path: Path) -> None:
    """Columns are zstd."""
    (key,) = _write(Lake(tmp_path), [_prediction(1)])
    group = pq.ParquetFile(tmp_path / key).metadata.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
