"""Sequential tests: formulas and invariances. Error rates are in test_promotion_simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.trials.paired import log_paired_e, paired_interval, paired_path
from retrain.trials.sequential import (
    LEAST_RHO,
    Interval,
    Score,
    Stratum,
    interval,
    log_e,
    log_harm_e,
    log_srm_e,
    log_two_sided_e,
    rho,
    score,
    score_many,
)


def stratum(n_t: int, mean_t: float, n_c: int, mean_c: float, key: str = "a") -> Stratum:
    """Binary losses with the given means."""
    return Stratum(key, n_t, n_t * mean_t, n_t * mean_t, n_c, n_c * mean_c, n_c * mean_c)


def test_one_stratum_gives_the_difference_of_means() -> None:
    """The effect is positive when the candidate's loss is lower."""
    found = score([stratum(100, 0.2, 300, 0.3)])
    assert found.effect == pytest.approx(0.1)
    assert found.w == 75.0
    own = 75.0**2 * (0.16 / 99 + 0.21 / 299)
    shared = 75.0**2 * (16.0 + 63.0) / 398 * (1 / 100 + 1 / 300)
    assert found.v == pytest.approx(max(own, shared))


def test_a_stratum_with_few_units_in_an_arm_does_not_count() -> None:
    """Nine treated units say nothing reliable about a variance."""
    assert score([stratum(9, 0.0, 1000, 1.0)]) == Score(0.0, 0.0, 0.0, 0, 0)


def test_small_neighbours_of_an_epoch_count_together() -> None:
    """Days with a few treated users add up until both arms are big enough; what is left over waits."""
    days = [stratum(4, 0.25, 40, 0.25, f"5/{day}") for day in range(7)]
    whole = score([stratum(12, 0.25, 120, 0.25), stratum(12, 0.25, 120, 0.25)])
    assert score(days) == whole
    assert score(days[:2]) == Score(0.0, 0.0, 0.0, 0, 0)


def test_days_of_different_weights_are_never_put_together() -> None:
    """Their arms would not be comparable: more of the candidate's users would be from the later days."""
    days = [stratum(9, 0.1, 171, 0.1, "5/monday"), stratum(9, 0.5, 9, 0.5, "50/tuesday")]
    assert score(days) == Score(0.0, 0.0, 0.0, 0, 0)


def test_an_arm_without_a_rare_loss_borrows_the_variance_of_the_other() -> None:
    """300 users without an error do not prove that there are none: the champion's errors say how many to expect."""
    found = score([stratum(300, 0.0, 5700, 0.005)])
    alone = found.w**2 * 0.005 * 0.995 / 5700
    assert found.v > 10 * alone


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_many_trials_at_once_score_as_one_by_one(sizes: list[tuple[int, int]], seed: int) -> None:
    """The benches use the form for many trials: it is the one that decides."""
    g = np.random.default_rng(seed)
    trials = []
    for _ in range(3):
        rows = []
        for k, (n_t, n_c) in enumerate(sizes):
            t, c = g.random(n_t), g.random(n_c)
            sums = (float(t.sum()), float((t * t).sum())), (float(c.sum()), float((c * c).sum()))
            rows.append(Stratum(f"{k // 3}/{k}", n_t, *sums[0], n_c, *sums[1]))
        trials.append(rows)
    cells = np.array([[r.to_list()[1:] for r in rows] for rows in trials], dtype=np.float64).transpose(2, 1, 0)
    many = score_many(cells, [k // 3 for k in range(len(sizes))])
    for i, rows in enumerate(trials):
        one = score(rows)
        assert many[:, i].tolist() == [one.s, one.w, one.v, one.n_t, one.n_c]


def test_log_e_follows_the_written_formula() -> None:
    """ln 2 + 1/2 ln(rho/(V+rho)) + S^2/(2(V+rho)) + ln Phi(S/sqrt(V+rho)), with S shifted by m0."""
    found, m0, r = Score(s=12.0, w=400.0, v=50.0, n_t=800, n_c=800), -0.01, 8.0
    s = 12.0 + 4.0
    phi = 0.5 * (1 + math.erf(s / math.sqrt(58.0) / math.sqrt(2)))
    wanted = math.log(2) + 0.5 * math.log(8 / 58) + s * s / (2 * 58) + math.log(phi)
    assert log_e(found, m0, r) == pytest.approx(wanted, abs=1e-9)


@given(st.floats(-50, 50), st.floats(0.1, 500), st.floats(0.1, 100), st.floats(-0.05, 0.05))
def test_the_interval_is_what_the_two_sided_test_does_not_reject(s: float, v: float, r: float, m0: float) -> None:
    """An effect is outside of the interval exactly when its e-value has reached 1 / alpha."""
    found = Score(s, 100.0, v, 100, 100)
    bounds = interval(found, 0.05, r)
    rejected = log_two_sided_e(found, m0, r) >= -math.log(0.05)
    if abs(m0 - bounds.lower) > 1e-9 and abs(m0 - bounds.upper) > 1e-9 and -1 < bounds.lower and bounds.upper < 1:
        assert rejected == (not bounds.lower <= m0 <= bounds.upper)


def test_rho_is_never_tighter_than_a_few_losses() -> None:
    """A trial planned on a hundred rare losses must not decide on three of them."""
    assert rho(0.05, 100, 0.05, 0.05) == LEAST_RHO


def test_rho_solves_for_the_planned_sample() -> None:
    """V* / (-2 ln a + ln(-2 ln a + 1)) with V* = sd^2 n_t n_c / n."""
    a = -2 * math.log(0.05)
    assert rho(0.3, 1000, 0.5, 0.05) == pytest.approx(0.09 * 500 / (a + math.log(a + 1)))


@given(st.floats(-50, 50), st.floats(0.1, 500), st.floats(0.1, 100))
def test_benefit_and_harm_cannot_both_be_shown(s: float, v: float, r: float) -> None:
    """The two one-sided e-values are mirror images, and at most one of them is above 2."""
    found = Score(s, 100.0, v, 100, 100)
    benefit, harm = log_e(found, 0.0, r), log_harm_e(found, r)
    assert min(benefit, harm) <= math.log(2) + 1e-9
    mirrored = Score(-s, 100.0, v, 100, 100)
    assert log_harm_e(mirrored, r) == pytest.approx(benefit)


@given(st.floats(-0.3, 0.3), st.integers(50, 5000))
def test_the_interval_holds_the_effect_and_narrows_with_the_margin(d: float, n: int) -> None:
    """A higher confidence is a wider interval around the same effect."""
    found = score([stratum(n, 0.5 - d / 2, n, 0.5 + d / 2)])
    r = rho(0.5, 1000, 0.5, 0.05)
    wide, narrow = interval(found, 0.01, r), interval(found, 0.05, r)
    assert wide.lower <= narrow.lower <= found.effect <= narrow.upper <= wide.upper


@given(st.lists(st.floats(-1, 1, width=32), max_size=60), st.floats(-0.05, 0.05))
def test_betting_equals_its_definition_and_never_goes_broke(values: list[float], m0: float) -> None:
    """The vectorised wealth is the loop's, each bet made from the past only."""
    wealth = 0.0
    past: list[float] = []
    for d in values:
        n = len(past)
        mean = sum(past) / (n + 1)
        var = max((sum(x * x for x in past) + 0.25) / (n + 1) - mean * mean, 1e-12)
        bet = min(max(mean / (var + mean * mean), 0.0), 0.5 / (1 + m0))
        wealth += math.log1p(bet * (d - m0))
        past.append(d - m0)
    assert math.isfinite(wealth)
    assert log_paired_e(np.array(values), m0) == pytest.approx(wealth, abs=1e-7)


def test_srm_is_silent_on_the_asked_split_and_loud_on_another() -> None:
    """48/52 is found within 20,000 users, 50/50 is not accused."""
    assert log_srm_e((10_000, 10_000), (0.5, 0.5)) < 0
    assert log_srm_e((9_600, 10_400), (0.5, 0.5)) > math.log(1000)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=200), st.sampled_from([0.05, 0.01]))
def test_the_paired_interval_is_what_the_bets_do_not_reject(values: list[float], alpha: float) -> None:
    """Means within it survive both bets, means clearly outside do not."""
    d = np.array(values, dtype=np.float64)
    bounds = paired_interval(d, alpha)
    bar = math.log(2 / alpha)
    assert -1.0 <= bounds.lower <= bounds.upper <= 1.0
    for outside in (bounds.lower - 0.02, bounds.lower - 0.3):
        if outside > -1.0 + 1e-6:
            assert log_paired_e(d, outside) >= bar - 1e-6
    for outside in (bounds.upper + 0.02, bounds.upper + 0.3):
        if outside < 1.0 - 1e-6:
            assert log_paired_e(-d, -outside) >= bar - 1e-6
    middle = (max(bounds.lower, -0.999) + min(bounds.upper, 0.999)) / 2
    assert max(log_paired_e(d, middle), log_paired_e(-d, -middle)) <= bar + 1e-6


def test_the_paired_interval_covers_at_every_look_and_one_of_errors_does_not() -> None:
    """Peeking at 1.96 standard errors misses the truth in a quarter of the trials; the betting one in at most 5 %."""
    g = np.random.default_rng(3)
    d = (g.random((400, 2000)) < 0.06).astype(np.float64) - (g.random((400, 2000)) < 0.05)
    outside = np.maximum(paired_path(d, 0.01), paired_path(-d, -0.01)) >= math.log(2 / 0.05)
    assert outside.any(axis=1).mean() <= 0.05
    n = np.arange(1, 2001)
    mean = np.cumsum(d, axis=1) / n
    sd = np.sqrt(np.cumsum(d * d, axis=1) / n - mean**2)
    missed = np.abs(mean - 0.01) > 1.96 * sd / np.sqrt(n)
    assert missed[:, 99:].any(axis=1).mean() >= 0.15


def test_no_paired_labels_say_nothing() -> None:
    """The widest interval, no evidence."""
    assert paired_interval(np.zeros(0), 0.05) == Interval(-1.0, 1.0)


def test_units_in_an_arm_without_a_share_prove_the_split_wrong() -> None:
    """A version that was to get nothing got something."""
    assert log_srm_e((100, 1, 0), (1.0, 0.0, 0.0)) == math.inf
    assert log_srm_e((100, 0, 0), (1.0, 0.0, 0.0)) == 0.0


def test_srm_of_three_arms() -> None:
    """50/25/25 is found when it comes as 50/30/20."""
    assert log_srm_e((5_000, 2_500, 2_500), (0.5, 0.25, 0.25)) < 0
    assert log_srm_e((5_000, 3_000, 2_000), (0.5, 0.25, 0.25)) > math.log(1000)
