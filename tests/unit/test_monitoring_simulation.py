"""Reduced forms of the acceptance simulations, seeds fixed; the full ones are in `bench/monitoring`."""

from __future__ import annotations

import numpy as np
import pytest

from bench.monitoring import claims, streams, usual_rules
from bench.monitoring.judged import judge_stream
from bench.monitoring.replayed import same_state
from bench.monitoring.streams import Make
from monitoring.assess import assess
from monitoring.settings import MonitoringSettings
from monitoring.windows import DEPTH, Window

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


def test_dependent_rows_alarm_where_neighbours_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the dispersion factor: without it the same streams are flagged ten times as often."""
    made = [streams.autoregressive(8, rho=0.6)(np.random.default_rng(s), 480, 100, 5000) for s in range(2)]
    asked = sum(bool(names) for s in made for names in judge_stream(s, SETTINGS).flagged)
    monkeypatch.setattr("bench.monitoring.judged.shrink", lambda means, df, pairs: np.ones_like(means))
    assert sum(bool(names) for s in made for names in judge_stream(s, SETTINGS).flagged) > 10 * max(asked, 1)


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
    [streams.normals(8, shift=0.3, change=20), streams.awkward(6), streams.daily(6, amplitude=0.8)],
    ids=["shift", "awkward", "daily"],
)
def test_the_simulation_decides_as_the_monitor_does(make: Make) -> None:
    """Arrays of windows at once, or one window after the other by `assess`: the same flags."""
    stream = make(np.random.default_rng(3), 70, 200, 2000)
    judged = judge_stream(stream, SETTINGS)
    closed: list[Window] = []
    for t in range(70):
        counts = {name: rows[t].tolist() for name, rows in stream.counts.items()}
        hours = [200 * (hour == t % 24) for hour in range(24)]
        closed = [*closed, Window(3600.0 * t, 3600.0 * (t + 1), 200, counts, hours)][-DEPTH:]
        found = assess(stream.specs, closed, SETTINGS).features
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


@pytest.mark.parametrize("seed", range(2))
def test_delivery_and_restarts_leave_no_trace(seed: int) -> None:
    """M9 reduced: shuffled, repeated and late labels, a restart after every part."""
    assert same_state(seed)
