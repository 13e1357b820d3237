"""Versions made of plain functions, and holdouts to judge them on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.contract import Column, Contract, Output
from retrain.gates.judge import Case
from retrain.gates.side import Floats, Side
from retrain.settings import RetrainSettings

__all__ = ["CLASSES", "NOW", "NUMBER", "case", "classified", "linear", "noisy", "rows", "settings", "side"]

COLUMNS = (Column("x", "float", nullable=True), Column("z", "float"), Column("g", "string"))
NUMBER = Contract("m", COLUMNS, Output("regression"))
CLASSES = Contract("m", COLUMNS, Output("classification", ("no", "yes")))
NOW = datetime(2013, 7, 1, tzinfo=UTC)
CAP = 8.0


def rows(n: int = 2_000, *, seed: int = 0) -> pd.DataFrame:
    """y = 2 x + 5 + noise, k = "yes" the likelier the larger x; two large groups and a small one."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, n)
    frame = pd.DataFrame({"x": x, "z": rng.normal(size=n), "g": rng.choice(["a", "b", "c"], n, p=[0.55, 0.42, 0.03])})
    frame["y"] = 2 * x + 5 + rng.normal(0, 1, n)
    frame["k"] = np.where(rng.random(n) < _sigmoid(x - 5), "yes", "no")
    frame["_at"] = pd.date_range("2013-06-01", "2013-06-15", periods=n, tz="UTC")
    return frame


def side(contract: Contract, predict: Callable[[pd.DataFrame], Floats], *, size: int = 1_000) -> Side:
    """A version that answers with a function, at no cost of time."""
    return Side(contract, predict, lambda tensors: None, size)


def linear(frame: pd.DataFrame) -> Floats:
    """The best answer there is: nulls are answered by the middle."""
    return np.asarray(2 * frame["x"].fillna(5.0) + 5).astype(np.float64).reshape(-1, 1)


def noisy(spread: float, *, seed: int = 1, where: str | None = None) -> Callable[[pd.DataFrame], Floats]:
    """`linear` with an error of its own for each row, always the same; only in group `where` if that is given."""

    def predict(frame: pd.DataFrame) -> Floats:
        error = np.random.default_rng(seed).normal(0, spread, 100_000)[frame.index.to_numpy()]
        here = np.ones(len(frame), bool) if where is None else (frame["g"] == where).to_numpy()
        return linear(frame) + np.where(here, error, 0.0)[:, None]

    return predict


def classified(sharpness: float) -> Callable[[pd.DataFrame], Floats]:
    """Probabilities of the true curve, made more certain (> 1) or less."""

    def predict(frame: pd.DataFrame) -> Floats:
        p = _sigmoid(sharpness * (frame["x"].fillna(5.0).to_numpy(np.float64) - 5))
        return np.column_stack([1 - p, p])

    return predict


def settings(target: str = "y", **gates: Any) -> RetrainSettings:
    """A table with these limits of its gates."""
    return RetrainSettings(trainer="a:b", target=target, min_labels=200, gates=gates)


def case(frame: pd.DataFrame, made: RetrainSettings | None = None, **more: Any) -> Case:
    """A run for performance's sake that judges on `frame`."""
    asked = made or settings()
    cap = 1.0 if asked.target == "k" else CAP
    return Case(asked, frame, cap, more.pop("reason", "performance"), more.pop("now", NOW), **more)


def _sigmoid(x: NDArray[Any]) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)
