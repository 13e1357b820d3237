"""Real data: the spring of the flights must be found, with labels and without; Massachusetts' employment must not.

    bench/monitoring/setup
    python -m bench.monitoring.real --save

Flights of 2013: a model of air time trained on January to the middle of March, accepted on the rest of March, answers
until December; nobody retrains. Employment (ACS of 2015 to 2018, in NannyML's wheel): accepted on 2015, three years
follow, of which only the year is known, so rows are spread evenly over it.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.monitoring.car_loan import WHEEL
from bench.monitoring.keep import keep
from monitoring.settings import MonitoringSettings
from monitoring.watching.findings import Finding
from monitoring.watching.monitor import Monitor
from registry.contract import Column, Contract, Output
from registry.estimate import build_estimate
from registry.loss import bounded_loss, class_index
from registry.reference import build_reference

STEP = 5_000
CLASSES = Output("classification", ("0", "1"))
FLIGHTS = MonitoringSettings(window_rows=500, window_max_age_s=259_200, min_rows=100, label_lateness_s=3_600)
EMPLOYMENT = MonitoringSettings()
CASES = (*((f"any {seed}", days) for days in (90.0, 1_095.0) for seed in range(3)), ("file", 90.0), ("file", 1_095.0))
"""Order of rows within their year, and days between false alarms that are accepted: as it is set by itself, and three
years. In the file, from 2017 on, homes and prisons come last of a year.
"""
DATA = "nannyml/datasets/data/employment_MA_{}.pq"


def flights() -> list[dict[str, Any]]:
    """When the spring of 2013 is found: with labels, and by inputs, score and estimate without any."""
    from examples.flights.data import features
    from examples.flights.source import STRINGS
    from examples.flights.source import flights as read
    from examples.flights.trainer import train

    table = read()
    learnt, accepted, later = (
        table[(table["_at"] >= start) & (table["_at"] < end)].reset_index(drop=True)
        for start, end in (
            ("2013-01-01T05:00Z", "2013-03-18T00:00Z"),
            ("2013-03-18T00:00Z", "2013-04-01T00:00Z"),
            ("2013-04-01T00:00Z", "2014-01-01T00:00Z"),
        )
    )
    model = train(learnt)
    contract = Contract(
        "flights",
        tuple(Column(name, "string" if name in STRINGS else "float") for name in features),
        Output("regression"),
    )
    predicted, truth = model.predict(accepted[features]), accepted["air_time"].to_numpy(float)
    mae = float(np.abs(predicted - truth).mean())
    cap = 4.0 * mae
    losses = bounded_loss(contract.output, predicted, truth, cap)
    reference = build_reference(
        contract, accepted, predicted, losses, cap, {"mae": mae}, at=_seconds(accepted["_at"]).to_numpy()
    )
    curve = build_estimate(contract.output, reference, accepted, predicted[:, None], truth, losses)
    reference |= {"estimate": curve} if curve else {}
    answers = model.predict(later[features])
    error = np.abs(answers - later["air_time"])
    weeks = error.groupby(later["_at"].dt.strftime("%G-W%V")).mean().round(2)
    rows = []
    for labelled in (True, False):
        monitor = Monitor.start("flights", 1, contract, reference, FLIGHTS)
        made = _events(later, features, later["_at"], {"_prediction": answers})
        told = _labels(later, later["_label_at"], later["air_time"].astype(float))
        found = _watched(monitor, made, told if labelled else told.slice(0, 0))
        first: dict[str, dict[str, Any]] = {}
        for finding in found:
            if finding.state in ("confirmed", "broken"):
                first.setdefault(finding.kind, _told(finding))
        rows.append({"labels": labelled, "first": first, "reference_mae": mae, "weekly_mae": weeks.to_dict()})
    return rows


def employment(wheel: Path) -> list[dict[str, Any]]:
    """Confirmed findings in three years in which nothing happened: rows in the file's order, and in any order."""
    old, new, names = survey(wheel)
    contract = Contract("ma", tuple(Column(name, "float" if name == "AGEP" else "string") for name in names), CLASSES)
    p, y = _pair(old["predicted_probability"]), old["employed"].astype(str).to_numpy(object)
    losses = bounded_loss(CLASSES, p, y, 1.0)
    log_loss = float(-np.log(np.clip(p[np.arange(len(p)), class_index(CLASSES, y)], 1e-7, 1.0)).mean())
    reference = build_reference(contract, old, p, losses, 1.0, {"log_loss": log_loss})
    reference |= {"estimate": build_estimate(CLASSES, reference, old, p, class_index(CLASSES, y), losses)}
    rows = []
    for order, days in CASES:
        kind, _, seed = order.partition(" ")
        place = np.random.default_rng(int(seed)).random(len(new)) if kind == "any" else np.arange(len(new))
        frame = new.iloc[np.lexsort((place, new["year"]))].reset_index(drop=True)
        at = _spread(frame["year"])
        pairs = _pair(frame["predicted_probability"]).tolist()
        answers = {
            "_prediction": frame["prediction"].astype(str),
            "_probabilities": pa.array(pairs, pa.list_(pa.float32())),
        }
        made = _events(frame, names, at, answers)
        told = _labels(frame, at + pd.Timedelta(hours=1), frame["employed"].astype(str))
        settings = EMPLOYMENT.model_copy(update={"expected_days_between_false_alarms": days})
        monitor = Monitor.start("ma", 1, contract, reference, settings)
        found = _watched(monitor, made, told)
        shown = [_told(finding) for finding in found if finding.state in ("confirmed", "broken")]
        facts = monitor.snapshot()
        seen = {"windows": facts["windows"], "labels": facts["labels_joined"], "confirmed": shown}
        rows.append({"order": order, "days": days, "rows": len(new), **seen})
    return rows


def survey(wheel: Path) -> tuple[Any, Any, list[str]]:
    """Rows of 2015, rows of the three years after, and the names of inputs."""
    with zipfile.ZipFile(wheel) as archive:
        old, new, target = (
            pd.read_parquet(io.BytesIO(archive.read(DATA.format(part))))
            for part in ("reference", "analysis", "analysis_target")
        )
    new["employed"] = target["employed"].to_numpy()
    known = {"id", "employed", "year", "prediction", "predicted_probability"}
    names = [name for name in old.columns if name not in known]
    for frame in (old, new):
        for name in names:
            if name != "AGEP":
                frame[name] = frame[name].astype(str)
    return old, new, names


def _spread(years: Any) -> Any:
    """Times of rows, evenly over their year."""
    begin = years.map({year: datetime(int(year), 1, 1, tzinfo=UTC).timestamp() for year in (2016, 2017, 2018)})
    place, size = years.groupby(years).cumcount(), years.groupby(years).transform("size")
    return pd.Series(pd.to_datetime(begin.astype(float) + 365 * 86_400 * place / size, unit="s", utc=True))


def _pair(p: Any) -> Any:
    return np.column_stack([1 - p, p])


def _seconds(at: Any) -> Any:
    return at.dt.as_unit("us").astype("int64") / 1e6


def _stamps(at: Any) -> pa.Array:
    return pa.array(at.dt.floor("us"), pa.timestamp("us", "UTC"), safe=False)


def _events(frame: Any, names: list[str], at: Any, answers: dict[str, Any]) -> pa.Table:
    n = len(frame)
    own = {
        "_id": [f"p{i:07d}" for i in range(n)],
        "_at": _stamps(at),
        "_received": _stamps(at),
        "_seq": list(range(n)),
        "_version": [1] * n,
        "_arm": ["champion"] * n,
    }
    inputs = {name: pa.array(frame[name], from_pandas=True) for name in names}
    return pa.table({**own, **answers, **inputs})


def _labels(frame: Any, at: Any, values: Any) -> pa.Table:
    n = len(frame)
    when = _stamps(at)
    own = {"_id": [f"p{i:07d}" for i in range(n)], "_at": when, "_received": when, "_seq": list(range(n))}
    return pa.table({**own, "_label": pa.array(values)})


def _watched(monitor: Monitor, made: pa.Table, told: pa.Table) -> list[Finding]:
    """Findings of a stream in steps, as a worker reads it: labels are known once predictions have passed them."""
    found = []
    label_at = told.column("_at").cast(pa.int64()).to_numpy()
    order = np.argsort(label_at, kind="stable")
    told, label_at, used = told.take(pa.array(order)), label_at[order], 0
    for first in range(0, made.num_rows, STEP):
        part = made.slice(first, STEP)
        now = part.column("_at").cast(pa.int64()).to_numpy().max()
        due = int(np.searchsorted(label_at, now, side="right"))
        found += monitor.observe(part, told.slice(used, due - used))
        used = due
    return found


def _told(finding: Finding) -> dict[str, Any]:
    columns = [entry["column"] for entry in finding.detail.get("columns", [])[:3]]
    extra: dict[str, Any] = {k: finding.detail[k] for k in ("since", "labels", "flagged") if k in finding.detail}
    return {
        "kind": finding.kind,
        "at": finding.at.isoformat(),
        "severity": finding.severity,
        "columns": columns,
        **extra,
    }


def main() -> None:
    """Print what was found, save it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, default=WHEEL)
    parser.add_argument("--only", choices=("flights", "employment"))
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if arguments.only != "employment":
        rows = flights()
        print(json.dumps(rows, indent=1))
        if arguments.save:
            keep("flights", rows)
    if arguments.only != "flights":
        rows = employment(arguments.wheel)
        print(json.dumps(rows, indent=1))
        if arguments.save:
            keep("employment", rows)


if __name__ == "__main__":
    main()
