"""Recorded traffic answered again: what is compared, what is refused, and that it goes on after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from monitoring.intake.blocks import Answered, block_of_answers
from monitoring.intake.ids import uuid7s
from monitoring.lake.lake import Lake
from registry.bundle import read_bundle
from registry.contract import Column, Output
from serving.batch.refusals import BatchRefused
from serving.batch.rows import Scorer
from serving.replay.fit import ReplayRefused
from serving.replay.job import Replay, begun
from serving.settings import ServingSettings
from tests.integration.batch_files import left, read
from tests.integration.dialect_models import CONTRACTS, WORDS, make_bundle, rows_of
from tests.integration.recorded_toy import DAY, EVER, NOON, Recorder, again, changed, edited, plain_rows

ROWS = 6_000


class Pulled(BaseException):
    """Somebody pulls the plug."""


@pytest.fixture
def recorder(offsets: dict[int, Path], tmp_path: Path) -> Recorder:
    """Two days of version 1, with some labels."""
    made = Recorder(Lake(tmp_path / "lake"), read_bundle(offsets[1]).contract)
    rows = plain_rows(ROWS)
    for n in range(0, ROWS, 1_000):
        made.requests(rows[n : n + 1_000], at=NOON + (n % 2_000) / 1_000 * DAY + n)
    made.labels(made.ids[:100], 110.0)
    return made


def stop_at(rows: int) -> Callable[..., None]:
    def report(_reached: int, _total: int, so_far: int) -> None:
        if so_far >= rows:
            raise Pulled

    return report


def test_every_row_is_compared_with_what_was_answered(
    offsets: dict[int, Path], recorder: Recorder, tmp_path: Path
) -> None:
    """`hour + 200` beside `hour + 100`: a hundred away, and the labels say which was nearer."""
    out = tmp_path / "diff.parquet"
    said = again(offsets[2], recorder.lake, out)
    rows = read(out)
    served = recorder.lake.joined("toy").to_pylist()
    assert [row["_id"] for row in rows] == [row["_id"] for row in served]
    assert all(row["difference"] == 100.0 and row["changed"] and row["reason"] is None for row in rows)
    assert [row["replayed"] for row in rows] == [row["hour"] + 200.0 for row in served]
    assert (said["rows"], said["compared"], said["changed"], said["identical"]) == (ROWS, ROWS, ROWS, 0)
    assert said["difference"] == dict.fromkeys(("mean", "max", "p50", "p90", "p99"), 100.0)
    hours = [row["hour"] for row in served if row["_label"] is not None]
    assert said["labelled"] == len(hours) == 100
    assert said["loss_recorded"] == pytest.approx(sum(abs(h - 10) for h in hours) / 100)
    assert said["loss_replayed"] == pytest.approx(sum(h + 90 for h in hours) / 100)
    assert said["by_recorded_version"]["1"]["rows"] == ROWS


def test_onto_the_version_that_answered_nothing_differs(
    offsets: dict[int, Path], recorder: Recorder, tmp_path: Path
) -> None:
    """Bit for bit; as CSV the same is told."""
    for ending in ("parquet", "csv"):
        said = again(offsets[1], recorder.lake, tmp_path / f"diff.{ending}", version=1)
        assert (said["rows"], said["identical"], said["changed"], said["skipped"]) == (ROWS, ROWS, 0, {})
        assert said["difference"]["max"] == 0.0
        assert said["labelled"] == 100


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_replay_that_was_interrupted_goes_on_with_the_same_rows(
    offsets: dict[int, Path], recorder: Recorder, tmp_path: Path, ending: str
) -> None:
    """Thrice stopped it is byte for byte what it would have been; another window or version does not go on."""
    again(offsets[2], recorder.lake, tmp_path / f"whole{ending}")
    out = tmp_path / f"diff{ending}"
    for at in (1_500, 1_600, 4_444):
        with pytest.raises(Pulled):
            again(offsets[2], recorder.lake, out, report=stop_at(at), rows_per_part=500)
        assert not out.exists()
    with pytest.raises(ReplayRefused, match="another --since"):
        again(offsets[2], recorder.lake, out, since="7d", rows_per_part=500)
    with pytest.raises(ReplayRefused, match="without-dropped"):
        again(offsets[2], recorder.lake, out, without_dropped=True, rows_per_part=500)
    with pytest.raises(BatchRefused, match="began with version 2"):
        again(offsets[1], recorder.lake, out, version=1, rows_per_part=500)
    assert begun(Replay(out, 5, 6), "lake") == Replay(out, None, EVER)  # an age means what it meant at first
    said = again(offsets[2], recorder.lake, out, rows_per_part=500)
    assert said["resumed"] >= 3_500
    assert said["rows"] == ROWS
    if ending == ".csv":
        assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert read(out) == read(tmp_path / f"whole{ending}")
    assert left(tmp_path) == {"lake", f"whole{ending}", f"diff{ending}"}


def test_rows_that_the_version_does_not_take_are_counted_with_the_reason(
    offsets: dict[int, Path], recorder: Recorder, tmp_path: Path
) -> None:
    """Null where it no longer may be: their rows are there without an answer."""
    strict = edited(offsets[2], tmp_path / "strict", lambda c: replace(c, nullable=False))
    out = tmp_path / "diff.parquet"
    said = again(strict, recorder.lake, out, recorded={1: recorder.contract})
    assert (said["rows"], said["compared"]) == (ROWS, ROWS * 9 // 10)
    [(reason, count)] = said["skipped"].items()
    assert reason.startswith("temp: ")
    assert count == ROWS // 10
    skipped = [row for row in read(out) if row["reason"] is not None]
    assert len(skipped) == count
    assert all(row["replayed"] is None and row["difference"] is None and row["changed"] is None for row in skipped)


def test_columns_that_the_log_dropped_are_null_when_that_is_said(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Refused by name before any work; nothing is left behind."""

    def dropping(column: Column) -> Column:
        return replace(column, policy="drop", nullable=True) if column.name == "temp" else column

    contract = changed(read_bundle(offsets[1]).contract, dropping)
    recorder = Recorder(Lake(tmp_path / "lake"), contract)
    recorder.requests(plain_rows(200))
    out = tmp_path / "diff.parquet"
    with pytest.raises(ReplayRefused, match=r"'temp' \(drop\)"):
        again(offsets[1], recorder.lake, out, recorded={1: contract})
    assert left(tmp_path) == {"lake"}
    said = again(offsets[1], recorder.lake, out, recorded={1: contract}, without_dropped=True)
    assert (said["rows"], said["identical"]) == (200, 200)


def test_rows_whose_features_were_never_recorded_are_not_made_up(offsets: dict[int, Path], tmp_path: Path) -> None:
    """A server that did not know the contract wrote answers only; null would be a guess where it is allowed."""
    lake = Lake(tmp_path / "lake")
    recorder = Recorder(lake, read_bundle(offsets[1]).contract)
    recorder.requests(plain_rows(50))
    for key in lake.files("toy", "prediction"):
        table = lake.read("toy", "prediction", files=[key])
        lake.storage.write(key, lake.encoded(key, table.drop_columns(["temp"])))
    said = again(offsets[1], lake, tmp_path / "diff.parquet")
    assert (said["rows"], said["compared"]) == (50, 0)
    assert said["skipped"] == {"its features were not recorded": 50}


@pytest.mark.parametrize("shift", [0, 1])
def test_probabilities_are_compared_by_the_names_of_their_classes(toy_bundle: Path, tmp_path: Path, shift: int) -> None:
    """A version that had them in another order; the control has the right names in the wrong order."""
    bundle = make_bundle(toy_bundle, tmp_path / "words", CONTRACTS["words"])
    contract = read_bundle(bundle).contract
    rows = rows_of(contract, 64)
    with Scorer(read_bundle(bundle), ServingSettings(device="cpu")) as scorer:
        tensors = scorer.decoder.decode(json.dumps({"rows": rows}).encode()).tensors
        [(_, answer)] = scorer.answers(tensors)
    assert not isinstance(answer, str)
    assert answer.values is not None
    turned = [[values[2], *values[:2]] for values in answer.values]
    recorded = replace(contract, output=Output("classification", (WORDS[2], *WORDS[:2])))
    lake, ids = Lake(tmp_path / "lake"), uuid7s(64)
    values = [tuple(row.values()) for row in rows]
    answered = Answered(recorded, 1, "champion", NOON, NOON, "", "k", 1.0, ids, values, answer.predictions, turned)
    rows_of_spool = [(1, block_of_answers([1], [answered]))]
    lake.write(rows_of_spool, boot="b", first=1, last=64, contracts={("words", 1): recorded})
    said = again(bundle, lake, tmp_path / "diff.parquet", recorded={1: contract if shift else recorded})
    assert said["changed"] == 0
    assert said["identical"] == 64 if not shift else said["identical"] < 10
    assert (said["difference"]["max"] > 0.01) is bool(shift)


def test_an_empty_window_and_outputs_that_cannot_be_are_refused(
    offsets: dict[int, Path], recorder: Recorder, tmp_path: Path
) -> None:
    """Before any work, and nothing is written over."""
    with pytest.raises(ReplayRefused, match="nothing of 'toy'"):
        again(offsets[1], Lake(tmp_path / "empty"), tmp_path / "diff.parquet")
    (tmp_path / "mine.parquet").write_text("mine")
    with pytest.raises(BatchRefused, match="exists already"):
        again(offsets[1], recorder.lake, tmp_path / "mine.parquet")
    with pytest.raises(BatchRefused, match="neither Parquet nor CSV"):
        again(offsets[1], recorder.lake, tmp_path / "diff.txt")
    with pytest.raises(BatchRefused, match="no such folder"):
        again(offsets[1], recorder.lake, tmp_path / "none" / "diff.csv")
    assert left(tmp_path) == {"lake", "mine.parquet"}


def test_a_full_disk_keeps_what_is_done(
    offsets: dict[int, Path], recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told with the file's name; with room again the same command ends it."""
    out, fsync, calls = tmp_path / "diff.parquet", os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise OSError(28, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BatchRefused, match="the disk is full"):
            again(offsets[2], recorder.lake, out)
    assert again(offsets[2], recorder.lake, out)["resumed"] > 0
    assert pq.read_metadata(out).num_rows == ROWS
