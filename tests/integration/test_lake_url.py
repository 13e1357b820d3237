"""A lake in S3 by its setting: commands, doctor and upkeep find it, and say what is wrong when it is away."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import msgspec
import pytest

from monitoring.intake.events import PredictionEvent
from monitoring.lake.lake import Lake
from monitoring.lake.upkeep_run import Job, Result, Spec
from perene.api import events
from perene.config import Settings, load
from perene.doctor import examine
from registry.contract import Column, Contract, Output
from registry.errors import ModelUnknown, StoreUnavailable
from tests.integration.s3_server import S3

NOON = 1_772_366_400.0
SECRET = "hunter2"
CONTRACT = Contract("m", (Column("x", "float"),), Output("regression"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    server = S3()
    yield server
    server.stop()


@pytest.fixture
def settings(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERENE__LAKE_URL", s3.url("some/events"))
    return load(home=tmp_path / "home")


def _fill(lake: Lake) -> None:
    for number in range(6):
        when = NOON + number
        made = PredictionEvent(f"id-{number}", when, when, "m", 1, "champion", "", [number / 2], 2.0, None, 1.0, "k")
        lake.write([(number + 1, made)], boot="b", first=number + 1, last=number + 1, contracts={("m", 1): CONTRACT})


def test_commands_go_by_the_setting(settings: Settings, s3: S3) -> None:
    """Events are read from there; doctor looks, and when nobody answers both say so, without any secret."""
    lake = Lake(settings.places.lake)
    _fill(lake)
    assert events("m", settings=settings)["x"].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    with pytest.raises(ModelUnknown):
        events("another", settings=settings)
    [check] = [found for found in examine(settings) if found.name == "event lake"]
    assert check.ok
    assert "1 models" in check.found
    assert [
        key.name for key in lake.storage.files(lake.files("m", "prediction")[0].parent) if "doctor" in key.name
    ] == []
    s3.stop()
    [check] = [found for found in examine(settings) if found.name == "event lake"]
    assert not check.ok
    with pytest.raises(StoreUnavailable) as caught:
        events("m", settings=settings)
    for text in (str(check), str(caught.value)):
        assert SECRET not in text
        assert "event lake" in text
    s3.start()


def _round(spec: Path, result: Path) -> int:
    command = [sys.executable, "-m", "monitoring.lake.upkeep_run", str(spec), str(result)]
    return subprocess.run(command, check=False).returncode


def test_upkeep_merges_there_one_round_at_a_time(settings: Settings, tmp_path: Path) -> None:
    """The files of a day become one; a second round does nothing while another holds the lock."""
    lake = Lake(settings.places.lake)
    _fill(lake)
    before = lake.read("m", "prediction")
    spec, result, lock = tmp_path / "spec.json", tmp_path / "result.json", tmp_path / "lock"
    work = Spec(str(settings.places.lake), str(lock), [Job("m", date(2026, 4, 1))])
    spec.write_bytes(msgspec.json.encode(work))
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert _round(spec, result) == 75
    assert not result.exists()
    assert _round(spec, result) == 0
    assert msgspec.json.decode(result.read_bytes(), type=Result).merged == {"m": 6}
    assert len(lake.files("m", "prediction")) == 1
    assert lake.read("m", "prediction").equals(before)
    expire = msgspec.structs.replace(work, jobs=[Job("m", date(2026, 4, 1), keep_days=7)])
    spec.write_bytes(msgspec.json.encode(expire))
    assert _round(spec, result) == 0
    assert msgspec.json.decode(result.read_bytes(), type=Result).expired == {"m": {"prediction": 6}}
    assert lake.files("m", "prediction") == []
