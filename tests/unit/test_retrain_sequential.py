"""Sequential tests: formulas, invariances, and error rates by seeded simulation (the short form of bench/promotion)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.promotion import simulate
from retrain.trials.sequential import (
    Score,
    Stratum,
    interval,
    log_e,
    log_harm_e,
    log_paired_e,
    log_srm_e,
    rho,
    score,
)


def stratum(n_t: int, mean_t: float, n_c: int, mean_c: float, key: str = "a") -> Stratum:
    """Binary losses with the given means."""
    return Stratum(key, n_t, n_t * mean_t, n_t * mean_t, n_c, n_c * mean_c, n_c * mean_c)


def test_one_stratum_gives_the_difference_of_means() -> None:
    """The effect is positive when the candidate's loss is lower."""
    found = score([stratum(100, 0.2, 300, 0.3)])
    assert found.effect == pytest.approx(0.1)
    assert found.w == 75.0
    assert found.v == pytest.approx(75.0**2 * (0.16 / 99 + 0.21 / 299))


def test_a_stratum_with_few_units_in_an_arm_does_not_count() -> None:
    """Nine treated units say nothing reliable about a variance."""
    assert score([stratum(9, 0.0, 1000, 1.0)]) == Score(0.0, 0.0, 0.0, 0, 0)


def test_log_e_follows_the_written_formula() -> None:
    """ln 2 + 1/2 ln(rho/(V+rho)) + S^2/(2(V+rho)) + ln Phi(S/sqrt(V+rho)), with S shifted by m0."""
    found, m0, r = Score(s=12.0, w=400.0, v=50.0, n_t=800, n_c=800), -0.01, 8.0
    s = 12.0 + 4.0
    phi = 0.5 * (1 + math.erf(s / math.sqrt(58.0) / math.sqrt(2)))
    wanted = math.log(2) + 0.5 * math.log(8 / 58) + s * s / (2 * 58) + math.log(phi)
    assert log_e(found, m0, r) == pytest.approx(wanted, abs=1e-9)


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


def test_srm_false_rate_over_200_looks() -> None:
    """A5: at most 0.1 % reach 1,000; at most 1 % reach 100."""
    found = simulate.srm(runs=2000, users=20_000, looks=200, share=0.5, seed=5)
    assert found["stop"] <= 0.001
    assert found["pause"] <= 0.01


def test_srm_finds_a_wrong_split() -> None:
    """A5: 48/52 is stopped in at least 90 % of trials."""
    assert simulate.srm(runs=300, users=20_000, looks=200, share=0.48, seed=6)["stop"] >= 0.9


@pytest.mark.parametrize("base", ["constant", "trend", "sine"])
@pytest.mark.parametrize("ramped", [False, True])
def test_equal_models_are_rarely_promoted(base: str, ramped: bool) -> None:
    """A1: at most 5 % at equality (superiority) and at the margin (non-inferiority), a look every 200 users."""
    equal = simulate.trials(runs=120, users=12_000, gain=0.0, base=base, ramped=ramped, seed=11)
    margin = simulate.trials(runs=120, users=12_000, gain=-0.01, base=base, ramped=ramped, seed=12)
    assert equal["superiority"] <= 0.05
    assert margin["non_inferiority"] <= 0.05
    assert equal["harm"] <= 0.02


def test_the_naive_pooled_test_fails_beside_it() -> None:
    """Control: the same looks with a pooled z-test promote equal models far beyond 5 %."""
    found = simulate.trials(runs=120, users=12_000, gain=0.0, base="constant", ramped=False, seed=11)
    assert found["naive"] >= 0.15
    assert found["superiority"] <= 0.05


def test_a_better_model_is_promoted_and_a_bad_one_rejected() -> None:
    """A2 and A3, short form: +2 pp within 24k users, -5 pp always."""
    better = simulate.trials(runs=60, users=24_000, gain=0.02, base="constant", ramped=False, seed=21)
    worse = simulate.trials(runs=60, users=12_000, gain=-0.05, base="constant", ramped=False, seed=22)
    assert better["non_inferiority"] >= 0.95
    assert better["superiority"] >= 0.7
    assert worse["harm"] >= 0.99
    assert worse["non_inferiority"] == 0.0


def test_paired_shadow_false_wins_and_power() -> None:
    """A4: false wins at the null stay under 5 %; +2 pp at 10 % disagreement needs about 2,000 labels or fewer."""
    null = simulate.paired(runs=300, labels=3000, disagree=0.10, gain=0.0, seed=31)
    gain = simulate.paired(runs=200, labels=3000, disagree=0.10, gain=0.02, seed=32)
    assert null["won"] <= 0.05
    assert gain["median_labels"] <= 2000
