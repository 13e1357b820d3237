"""Guardrails: what they let pass, what they send back, and how often by chance."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.promotion.guarded import Truth, business, rates
from retrain.trials.guards import (
    Counts,
    Outcome,
    clipped,
    error_rate,
    label_rate,
    latency,
    log_rate_e,
    log_share_e,
    outcome,
    prediction_mean,
    prediction_rates,
)
from retrain.trials.sequential import Stratum

counts = st.builds(
    lambda w, n_t, a, n_c, b: Counts("1", w, n_t, round(a * n_t), n_c, round(b * n_c)),
    st.floats(0.01, 0.99),
    st.integers(0, 500),
    st.floats(0, 1),
    st.integers(0, 500),
    st.floats(0, 1),
)


def units(weight: float, n: int, p_t: float, p_c: float, key: str = "1") -> Counts:
    """Counts with these rates."""
    n_t = round(n * weight)
    return Counts(key, weight, n_t, round(n_t * p_t), n - n_t, round((n - n_t) * p_c))


@given(st.lists(counts, max_size=4), st.floats(0, 0.1), st.floats(0, 1), st.sampled_from([1, -1]))
def test_any_counts_give_a_finite_e_value_in_any_order(
    rows: list[Counts], tolerance: float, centre: float, sign: int
) -> None:
    """No counts can break it, and the order of stretches does not matter."""
    found = log_rate_e(rows, tolerance=tolerance, centre=centre, sign=sign)
    assert math.isfinite(found)
    backwards = log_rate_e(rows[::-1], tolerance=tolerance, centre=centre, sign=sign)
    assert backwards == pytest.approx(found, abs=1e-9)


@given(st.floats(0.02, 0.98), st.floats(0, 0.9), st.floats(0, 0.05), st.floats(0, 1), st.sampled_from([1, -1]))
def test_one_unit_at_the_tolerance_wins_nothing_on_average(
    weight: float, p: float, tolerance: float, centre: float, sign: int
) -> None:
    """The mean wealth after a unit is at most 1 under H0: that makes every look valid."""
    p_t = p + sign * tolerance
    if not 0 <= p_t <= 1:
        return
    cells = {(1, 1): weight * p_t, (1, 0): weight * (1 - p_t), (0, 1): (1 - weight) * p, (0, 0): (1 - weight) * (1 - p)}
    mean = sum(
        chance
        * math.exp(
            log_rate_e(
                [Counts("1", weight, t, t * hit, 1 - t, (1 - t) * hit)], tolerance=tolerance, centre=centre, sign=sign
            )
        )
        for (t, hit), chance in cells.items()
    )
    assert mean <= 1 + 1e-9


@given(st.floats(0.005, 0.5))
def test_one_unit_at_the_tolerated_share_wins_nothing_on_average(share: float) -> None:
    """The same for the share of slow requests."""
    mean = share * math.exp(log_share_e(1, 1, share)) + (1 - share) * math.exp(log_share_e(1, 0, share))
    assert mean <= 1 + 1e-9


def test_a_candidate_that_always_fails_is_sent_back_after_three_requests() -> None:
    """In canary, at 1 % of the traffic."""
    assert error_rate([Counts("canary", 0.01, 3, 3, 297, 1)], tolerance=0.005).fired
    assert not error_rate([Counts("canary", 0.01, 1, 1, 99, 0)], tolerance=0.005).fired


def test_an_incident_that_hits_both_arms_sends_nobody_back() -> None:
    """Errors rise while the candidate's traffic grows: it has more of them, but not more than its share."""
    calm, bad = units(0.05, 10_000, 0.004, 0.004, "1"), units(0.5, 10_000, 0.2, 0.2, "2")
    assert not error_rate([calm, bad], tolerance=0.0).fired
    pooled = Counts(
        "pooled", 0.275, calm.n_t + bad.n_t, calm.hits_t + bad.hits_t, calm.n_c + bad.n_c, calm.hits_c + bad.hits_c
    )
    assert pooled.hits_t / pooled.n_t > 2 * pooled.hits_c / pooled.n_c  # what a dashboard would show


def test_what_is_tolerated_is_tolerated() -> None:
    """Half a point more errors with half a point allowed."""
    assert not error_rate([units(0.5, 100_000, 0.010, 0.005)], tolerance=0.005).fired
    assert error_rate([units(0.5, 100_000, 0.010, 0.005)], tolerance=0.001).fired


@pytest.mark.parametrize(
    ("truth", "tolerance", "both"),
    [
        (Truth(0.005, 0.005), 0.0, False),
        (Truth(0.005, 0.010), 0.005, False),
        (Truth(0.005, 0.005, 0.2), 0.005, False),
        (Truth(0.30, 0.32), 0.02, True),
    ],
)
def test_false_rollbacks_stay_under_one_percent(truth: Truth, tolerance: float, both: bool) -> None:
    """120 looks while the split is ramped from 1 to 50 %."""
    assert rates(truth, runs=800, seed=1, tolerance=tolerance, both_ways=both)["fired"] <= 0.01


def test_a_z_test_sends_back_a_candidate_for_an_incident() -> None:
    """Control: pooled over the ramp, the same incident is the candidate's fault."""
    assert rates(Truth(0.005, 0.005, 0.2), runs=100, seed=1, tolerance=0.005)["z_peeking"] >= 0.9


def test_bad_candidates_are_found_soon() -> None:
    """Ten times the errors: within 250 of its units."""
    found = rates(Truth(0.005, 0.05), runs=100, seed=2, tolerance=0.005)
    assert found["fired"] == 1.0
    assert found["median_treated"] <= 250


def test_slow_requests() -> None:
    """More of them than tolerated, and more than the champion's at the same time."""
    assert latency([units(0.5, 4_000, 0.05, 0.01)], share=0.01).fired
    assert not latency([units(0.5, 4_000, 0.01, 0.01)], share=0.01).fired
    assert not latency([units(0.5, 4_000, 0.30, 0.30)], share=0.01).fired  # the machine is slow
    assert not latency([units(0.5, 4_000, 0.02, 0.01)], share=0.05).fired  # more, but few


def test_values_equal_to_the_threshold_are_not_slow() -> None:
    """Latencies in whole milliseconds tie with the threshold all the time."""
    champion = np.repeat([1.0, 2.0, 3.0], [900, 90, 10])
    threshold = float(np.quantile(champion, 0.99, method="inverted_cdf"))
    slow = int((champion > threshold).sum())
    assert slow / champion.size <= 0.01
    assert not latency([Counts("1", 0.5, 1000, slow, 1000, slow)], share=0.01).fired


def test_a_class_that_is_predicted_more_often_is_seen_either_way() -> None:
    """Up in one class is down in another; within the tolerance nothing is said."""
    by_class = {"no": [units(0.5, 20_000, 0.60, 0.70)], "yes": [units(0.5, 20_000, 0.40, 0.30)]}
    assert prediction_rates(by_class, tolerance=0.02, expected={"no": 0.7, "yes": 0.3}).fired
    assert prediction_rates({"no": by_class["yes"]}, tolerance=0.02).fired
    assert not prediction_rates(by_class, tolerance=0.10, expected={"no": 0.7, "yes": 0.3}).fired
    assert prediction_rates({}, tolerance=0.02).log_e == 0.0


def test_the_rate_of_labels_is_watched_both_ways() -> None:
    """Fewer labels for the candidate, or more."""
    for p_t, p_c in ((0.6, 0.7), (0.7, 0.6)):
        assert label_rate([units(0.5, 20_000, p_t, p_c)], tolerance=0.02).fired
    assert not label_rate([units(0.5, 20_000, 0.65, 0.65)], tolerance=0.02).fired


def values(mean_t: float, mean_c: float, n: int, sd: float, seed: int = 0) -> list[Stratum]:
    """Ten days of normal values."""
    g = np.random.default_rng(seed)
    rows = []
    for day in range(10):
        t, c = g.normal(mean_t, sd, n), g.normal(mean_c, sd, n)
        rows.append(Stratum(str(day), n, float(t.sum()), float((t * t).sum()), n, float(c.sum()), float((c * c).sum())))
    return rows


def test_a_business_metric_knows_its_better_direction() -> None:
    """Less revenue is harm, less time on hold is not."""
    lower, sd = values(9.0, 10.0, 500, 3.0), 3.0
    revenue = Outcome("revenue", (0.0, 50.0), higher_is_better=True, tolerance=0.2, sd=sd)
    waiting = Outcome("waiting", (0.0, 50.0), higher_is_better=False, tolerance=0.2, sd=sd)
    found = outcome(lower, revenue, planned=3_000)
    assert found.fired
    assert found.seen == pytest.approx(-1.0, abs=0.1)
    assert not outcome(lower, waiting, planned=3_000).fired
    assert outcome(values(11.0, 10.0, 500, 3.0), waiting, planned=3_000).fired
    assert not outcome(values(9.9, 10.0, 500, 3.0), revenue, planned=3_000).fired


def test_clipped_revenue_errs_in_one_percent_at_most() -> None:
    """A twentieth of the users buy, for amounts without a variance; two cents less are tolerated."""
    assert business(runs=300, seed=3, loss=0.02)["fired"] <= 0.01
    assert business(runs=60, seed=3, loss=0.06)["fired"] >= 0.9


def test_clipping_leaves_what_is_no_number() -> None:
    """One sale of a million weighs as much as the bound."""
    assert clipped(np.array([-5.0, 3.0, 1e6]), (0.0, 10.0)).tolist() == [0.0, 3.0, 10.0]
    assert np.isnan(clipped(np.array([np.nan]), (0.0, 10.0)))[0]


def test_a_mean_prediction_that_moves_is_seen_either_way() -> None:
    """In standard deviations of the champion's predictions."""
    for shift in (0.5, -0.5):
        assert prediction_mean(values(shift, 0.0, 500, 1.0), sd=1.0, tolerance=0.1, planned=3_000).fired
    assert not prediction_mean(values(0.1, 0.0, 500, 1.0), sd=1.0, tolerance=0.1, planned=3_000).fired


@given(counts)
def test_counts_and_readings_are_kept_as_json(row: Counts) -> None:
    """Evidence can be read back and judged again, to the same number."""
    again = Counts.from_list(json.loads(json.dumps(row.to_list())))
    assert again == row
    reading = error_rate([again], tolerance=0.01)
    assert reading == error_rate([row], tolerance=0.01)
    assert json.loads(json.dumps(reading.to_dict()))["fired"] is reading.fired
