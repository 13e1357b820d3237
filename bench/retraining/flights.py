"""The year of flights under four policies: both models, and each quarter of the flights for itself.

    python -m bench.retraining.flights --save

A quarter is every fourth flight, so that the four share the weather but no row: what holds in one and not in another
is luck. Settings are those of examples/flights/perene.toml; the first version learns from January to the middle of
March, and April to December are replayed.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.retraining.keep import keep, rows_of
from perene.config import load
from retrain.backtest.history import History
from retrain.backtest.policies import chosen
from retrain.backtest.replay import Asked, replay
from retrain.backtest.result import Backtest

START, END = datetime(2013, 4, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)
CONFIG = Path("examples/flights/perene.toml")
QUARTERS = 4


def quarter(model: str, number: int, *, trials: bool = False) -> Backtest:
    """One quarter of the flights under all policies."""
    from examples.flights.data import features
    from examples.flights.source import flights
    from examples.flights.trainer import train, train_late

    watched = load(CONFIG).models[model]
    plan = watched.retrain
    assert plan is not None
    table = flights().iloc[number::QUARTERS]
    history = History.of(
        table[[*features, plan.target, "_at", "_label_at"]], target=plan.target, maturity=plan.maturity
    )
    asked = Asked(START, END, chosen(scheduled=True), seed=number, trial=watched.trial if trials else None)
    trainer = train if model == "flight-time" else train_late
    return replay(history, asked, plan, watched.monitoring, train=trainer, model=model, report=_told(model, number))


def _told(model: str, number: int) -> Any:
    def report(reached: int, total: int, rows: int) -> None:
        if reached % 100 == 0:
            print(f"{model} {number}: {reached} of {total}, {rows:,} rows", file=sys.stderr, flush=True)

    return report


def main() -> None:
    """Print each quarter as it is done, save it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=("flight-time", "flight-late"))
    parser.add_argument("--quarter", type=int, action="append", choices=range(QUARTERS), help="else all of them")
    parser.add_argument("--trials", action="store_true", help="promote after a paired trial")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    for model in arguments.model or ("flight-time", "flight-late"):
        for number in arguments.quarter or range(QUARTERS):
            found = quarter(model, number, trials=arguments.trials)
            print(json.dumps({course.policy: round(course.error, 4) for course in found.policies}), flush=True)
            if arguments.save:
                part = f"{model}, tried" if arguments.trials else model
                keep(part, rows_of(found, quarter=number), by="quarter")


if __name__ == "__main__":
    main()
