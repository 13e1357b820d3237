"""Assignment: known vectors, stickiness, monotone ramps, fair shares."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.routing import Segment, Share, When
from serving.routing import Choice, Route, Rule, arm_of, bucket, choose


def test_bucket_is_the_documented_formula() -> None:
    """First eight bytes of SHA-256 over salt, unit separator and entity, big endian, over 2^64."""
    import hashlib

    for salt, entity in (("s", "a"), ("", ""), ("perene", "UA1-20130401-EWR"), ("ü", "é")):
        raw = hashlib.sha256(salt.encode() + b"\x1f" + entity.encode()).digest()
        expected = sum(byte / 256 ** (i + 1) for i, byte in enumerate(raw[:8]))
        assert bucket(salt, entity) == pytest.approx(expected, abs=1e-15)


def test_without_a_trial_the_champion_answers() -> None:
    """And nobody else is asked."""
    assert choose(Route(3), "x") == Choice(3, "champion", None)


def test_in_shadow_the_champion_answers_and_the_candidate_is_asked() -> None:
    """The caller never sees the candidate."""
    assert choose(Route(3, 4, "shadow", 1.0, "s"), "x") == Choice(3, "champion", 4)


@given(st.text(), st.text(max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_ramps_are_monotone(entity: str, salt: str, a: float, b: float) -> None:
    """Who is treated at a smaller share is treated at a larger one."""
    small, large = sorted((a, b))
    if choose(Route(1, 2, "ab", small, salt), entity).arm == "candidate":
        assert choose(Route(1, 2, "ab", large, salt), entity).arm == "candidate"


@given(st.text(), st.text(max_size=8))
def test_the_ends_of_the_ramp(entity: str, salt: str) -> None:
    """0 treats nobody, 1 treats everybody."""
    assert choose(Route(1, 2, "ab", 0.0, salt), entity).version == 1
    assert choose(Route(1, 2, "canary", 1.0, salt), entity).version == 2


def test_shares_are_fair_and_salts_independent() -> None:
    """Within four standard errors over 20,000 entities."""
    n, weight = 20_000, 0.25
    first = [choose(Route(1, 2, "ab", weight, "one"), str(i)).version == 2 for i in range(n)]
    second = [choose(Route(1, 2, "ab", weight, "two"), str(i)).version == 2 for i in range(n)]
    error = math.sqrt(weight * (1 - weight) / n)
    assert abs(sum(first) / n - weight) < 4 * error
    both = sum(a and b for a, b in zip(first, second, strict=True)) / n
    assert abs(both - weight**2) < 4 * math.sqrt(weight**2 * (1 - weight**2) / n)


WEIGHTS = st.lists(st.floats(0, 0.25), min_size=4, max_size=4)


def arms(weights: list[float]) -> tuple[Share, ...]:
    """Versions 2, 3, … with these weights."""
    return tuple(Share(number, weight) for number, weight in enumerate(weights, 2))


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1, exclude_max=True))
def test_of_two_arms_one_grows_from_the_champion_alone(one: float, other: float, more: float, drawn: float) -> None:
    """Whatever the other has: entities go from the champion to the arm, and nowhere else."""
    small, large = sorted((one, more))
    for before, after, arm in (
        (arms([small, other]), arms([large, other]), 2),
        (arms([other, small]), arms([other, large]), 3),
    ):
        was, is_now = arm_of(before, drawn), arm_of(after, drawn)
        assert was == is_now or (was, is_now) == (None, arm)


@given(WEIGHTS, st.integers(0, 3), st.floats(0, 0.25))
def test_of_more_arms_a_change_moves_those_further_in_by_as_much(
    weights: list[float], changed: int, weight: float
) -> None:
    """The other side does not move at all, nor do arms further out."""
    after = [*weights]
    after[changed] = weight
    grid = [n / 400 for n in range(400)]
    was, now = ([arm_of(arms(some), drawn) for drawn in grid] for some in (weights, after))
    moved = {arm for pair in zip(was, now, strict=True) if pair[0] != pair[1] for arm in pair if arm is not None}
    assert moved <= {number + 2 for number in range(changed, 4, 2)}


def test_a_route_without_one_of_its_candidates_tries_none() -> None:
    """And says that it is not the ledger's any more; segments fall to the champion and leave the trial alone."""
    gold = Segment(When(header="x-tenant", values=("gold",)), 5)
    route = Route(1, 2, "ab", 0.25, "s", arms([0.25, 0.5]), (Rule.of(gold),), revision=7)
    assert route.versions == (1, 2, 3, 5)
    assert route.among({1, 2, 3, 5}) is route
    without = route.among({1, 2, 3})
    assert (without.rules[0].version, without.revision, without.arms) == (1, 7, route.arms)
    alone = route.among({1, 2, 5})
    assert (alone.candidate, alone.arms, alone.revision, alone.rules) == (None, (), 0, route.rules)
    assert choose(alone, "x") == Choice(1, "champion")


def test_a_draw_says_what_it_drew() -> None:
    """Also the champion's; without a draw there is nothing to say."""
    assert choose(Route(1, 2, "ab", 1.0, "s"), "x").assigned == 2
    assert choose(Route(1, 2, "ab", 0.0, "s"), "x").assigned == 1
    assert choose(Route(1, 2, "shadow", 1.0, "s"), "x").assigned == 0
    assert choose(Route(1), "x").assigned == 0
