"""One behaviour on a disk and in S3: files whole or not at all, and a lake that may go away for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from monitoring.intake.events import LabelEvent, PredictionEvent
from monitoring.intake.shipper import ship_once
from monitoring.intake.spool import Spool
from monitoring.lake.lake import Key, Lake
from monitoring.lake.storage import Storage
from registry.contract import Column, Contract, Output
from registry.errors import ConfigInvalid
from tests.integration.s3_server import S3

NOON = 1_772_366_400.0
CONTRACT = Contract("m", (Column("x", "float"),), Output("regression"))
Root = Callable[[str], Path | str]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    if request.param == "folder":
        return lambda name: tmp_path / name
    server: S3 = request.getfixturevalue("s3")
    return lambda name: server.url(f"{tmp_path.name}/{name}")


def test_files_are_written_listed_read_and_removed(root: Root) -> None:
    """Names that need escaping, two levels, a file in place of another; removing twice is no error."""
    storage = Storage(root("a"))
    assert (storage.files(Key()), storage.folders()) == ([], [])
    first, second = Key("model=a%20b/kind=x/1.parquet"), Key("model=ü/2.parquet")
    for data in (b"old", b"new"):
        storage.write(first, pa.py_buffer(data))
    storage.write(second, pa.py_buffer(b"\x00" * 100_000))
    assert storage.files(Key()) == [first, second]
    assert storage.files(Key("model=ü")) == [second]
    assert storage.folders() == ["model=a%20b", "model=ü"]
    with storage.read(first) as file:
        assert file.read() == b"new"
    storage.remove(first)
    storage.remove(first)
    assert storage.files(Key()) == [second]


def _prediction(number: int) -> PredictionEvent:
    when = NOON + number
    return PredictionEvent(f"id-{number}", when, when, "m", 1, "champion", "", [number / 2], 2.0, None, 1.0, "k")


def test_events_come_back_joined_with_their_labels(root: Root, tmp_path: Path) -> None:
    """Spool, shipper and lake: what was appended is read, once, also when a range is shipped again."""
    lake = Lake(root("events"))
    with Spool.open(tmp_path / "spool", commit_interval_s=0.01) as spool:
        spool.register("m", 1, CONTRACT.to_dict())
        for number in range(10):
            spool.append([_prediction(number)])
        spool.append_durable([LabelEvent("id-3", "m", 7.0, NOON + 60, NOON + 60)]).result(60)
    assert ship_once(tmp_path / "spool", lake, min_rows=1, max_age_s=0, now=NOON) == 11
    rows = [(n, _prediction(n - 1)) for n in range(1, 11)]
    again = lake.write(rows, boot="other", first=1, last=10, contracts={("m", 1): CONTRACT})
    assert again == lake.write(rows, boot="other", first=1, last=10, contracts={("m", 1): CONTRACT})
    assert lake.models() == ["m"]
    joined = lake.joined("m", until=NOON + 5)
    assert joined.num_rows == 10  # five of each boot
    assert [row["_label"] for row in joined.to_pylist() if row["_id"] == "id-3"] == [7.0, 7.0]


def test_a_store_that_is_away_keeps_the_events_in_the_spool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused uploads delete nothing; once the store is back everything is there exactly once."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    server = S3()
    try:
        lake = Lake(server.url("events"))
        with Spool.open(tmp_path / "spool", commit_interval_s=0.01) as spool:
            spool.register("m", 1, CONTRACT.to_dict())
            for number in range(5):
                spool.append([_prediction(number)])
        server.stop()
        assert ship_once(tmp_path / "spool", lake, min_rows=1, max_age_s=0, now=NOON) == 0
        assert "shipper.spool_failed" in caplog.text
        server.start()
        assert ship_once(tmp_path / "spool", lake, min_rows=1, max_age_s=0, now=NOON) == 5
        assert lake.read("m", "prediction").column("_id").to_pylist() == [f"id-{n}" for n in range(5)]
    finally:
        server.stop()


@pytest.mark.parametrize("url", ["s4://bucket/x", "s3://", "://x", "s3://bucket/x?no_such_option=1"])
def test_a_url_that_cannot_be_opened_is_named(url: str) -> None:
    """Without the rest of the URL, which may hold a secret."""
    with pytest.raises(ConfigInvalid, match="event lake"):
        Storage(url)
