"""Trainers of the toy for searches and for Ray: they leave marks, sleep and die as their environment says."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd


def _marks() -> Path:
    return Path(os.environ["MARKS"])


def ridge(frame: pd.DataFrame, strength: float = 1.0, *, intercept: bool = True) -> Any:
    """A trainer with parameters; it notes each call, and dies at the one that DIE_AT names, once."""
    from sklearn.linear_model import Ridge

    folder = _marks()
    number = len(list(folder.glob("call-*")))
    (folder / f"call-{number}").write_text(f"{os.getpid()} {len(frame)} {strength} {intercept}")
    died = folder / "died"
    if number == int(os.environ.get("DIE_AT", "-1")) and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Ridge(alpha=strength, fit_intercept=intercept).fit(frame[["x", "z"]], frame["y"])


def search(trial: Any) -> dict[str, Any]:
    """What `ridge` may be called with; without an intercept it is far off, which pruning finds."""
    return {
        "strength": trial.suggest_float("strength", 1e-3, 1e3, log=True),
        "intercept": trial.suggest_categorical("intercept", [True, False]),
    }


def bad_search(_trial: Any) -> dict[str, Any]:
    """A search that fails."""
    raise KeyError("secret value")


def wrong_search(_trial: Any) -> dict[str, Any]:
    """Parameters that the trainer does not take."""
    return {"depth": 3}


def slow(frame: pd.DataFrame) -> Any:
    """A trainer that tells where it runs; while the file `hold` is there, only the longest window comes through."""
    from sklearn.linear_model import LinearRegression

    folder = _marks()
    (folder / f"ran-{len(frame)}-{os.getpid()}").touch()
    while (folder / "hold").exists() and len(frame) < 3_000:
        time.sleep(0.05)
    return LinearRegression().fit(frame[["x", "z"]], frame["y"])


def refuses(_frame: pd.DataFrame) -> Any:
    """A trainer that fails."""
    raise ValueError("secret value")
