"""How many more labels: against simulation, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.promotion.shadow import differences
from retrain.trials.paired import paired_path
from retrain.trials.power import Needed, fixed_sample, needed, needed_paired
from retrain.trials.sequential import Score, log_e, log_mixture, rho


def simulated(effect: float, *, sd: float, alpha: float, r: float, weight: float, total: int) -> float:
    """Share of trials in which the e-value has reached 1 / alpha by `total` labels, a look every 50."""
    g = np.random.default_rng(1)
    looks, runs = total // 50, 1_000
    n_t = g.binomial(50, weight, (runs, looks))
    n_c = 50 - n_t
    t = np.cumsum(g.normal(0.0, sd, n_t.shape) * np.sqrt(n_t) - effect * n_t, axis=1)
    c = np.cumsum(g.normal(0.0, sd, n_c.shape) * np.sqrt(n_c), axis=1)
    n_t, n_c = np.cumsum(n_t, axis=1), np.cumsum(n_c, axis=1)
    w = n_t * n_c / (n_t + n_c)
    e = log_mixture(w * (c / n_c - t / np.maximum(n_t, 1)), w * sd * sd, r)
    return float((np.where(n_t > 0, e, 0.0) >= -math.log(alpha)).any(axis=1).mean())


@pytest.mark.parametrize(
    ("effect", "margin", "weight", "power"),
    [(0.03, 0.0, 0.5, 0.8), (0.03, 0.0, 0.5, 0.5), (0.02, 0.01, 0.25, 0.8), (0.05, 0.0, 0.1, 0.9)],
)
def test_the_forecast_has_the_power_it_says(effect: float, margin: float, weight: float, power: float) -> None:
    """Within 6 points in simulation."""
    r = rho(0.4, 3_000, weight, 0.05)
    found = needed(effect, sd=0.4, alpha=0.05, rho=r, margin=margin, weight=weight, power=power)
    assert found is not None
    seen = simulated(effect + margin, sd=0.4, alpha=0.05, r=r, weight=weight, total=found.total)
    assert seen == pytest.approx(power, abs=0.06)


@pytest.mark.parametrize(("gain", "disagree", "margin"), [(0.03, 0.1, 0.0), (0.01, 0.05, 0.01), (0.05, 0.2, 0.0)])
def test_the_forecast_of_paired_labels(gain: float, disagree: float, margin: float) -> None:
    """Within 8 points in simulation."""
    labels = needed_paired(gain, sd=math.sqrt(disagree - gain**2), alpha=0.05, margin=margin)
    assert labels is not None
    d = differences("binary", shape=(600, labels), gain=gain, disagree=disagree, generator=[5])
    won = (paired_path(d, -margin) >= -math.log(0.05)).any(axis=1).mean()
    assert won == pytest.approx(0.8, abs=0.08)


def test_what_is_seen_already_is_taken_off() -> None:
    """Halfway with the same effect there is less to come; what has passed needs nothing more."""
    r = rho(0.4, 6_000, 0.5, 0.05)
    start = needed(0.02, sd=0.4, alpha=0.05, rho=r)
    w = 2_000.0
    halfway = Score(s=0.02 * w, w=w, v=0.16 * w, n_t=4_000, n_c=4_000)
    rest = needed(0.02, sd=0.4, alpha=0.05, rho=r, seen=halfway)
    passed = Score(s=0.10 * w, w=w, v=0.16 * w, n_t=4_000, n_c=4_000)
    assert start is not None
    assert rest is not None
    assert 0 < rest.candidate < start.candidate
    assert log_e(passed, 0.0, r) > -math.log(0.05)
    assert needed(0.02, sd=0.4, alpha=0.05, rho=r, seen=passed) == Needed(0, 0)


def test_a_hair_below_the_bar_one_more_label_may_do() -> None:
    """The answer is small then, not an error of the solver."""
    r, w = rho(0.4, 6_000, 0.5, 0.05), 2_000.0
    v = 0.16 * w
    edge = next(s for s in np.linspace(40.0, 120.0, 80_001) if log_mixture(s, v, r) >= -math.log(0.05))
    found = needed(0.03, sd=0.4, alpha=0.05, rho=r, power=0.3, seen=Score(edge - 0.002, w, v, 4_000, 4_000))
    assert found is not None
    assert found.total <= 2


@given(st.floats(-0.5, 0.5), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.05, 0.99))
def test_it_says_a_number_or_never(effect: float, sd: float, weight: float, power: float) -> None:
    """Whatever the estimates are at the first look."""
    found = needed(effect, sd=sd, alpha=0.05, rho=10.0, margin=0.01, weight=weight, power=power)
    assert found is None or found.total >= 0
    if effect <= -0.01 or sd == 0.0:
        assert found is None


@given(st.floats(0.01, 0.3), st.floats(0.1, 0.5))
def test_more_effect_needs_fewer_labels_and_a_planned_test_fewer_still(effect: float, sd: float) -> None:
    """Looking at any time is paid with labels: this says how many."""
    r = rho(sd, 3_000, 0.5, 0.05)
    small, large = (needed(e, sd=sd, alpha=0.05, rho=r) for e in (effect, 1.5 * effect))
    assert small is not None
    assert large is not None
    assert large.candidate <= small.candidate
    assert fixed_sample(effect, sd=sd, alpha=0.05) <= small.candidate


def test_never_is_said() -> None:
    """An effect on the wrong side, and a loss that does not vary."""
    assert needed(-0.02, sd=0.4, alpha=0.05, rho=10.0) is None
    assert needed_paired(-0.02, sd=0.4, alpha=0.05) is None
    assert needed_paired(0.02, sd=0.0, alpha=0.05) is None
