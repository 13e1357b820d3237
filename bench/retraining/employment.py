"""Employment in Massachusetts, three years in which nothing happened: nothing must be retrained for harm.

    bench/monitoring/setup
    python -m bench.retraining.employment --save

The rows of bench.monitoring.real (ACS of 2015 to 2018, in NannyML's wheel), spread evenly over their years in an order
drawn by seed. A version learned from 2015 answers 2016 to 2018; each label is known an hour after its row.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.monitoring.car_loan import WHEEL
from bench.monitoring.real import survey
from bench.retraining.keep import keep, rows_of
from monitoring.settings import MonitoringSettings
from retrain.backtest.history import History
from retrain.backtest.policies import chosen
from retrain.backtest.replay import Asked, replay
from retrain.backtest.result import Backtest
from retrain.settings import RetrainSettings

if TYPE_CHECKING:
    import pandas as pd

START, END = datetime(2016, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC)
SHARE = 4
PLAN = RetrainSettings(
    trainer="bench.retraining.employment:train",
    target="employed",
    schedule="0 6 1 * *",
    windows=("365d", "90d", "since-drift"),
)


def train(frame: pd.DataFrame) -> Any:
    """Whether somebody is employed."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    texts = [name for name in frame.columns if frame[name].dtype == object and name != "employed"]
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, dtype=np.float32)
    columns = make_column_transformer((ordinal, texts), remainder="passthrough")
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=0)
    return make_pipeline(columns, model).fit(frame.drop(columns="employed"), frame["employed"])


def years(wheel: Path, seed: int) -> Backtest:
    """One order of the rows, one row in `SHARE`."""
    import pandas as pd

    old, new, names = survey(wheel)
    table = pd.concat([old[[*names, "employed", "year"]], new[[*names, "employed", "year"]]], ignore_index=True)
    drawn = np.random.default_rng(seed).permutation(len(table))[::SHARE]
    table = table.iloc[drawn].sort_values("year", kind="stable").reset_index(drop=True)
    table["employed"] = table["employed"].astype(int)
    table["_at"] = _spread(table["year"])
    table["_label_at"] = table["_at"] + timedelta(hours=1)
    history = History.of(table.drop(columns="year"), target="employed", maturity=PLAN.maturity)
    asked = Asked(START, END, chosen(scheduled=True), seed=seed, step=timedelta(days=1))
    return replay(history, asked, PLAN, MonitoringSettings(), train=train, model="employment")


def _spread(at: Any) -> Any:
    import pandas as pd

    begin = at.map({year: datetime(int(year), 1, 1, tzinfo=UTC).timestamp() for year in sorted(set(at))})
    place, size = at.groupby(at).cumcount(), at.groupby(at).transform("size")
    return pd.to_datetime(begin.astype(float) + 365 * 86_400 * place / size, unit="s", utc=True)


def main() -> None:
    """Print each seed, save them all if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, default=WHEEL)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        found = years(arguments.wheel, seed)
        rows += rows_of(found, seed=seed)
        for row in rows[-len(found.policies) :]:
            print(
                json.dumps({k: row[k] for k in ("seed", "policy", "error", "fits", "deployments", "moves")}), flush=True
            )
    if arguments.save:
        keep("employment", rows)


if __name__ == "__main__":
    main()
