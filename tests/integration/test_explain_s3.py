"""Recorded predictions in an object store are explained as those of a folder are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitoring.lake.lake import Lake
from registry.bundle import read_bundle
from serving.explanations.messages import Ask, Where
from serving.explanations.process import ExplainProcess
from serving.settings import ExplainSettings, ServingSettings
from tests.integration.recorded_toy import DAY, NOON, Recorder, plain_rows
from tests.integration.s3_server import S3

UNKNOWN = "0198c0de-0000-7000-8000-000000000000"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = S3()
    yield server.url("explained")
    server.stop()


def test_ids_are_found_in_a_real_s3_server(offsets: dict[int, Path], url: str, tmp_path: Path) -> None:
    """Whatever their event time is; the child may use the network where the lake is behind it, and only there."""
    bundle = read_bundle(offsets[1])
    recorder, rows = Recorder(Lake(url), bundle.contract), plain_rows(200)
    for day in range(3):
        recorder.requests(rows, at=NOON + day * DAY)
    ids = [recorder.ids[450], UNKNOWN, recorder.ids[7]]
    ask = Ask("toy", {1: Where(str(offsets[1]), bundle.digest)}, ids=ids)
    settings = ServingSettings(explain=ExplainSettings(seconds=60))
    for lake, known in ((url, True), (str(tmp_path / "events"), False)):
        process = ExplainProcess(tmp_path, lake, settings)
        try:
            found = [json.loads(item.shown) for item in process.ask(ask).items]
        finally:
            process.end()
        assert [one["prediction_id"] for one in found] == ids
        assert ["attributions" in one for one in found] == [known, False, known]
        if known:
            assert [found[0]["value"], found[2]["value"]] == [rows[50]["hour"] + 100.0, rows[7]["hour"] + 100.0]
