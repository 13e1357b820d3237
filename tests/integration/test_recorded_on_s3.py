"""A lake in an object store is replayed, exported and billed like a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from monitoring.lake.lake import Lake
from monitoring.reading.export import export
from monitoring.reading.usage import usage
from registry.bundle import read_bundle
from tests.integration.recorded_toy import DAY, NOON, Recorder, again, plain_rows
from tests.integration.s3_server import S3


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = S3()
    yield Lake(server.url("recorded"))
    server.stop()


def test_each_row_is_read_from_a_real_s3_server(offsets: dict[int, Path], lake: Lake, tmp_path: Path) -> None:
    """Two days of two processes, with labels."""
    for n in range(2):
        recorder = Recorder(lake, read_bundle(offsets[1]).contract, boot=f"b{n}")
        for day in range(2):
            recorder.requests(plain_rows(200), at=NOON + day * DAY, key=f"k{n}")
        recorder.labels(recorder.ids[:5], 107.0)
    said = again(offsets[1], lake, tmp_path / "diff.parquet", version=1)
    assert (said["rows"], said["identical"], said["labelled"]) == (800, 800, 10)
    assert export(lake, "toy", tmp_path / "events.parquet", low=None, high=None, labelled=True) == 800
    assert pq.read_table(tmp_path / "events.parquet").to_pylist() == lake.joined("toy").to_pylist()
    low = int((NOON + DAY / 2) * 1e6)
    assert [used.rows for used in usage(lake, low=low, high=None).values()] == [200, 200]
