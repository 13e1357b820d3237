"""Thompson sampling: propensities that add up, keep their floor, and do not depend on the order of the arms."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import ConfigInvalid
from retrain.trials.bandit import Arm, contrast, propensities
from retrain.trials.sequential import Stratum

arm = st.builds(lambda n, p: Arm(n, round(n * p) * 1.0, round(n * p) * 1.0), st.integers(0, 5_000), st.floats(0, 1))
epochs = st.lists(st.dictionaries(st.integers(1, 4), arm, max_size=4), max_size=5)


@given(epochs, st.permutations([1, 2, 3, 4]), st.floats(0, 0.25))
def test_they_add_up_keep_the_floor_and_ignore_the_order(
    seen: list[dict[int, Arm]], order: list[int], floor: float
) -> None:
    """Whatever was seen."""
    found = propensities(seen, [1, 2, 3, 4], floor=floor)
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-12)
    assert min(found.values()) >= floor - 1e-12
    again = propensities(seen, order, floor=floor)
    assert list(again) == order
    assert again == pytest.approx(found, abs=1e-9)


def test_the_same_state_gives_the_same_numbers() -> None:
    """Two replicas that read the same rows must route alike."""
    seen = [{1: Arm(100, 20.0, 20.0), 2: Arm(90, 12.0, 12.0), 3: Arm(80, 30.0, 30.0)}]
    assert propensities(seen, [1, 2, 3]) == propensities(seen, [1, 2, 3])


def test_nothing_seen_is_an_even_split() -> None:
    """Also when only one arm has labels yet: there is nothing to compare it with."""
    even = pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    assert propensities([], [1, 2, 3]) == even
    assert propensities([{2: Arm(500, 100.0, 100.0)}], [1, 2, 3]) == even


def test_the_chance_of_being_best_is_that_of_sampling() -> None:
    """The quadrature against two hundred thousand draws."""
    seen = {1: Arm(1_000, 200.0, 200.0), 2: Arm(1_000, 180.0, 180.0), 3: Arm(400, 78.0, 78.0)}
    g = np.random.default_rng(0)
    sd = [0.4 / 1_000**0.5, 0.384 / 1_000**0.5, 0.396 / 400**0.5]
    drawn = np.stack([g.normal(m, s, 200_000) for m, s in zip((0.2, 0.18, 0.195), sd, strict=True)])
    sampled = np.bincount(drawn.argmin(axis=0), minlength=3) / 200_000
    found = propensities([seen], [1, 2, 3], floor=0.0, prior_sd=10.0)
    assert list(found.values()) == pytest.approx(sampled.tolist(), abs=0.02)


def test_a_rate_that_moves_does_not_favour_who_had_the_traffic() -> None:
    """Arm 2 got its users in the good epoch: in each epoch the arms are equal."""
    good = {1: Arm(100, 10.0, 10.0), 2: Arm(1_900, 190.0, 190.0)}
    bad = {1: Arm(1_900, 570.0, 570.0), 2: Arm(100, 30.0, 30.0)}
    assert propensities([good, bad], [1, 2])[2] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("arms", "floor"), [([1], 0.05), ([1, 1], 0.05), ([1, 2, 3], 0.4), ([1, 2], -0.1)])
def test_arms_that_cannot_share_the_traffic_are_refused(arms: list[int], floor: float) -> None:
    """One arm, an arm twice, or floors that add up to more than everything."""
    with pytest.raises(ConfigInvalid):
        propensities([], arms, floor=floor)


def test_the_test_takes_a_stratum_of_each_epoch() -> None:
    """Epochs have different weights, and are never put together."""
    seen = [{1: Arm(50, 10.0, 10.0), 2: Arm(30, 5.0, 5.0)}, {1: Arm(60, 12.0, 12.0)}]
    assert contrast(seen, champion=1, candidate=2) == (
        Stratum("0/", 30, 5.0, 5.0, 50, 10.0, 10.0),
        Stratum("1/", 0, 0.0, 0.0, 60, 12.0, 12.0),
    )


@given(arm)
def test_arms_are_kept_as_json(one: Arm) -> None:
    """Evidence can be read back."""
    assert Arm.from_list(json.loads(json.dumps(one.to_list()))) == one
