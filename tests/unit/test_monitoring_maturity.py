"""How long labels take: shares only of hours that are old enough, the same however the counts were come by."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from monitoring.watching.maturity import DEPTH, Maturity, facts, forgot, labelled, merge, predicted

HOUR, DAY = 3_600.0, 86_400.0


def seen(pairs: Sequence[tuple[float, float | None]]) -> Maturity:
    """Predictions, by when they were made, and the delay of the label of each."""
    state = Maturity()
    for at, delay in pairs:
        predicted(state, at)
        if delay is not None:
            labelled(state, at, delay)
    return state


def test_shares_are_told_of_hours_that_are_old_enough_only() -> None:
    """Labels of four in five come within an hour, of all within a day; what is younger says nothing."""
    made = [(60.0 * n, 1_800.0 if n % 5 else 40_000.0) for n in range(60 * 24)]
    state = seen([(at, delay if at + delay <= 1.5 * DAY else None) for at, delay in made])
    within = facts(state, 1.5 * DAY)["within"]
    assert within == {"1h": 0.8, "1d": 1.0, "7d": None, "30d": None}
    assert facts(state, 0.5 * HOUR)["within"] == dict.fromkeys(within)


def test_delays_are_told_by_the_end_of_their_bin() -> None:
    """Half within an hour, 95 % within two days; before the first label nothing."""
    state = seen([(0.0, 3_000.0)] * 60 + [(0.0, 1.5 * DAY)] * 39 + [(0.0, 300 * DAY)])
    found = facts(state, 400 * DAY)
    assert (found["labels"], found["p50_s"], found["p95_s"]) == (100, HOUR, 2 * DAY)
    assert facts(Maturity(), 0.0)["p95_s"] is None


def test_a_label_before_its_prediction_took_no_time() -> None:
    """Clocks that disagree make no negative delay, and one beyond a year is told as a year."""
    assert facts(seen([(1e9, -5.0)]), 1e9)["p95_s"] == 1.0
    assert facts(seen([(1e9, 3e9)]), 1e9)["p95_s"] == 365 * DAY


def test_an_hour_that_was_forgotten_says_nothing() -> None:
    """Predictions that left memory before their label make no share look small, or large."""
    state = seen([(0.0, 60.0)] * 100 + [(HOUR, None)] * 100)
    assert facts(state, DAY)["within"]["1h"] == 0.5
    for _ in range(2):
        forgot(state, HOUR)
    assert facts(state, DAY)["within"]["1h"] == 1.0


pairs = st.tuples(st.floats(0, 40 * DAY), st.one_of(st.none(), st.floats(-10, 400 * DAY)))


@given(st.lists(pairs, max_size=40), st.integers(0, 40))
def test_the_counts_of_two_readers_add_up(found: list[tuple[float, float | None]], cut: int) -> None:
    """Merged in either order they are those of one reader of everything, also after a restart."""
    left, right = seen(found[:cut]), seen(found[cut:])
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(left), type=Maturity)
    whole = seen(found)
    for merged in (merge(kept, right), merge(right, kept)):
        assert dict(sorted(merged.cohorts.items())) == dict(sorted(whole.cohorts.items()))


def test_the_state_is_bounded() -> None:
    """A year of hours keeps six weeks of them."""
    state = merge(seen([(HOUR * n, 60.0) for n in range(24 * 365)]), Maturity())
    assert len(state.cohorts) == DEPTH
    assert len(msgspec.msgpack.encode(state)) < 64_000
