"""A world of requests for the tests of trials: routed as serving routes, written as its shipper writes, labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from monitoring.lake.lake import Lake
from registry.bundle import Bundle
from registry.contract import Column, Contract, Output
from registry.ledger import Deployment, Experiment, Ledger
from registry.policy import LedgerPolicy
from retrain.trials.plans import policy_of
from retrain.trials.policy import Trial
from retrain.trials.trial_settings import TrialSettings
from retrain.trials.trials import Trials, Turn
from serving.routing import Route, choose

MODEL = "toy"
Floats = NDArray[np.float64]
START = datetime(2013, 1, 1, tzinfo=UTC)
CAP = 10.0
#: A version that is off by so much has 0.05 more bounded loss than one that is right on average.
OFF = 1.115
SHORT = {
    "stages": ("shadow", "ab:0.25", "ab:0.5"),
    "dwell": "0s",
    "watch": "2d",
    "shadow_labels": 100,
    "step_labels": 60,
    "min_per_arm": 150,
    "planned_per_arm": 600,
}


def bundle(*columns: str) -> Bundle:
    """What of a bundle trials look at."""
    contract = Contract(MODEL, tuple(Column(name, "float") for name in columns or ("x",)), Output("regression"))
    return Bundle(Path(), contract, {"verdict": "exact"}, {"quality": {"cap": CAP, "loss_sd": 0.08}}, {}, "")


def fixed_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that are asked for have an id of dice and of the day, and by the id their arms are drawn: fix it."""
    monkeypatch.setattr("registry.experiment_requests.secrets.token_hex", lambda _bytes: "fixed")
    monkeypatch.setattr("registry.experiment_requests.utc_now", lambda: START)


@dataclass
class TrialWorld:
    """`off` says by how much each version is wrong; those in `failing` never answer, `slow` ones wait longer."""

    home: Path
    settings: TrialSettings
    off: dict[int, float]
    failing: set[int] = field(default_factory=set)
    slow: set[int] = field(default_factory=set)
    bundles: dict[int, Bundle] = field(default_factory=dict)
    now: datetime = START
    cap: float = CAP
    loss_sd: float = 0.08
    count: int = 0
    late: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger.open(f"sqlite:///{self.home / 'ledger.db'}")
        self.lake = Lake(self.home / "events")
        token = self.ledger.acquire("leader", "test", 600.0)
        assert token is not None
        self.token = token
        self.bundles = {version: bundle() for version in self.off} | self.bundles
        self.ledger.move(MODEL, expected_revision=0, champion=1, actor="test", reason="first")
        self.trials = self.worker()

    def worker(self, ledger: Ledger | None = None) -> Trials:
        """A worker that has just begun: it remembers nothing."""
        return Trials(ledger or self.ledger, self.lake, LedgerPolicy(), {MODEL: self.settings})

    @property
    def deployment(self) -> Deployment:
        """As the ledger has it."""
        found = self.ledger.deployment(MODEL)
        assert found is not None
        return found

    @property
    def trial(self) -> Experiment:
        """The newest one."""
        return self.ledger.experiments(MODEL, limit=1)[0]

    def begin(self, candidate: int = 2, reason: str = "performance") -> None:
        """As a concluded run does."""
        trial = Trial("t", 1, candidate, reason, self.now, self.now, policy_of(self.settings, self.loss_sd), self.cap)
        body = {"trial": trial.to_dict()}
        self.ledger.record_experiment("t", MODEL, state="running", stage="shadow", body=body, token=self.token)

    def tick(self, trials: Trials | None = None) -> Turn:
        """One turn of the worker."""
        deployment = self.deployment
        champion = self.bundles[deployment.champion]
        return (trials or self.trials).turn(deployment, champion, self.now, token=self.token, bundle=self.bundles.get)

    def until(self, holds: Callable[[], Any], *, requests: int = 200, rounds: int = 60) -> None:
        """Requests and turns until something holds."""
        for _ in range(rounds):
            if holds():
                return
            self.serve(requests)
            self.tick()
        raise AssertionError("it did not happen")

    def serve(self, requests: int, *, hours: float = 6.0, labels: bool = True) -> None:
        """Requests over so many hours, answered as the deployment asks; labels may be kept back for `tell`."""
        rng = np.random.default_rng(self.count)
        truth = rng.normal(50.0, 5.0, requests)
        said = truth + rng.normal(0.0, 1.0, requests)
        at = [self.now + timedelta(hours=hours * i / requests) for i in range(requests)]
        self.now += timedelta(hours=hours)
        self.play(at, truth, {version: said + off for version, off in self.off.items()}, labels=labels)

    def play(
        self,
        at: Sequence[datetime],
        truth: Sequence[float] | Floats,
        said: Mapping[int, Floats],
        *,
        labels: bool = True,
    ) -> None:
        """Requests of these times, to which each version says what it says."""
        d = self.deployment
        arms = d.routing.arms if d.routing is not None else ()
        route = Route(d.champion, d.candidate, d.mode, d.weight, d.salt, arms=arms, revision=d.revision)
        served: list[dict[str, Any]] = []
        shadows: list[dict[str, Any]] = []
        for i, moment in enumerate(at):
            identifier = f"{self.count + i:08d}"
            chosen = choose(route, identifier)
            failed = chosen.arm == "candidate" and chosen.version in self.failing
            version = d.champion if failed else chosen.version
            row = {
                "_id": identifier,
                "_at": moment,
                "_version": version,
                "_arm": "fallback" if failed else chosen.arm,
                "_prediction": float(said[version][i]),
                "_latency_ms": 50.0 if version in self.slow else 1.0 + i % 10 / 10,
                "_deployment": d.revision,
                "_assigned": chosen.assigned,
            }
            served.append(row)
            shadow = chosen.shadow
            if shadow is not None and shadow not in self.failing:
                shadows.append({**row, "_arm": "shadow", "_version": shadow, "_prediction": float(said[shadow][i])})
        self._write("prediction", served)
        if shadows:
            self._write("shadow", shadows)
        told = [(row["_id"], float(y)) for row, y in zip(served, truth, strict=True)]
        if labels:
            self.tell(told)
        else:
            self.late += told
        self.count += len(at)

    def tell(self, labels: list[tuple[str, float]]) -> None:
        """The truth, now."""
        self._write("label", [{"_id": i, "_label": y, "_at": self.now} for i, y in labels])

    def _write(self, kind: str, rows: list[dict[str, Any]]) -> None:
        n, stamp = len(rows), pa.timestamp("us", tz="UTC")
        columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in rows[0]}
        at = pa.array(columns.pop("_at"), stamp)
        more = {"_at": at, "_received": at, "_boot": ["b"] * n, "_seq": list(range(self.count, self.count + n))}
        if kind != "label":
            more |= {"_model": [MODEL] * n, "_entity": [""] * n, "_key": ["k"] * n}
            more["_probabilities"] = pa.nulls(n, pa.list_(pa.float32()))
        folder = self.home / "events" / f"model={MODEL}" / f"kind={kind}" / f"date={self.now:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"b-{self.count}-{self.count + n - 1}-{kind}.parquet"
        pq.write_table(pa.table(columns | more), folder / f"{name}.tmp")
        (folder / f"{name}.tmp").rename(folder / name)

    def decisions(self) -> list[dict[str, Any]]:
        """Bodies of the decisions, oldest first."""
        return [row.body for row in reversed(self.ledger.evidence(MODEL, "decision"))]


@contextmanager
def world(home: Path, off: dict[int, float], **settings: Any) -> Iterator[TrialWorld]:
    """A world with these versions and the short ladder, closed at the end."""
    home.mkdir(parents=True, exist_ok=True)
    made = TrialWorld(home, TrialSettings.model_validate(SHORT | settings), off)
    try:
        yield made
    finally:
        made.ledger.close()
