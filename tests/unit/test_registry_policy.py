"""Who may promote what: the decision as a function of policy, registrars, approvers and actor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.policy import LedgerPolicy, Standing, refusal

PEOPLE = st.sampled_from(["ann", "bob", "cy", "dora", "worker"])
GROUPS = st.frozensets(PEOPLE, max_size=5)
POLICIES = st.builds(LedgerPolicy, approvals=st.integers(0, 4), separation_of_duties=st.booleans())
STANDINGS = st.builds(Standing, GROUPS, GROUPS)
ACTORS = PEOPLE | st.none()


@given(STANDINGS, ACTORS)
def test_the_default_policy_lets_everybody(standing: Standing, actor: str | None) -> None:
    """Nothing is asked for until somebody asks for it."""
    assert refusal(LedgerPolicy(), standing, actor=actor) is None


@given(POLICIES, STANDINGS, ACTORS)
def test_it_allows_exactly_what_the_rules_say(policy: LedgerPolicy, standing: Standing, actor: str | None) -> None:
    """Enough approvals by others than the registrars; and under separation a known registrar who is somebody else."""
    others = {person for person in standing.approvers if person not in standing.registrars}
    approved = len(others) >= policy.approvals
    separate = bool(standing.registrars) and actor is not None and actor not in standing.registrars
    allowed = approved and (separate or not policy.separation_of_duties)
    assert (refusal(policy, standing, actor=actor) is None) == allowed


@given(POLICIES, STANDINGS, ACTORS, PEOPLE)
def test_one_more_approval_never_hurts(
    policy: LedgerPolicy, standing: Standing, actor: str | None, person: str
) -> None:
    """Who may promote may still when somebody else agrees."""
    more = Standing(standing.registrars, standing.approvers | {person})
    if refusal(policy, standing, actor=actor) is None:
        assert refusal(policy, more, actor=actor) is None


@given(POLICIES, STANDINGS, ACTORS)
def test_approving_one_s_own_work_counts_for_nothing(
    policy: LedgerPolicy, standing: Standing, actor: str | None
) -> None:
    """Approvals by registrars might as well not be there."""
    without = Standing(standing.registrars, standing.approvers - standing.registrars)
    assert refusal(policy, standing, actor=actor) == refusal(policy, without, actor=actor)


def test_a_refusal_names_what_is_missing() -> None:
    """How many approvals, by whom not, and who may not."""
    two = LedgerPolicy(approvals=2, separation_of_duties=True)
    ann = frozenset({"ann"})
    assert refusal(two, Standing(ann, ann | {"bob"}), actor="bob") == (
        "1 of 2 approvals are missing, by people other than ann, who registered it"
    )
    assert refusal(two, Standing(ann, frozenset({"bob", "cy"})), actor="ann") == (
        "ann registered it and may not promote it as well"
    )
    assert refusal(two, Standing(ann, frozenset({"bob", "cy"})), actor="bob") is None


@pytest.mark.parametrize("wrong", [{"approvals": -1}, {"aliases": "obey"}, {"alias_poll_s": 0}, {"approval": 1}])
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    """Negative numbers, unknown words, unknown keys."""
    with pytest.raises(ValidationError):
        LedgerPolicy.model_validate(wrong)
