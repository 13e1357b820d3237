"""The monitor is a fold: batches, restarts, and the order in which labels are delivered do not matter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.settings import MonitoringSettings
from monitoring.watching.findings import Finding
from monitoring.watching.monitor import Monitor
from registry.contract import Column, Contract, Output
from registry.errors import ConfigInvalid
from registry.loss import bounded_loss
from registry.reference import build_reference

REGRESSION = Contract("trips", (Column("x", "float"), Column("kind", "string")), Output("regression"))
CLASSES = Contract("trips", (Column("x", "float"), Column("kind", "string")), Output("classification", ("no", "yes")))
SETTINGS = MonitoringSettings(window_rows=100, min_rows=50, window_max_age_s=50_000)
T0 = 1_700_000_000.0


def reference(contract: Contract, n: int = 1000) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    frame = {"x": rng.normal(0, 1, n), "kind": rng.choice(np.array(["a", "b", "c"], dtype=object), n)}
    if contract.output.kind == "regression":
        losses = bounded_loss(contract.output, frame["x"] + rng.normal(0, 1, n), frame["x"], 10.0)
        return build_reference(contract, frame, frame["x"], losses, 10.0, {"mae": 0.8})
    p = rng.uniform(0.1, 0.9, n)
    truth = np.where(rng.random(n) < p, "yes", "no")
    score = np.column_stack([1 - p, p])
    losses = bounded_loss(contract.output, score, truth, 1.0)
    return build_reference(contract, frame, score, losses, 1.0, {"log_loss": 0.5})


def predictions(rows: int, *, seed: int = 1, shift: float = 0.0, start: int = 0, classes: bool = False) -> pa.Table:
    """Rows 100 s apart in the form of the event lake."""
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, rows)
    p = rng.uniform(0.1, 0.9, rows)
    index = range(start, start + rows)
    return pa.table(
        {
            "x": pa.array(x),
            "kind": pa.array(rng.choice(["a", "b", "c"], rows)),
            "_id": pa.array([f"p{i:06d}" for i in index]),
            "_at": stamps([T0 + 100.0 * i for i in index]),
            "_seq": pa.array(list(index)),
            "_version": pa.array([1] * rows),
            "_arm": pa.array(["champion"] * rows),
            "_prediction": pa.array(["yes" if v > 0.5 else "no" for v in p] if classes else x),
            "_probabilities": pa.array([[1 - v, v] if classes else [] for v in p], pa.list_(pa.float32())),
        }
    )


def labels(made: pa.Table, *, error: float = 1.0, seed: int = 2, after: float = 20.0) -> pa.Table:
    """A label for each prediction, `after` seconds of event time later."""
    rng = np.random.default_rng(seed)
    n = made.num_rows
    at = made.column("_at").cast(pa.int64()).to_numpy() / 1e6 + after
    if made.column("_prediction").type == pa.string():
        p = np.array([row[1] for row in made.column("_probabilities").to_pylist()])
        truth = np.where(rng.random(n) < (p if error <= 1.0 else 1 - p), "yes", "no").tolist()
    else:
        truth = (made.column("_prediction").to_numpy() + rng.normal(0, error, n)).tolist()
    return pa.table(
        {
            "_id": made.column("_id"),
            "_label": pa.array(truth),
            "_at": stamps(at.tolist()),
            "_received": stamps(at.tolist()),
            "_seq": pa.array(range(n)),
        }
    )


def stamps(seconds: Sequence[float]) -> pa.Array:
    return pa.array([round(s * 1e6) for s in seconds], pa.timestamp("us", tz="UTC"))


def nothing() -> pa.Table:
    return pa.table({})


def begin(contract: Contract = REGRESSION) -> Monitor:
    return Monitor.start("trips", 1, contract, reference(contract), SETTINGS)


def sorted_dicts(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return sorted((f.to_dict() for f in findings), key=lambda d: (d["at"], d["kind"]))


def stream() -> tuple[pa.Table, pa.Table]:
    """Quiet for 500 rows, then shifted inputs and larger errors for 700."""
    quiet, moved = predictions(500), predictions(700, shift=1.0, seed=3, start=500)
    return pa.concat_tables([quiet, moved]), pa.concat_tables([labels(quiet), labels(moved, error=6.0)])


def final(made: pa.Table, told: pa.Table, cuts: Sequence[int], *, restart: bool) -> tuple[bytes, list[dict[str, Any]]]:
    """Fold both tables cut at the same rows; optionally save and restore between any two batches."""
    ref = reference(REGRESSION)
    monitor, findings = begin(), []
    edges = [0, *sorted(cuts), made.num_rows]
    for first, last in pairwise(edges):
        findings += monitor.observe(made.slice(first, last - first), told.slice(first, last - first))
        if restart:
            monitor = Monitor.restore(monitor.state(), REGRESSION, ref, SETTINGS)
    return monitor.state(), sorted_dicts(findings)


MADE, TOLD = stream()
WHOLE = final(MADE, TOLD, [], restart=False)


def test_the_stream_raises_drift_and_performance_alarms() -> None:
    """The stream that the invariance tests use does exercise the alarms."""
    reached = {(f["kind"], f["state"]) for f in WHOLE[1]}
    assert {("feature_drift", "confirmed"), ("score_drift", "confirmed"), ("performance", "confirmed")} <= reached
    assert ("data_quality", "broken") not in reached


@given(st.lists(st.integers(0, 1200), max_size=6), st.booleans())
@settings(max_examples=25, deadline=None)
def test_batches_and_restarts_do_not_change_state_or_findings(cuts: list[int], restart: bool) -> None:
    """However the stream is cut, and wherever the worker is killed, bytes and findings are the same."""
    assert final(MADE, TOLD, cuts, restart=restart) == WHOLE


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_shuffled_and_duplicated_labels_within_their_lateness_give_the_same_decisions(seed: int) -> None:
    """Labels of a batch in any order, each once or twice, some a batch late: same findings."""
    patient = SETTINGS.model_copy(update={"label_lateness_s": 200 * 100.0})
    ref = reference(REGRESSION)
    batches = [(MADE.slice(i, 200), TOLD.slice(i, 200)) for i in range(0, 1200, 200)]

    def fold(deliveries: list[pa.Table]) -> tuple[Any, list[dict[str, Any]]]:
        monitor = Monitor.start("trips", 1, REGRESSION, ref, patient)
        findings = []
        for (made, _), told in zip(batches, deliveries, strict=True):
            findings += monitor.observe(made, told)
        shot = monitor.snapshot()
        shot.pop("labels_revised")
        return shot, sorted_dicts(findings)

    rng = np.random.default_rng(seed)
    disturbed, left = [], TOLD.slice(0, 0)
    for number, (_, told) in enumerate(batches):
        order = rng.permutation(told.num_rows)
        late = order[:20][order[:20] >= 100] if number < len(batches) - 1 else order[:0]
        now = rng.permutation(np.concatenate([np.setdiff1d(order, late), order[-10:]]))
        disturbed.append(pa.concat_tables([left, told.take(pa.array(now, pa.int64()))]))
        left = told.take(pa.array(late, pa.int64()))
    assert fold(disturbed) == fold([told for _, told in batches])


def test_a_label_before_its_prediction_waits_for_it() -> None:
    """A label of a prediction that the lake does not show yet is used when the prediction appears."""
    made = predictions(100)
    told = labels(made)
    monitor = begin()
    monitor.observe(nothing(), told)
    assert monitor.snapshot()["labels_joined"] == 0
    monitor.observe(made, nothing())
    assert monitor.snapshot()["labels_joined"] >= 98
    monitor.observe(nothing(), told)
    assert monitor.snapshot()["labels_joined"] <= 100


def test_only_the_champions_rows_are_judged_by_their_labels() -> None:
    """Labels of a candidate or of a shadow say nothing about the champion; a candidate's inputs still count."""
    made = predictions(200)
    other = made.set_column(made.schema.get_field_index("_version"), "_version", pa.array([2] * 200))
    other = other.set_column(other.schema.get_field_index("_arm"), "_arm", pa.array(["candidate"] * 200))
    shadow = made.set_column(made.schema.get_field_index("_arm"), "_arm", pa.array(["shadow"] * 200))
    monitor = begin()
    monitor.observe(other, labels(other, error=50.0))
    monitor.observe(shadow, labels(shadow, error=50.0))
    shot = monitor.snapshot()
    assert (shot["labels_joined"], shot["windows"], shot["states"]["performance"]) == (0, 2, "insufficient")
    assert "_score" not in shot["psi"]


def test_a_performance_alarm_stands_until_the_champion_changes() -> None:
    """After the alarm even perfect predictions do not take it back."""
    monitor = begin()
    bad = predictions(300)
    found = monitor.observe(bad, labels(bad, error=8.0))
    alarm = next(f for f in found if (f.kind, f.state) == ("performance", "confirmed"))
    assert alarm.severity == "high"
    assert alarm.detail["loss"] > alarm.detail["null_level"]
    good = predictions(600, start=300)
    later = monitor.observe(good, labels(good, error=0.01))
    assert not [f for f in later if f.kind == "performance"]
    assert monitor.snapshot()["performance_state"] == "confirmed"


def test_the_alarm_dates_the_change_near_where_it_happened() -> None:
    """`since` is what a since-drift training window starts from."""
    alarm = next(f for f in WHOLE[1] if (f["kind"], f["state"]) == ("performance", "confirmed"))
    changed = T0 + 500 * 100.0
    since = np.datetime64(alarm["detail"]["since"][:19]).astype("datetime64[s]").astype(float)
    assert abs(since - changed) <= 40 * 100.0


def test_better_predictions_than_the_references_raise_nothing() -> None:
    """Improvement is no drift in performance."""
    monitor = begin()
    made = predictions(1000)
    found = monitor.observe(made, labels(made, error=0.2))
    assert {f.state for f in found if f.kind == "performance"} == {"ok"}


def test_classification_labels_are_scored_against_probabilities() -> None:
    """Honest probabilities stay ok; reversed ones alarm; a label that is no class is counted, not scored."""
    honest = begin(CLASSES)
    made = predictions(800, classes=True)
    found = honest.observe(made, labels(made))
    assert "confirmed" not in {f.state for f in found}
    assert honest.snapshot()["performance"]["metric"] == "log_loss"
    reversed_ = begin(CLASSES)
    found = reversed_.observe(made, labels(made, error=2.0))
    assert ("performance", "confirmed") in {(f.kind, f.state) for f in found}
    odd = labels(made)
    odd = odd.set_column(1, "_label", pa.array(["maybe"] * 800))
    strange = begin(CLASSES)
    strange.observe(made, odd)
    assert strange.snapshot()["labels_joined"] == 0
    assert strange.snapshot()["labels_unusable"] >= 799


@pytest.mark.parametrize("whole", [True, False])
def test_three_classes_are_watched_by_class_or_by_one_probability(whole: bool) -> None:
    """A reference made from all probabilities watches the chosen class; one made from a column watches that."""
    contract = Contract("trips", REGRESSION.columns, Output("classification", (0, 1, 2)))
    rng = np.random.default_rng(5)
    p = rng.dirichlet([1, 1, 1], 1000)
    frame = {"x": rng.normal(0, 1, 1000), "kind": np.array(["a"] * 1000, dtype=object)}
    score = p if whole else p[:, -1]
    ref = build_reference(contract, frame, score, np.full(1000, 0.3), 1.0, {"log_loss": 1.0})
    assert ref["score"]["kind"] == ("category" if whole else "number")
    made = predictions(200)
    moved = rng.dirichlet([1, 1, 12], 200).tolist()
    column = made.schema.get_field_index("_probabilities")
    made = made.set_column(column, "_probabilities", pa.array(moved, pa.list_(pa.float32())))
    found = Monitor.start("trips", 1, contract, ref, SETTINGS).observe(made, nothing())
    assert ("score_drift", "confirmed") in {(f.kind, f.state) for f in found}


def test_a_missing_column_is_broken_in_one_window() -> None:
    """A column that the events no longer have is all null: no second window is needed."""
    monitor = begin()
    found = monitor.observe(predictions(100).drop_columns(["x"]), nothing())
    broken = next(f for f in found if f.kind == "data_quality")
    assert (broken.state, broken.detail["flagged"]) == ("broken", ["x:null"])


def test_state_of_another_reference_is_refused() -> None:
    """Counts made with one reference mean nothing beside another."""
    body = begin().state()
    with pytest.raises(ConfigInvalid, match="another reference"):
        Monitor.restore(body, REGRESSION, reference(REGRESSION, 900), SETTINGS)
    with pytest.raises(ConfigInvalid, match="not a monitor"):
        Monitor.restore(b"garbage", REGRESSION, reference(REGRESSION), SETTINGS)


def test_memory_is_bounded_and_what_is_forgotten_is_counted() -> None:
    """Predictions that never get a label do not grow the state without end."""
    tight = SETTINGS.model_copy(update={"max_pending": 100})
    monitor = Monitor.start("trips", 1, REGRESSION, reference(REGRESSION), tight)
    monitor.observe(predictions(1000), nothing())
    assert monitor.snapshot()["join_dropped"] == 900
    monitor.mark_consumed(["b.parquet", "a.parquet"])
    assert Monitor.restore(monitor.state(), REGRESSION, reference(REGRESSION), tight).consumed.names == {
        "a.parquet",
        "b.parquet",
    }
