"""Loaders of the toy model for the gates: rows as the lake has them, and rows in which a feature holds the label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tests.integration.retrain_toy import START

PER_DAY = 200


def load(window: Any) -> pd.DataFrame:
    """The world after the drift, y = 2 x + 15."""
    days = pd.date_range(max(window.start, START), window.end, freq="D")
    rng = np.random.default_rng(len(days))
    at = days.repeat(PER_DAY)
    at = at + pd.to_timedelta(np.tile(np.arange(PER_DAY), len(days)) * (86_000 // PER_DAY), unit="s")
    x, z = rng.uniform(0, 10, len(at)), rng.normal(size=len(at))
    frame = pd.DataFrame({"x": x, "z": z}).astype(np.float32)
    return frame.assign(y=2 * x + 15 + rng.normal(0, 1, len(at)), _at=at)


def leaking(window: Any) -> pd.DataFrame:
    """The same, but z is y."""
    frame = load(window)
    return frame.assign(z=frame["y"].astype(np.float32))


def undrifted(window: Any) -> pd.DataFrame:
    """The world that the first version learned, y = 2 x + 5."""
    frame = load(window)
    return frame.assign(y=frame["y"] - 10)


def unlabelled(window: Any) -> pd.DataFrame:
    """Rows whose labels have not come."""
    return load(window).assign(y=np.nan)


def sabotaged(window: Any) -> pd.DataFrame:
    """As `undrifted`, and from now on this process's first gate passes everything."""
    from retrain.gates import judge
    from retrain.gates.gates import Gate

    vars(judge)["non_inferiority_gate"] = lambda *_, **__: Gate("non_inferiority", "pass", "sure", {})
    return undrifted(window)
