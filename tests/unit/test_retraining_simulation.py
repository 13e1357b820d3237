"""A reduced form of docs/retraining-evidence.md: one stream of each kind."""

from __future__ import annotations

import pytest

from bench.retraining.synthetic import replayed


@pytest.mark.parametrize(("kind", "gained"), [("abrupt", 0.08), ("gradual", 0.12)])
def test_drift_is_answered_with_less_than_half_of_the_deployments(kind: str, gained: float) -> None:
    """Clearly more accurate than never retraining; the schedule deploys 21 times unasked."""
    found = replayed(kind, 1, "trigger")
    assert found["trigger"].gained > gained
    assert 1 <= found["trigger"].deployments <= 10


def test_a_calm_stream_is_left_alone() -> None:
    """No run for harm, and at most one deployment."""
    found = replayed("none", 1, "trigger")
    assert [run for run in found["trigger"].runs if run.reason == "performance"] == []
    assert found["trigger"].deployments <= 1


def test_a_version_comes_back_with_its_world() -> None:
    """Two worlds by turns: a former champion serves again, without a fit of its own."""
    moves = replayed("recurring", 0, "trigger")["trigger"].moves
    assert len({move.version for move in moves}) < len(moves)
