"""Figures kept one beside the other in bench/results/retraining.json."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.figures import keep as keep_in
from bench.figures import known
from bench.serving.machine import RESULTS
from retrain.backtest.result import Backtest, Course

FILE = RESULTS / "retraining.json"


def keep(part: str, rows: list[dict[str, Any]], *, by: str = "") -> None:
    """Keep the figures of one part, beside those of the others; with `by`, beside those of its other quarters."""
    with _alone():
        _keep(part, rows, by)


@contextmanager
def _alone() -> Iterator[None]:
    """Parts are run side by side."""
    folder = os.open(FILE.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _keep(part: str, rows: list[dict[str, Any]], by: str) -> None:
    fresh = {row[by] for row in rows} if by else set()
    before = [row for row in known(FILE).get(part, {"rows": []})["rows"] if by and row[by] not in fresh]
    rows = sorted([*before, *rows], key=lambda row: row[by]) if by else rows
    keep_in(FILE, part, rows)


def rows_of(found: Backtest, **more: Any) -> list[dict[str, Any]]:
    """A row for each policy, with what began its runs and what its months were."""
    return [{**more, "model": found.model, "measure": found.measure, **_row(course)} for course in found.policies]


def _row(course: Course) -> dict[str, Any]:
    return {
        "policy": course.policy,
        "rows": course.rows,
        "error": round(course.error, 5),
        "fits": course.fits,
        "deployments": course.deployments,
        "months": {month.month: round(month.error, 5) for month in course.months},
        "runs": [f"{run.at:%Y-%m-%d} {run.reason}: {run.outcome}, {run.best}" for run in course.runs],
        "moves": [f"{move.at:%Y-%m-%d} version {move.version}, {move.why}" for move in course.moves],
    }
