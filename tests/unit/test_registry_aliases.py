"""What an alias in MLflow calls for, given the ledger's row and what was projected last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.aliases import SETTLING, Finding, Projected, decide
from registry.ledger import Deployment

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + SETTLING
POLICIES: st.SearchStrategy[Literal["follow", "ignore", "revert"]] = st.sampled_from(["follow", "ignore", "revert"])
VERSIONS = st.integers(1, 4)


def row(champion: int = 1, candidate: int | None = None, revision: int = 5) -> Deployment:
    mode: Literal["ab"] | None = "ab" if candidate else None
    return Deployment("toy", revision, champion, candidate, mode, 0.0, "", "a", "r", AT, None, "", "")


@pytest.mark.parametrize(
    ("policy", "finding"),
    [
        ("follow", Finding("follow", "champion", 2)),
        ("ignore", Finding("leave", "champion", 2)),
        ("revert", Finding("revert", "champion", 2)),
    ],
)
def test_a_moved_champion_is_treated_as_the_policy_says(
    policy: Literal["follow", "ignore", "revert"], finding: Finding
) -> None:
    """Ledger and projection agree on version 1, MLflow says 2."""
    assert decide(policy, row(), Projected(5, 1), {"champion": 2}, LATER) == finding


@given(POLICIES, VERSIONS, st.none() | VERSIONS, st.dictionaries(st.sampled_from(["champion", "challenger"]), VERSIONS))
def test_the_ledger_wins_when_it_moved(
    policy: Literal["follow", "ignore", "revert"], champion: int, candidate: int | None, found: dict[str, int]
) -> None:
    """Whatever the aliases say, a row that was not projected yet is projected."""
    for projected in (None, Projected(4, 1)):
        assert decide(policy, row(champion, candidate), projected, found, LATER) == Finding("project")


@given(POLICIES, VERSIONS, st.none() | VERSIONS)
def test_aliases_that_agree_call_for_nothing(
    policy: Literal["follow", "ignore", "revert"], champion: int, candidate: int | None
) -> None:
    found = {"champion": champion, **({"challenger": candidate} if candidate else {}), "theirs": 9}
    projected = Projected(5, champion, candidate)
    assert decide(policy, row(champion, candidate), projected, found, LATER) == Finding("nothing")


@given(POLICIES)
def test_a_row_that_is_still_settling_is_projected(policy: Literal["follow", "ignore", "revert"]) -> None:
    """Another process may be at it, or was killed in the middle: that is nobody's decision."""
    soon = LATER - timedelta(microseconds=1)
    assert decide(policy, row(), Projected(5, 1), {"champion": 2}, soon) == Finding("project")


def test_only_a_champion_can_be_followed() -> None:
    """A champion that was taken away and a challenger that was moved are put back even then."""
    assert decide("follow", row(), Projected(5, 1), {}, LATER) == Finding("revert", "champion", None)
    found = {"champion": 1, "challenger": 3}
    assert decide("follow", row(), Projected(5, 1), found, LATER) == Finding("revert", "challenger", 3)
