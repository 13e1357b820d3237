"""Assignment: known vectors, stickiness, monotone ramps, fair shares."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing import Choice, Route, bucket, choose


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
