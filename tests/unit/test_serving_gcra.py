"""The rate of a key: no more than it says over any time, and no less."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.access.gcra import Rate, Verdict, ask, left, settled

rates = st.floats(0.05, 1e5).map(Rate)
arrivals = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 20_000)), min_size=1, max_size=60)


def played(rate: Rate, steps: list[tuple[float, int]]) -> list[tuple[float, int, Verdict]]:
    """Each request's time, cost and verdict, from a caller that has not asked before."""
    told, tat, now = [], 0.0, 1_000.0
    for pause, cost in steps:
        now += pause
        verdict = ask(rate, tat, now, cost)
        tat = verdict.tat
        told.append((now, cost, verdict))
    return told


@given(rates, arrivals)
def test_no_more_passes_than_the_rate_and_a_burst(rate: Rate, steps: list[tuple[float, int]]) -> None:
    """Between any two times; the last of what passed may be larger than a burst, and is owed for."""
    passed = [(now, cost) for now, cost, verdict in played(rate, steps) if verdict.passes]
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span = passed[last][0] - passed[first][0]
            before = sum(cost for _, cost in passed[first:last])
            cost = min(passed[last][1], rate.burst)
            assert before + cost <= rate.per_second * span + rate.burst + max(c for _, c in passed) + 1e-3
            if max(c for _, c in passed) <= rate.burst:
                assert before + cost <= rate.per_second * span + rate.burst * (1 + 1e-6) + 1e-3


@given(rates, arrivals)
def test_who_waits_as_told_passes(rate: Rate, steps: list[tuple[float, int]]) -> None:
    """The time in a refusal is enough, and a refusal costs nothing."""
    tat = 0.0
    for now, cost, verdict in played(rate, steps):
        if not verdict.passes:
            assert verdict.tat == tat
            assert verdict.wait_s > 0
            assert ask(rate, tat, now + verdict.wait_s + 1e-6, cost).passes
            assert not ask(rate, tat, now + verdict.wait_s * 0.99 - 1e-6, cost).passes
        tat = verdict.tat


@given(rates, st.integers(2, 50))
def test_a_caller_at_its_rate_always_passes(rate: Rate, requests: int) -> None:
    """Evenly spaced, however long."""
    told = played(rate, [(1 / rate.per_second, 1)] * requests)
    assert all(verdict.passes for _, _, verdict in told)
    assert all(a[2].tat <= b[2].tat for a, b in pairwise(told))


@given(rates, arrivals)
def test_what_is_said_to_be_left_passes(rate: Rate, steps: list[tuple[float, int]]) -> None:
    """And one more does not."""
    now, _, verdict = played(rate, steps)[-1]
    rest = left(rate, verdict.tat, now)
    assert 0 <= rest <= rate.burst
    if rest:
        assert ask(rate, verdict.tat, now, rest).passes
    if rest + 1 <= rate.burst:
        assert not ask(rate, verdict.tat, now, rest + 1 + 1e-6).passes


@settings(max_examples=50)
@given(rates, st.floats(0, 1e9), st.floats(0, 1e6))
def test_a_clock_that_began_anew_locks_nobody_out(rate: Rate, tat: float, now: float) -> None:
    """A kept time is at most as far ahead as the largest request can have put it; a true one is left alone."""
    kept = settled(rate, tat, now, 10_000)
    assert kept <= now + (rate.burst + 10_000) / rate.per_second
    owed = ask(rate, 0.0, now, 10_000).tat
    assert settled(rate, owed, now, 10_000) == owed
