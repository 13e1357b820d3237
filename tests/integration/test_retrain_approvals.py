"""The worker promotes what it trained only once the people that the policy asks for have agreed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from registry import approvals
from registry.ledger import Ledger
from registry.policy import LedgerPolicy
from retrain.trials.approvals import ACTOR, waits_for


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")) as opened:
        approvals.record(opened, "toy", 2, kind="registered", actor=ACTOR, digest="d")
        yield opened


def approve(ledger: Ledger, actor: str, version: int = 2) -> None:
    approvals.record(ledger, "toy", version, kind="approval", actor=actor, digest="d")


def test_without_rules_it_waits_for_nobody(ledger: Ledger) -> None:
    assert waits_for(ledger, LedgerPolicy(), "toy", 2) is None


def test_a_trial_that_is_to_be_approved_waits_for_one_person(ledger: Ledger) -> None:
    """Not for its own approval, nor for that of another version."""
    approve(ledger, ACTOR)
    approve(ledger, "ann", version=3)
    why = waits_for(ledger, LedgerPolicy(), "toy", 2, by_people=True)
    assert why == "1 of 1 approvals are missing, by people other than worker, who registered it"
    approve(ledger, "ann")
    assert waits_for(ledger, LedgerPolicy(), "toy", 2, by_people=True) is None


def test_the_installation_s_policy_holds_for_the_worker_too(ledger: Ledger) -> None:
    """Its approvals, and that who registers does not promote alone."""
    two, separate = LedgerPolicy(approvals=2), LedgerPolicy(separation_of_duties=True)
    assert waits_for(ledger, two, "toy", 2) is not None
    assert waits_for(ledger, separate, "toy", 2) is not None
    approve(ledger, "ann")
    assert waits_for(ledger, two, "toy", 2) is not None
    assert waits_for(ledger, separate, "toy", 2) is None
    approve(ledger, "bob")
    assert waits_for(ledger, two, "toy", 2) is None
