"""`perene events replay`: bundles from MLflow, what is refused before work, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitoring.lake.lake import Lake
from perene.cli import app
from registry.bundle import read_bundle
from registry.errors import ModelUnknown, NameInvalid, PereneError, VersionUnknown
from serving.replay.fit import ReplayRefused
from tests.integration.batch_files import left, read
from tests.integration.recorded_toy import Recorder, plain_rows
from tests.integration.registered_toy import MODEL, Shelf
from tests.integration.test_batch_command import cached


@pytest.fixture
def shelf(home: Path, toy_bundle: Path, tmp_path: Path) -> Shelf:
    return Shelf(home, toy_bundle, tmp_path)


def run(shelf: Shelf, *arguments: object) -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(app, ["events", "replay", *map(str, arguments), "--home", str(shelf.home)])
    return done.stdout, done.exception


def test_versions_come_from_mlflow_and_the_comparison_is_kept_or_not(shelf: Shelf, tmp_path: Path) -> None:
    """Or from the server's cache; without `--out` only the summary is left, and nothing of it anywhere."""
    one, two = shelf.add(100), shelf.add(200)
    cached(shelf, one)
    contract = read_bundle(shelf.files(one)).contract
    Recorder(Lake(shelf.home / "events"), contract, version=one).requests(plain_rows(40))
    before = left(shelf.home)
    said, error = run(shelf, MODEL, "--onto", two, "--out", tmp_path / "diff.csv", "--json")
    assert error is None
    found = json.loads(said)
    assert (found["onto"], found["rows"], found["changed"], found["difference"]["mean"]) == (two, 40, 40, 100.0)
    assert [row["replayed"] for row in read(tmp_path / "diff.csv")] == [n % 24 + 200.0 for n in range(40)]
    said, error = run(shelf, MODEL, "--onto", one)
    assert error is None
    assert "identical: 40\n" in said
    assert left(shelf.home) == before


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("nosuch", "--onto", 1), ModelUnknown, "nothing of 'nosuch'"),
        (("../toy", "--onto", 1), NameInvalid, ""),
        ((MODEL, "--onto", 99), VersionUnknown, "99"),
        ((MODEL, "--onto", 1, "--since", "2026-03-02"), ReplayRefused, "nothing of 'toy' is recorded"),
        ((MODEL, "--onto", 1), PereneError, "version 7, which answered in this window"),
    ],
)
def test_what_cannot_be_replayed_is_refused_before_work(
    shelf: Shelf, tmp_path: Path, arguments: tuple[object, ...], kind: type[PereneError], words: str
) -> None:
    """No output, no folder beside it; a version that answered and is not registered any more is named."""
    cached(shelf, one := shelf.add(100))
    contract = read_bundle(shelf.files(one)).contract
    Recorder(Lake(shelf.home / "events"), contract, version=7).requests(plain_rows(10))
    work = tmp_path / "work"
    work.mkdir()
    _, error = run(shelf, *arguments, "--out", work / "diff.parquet")
    assert isinstance(error, kind)
    assert words in str(error)
    assert left(work) == set()
