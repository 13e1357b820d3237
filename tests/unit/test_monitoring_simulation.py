"""Reduced forms of the acceptance simulations, seeds fixed; the full ones are in `bench/monitoring`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.monitoring import beside, car_loan, claims, concept, streams, usual_rules
from bench.monitoring.judged import judge_stream
from bench.monitoring.replayed import same_state
from bench.monitoring.streams import Make
from monitoring.drift.assess import assess
from monitoring.drift.windows import DEPTH, Window
from monitoring.settings import MonitoringSettings
from monitoring.watching.estimated import FINE, counted, estimate
from registry.estimate import build_estimate
from registry.loss import bounded_loss

SETTINGS = MonitoringSettings()


@pytest.mark.parametrize(
    ("make", "n"),
    [
        (streams.normals(), 100),
        (streams.normals(), 500),
        (streams.normals(), 2000),
        (streams.normals(60), 500),
        (streams.awkward(), 500),
        (streams.autoregressive(), 100),
        (streams.correlated(), 100),
    ],
    ids=["100", "500", "2000", "60 columns", "awkward", "dependent rows", "correlated"],
)
def test_no_drift_no_alarm(make: Make, n: int) -> None:
    """M1 reduced: three replicates of 30 days of hourly windows; at most one episode in all of them."""
    runs = [judge_stream(make(np.random.default_rng(seed), 720, n, 1000), SETTINGS) for seed in range(3)]
    assert sum(len(run.episodes) for run in runs) <= 1


def test_the_usual_rules_alarm_on_the_same_streams() -> None:
    """The control of M1: fixed PSI thresholds, and Evidently's default, alarm in most windows."""
    stream = streams.normals()(np.random.default_rng(0), 200, 100, 1000)
    assert usual_rules.psi_alarms(stream, 0.1).mean() > 0.95
    columns, windows, _ = usual_rules.evidently_alarms(100, m=2000, windows=20)
    assert columns > 0.4
    assert windows == 1.0


def test_rules_in_common_use_are_compared_on_the_same_rows() -> None:
    """The comparison that the page of evidence shows: theirs alarm on rows without drift, ours does not."""
    rows = beside.quiet(n=100, m=2_000, windows=100, replicates=1)
    found = {row["rule"]: row["windows_alarmed"] for row in rows}
    assert found.pop(beside.OURS) == 0
    assert min(found["Evidently, default"], found["PSI > 0.1"]) > 0.9
    assert found["NannyML, default"] > 0.1


def test_dependent_rows_alarm_where_neighbours_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the dispersion factor: without it the same streams are flagged ten times as often."""
    made = [streams.autoregressive(8, rho=0.6)(np.random.default_rng(s), 480, 100, 5000) for s in range(2)]
    asked = sum(bool(names) for s in made for names in judge_stream(s, SETTINGS).flagged)
    monkeypatch.setattr("monitoring.drift.dispersion.shrink", lambda means, df, pairs: np.ones_like(means))
    assert sum(bool(names) for s in made for names in judge_stream(s, SETTINGS).flagged) > 10 * max(asked, 1)


def test_a_standing_difference_that_is_tolerated_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.12 sd from a reference of 50,000 rows (PSI 0.014): chance carries it past the floor, again and again."""
    made = [streams.standing(3, apart=0.12)(np.random.default_rng(seed), 480, 100, 50_000) for seed in range(2)]
    assert [judge_stream(stream, SETTINGS).episodes for stream in made] == [[], []]
    monkeypatch.setattr("monitoring.drift.assess.weigh", lambda pools, *_, **__: (0.0, np.inf))
    assert sum(len(judge_stream(stream, SETTINGS).episodes) for stream in made) >= 3


def test_what_comes_on_top_of_a_standing_difference_is_found() -> None:
    """A step of 0.5 sd in four windows; a slope of 0.002 sd a window before it has come to 0.4 sd."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        step = judge_stream(streams.standing(3, shift=0.5, apart=0.12, change=100)(rng, 110, 100, 50_000), SETTINGS)
        assert 100 <= step.episodes[0] < 104
        slope = judge_stream(streams.standing(3, slope=0.002)(rng, 220, 500, 50_000), SETTINGS)
        assert slope.episodes[0] <= 200


def test_what_differs_from_the_first_window_on_is_found_before_there_are_older_ones() -> None:
    """A model that is put before other rows than it was accepted on, 0.5 sd off in one column of ten."""
    for seed in range(3):
        stream = streams.standing(apart=0.5)(np.random.default_rng(seed), 10, 100, 2_000)
        assert judge_stream(stream, SETTINGS).episodes[0] <= 4


def test_a_daily_wave_is_no_drift_where_the_reference_knows_hours() -> None:
    """M3 reduced, with its control: a reference of all hours alarms and does not stop."""
    known, unknown = (
        judge_stream(streams.daily(8, seasonal=seasonal)(np.random.default_rng(1), 480, 500, 5000), SETTINGS)
        for seasonal in (True, False)
    )
    assert (known.episodes, len(unknown.episodes)) == ([], 1)
    assert np.mean([bool(names) for names in unknown.flagged]) > 0.8


@pytest.mark.parametrize(
    ("shift", "n", "m", "median", "late"), [(0.5, 100, 1000, 3, 6), (0.2, 500, 2000, 4, 8)], ids=["half", "fifth"]
)
def test_a_shift_of_one_column_in_twenty_is_found(shift: float, n: int, m: int, median: int, late: int) -> None:
    """M2 reduced: by the median and by nine of ten replicates."""
    found = claims.delays(streams.normals(shift=shift, change=20), n=n, m=m, replicates=30, change=20)
    assert np.median(found) <= median
    assert np.quantile(found, 0.9, method="higher") <= late


@pytest.mark.parametrize(
    "make",
    [
        streams.normals(8, shift=0.3, change=20),
        streams.awkward(6),
        streams.daily(6, amplitude=0.8),
        streams.standing(6, apart=0.25),
    ],
    ids=["shift", "awkward", "daily", "standing"],
)
def test_the_simulation_decides_as_the_monitor_does(make: Make) -> None:
    """The screen of a whole stream leaves no window out, at a rate at which chance alone flags many."""
    settings = SETTINGS.model_copy(update={"expected_days_between_false_alarms": 1.0})
    stream = make(np.random.default_rng(3), 70, 200, 2000)
    judged = judge_stream(stream, settings)
    closed: list[Window] = []
    for t in range(70):
        counts = {name: rows[t].tolist() for name, rows in stream.counts.items()}
        hours = [200 * (hour == t % 24) for hour in range(24)]
        closed = [*closed, Window(3600.0 * t, 3600.0 * (t + 1), 200, counts, hours)][-DEPTH:]
        found = assess(stream.specs, closed, settings).features
        assert (set(found.names), set(found.immediate)) == (judged.flagged[t], judged.sure[t])


def test_broken_data_is_found_within_two_windows() -> None:
    """M4 reduced: nulls from 0 to 5 %, a column that is missing, and a category never seen."""
    found = [
        claims.broken_delays(make, n=500, replicates=3)
        for make in (
            streams.faulty(nulls=0.05, change=4),
            streams.faulty(missing=True, change=4),
            streams.faulty(unseen=0.02, change=4),
        )
    ]
    assert [np.median(late) for late in found] == [2, 1, 2]


def test_the_state_is_small_and_halves_add_up() -> None:
    """M5 without its times: 200 columns, 64 windows."""
    found = claims.cost(200, 500)
    assert found["state_bytes"] <= 400_000
    assert found["merge_equal"]


def test_esr_is_silent_on_stable_and_better_losses_and_quick_on_worse() -> None:
    """M6 reduced: base loss 0.2, 2,000 reference labels, run length 10,000."""
    stable = [claims.esr_alarm(0.2, seed=s, labels=10_000) for s in range(10)]
    better = [claims.esr_alarm(0.15, seed=s, labels=5_000) for s in range(5)]
    assert sum(a is not None for a in stable) <= 1
    assert better == [None] * 5
    for rise, bar in ((0.10, 400), (0.20, 110)):
        late = [claims.esr_alarm(0.2 + rise, seed=s, labels=3000) or 3000 for s in range(20)]
        assert np.median(late) <= bar


def test_estimated_accuracy_leaves_its_limits_where_the_real_one_does() -> None:
    """M7 reduced, without its data: of ten chunks the last five hold fewer sure rows; no label is asked."""
    rng = np.random.default_rng(0)

    def drawn(n: int, spread: float) -> tuple[Any, Any]:
        p = 1 / (1 + np.exp(-rng.normal(0, spread, n)))
        return p, (rng.random(n) < p).astype(int)

    p, y = drawn(50_000, 3.0)
    both = np.column_stack([1 - p, p])
    losses = bounded_loss(car_loan.OUTPUT, both, y.astype(str).astype(object), 1.0)
    curve = build_estimate(car_loan.OUTPUT, {}, {}, both, y, losses)
    assert curve is not None
    known = [car_loan.accuracy(y[i : i + 5_000], p[i : i + 5_000]) for i in range(0, 50_000, 5_000)]
    low = np.mean(known) - 3 * np.std(known)
    errors, outside = [], []
    for chunk in range(10):
        p, y = drawn(5_000, 3.0 if chunk < 5 else 2.0)
        found = estimate(curve, {FINE: counted(curve, p) or []})
        assert found is not None
        real = car_loan.accuracy(y, p)
        errors.append(abs(found.metrics["accuracy"] - real))
        outside.append((bool(found.metrics["accuracy"] < low), bool(real < low)))
    assert np.mean(errors) <= 0.008
    assert outside == [(False, False)] * 5 + [(True, True)] * 5


@pytest.mark.parametrize(("kind", "ramp"), [("abrupt", 1), ("gradual", 1_000)])
def test_concept_drift_is_found_in_streams_of_errors(kind: str, ramp: int) -> None:
    """M8 reduced: error rates as the benchmark's champions have them, from the detector's own entry point."""
    score = concept.Score()
    for seed, (before, after) in enumerate([(0.02, 0.1), (0.05, 0.2), (0.1, 0.25), (0.2, 0.35), (0.3, 0.5)] * 3):
        rng = np.random.default_rng(seed)
        rate = np.full(9_000, before)
        rate[7_000:] = before + (after - before) * np.minimum(np.arange(2_000) / ramp, 1.0)
        score.add(concept.alarms((rng.random(9_000) < rate).astype(float)), concept.WITHIN[kind])
    assert score.row()["f1"] >= 0.9
    assert score.row()["false_per_1000"] <= 0.3


@pytest.mark.parametrize("seed", range(2))
def test_delivery_and_restarts_leave_no_trace(seed: int) -> None:
    """M9 reduced: shuffled, repeated and late labels, a restart after every part."""
    assert same_state(seed)
