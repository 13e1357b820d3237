"""The history checker of the ledger's chaos test: silent on what can have happened, loud on what cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.chaos.history import Attempt, Read, Row, check

History = tuple[list[Attempt], list[Row], list[Read]]


@st.composite
def histories(draw: st.DrawFn, least: int = 0) -> History:
    """Moves that take effect one at a time, each within its attempt; some are refused, some never answered."""
    attempts: list[Attempt] = []
    rows: list[Row] = []
    reads: list[Read] = []
    current = {"a": 0, "b": 0}
    champion = {"a": 0, "b": 0}
    for step in range(draw(st.integers(max(least, 0), 25))):
        model = draw(st.sampled_from(["a", "b"])) if least == 0 else "a"
        now = 1_000 * (step + 1)
        start, end = now - draw(st.integers(1, 5_000)), now + draw(st.integers(1, 5_000))
        kind = draw(st.sampled_from(["ok", "ok", "ok", "conflict", "killed", "killed after", "read"]))
        if step < least:
            kind = "ok"
        if kind == "read":
            reads.append(Read(model, current[model], champion[model], start, end))
            continue
        op = f"op{step}"
        if kind == "conflict":
            stale = draw(st.integers(0, max(current[model] - 1, 0)))
            attempts.append(Attempt(op, model, stale, start, end, "conflict"))
        elif kind == "killed":
            attempts.append(Attempt(op, model, current[model], start))
        else:
            revision = current[model] + 1
            unanswered = Attempt(op, model, current[model], start)
            attempts.append(
                replace(unanswered, end=end, outcome="ok", revision=revision) if kind == "ok" else unanswered
            )
            current[model], champion[model] = revision, step
            rows.append(Row(model, revision, step, op))
    return attempts, rows, reads


@given(histories())
def test_what_happened_one_move_at_a_time_is_accepted(history: History) -> None:
    assert check(*history) == []


@given(histories(least=4), st.data())
def test_each_fault_is_found(history: History, data: st.DataObject) -> None:
    """A lost or doubled acknowledgement, a wrong predecessor, a refused move that is there, a stale or early read."""
    attempts, rows, reads = history
    acknowledged = [a for a in attempts if a.outcome == "ok"]
    one = data.draw(st.sampled_from(acknowledged))
    at = attempts.index(one)
    row = next(r for r in rows if r.op == one.op)
    assert one.revision is not None
    assert one.end is not None
    last = max(r.revision for r in rows if r.model == one.model)
    others = [*attempts[:at], *attempts[at + 1 :]]
    fault = data.draw(st.sampled_from(["lost", "twice", "predecessor", "refused", "stale", "early", "foreign", "late"]))
    if fault == "lost":
        rows = [r for r in rows if r is not row]
    elif fault == "twice":
        rows = [*rows, replace(row, revision=last + 1)]
    elif fault == "predecessor":
        attempts = [*others, replace(one, expected=one.expected - 1)]
    elif fault == "refused":
        attempts = [*others, replace(one, outcome="conflict", revision=None)]
    elif fault == "stale":
        reads = [*reads, Read(one.model, one.revision - 1, 0, one.end + 1, one.end + 2)]
    elif fault == "early":
        reads = [*reads, Read(one.model, one.revision, row.champion, one.start - 2, one.start - 1)]
    elif fault == "foreign":
        attempts = others
    else:
        before = [a for a in acknowledged if a.model == one.model and a.revision == one.revision - 1]
        assume(before)
        attempts = [*others, replace(one, start=before[0].start - 9, end=before[0].start - 1)]
    assert check(attempts, rows, reads) != []


def test_a_lost_update_is_named() -> None:
    """Two clients decide on the same revision, and both are told that it worked."""
    rows = [Row("a", 1, 1, "x"), Row("a", 2, 2, "y"), Row("a", 3, 3, "z")]
    attempts = [
        Attempt("x", "a", 0, 0, 1, "ok", 1),
        Attempt("y", "a", 1, 2, 4, "ok", 2),
        Attempt("z", "a", 1, 3, 5, "ok", 3),
    ]
    assert check(attempts, rows) == ["z was decided on revision 1 and follows 2"]


@pytest.mark.parametrize("rows", [[Row("a", 2, 1, "x")], [Row("a", 1, 1, "x"), Row("a", 1, 1, "y")]])
def test_gaps_and_twins_are_found(rows: list[Row]) -> None:
    attempts = [Attempt(row.op, "a", row.revision - 1, 0) for row in rows]
    assert check(attempts, rows) == ["the revisions of a are not 1, 2, 3, …"]
