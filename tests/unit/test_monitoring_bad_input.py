"""Hostile and careless input: a state with a reason, never a crash, never silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from monitoring.lake.lake_tables import unify
from monitoring.settings import MonitoringSettings
from monitoring.watching.monitor import Monitor
from registry.contract import Column, Contract, Output
from registry.reference import MAX_OTHERS, bin_counts, build_reference

CONTRACT = Contract("m", (Column("x", "float"), Column("kind", "string")), Output("regression"))
SETTINGS = MonitoringSettings(window_rows=200, min_rows=100, window_max_age_s=1e9)
T0 = 1_700_000_000.0
NOTHING = pa.table({})


def frame(rows: int, seed: int = 0, *, levels: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    kind = np.array([f"k{i}" for i in rng.integers(0, levels, rows)], dtype=object)
    return {"x": rng.standard_normal(rows), "kind": kind}


def watching(rows: int = 1_000, *, labelled: bool = True, **changed: Any) -> Monitor:
    """A monitor whose reference has so many rows; `changed` columns replace its own."""
    known = frame(rows) | changed
    losses = np.full(rows, 0.1) if labelled else np.zeros(0)
    reference = build_reference(CONTRACT, known, np.zeros(rows), losses, 10.0, {"mae": 1.0} if labelled else {})
    return Monitor.start("m", 1, CONTRACT, reference, SETTINGS)


def events(
    values: dict[str, Any], *, version: int = 1, at: Any = None, start: int = 0, arm: str = "champion"
) -> pa.Table:
    """Served rows of these columns, a second apart unless `at` says when."""
    rows = len(next(iter(values.values())))
    seconds = T0 + start + np.arange(rows) if at is None else np.asarray(at)
    common = {
        "_id": [f"p{start + i}" for i in range(rows)],
        "_at": pa.array((seconds * 1e6).astype(np.int64), pa.timestamp("us", "UTC")),
        "_seq": list(range(start, start + rows)),
        "_version": [version] * rows,
        "_arm": [arm] * rows,
        "_prediction": [0.0] * rows,
    }
    return pa.table({**common, **{name: pa.array(column) for name, column in values.items()}})


def told(ids: list[str], value: float = 0.5) -> pa.Table:
    at = pa.array([round(T0 * 1e6)] * len(ids), pa.timestamp("us", "UTC"))
    return pa.table(
        {"_id": ids, "_at": at, "_received": at, "_seq": list(range(len(ids))), "_label": [value] * len(ids)}
    )


def test_nothing_at_all_is_insufficient_with_reasons() -> None:
    """Empty tables, with and without columns."""
    monitor = watching()
    assert monitor.observe(NOTHING, NOTHING) == []
    assert monitor.observe(events(frame(5)).slice(0, 0), told([])) == []
    shot = monitor.snapshot()
    assert set(shot["states"].values()) == {"insufficient"}
    assert shot["reasons"]["feature_drift"] == "no window has closed yet: 0 of 100 rows"
    assert shot["reasons"]["performance"] == "0 of 100 labels have been used"
    assert shot["reasons"].keys() == shot["states"].keys()


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (None, "x:null"),
        ([None] * 200, "x:null"),
        ([float("nan")] * 200, "x:null"),
        ([float("-inf")] * 200, "x:infinite"),
    ],
    ids=["missing", "null", "nan", "infinite"],
)
def test_a_column_without_values_is_broken_in_one_window(values: Any, fault: str) -> None:
    """The finding names the column and what is wrong with it."""
    made = events(frame(200, 1))
    made = made.drop_columns(["x"])
    if values is not None:
        made = made.append_column("x", pa.array(values, pa.float64()))
    broken = next(f for f in watching().observe(made, NOTHING) if f.kind == "data_quality")
    assert (broken.state, broken.detail["flagged"]) == ("broken", [fault])


def test_a_column_that_became_constant_is_drift() -> None:
    """Nothing is missing, so nothing is broken; but it is no longer the column that it was."""
    monitor = watching()
    for start in (0, 200, 400):
        monitor.observe(events(frame(200, start) | {"x": np.full(200, 0.1)}, start=start), NOTHING)
    states = monitor.snapshot()["states"]
    assert (states["feature_drift"], states["data_quality"]) == ("confirmed", "ok")


@pytest.mark.parametrize("column", ["x", "kind"])
def test_a_constant_reference_sees_the_first_other_value(column: str) -> None:
    """A constant number or category that begins to vary has drifted; while it does not, all is quiet."""
    same = {"x": np.full(1_000, 7.0), "kind": np.full(1_000, "k0", dtype=object)}[column]
    known: dict[str, Any] = {column: same}
    quiet, moved = watching(**known), watching(**known)
    for start in (0, 200, 400):
        rows = frame(200, start)
        quiet.observe(events(rows | {column: same[:200]}, start=start), NOTHING)
        moved.observe(events(rows, start=start), NOTHING)
    assert quiet.snapshot()["drift_state"] == "ok"
    assert "confirmed" in moved.snapshot()["drift_state"] or moved.snapshot()["data_quality_state"] == "broken"


def test_an_explosion_of_levels_is_broken_and_bounded() -> None:
    """New levels without end where there were three: unseen, and the state stays as small as it was."""
    monitor = watching()
    before = len(monitor.state())
    spec = monitor._reference["columns"]["kind"]
    million = np.array([f"new{i}" for i in range(1_000_000)], dtype=object)
    assert bin_counts(spec, million).tolist() == [0, 1_000_000, 0, 0, 0, 0]
    tight = SETTINGS.model_copy(update={"window_rows": 20_000, "max_pending": 100})
    wide = Monitor.restore(monitor.state(), CONTRACT, monitor._reference, tight)
    found = wide.observe(events({"x": np.zeros(20_000), "kind": million[:20_000]}), NOTHING)
    broken = next(f for f in found if f.kind == "data_quality")
    assert "kind:unseen" in broken.detail["flagged"]
    assert len(wide.state()) < before + 50_000


def test_a_reference_of_a_million_levels_is_bounded() -> None:
    """An id that was trained on: kept values and others have a limit, and no later id is called unseen."""
    rows = 1_000_000
    ids = np.array([f"id{i}" for i in range(rows)], dtype=object)
    contract = Contract("m", (Column("kind", "string"),), Output("regression"))
    reference = build_reference(contract, {"kind": ids}, np.zeros(rows), np.zeros(0), 1.0, {})
    spec = reference["columns"]["kind"]
    assert (len(spec["values"]), len(spec["others"]), spec["open"]) == (50, MAX_OTHERS, True)
    monitor = Monitor.start("m", 1, contract, reference, SETTINGS)
    later = np.array([f"later{i}" for i in range(600)], dtype=object)
    monitor.observe(events({"kind": later}), NOTHING)
    assert (monitor.snapshot()["data_quality_state"], monitor.snapshot()["drift_state"]) == ("ok", "ok")


def test_rows_of_a_former_contract_arrive_late() -> None:
    """The new champion has a column more, and `x` was text before: its windows hold its own rows only."""
    contract = Contract("m", (*CONTRACT.columns, Column("extra", "float")), Output("regression"))
    known = frame(1_000) | {"extra": np.arange(1_000.0)}
    reference = build_reference(contract, known, np.zeros(1_000), np.full(1_000, 0.1), 10.0, {"mae": 1.0})
    monitor = Monitor.start("m", 2, contract, reference, SETTINGS)
    old = events({"x": np.array(["low"] * 300, dtype=object), "kind": frame(300)["kind"]}, start=10_000)
    new = events(frame(400, 2) | {"extra": np.arange(400.0) * 2.5}, version=2)
    monitor.observe(unify([new.slice(0, 150), old]), told(old.column("_id").to_pylist()))
    monitor.observe(new.slice(150), NOTHING)
    shot = monitor.snapshot()
    assert (shot["windows"], shot["predictions_foreign"], shot["labels_joined"]) == (2, 300, 0)
    assert shot["data_quality_state"] == "ok"


def test_a_clock_that_goes_back_loses_no_row() -> None:
    """Rows dated days before those that came first, and one dated in a far future: windows close all the same."""
    monitor = watching()
    at = T0 + np.concatenate([np.arange(150.0), np.arange(150.0) - 86_400, [4e9 - T0], np.arange(99.0) - 2 * 86_400])
    received = pa.array([round((T0 + 1_000) * 1e6)] * 50, pa.timestamp("us", "UTC"))
    for first in range(0, 400, 50):
        rows = {name: values[:50] for name, values in frame(50, first).items()}
        made = events(rows, at=at[first : first + 50], start=first).append_column("_received", received)
        monitor.observe(made, NOTHING)
    shot = monitor.snapshot()
    assert (shot["windows"], shot["window_rows"], shot["predictions"]) == (2, 0, 400)
    assert max(window.end for window in monitor._state.closed) == T0 + 1_000
    assert shot["states"]["data_quality"] == "ok"


@pytest.mark.parametrize("rows", [1, 2, 30, 99])
def test_a_reference_that_is_too_small_says_so(rows: int) -> None:
    """Drift is not judged then, and the reason tells what to do; broken data is seen all the same."""
    monitor = watching(rows)
    monitor.observe(events(frame(600, 1)), NOTHING)
    shot = monitor.snapshot()
    assert (shot["states"]["feature_drift"], shot["states"]["score_drift"]) == ("insufficient", "insufficient")
    assert f"the reference has {rows} rows, fewer than 100" in shot["reasons"]["feature_drift"]


def test_a_reference_without_labels_says_so() -> None:
    """Labels come and have nothing to be compared with."""
    monitor = watching(labelled=False)
    made = events(frame(200, 1))
    monitor.observe(made, told(made.column("_id").to_pylist()))
    shot = monitor.snapshot()
    assert shot["states"]["performance"] == "insufficient"
    assert "log the model with labels" in shot["reasons"]["performance"]
    assert "1,000 labelled rows" in shot["reasons"]["estimated"]


def test_labels_of_unknown_predictions_are_counted_and_handed_over() -> None:
    """Erased, mistyped, or never made: parked, then given up to whoever looks in the lake."""
    monitor = watching()
    monitor.observe(events(frame(200, 1)), told(["nobody", "erased"]))
    monitor.observe(events(frame(200, 2), start=200_000), NOTHING)
    assert monitor.snapshot()["labels_joined"] == 0
    assert set(monitor.given_up) == {"nobody", "erased"}
    assert monitor.settled(["nobody", "erased"]) == 0
    assert monitor.given_up == ()


def test_a_storm_of_labels_is_bounded() -> None:
    """A hundred thousand labels of strangers beside two hundred predictions: these are judged, those are counted."""
    tight = SETTINGS.model_copy(update={"max_pending": 1_000, "label_lateness_s": 0.0})
    monitor = Monitor.restore(watching().state(), CONTRACT, watching()._reference, tight)
    made = events(frame(200, 1))
    storm = told([f"stranger{i}" for i in range(100_000)])
    monitor.observe(made, pa.concat_tables([storm, told(made.column("_id").to_pylist())]))
    shot = monitor.snapshot()
    assert shot["labels_joined"] == 200
    assert shot["labels_waiting"] + len(monitor.given_up) <= 2_000
    assert len(monitor.state()) < 500_000
