"""The short form of bench/promotion: error rates and power of the trial's tests, with the usual rules as controls."""

from __future__ import annotations

from typing import Any

import pytest

from bench.promotion import agreement, attacks, guarded, shadow, split
from bench.promotion.rules import judged
from bench.promotion.traffic import RAMP, Scenario

FIXED = ((1.0, 0.5),)


@pytest.mark.parametrize("loss", ["binary", "heavy"])
@pytest.mark.parametrize("base", ["constant", "trend", "falling", "sine"])
@pytest.mark.parametrize("weights", [FIXED, RAMP], ids=["fixed", "ramped"])
def test_equal_models_are_rarely_promoted(loss: Any, base: Any, weights: Any) -> None:
    """A1: at most 5 % at equality (superiority) and at the margin (non-inferiority), a look every 200 users."""
    common: dict[str, Any] = {"users": 12_000, "loss": loss, "base": base, "weights": weights}
    equal = judged(Scenario(**common), runs=200, seed=11)
    worse = judged(Scenario(gain=-0.01, **common), runs=200, seed=12)
    assert equal.share("superiority") <= 0.05
    assert worse.share("non_inferiority") <= 0.05
    assert equal.share("harm") <= 0.02


def test_a_z_test_at_every_look_promotes_equal_models() -> None:
    """Control: the same looks with a z-test promote a fifth; one that has lower losses by points nearly always."""
    found = judged(Scenario(users=12_000), runs=300, seed=11)
    assert found.share("z") >= 0.15
    assert found.share("points") >= 0.8
    assert found.share("superiority") <= 0.05


def test_a_pooled_z_test_is_fooled_by_a_ramp_while_the_rate_falls() -> None:
    """Control: the candidate gets its traffic when errors are rarer; strata see through that."""
    found = judged(Scenario(base="falling", weights=RAMP), runs=200, seed=13)
    assert found.share("z_once") >= 0.9
    assert found.share("superiority") <= 0.05


@pytest.mark.parametrize(
    "labels",
    [
        {"delay": "exponential"},
        {"delay": "weekly"},
        {"delay": "weekly", "loss": "heavy"},
        {"missing": (0.3, 0.3)},
        {"missing": (0.5, 0.1)},
        {"missing": (0.5, 0.1), "loss": "heavy"},
    ],
    ids=str,
)
def test_late_and_missing_labels_do_not_promote(labels: dict[str, Any]) -> None:
    """Late, missing, and missing more often in one arm: at most 5 %, while the rate moves and the split is ramped."""
    common: dict[str, Any] = {"users": 12_000, "base": "trend", "weights": RAMP, **labels}
    assert judged(Scenario(**common), runs=200, seed=14).share("superiority") <= 0.05
    assert judged(Scenario(gain=-0.01, **common), runs=200, seed=15).share("non_inferiority") <= 0.05


def test_labels_that_are_missing_because_of_the_answer_fool_every_test() -> None:
    """The limit: no test on labels can see those that never come; the rate of labels can."""
    assert judged(Scenario(hidden=0.2), runs=100, seed=16).share("superiority") >= 0.9
    truth = guarded.Truth(champion=1.0, candidate=0.96)  # a fifth of the bad fifth
    assert guarded.rates(truth, runs=100, seed=17, tolerance=0.01, both_ways=True, centre=0.9)["fired"] >= 0.9


def test_a_better_model_is_promoted_and_a_bad_one_sent_back() -> None:
    """A2 and A3: +2 points within 24,000 users; -5 points always, within 2,000 treated."""
    better = judged(Scenario(gain=0.02), runs=200, seed=21)
    worse = judged(Scenario(gain=-0.05), runs=200, seed=22)
    assert better.share("non_inferiority") >= 0.95
    assert better.share("superiority") >= 0.7
    assert worse.share("harm") >= 0.99
    assert sorted(worse.treated["harm"])[100] <= 2_000
    assert worse.share("non_inferiority") == 0.0


def test_paired_shadow_false_wins_and_power() -> None:
    """A4: false wins stay under 5 %, where a z-test has five times as many; +2 points takes about 2,000 labels."""
    null = shadow.paired(runs=1_000, labels=3_000, disagree=0.10, gain=0.0, seed=31)
    heavy = shadow.paired(runs=300, labels=2_000, kind="heavy", gain=0.0, seed=33)
    gain = shadow.paired(runs=300, labels=4_000, disagree=0.10, gain=0.02, seed=32)
    assert null["won"] <= 0.05
    assert null["z_peeking"] >= 0.15
    assert heavy["won"] <= 0.05
    assert gain["median_labels"] <= 2_000


def test_the_sample_ratio_is_checked_without_crying_wolf() -> None:
    """A5: stops at most 0.1 % of sound splits in 200 looks, and nine tenths of 48/52."""
    common: dict[str, Any] = {"users": 20_000, "looks": 200}
    sound = split.srm(runs=2_000, shares=(0.5, 0.5), true=(0.5, 0.5), seed=5, **common)
    skewed = split.srm(runs=300, shares=(0.5, 0.5), true=(0.48, 0.52), seed=6, **common)
    assert sound["stop"] <= 0.001
    assert sound["pause"] <= 0.01
    assert sound["chi_square_peeking"] >= 0.3
    assert skewed["stop"] >= 0.9


def test_formulas_agree_with_an_independent_implementation() -> None:
    """A6: mixtures, boundaries, confidence sequence and sample ratio equal those of `ville` to 1e-9."""
    worst = agreement.differences(cases=60, seed=7)
    assert set(worst) == {"two-sided mixture", "one-sided boundary", "confidence sequence", "sample ratio"}
    assert max(worst.values()) <= 1e-9


def test_the_law_of_assignment() -> None:
    """A10: the same answer every time, a split within 3 sigma, and a ramp that lets nobody go."""
    found = split.assigned(50_000)
    assert found["same"] == 1.0
    assert found["sigma"] <= 3.0
    assert found["lost_by_ramp"] == 0


@pytest.mark.parametrize(("weight", "level"), [(0.05, 0.005), (0.05, 0.2), (0.5, 0.002)])
def test_days_with_twenty_users_and_rare_losses(weight: float, level: float) -> None:
    """Many small strata, rare losses and a plan of 300 labels: still at most 5 %."""
    common: dict[str, Any] = {"users": 12_000, "block": 20, "weights": ((1.0, weight),), "level": level}
    planned: dict[str, Any] = {"sd": level**0.5, "planned": 300}
    assert judged(Scenario(**common), runs=400, seed=41, **planned).share("superiority") <= 0.05
    assert judged(Scenario(gain=-0.01, **common), runs=400, seed=42, **planned).share("non_inferiority") <= 0.05


def test_an_entity_that_comes_back_is_one_unit() -> None:
    """Counted anew every day it makes equal models differ; counted once it does not."""
    found = attacks.returning(runs=300, seed=43)
    assert found["every_day"] >= 0.08
    assert found["once"] <= 0.05
    assert attacks.returning_in_a_ramp(runs=200, seed=46, come=0.3) <= 0.05


def test_a_bandit_that_moves_the_traffic_does_not_promote_equal_candidates() -> None:
    """The traffic moves while the rate rises: the e-test by epoch stays under 5 %, and finds the best."""
    same = attacks.bandit(runs=40, seed=44, gains=(0.0, 0.0), epochs=10)
    best = attacks.bandit(runs=20, seed=45, gains=(0.06, -0.05), epochs=20)
    assert same["promoted"] <= 0.05
    assert best["best_promoted"] >= 0.8
    assert best["best_share"] >= 0.6
