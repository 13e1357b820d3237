"""A replay survives kill -9 at any moment: each recorded row is compared once, while files of the lake are merged.

It is killed at a random moment after it got on, and started again by the same command; when it is complete, a new one
begins. The controls are two bugs that the same check must see. `PERENE_CHAOS=full` kills 300 times instead of 10.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path

import pytest

from monitoring.lake import upkeep
from monitoring.lake.lake import Lake
from registry.bundle import read_bundle
from tests.integration.batch_files import read
from tests.integration.recorded_toy import DAY, NOON, Recorder, plain_rows

CYCLES = 300 if os.environ.get("PERENE_CHAOS") == "full" else 10
ROOT = Path(__file__).parents[2]
ROWS = 15_000


@pytest.fixture
def lake(offsets: dict[int, Path], tmp_path: Path) -> Lake:
    """Three days of two processes, a file of every thousand rows."""
    made, contract = Lake(tmp_path / "lake"), read_bundle(offsets[1]).contract
    recorders = [Recorder(made, contract, boot=f"b{n}") for n in range(2)]
    rows = plain_rows(ROWS)
    for n in range(0, ROWS, 1_000):
        recorders[n // 1_000 % 2].requests(rows[n : n + 1_000], at=NOON + n // 5_000 * DAY + n / 100)
    return made


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _problems(out: Path, ids: list[str]) -> list[str]:
    """What is wrong with an output, as far as it has its name."""
    if not out.exists():
        return []
    try:
        found = read(out)
    except (OSError, ValueError) as error:
        return [f"half an output: {type(error).__name__}"]
    wrong = [row for row in found if row["difference"] != 100.0 or not row["changed"]]
    if [row["_id"] for row in found] == ids and not wrong:
        return []
    return [
        f"{len(found)} rows instead of {len(ids)}, {len({row['_id'] for row in found})} different, {len(wrong)} wrong"
    ]


def _merge_some(lake: Lake) -> None:
    files = lake.files("toy", "prediction")
    for merge in upkeep.merges("toy", "prediction", files, before=date(2026, 4, 1), rows=lake.rows):
        upkeep.carry_out(lake, merge)
        return


def _storm(tmp_path: Path, bundle: Path, lake: Lake, *, cycles: int, manner: str, seed: int) -> tuple[int, list[str]]:
    """Kill replays `cycles` times; returns how many were completed, and what was wrong with outputs."""
    dice, pause = random.Random(seed), threading.Event()
    ids = lake.read("toy", "prediction", columns=["_id"]).column("_id").to_pylist()
    kills, completed = 0, 0
    problems: list[str] = []
    while kills < cycles or completed == 0:
        out = tmp_path / f"diff-{completed}.{'parquet' if completed % 2 else 'csv'}"
        journal = out.with_name(f".{out.name}.parts") / "journal"
        before = _size(journal)
        command = [
            sys.executable,
            "-m",
            "tests.chaos.replay_job",
            str(bundle),
            str(tmp_path / "lake"),
            str(out),
            manner,
        ]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        while process.poll() is None and _size(journal) == before:
            pause.wait(0.005)
        if kills < cycles:
            pause.wait(dice.uniform(0, 0.5))
            process.kill()
            kills += 1
        if dice.random() < 0.3:
            _merge_some(lake)
        _, said = process.communicate()
        assert process.returncode in (0, -9), said.decode()[-2_000:]
        problems += _problems(out, ids)
        if problems:
            return completed, problems
        completed += out.exists() and not journal.exists()
    return completed, problems


@pytest.mark.timeout(120 + 10 * CYCLES)
def test_each_row_is_compared_once_whenever_the_replay_is_killed(
    offsets: dict[int, Path], lake: Lake, tmp_path: Path
) -> None:
    """In the order of time, with the right answers, while upkeep merges what is read."""
    completed, problems = _storm(tmp_path, offsets[2], lake, cycles=CYCLES, manner="careful", seed=21)
    print(f"{CYCLES} kills, {completed} replays completed")
    assert problems == []
    assert completed > 0


@pytest.mark.timeout(300)
def test_control_a_replay_that_forgets_what_it_has_done_is_caught(
    offsets: dict[int, Path], lake: Lake, tmp_path: Path
) -> None:
    """Rows are there twice."""
    _, problems = _storm(tmp_path, offsets[2], lake, cycles=5, manner="forgetful", seed=22)
    print(problems)
    assert any("instead of" in problem for problem in problems)


@pytest.mark.timeout(600)
def test_control_an_output_that_has_its_name_too_early_is_caught(
    offsets: dict[int, Path], lake: Lake, tmp_path: Path
) -> None:
    """Half an output is seen, or the next start stumbles over it."""
    try:
        _, problems = _storm(tmp_path, offsets[2], lake, cycles=40, manner="early", seed=23)
    except AssertionError as error:
        problems = [str(error)]
        assert "exists already" in problems[0]
    print(problems[0][-200:])
    assert problems != []
