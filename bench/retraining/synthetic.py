"""Accuracy and deployments on streams of known drift, under each policy.

    python -m bench.retraining.synthetic --save

A hundred days of 250 rows follow sixty of one world. A decision tree is fitted on the last 20 days: every five days
without asking, every five days when the gates let it through, or when the schedule or a confirmed loss asks for it.
"""

from __future__ import annotations

import argparse
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.retraining.keep import keep
from bench.retraining.streams import BEGIN, KINDS, stream
from monitoring.settings import MonitoringSettings
from retrain.backtest.history import History
from retrain.backtest.policies import chosen
from retrain.backtest.replay import Asked, replay
from retrain.backtest.result import Backtest
from retrain.settings import RetrainSettings

if TYPE_CHECKING:
    import pandas as pd

FIRST, DAYS = 60, 160
PLAN = RetrainSettings(
    trainer="bench.retraining.synthetic:train",
    target="y",
    schedule="0 6 */5 * *",
    windows=("20d", "since-drift", "expanding"),
    holdout=timedelta(days=6),
    maturity=timedelta(days=1),
    cooldown=timedelta(days=3),
    min_labels=300,
)


def train(frame: pd.DataFrame) -> Any:
    """A class for each row, so that half the Brier score is the share of errors."""
    from bench.retraining.sure import Sure

    return Sure().fit(frame.drop(columns="y"), frame["y"])


def replayed(kind: str, seed: int, *policies: str) -> Backtest:
    """One stream under these policies, or all."""
    history = History.of(stream(kind, days=DAYS, first=FIRST, seed=seed), target="y", maturity=PLAN.maturity)
    asked = Asked(
        BEGIN + timedelta(days=FIRST), BEGIN + timedelta(days=DAYS), chosen(policies, scheduled=True), seed=seed
    )
    return replay(history, asked, PLAN, MonitoringSettings(), train=train, model=f"drift-{kind}")


def summary(kind: str, seeds: int) -> list[dict[str, Any]]:
    """Means over seeds, a row for each policy."""
    found = [replayed(kind, seed) for seed in range(seeds)]
    rows = []
    for course in found[0].policies:
        of = [one[course.policy] for one in found]
        accuracy = np.array([1.0 - c.error for c in of])
        rows.append(
            {
                "stream": kind,
                "policy": course.policy,
                "seeds": seeds,
                "accuracy": round(float(accuracy.mean()), 4),
                "accuracy_se": round(float(accuracy.std(ddof=1) / np.sqrt(seeds)), 4) if seeds > 1 else None,
                "fits": float(np.mean([c.fits for c in of])),
                "deployments": float(np.mean([c.deployments for c in of])),
                "harm_runs": float(np.mean([sum(r.reason == "performance" for r in c.runs) for c in of])),
            }
        )
    return rows


def main() -> None:
    """Print a row for each stream and policy, save them if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        rows += summary(kind, arguments.seeds)
        for row in rows[-4:]:
            print(json.dumps(row), flush=True)
    if arguments.save:
        keep("synthetic", rows)


if __name__ == "__main__":
    main()
