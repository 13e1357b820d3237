"""A batch job survives kill -9 at any moment: each row exactly once, in order, and never half an output.

The job is killed at a random moment after it got on, and started again by the same command; when it is complete, a new
one begins. Whenever the output has its name it is whole. The controls are two bugs that the same check must see.
`PERENE_CHAOS=full` kills 500 times instead of 20.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.integration.batch_files import read, toy_rows, write

CYCLES = 500 if os.environ.get("PERENE_CHAOS") == "full" else 20
ROOT = Path(__file__).parents[2]
ROWS = 60_000
BAD = 997
"""Every so many rows one does not fit."""


def _start(bundle: Path, file: Path, out: Path, manner: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.chaos.batch_job", str(bundle), str(file), str(out), manner]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


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
    if [row["id"] for row in found] == ids:
        return []
    return [f"{len(found)} rows instead of {len(ids)}, {len({row['id'] for row in found})} of them different"]


def _storm(
    tmp_path: Path, bundle: Path, ending: str, *, cycles: int, manner: str, seed: int, rows: int = ROWS
) -> tuple[int, list[str]]:
    """Kill jobs `cycles` times; returns how many were completed, and what was wrong with outputs."""
    dice, pause = random.Random(seed), threading.Event()
    made = toy_rows(rows)
    for n in range(BAD, rows, BAD):
        made[n]["hour"] = None
    ids = [row["id"] for n, row in enumerate(made) if n % BAD or not n]
    file, kills, completed = write(tmp_path / f"in{ending}", made), 0, 0
    problems: list[str] = []
    while kills < cycles or completed == 0:
        out = tmp_path / f"out-{completed}{ending}"
        journal = out.with_name(f".{out.name}.parts") / "journal"
        before = _size(journal)
        process = _start(bundle, file, out, manner)
        while process.poll() is None and _size(journal) == before:
            pause.wait(0.005)
        if kills < cycles:
            pause.wait(dice.uniform(0, 0.4))
            process.kill()
            kills += 1
        _, said = process.communicate()
        assert process.returncode in (0, -9), said.decode()[-2_000:]
        problems += _problems(out, ids)
        if problems:
            return completed, problems
        completed += out.exists() and not journal.exists()
    return completed, problems


@pytest.mark.timeout(120 + 10 * CYCLES)
@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_each_row_is_in_the_output_once_whenever_the_job_is_killed(
    offsets: dict[int, Path], tmp_path: Path, ending: str
) -> None:
    """Half of the kills on each format."""
    completed, problems = _storm(tmp_path, offsets[1], ending, cycles=CYCLES // 2, manner="careful", seed=11)
    print(f"{CYCLES // 2} kills, {completed} jobs completed")
    assert problems == []
    assert completed > 0


@pytest.mark.timeout(600)
def test_control_an_output_that_has_its_name_too_early_is_caught(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Half an output is seen, or the next start stumbles over it."""
    try:
        _, problems = _storm(tmp_path, offsets[1], ".csv", cycles=40, manner="early", seed=12, rows=5_000)
    except AssertionError as error:
        problems = [str(error)]
        assert "exists already" in problems[0]
    print(problems[0][-200:])
    assert problems != []


def test_control_a_job_that_forgets_what_it_has_done_is_caught(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Rows are there twice."""
    _, problems = _storm(tmp_path, offsets[1], ".parquet", cycles=10, manner="forgetful", seed=13)
    print(problems)
    assert any("instead of" in problem for problem in problems)
