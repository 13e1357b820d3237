"""A toy model and its world, for the tests of the retrain room: y = 2 x + 5, and 2 x + 15 after the drift."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from registry.ledger import Ledger
from retrain.places import Places
from retrain.settings import WorkerSettings

MODEL = "toy"
START = datetime(2013, 1, 1, tzinfo=UTC)
PER_DAY = 240


def train(frame: pd.DataFrame) -> Any:
    """A plain trainer; TOY_SLEEP makes it slow enough to be killed at work."""
    from sklearn.linear_model import LinearRegression

    time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
    return LinearRegression().fit(frame[["x", "z"]], frame["y"])


def worse(frame: pd.DataFrame) -> Any:
    """A trainer whose models are bad."""
    from sklearn.dummy import DummyRegressor

    return DummyRegressor(strategy="constant", constant=0.0).fit(frame[["x", "z"]], frame["y"])


def broken(frame: pd.DataFrame) -> Any:
    """A trainer that never succeeds."""
    raise RuntimeError("no")


TRIAL: dict[str, Any] = {
    "stages": ["shadow", "ab:0.5"],
    "dwell": "0s",
    "watch": "0s",
    "shadow_labels": 200,
    "min_per_arm": 150,
    "planned_per_arm": 400,
}


def settings(trainer: str = "train", trial: dict[str, Any] | None = None, **more: Any) -> WorkerSettings:
    """Settings of a worker that retrains the toy on event time."""
    retrain = {
        "trainer": f"tests.integration.retrain_toy:{trainer}",
        "target": "y",
        "windows": ["since-drift", "20d"],
        "holdout": "4d",
        "maturity": "1h",
        "min_labels": 200,
        "cooldown": "2d",
        "clock": "event",
        "training_timeout_s": 120.0,
        **more,
    }
    tables = {MODEL: {"retrain": retrain, "trial": TRIAL | (trial or {})}}
    return WorkerSettings.model_validate(
        {"models": tables, "port": 0, "reports": False, "lease_ttl_s": 3.0, "tick_s": 0.1}
    )


@dataclass
class World:
    """Writes days of traffic into the lake as serving's shipper would."""

    home: Path
    day: int = 0
    boot: str = "boot"
    seq: int = 0

    def play(
        self, days: int, *, shift: float, champion: int = 1, shadow: int | None = None, ab: int | None = None
    ) -> None:
        """`days` of requests, with their labels an hour later; arms as the deployment asks."""
        for _ in range(days):
            self._play_day(shift, champion, shadow, ab)
            self.day += 1

    def _play_day(self, shift: float, champion: int, shadow: int | None, ab: int | None) -> None:
        rng = np.random.default_rng(self.day)
        x, z = rng.uniform(0, 10, PER_DAY), rng.normal(size=PER_DAY)
        y = 2 * x + shift + rng.normal(0, 1, PER_DAY)
        version = np.full(PER_DAY, champion)
        if ab is not None:
            version = np.where(rng.random(PER_DAY) < 0.5, ab, champion)
        at = START + timedelta(days=self.day)
        times = [at + timedelta(seconds=i * 86_000 / PER_DAY) for i in range(PER_DAY)]
        ids = [f"{self.day:04d}-{i:04d}" for i in range(PER_DAY)]
        answer = {v: 2 * x + (5.0 if v == 1 else 15.0) for v in (champion, shadow or ab or 0)}
        predicted = np.where(version == champion, answer[champion], answer[shadow or ab or 0])
        self._write("prediction", ids, times, {"x": x, "z": z}, version, predicted, ab)
        if shadow is not None:
            self._write("shadow", ids, times, {}, np.full(PER_DAY, shadow), answer[shadow], None)
        known = [t + timedelta(hours=1) for t in times]
        columns = {"_id": ids, "_label": y, "_at": known, "_received": known}
        self._save("label", known[0], columns, "")

    def _write(
        self,
        kind: str,
        ids: list[str],
        at: list[datetime],
        features: dict[str, Any],
        version: Any,
        made: Any,
        ab: int | None,
    ) -> None:
        n = len(ids)
        arms = ["shadow" if kind == "shadow" else "candidate" if v == ab else "champion" for v in version]
        columns = {
            **features,
            "_id": ids,
            "_at": at,
            "_received": at,
            "_model": [MODEL] * n,
            "_version": pa.array(version, pa.int64()),
            "_arm": arms,
            "_entity": [f"e{i}" for i in ids],
            "_prediction": pa.array(np.asarray(made, dtype=float)),
            "_probabilities": pa.nulls(n, pa.list_(pa.float32())),
            "_latency_ms": [1.0] * n,
            "_key": ["k"] * n,
            "_deployment": pa.array(np.full(n, self._revision()), pa.int64()),
            "_assigned": pa.array(version if ab is not None else np.zeros(n, int), pa.int64()),
        }
        self._save(kind, at[0], columns, "-v1")

    def _revision(self) -> int:
        """Of the deployment that serving would route by."""
        with closing(Ledger.open(Places(self.home).ledger_url)) as ledger:
            found = ledger.deployment(MODEL)
        return found.revision if found is not None else 0

    def _save(self, kind: str, at: datetime, columns: dict[str, Any], suffix: str) -> None:
        n = len(columns["_id"])
        stamps = pa.timestamp("us", tz="UTC")
        typed = {k: pa.array(v, stamps) if k in ("_at", "_received") else pa.array(v) for k, v in columns.items()}
        typed |= {"_boot": pa.array([self.boot] * n), "_seq": pa.array(range(self.seq, self.seq + n), pa.int64())}
        folder = self.home / "events" / f"model={MODEL}" / f"kind={kind}" / f"date={at:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.boot}-{self.seq}-{self.seq + n - 1}{suffix}.parquet"
        pq.write_table(pa.table(typed), folder / (name + ".tmp"))
        (folder / (name + ".tmp")).rename(folder / name)
        self.seq += n


def establish(home: Path) -> None:
    """Version 1, fitted before the drift, in MLflow, in serving's cache and in the ledger. Run in a child: MLflow."""
    from registry.log import Facts, build_bundle
    from registry.mlflow_store import Store

    rng = np.random.default_rng(99)
    frame = pd.DataFrame({"x": rng.uniform(0, 10, 1500), "z": rng.normal(size=1500)}).astype(np.float32)
    frame["y"] = 2 * frame["x"] + 5 + rng.normal(0, 1, 1500)
    places = Places(home)
    build_bundle(
        train(frame), frame[["x", "z"]], frame["y"], name=MODEL, to=places.bundle(MODEL, 1), facts=Facts(cap=8.0)
    )
    version = Store(places.tracking_uri, places.artifacts).register(places.bundle(MODEL, 1), MODEL)
    ledger = Ledger.open(places.ledger_url)
    ledger.move(MODEL, expected_revision=0, champion=version, actor="test", reason="first")
    ledger.close()


def establish_in_child(home: Path) -> None:
    """`establish` in a process of its own, so that MLflow's warnings and memory stay out of the tests."""
    code = (
        f"from pathlib import Path; from tests.integration.retrain_toy import establish; establish(Path({str(home)!r}))"
    )
    environment = {**os.environ, "DO_NOT_TRACK": "true"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=240)


def pull(home: Path, run_id: str, version: int) -> None:
    """What serving's puller does: the registered bundle into the cache."""
    places = Places(home)
    target = places.bundle(MODEL, version)
    if not target.exists():
        shutil.copytree(places.run(run_id) / "bundle", target)


def until(condition: Callable[[], Any], act: Callable[[], Any] = lambda: None, seconds: float = 120.0) -> Any:
    """Act until the condition holds; returns what it gave."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        act()
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
