"""Slices: a declared one alarms by itself, and the worst are named only where chance is no explanation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from monitoring.settings import MonitoringSettings
from monitoring.watching import slices
from monitoring.watching.monitor import Monitor
from registry.contract import Column, Contract, Output
from registry.reference import bin_name, build_reference

CONTRACT = Contract(
    "trips",
    (Column("kind", "string"), Column("x", "float"), Column("secret", "string", policy="hash")),
    Output("regression"),
)
SETTINGS = MonitoringSettings(window_rows=100, min_rows=50, window_max_age_s=1e9, label_lateness_s=0.0)
T0 = 1_700_000_000.0
SHARES = {"a": 0.6, "b": 0.35, "c": 0.05}


def drawn(rows: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    kind = rng.choice(np.array(list(SHARES), dtype=object), rows, p=list(SHARES.values()))
    return {"kind": kind, "x": rng.standard_normal(rows), "secret": kind}


def reference(*, declared: bool = True) -> dict[str, Any]:
    """3,000 rows of mean error 1 under a cap of 10; slices by `kind` where declared."""
    frame = drawn(3_000, 0)
    losses = np.minimum(np.random.default_rng(1).exponential(0.1, 3_000), 1.0)
    made = build_reference(CONTRACT, frame, frame["x"], losses, 10.0, {"mae": 1.0})
    return made | {"baseline": {"slices": [{"column": "kind", "value": v} for v in SHARES] if declared else []}}


def events(rows: int, *, worse: dict[str, float], start: int = 0, seed: int = 5) -> tuple[pa.Table, pa.Table]:
    """Predictions a second apart with their labels; mean errors of kinds in `worse` are multiplied."""
    frame = drawn(rows, seed)
    factor = np.array([worse.get(kind, 1.0) for kind in frame["kind"]])
    error = np.random.default_rng(seed + 1).exponential(1.0, rows) * factor
    at = pa.array([round((T0 + start + i) * 1e6) for i in range(rows)], pa.timestamp("us", "UTC"))
    common = {"_id": [f"p{start + i}" for i in range(rows)], "_at": at, "_seq": list(range(start, start + rows))}
    made = {"_version": [1] * rows, "_arm": ["champion"] * rows, "_prediction": frame["x"]}
    inputs = {name: pa.array(values) for name, values in frame.items()}
    return pa.table({**common, **made, **inputs}), pa.table({**common, "_received": at, "_label": frame["x"] + error})


def test_a_declared_slice_alarms_where_the_whole_does_not() -> None:
    """A third of the rows doubles its error: the mean of all hardly moves, the slice's detector sees it."""
    monitor = Monitor.start("trips", 1, CONTRACT, reference(), SETTINGS)
    found = monitor.observe(*events(6_000, worse={"c": 4.0}))
    alarm = next(f for f in found if (f.kind, f.state) == ("performance", "confirmed"))
    assert alarm.detail["slice"] == {"column": "kind", "value": "c"}
    assert alarm.detail["evalue"] < SETTINGS.esr_run_length
    assert alarm.detail["since"] >= "2023-11-14"
    undeclared = Monitor.start("trips", 1, CONTRACT, reference(declared=False), SETTINGS)
    assert not [
        f
        for f in undeclared.observe(*events(6_000, worse={"c": 4.0}))
        if f.kind == "performance" and f.state == "confirmed"
    ]
    # named all the same, as the worst there is
    assert undeclared.snapshot()["performance"]["worst_slices"][0]["value"] == "c"


def test_nothing_worse_names_nothing() -> None:
    """The control: no slice of forty streams is named but by chance, and none alarms."""
    named = alarms = 0
    for seed in range(40):
        monitor = Monitor.start("trips", 1, CONTRACT, REFERENCE, SETTINGS)
        found = monitor.observe(*events(1_000, worse={}, seed=10 + 3 * seed))
        alarms += any((f.kind, f.state) == ("performance", "confirmed") for f in found)
        named += bool(monitor.snapshot()["performance"]["worst_slices"])
    assert named <= 4
    assert alarms == 0


REFERENCE = reference()


def test_slices_are_of_stored_columns_and_their_bounds_are_shown() -> None:
    """A hashed column has no slices; facts tell loss, reference, and the lower bound that decides."""
    assert slices.columns_of(REFERENCE) == ("kind", "x")
    monitor = Monitor.start("trips", 1, CONTRACT, REFERENCE, SETTINGS)
    monitor.observe(*events(2_000, worse={"b": 3.0}))
    worst = monitor.snapshot()["performance"]["worst_slices"][0]
    assert (worst["column"], worst["value"]) == ("kind", "b")
    assert worst["excess"] == pytest.approx(0.2, abs=0.05)
    assert 0 < worst["excess_low"] < worst["excess"]
    declared = monitor.snapshot()["performance"]["slices"]
    assert declared[0]["value"] == "b"
    assert declared[0]["threshold"] == SETTINGS.esr_run_length * 3


def test_slices_survive_a_restart_bit_for_bit() -> None:
    """Cut in two with a restart between, and with labels that come only after it."""
    made, told = events(900, worse={"c": 3.0})
    whole = Monitor.start("trips", 1, CONTRACT, REFERENCE, SETTINGS)
    whole.observe(made, told)
    cut = Monitor.start("trips", 1, CONTRACT, REFERENCE, SETTINGS)
    cut.observe(made, told.slice(0, 400))
    cut = Monitor.restore(cut.state(), CONTRACT, REFERENCE, SETTINGS)
    cut.observe(pa.table({}), told.slice(400))
    assert cut.snapshot()["performance"] == whole.snapshot()["performance"]


def test_a_reference_without_losses_has_no_slices() -> None:
    """Made before there were any, or without labels: nothing is compared, nothing fails."""
    old = reference()
    for spec in old["columns"].values():
        del spec["losses"]
    monitor = Monitor.start("trips", 1, CONTRACT, old, SETTINGS)
    monitor.observe(*events(500, worse={"a": 9.0}))
    assert monitor.snapshot()["performance"]["worst_slices"] == []
    assert monitor.snapshot()["performance"]["slices"] == []


def test_bins_have_names() -> None:
    """Of numbers with few and many values, of categories, and of a column that was always null."""
    specs = build_reference(CONTRACT, drawn(500, 3), np.zeros(500), np.zeros(0), 1.0, {})["columns"]
    assert [bin_name(specs["kind"], i) for i in range(4)] == ["null", "unseen", "other", "a"]
    assert bin_name(specs["x"], 2).startswith("below -")
    blank = {"kind": "number", "edges": [], "minimum": None, "maximum": None, "counts": [5, 0, 0, 0, 0]}
    assert [bin_name(blank, i) for i in range(5)] == ["null", "infinite", "below none", "above none", "finite"]
