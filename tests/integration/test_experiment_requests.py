"""What people ask of trials, on a real ledger: who may, what is refused, and what the rows say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry import approvals
from registry.errors import (
    ExperimentInvalid,
    ExperimentUnknown,
    LedgerConflict,
    ModelUnknown,
    NotAllowed,
    PereneError,
    VersionUnknown,
)
from registry.experiment_facts import LOOKS, REQUEST, facts, find, listed, requested
from registry.experiment_options import OPTIONS, checked_options
from registry.experiment_requests import abort, approve, start
from registry.ledger import Ledger
from retrain.trials import looks as trial_looks
from retrain.trials.trial_settings import TrialSettings


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A model with champion 1, and versions 1 to 3 that ann registered."""
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")) as opened:
        opened.move("toy", expected_revision=0, champion=1, actor="ann", reason="first")
        for version in (1, 2, 3):
            approvals.record(opened, "toy", version, kind="registered", actor="ann", digest=f"d{version}")
        yield opened


def running(ledger: Ledger, experiment_id: str, **more: Any) -> None:
    """Write the row of a worker that has begun a trial."""
    trial = {"experiment_id": experiment_id, "champion": 1, "candidate": 2}
    body = {"trial": trial, "entered": True, **more}
    ledger.record_experiment(experiment_id, "toy", state="running", stage="shadow", body=body)


def test_a_start_is_a_row_and_only_one_at_a_time(ledger: Ledger) -> None:
    """The row says who, what and why; a second one is refused while the first waits, runs, or stands by hand."""
    made = start(ledger, "toy", 2, actor="bob", reason="better features", options={"margin": 0.02})
    [row] = ledger.evidence("toy", REQUEST)
    assert row.body == {
        "action": "start",
        "experiment_id": made["experiment_id"],
        "candidate": 2,
        "champion": 1,
        "options": {"margin": 0.02},
        "actor": "bob",
        "reason": "better features",
    }
    assert [(t.state, t.experiment_id) for t in listed(ledger, "toy")] == [("requested", made["experiment_id"])]
    with pytest.raises(LedgerConflict, match="a trial already"):
        start(ledger, "toy", 3, actor="bob", reason="too")
    running(ledger, made["experiment_id"])
    assert requested(ledger, "toy") == []
    with pytest.raises(LedgerConflict, match="a trial already"):
        start(ledger, "toy", 3, actor="bob", reason="too")
    assert ledger.verify() == []


def test_of_two_starts_at_once_the_first_stays(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that was written between look and write wins; the other is closed, and says so."""
    record = ledger.record_evidence

    def late(model: str, kind: str, body: dict[str, Any], **more: Any) -> int:
        monkeypatch.undo()
        start(ledger, "toy", 3, actor="ann", reason="first")
        return record(model, kind, body, **more)

    monkeypatch.setattr(ledger, "record_evidence", late)
    with pytest.raises(LedgerConflict):
        start(ledger, "toy", 2, actor="bob", reason="second")
    [row] = requested(ledger, "toy")
    assert (row.body["candidate"], row.body["actor"]) == (3, "ann")
    assert sorted(t.state for t in listed(ledger, "toy")) == ["aborted", "requested"]


@pytest.mark.parametrize(
    ("model", "candidate", "more", "kind", "words"),
    [
        ("toy", 1, {}, ExperimentInvalid, "is the champion"),
        ("toy", 9, {}, VersionUnknown, "nobody registered"),
        ("toy", 10**40, {}, ExperimentInvalid, "whole number"),
        ("toy", True, {}, ExperimentInvalid, "whole number"),
        ("tou", 2, {}, ModelUnknown, "did you mean 'toy'"),
        ("toy", 2, {"reason": "x" * 10_000_000}, ExperimentInvalid, "too long"),
        ("toy", 2, {"reason": " "}, ExperimentInvalid, "empty"),
        ("toy", 2, {"reason": "\x1b[2J"}, ExperimentInvalid, "no text"),
        ("toy", 2, {"reason": "\u202egood"}, ExperimentInvalid, "no text"),
        ("toy", 2, {"reason": "\ud800"}, ExperimentInvalid, "no text"),
        ("toy", 2, {"actor": "bob\x07"}, ExperimentInvalid, "actor"),
        ("toy", 2, {"actor": ""}, ExperimentInvalid, "actor"),
        ("toy", 2, {"options": {"margn": 1}}, ExperimentInvalid, "did you mean 'margin'"),
        ("toy", 2, {"options": {"margin": math.nan}}, ExperimentInvalid, "margin"),
        ("toy", 2, {"options": {"alpha": 1e999}}, ExperimentInvalid, "alpha"),
        ("toy", 2, {"options": {"margin": True}}, ExperimentInvalid, "margin"),
        ("toy", 2, {"options": {"stages": ["shadow", "ab:1.5"]}}, ExperimentInvalid, "stages"),
        ("toy", 2, {"options": {"stages": ["ab:0.5", "ab:0.2"]}}, ExperimentInvalid, "stages"),
        ("toy", 2, {"options": {"stages": ["shadow"]}}, ExperimentInvalid, "stages"),
        ("toy", 2, {"options": {"stages": "ab:0.5"}}, ExperimentInvalid, "stages"),
        ("toy", 2, {"options": {"others": [3, 9]}}, VersionUnknown, "version 9"),
        ("toy", 2, {"options": {"others": [2]}}, ExperimentInvalid, "twice"),
        ("toy", 2, {"options": {"others": [1]}}, ExperimentInvalid, "twice"),
        ("toy", 2, {"options": {"others": [3, 3]}}, ExperimentInvalid, "others"),
        ("toy", 2, {"options": {"limit": "for ever"}}, ExperimentInvalid, "limit"),
        ("toy", 2, {"options": {f"n{n}": 1 for n in range(99)}}, ExperimentInvalid, "too many"),
    ],
)
def test_what_cannot_be_tried_is_refused(
    ledger: Ledger, model: str, candidate: int, more: dict[str, Any], kind: type[PereneError], words: str
) -> None:
    """Before anything is written, and without repeating what was given."""
    with pytest.raises(kind) as caught:
        start(ledger, model, candidate, **{"actor": "bob", "reason": "why", **more})
    said = f"{caught.value.message} {caught.value.where} {caught.value.hint}"
    assert words in said
    assert len(said) < 500
    assert not set(said) & {"\x1b", "\u202e", "\x07", "\ud800"}
    assert ledger.evidence("toy", REQUEST) == []


def test_the_options_are_those_of_the_settings() -> None:
    """Every option is a field of `[models.NAME.trial]`, and each edge that one takes the other takes too."""
    assert set(OPTIONS) - {"others"} <= set(TrialSettings.model_fields)  # versions to try as well are no setting
    assert set(TrialSettings.model_fields) - set(OPTIONS) == {"guardrails", "outcomes", "rollback_alerts"}
    edges: dict[str, list[Any]] = {
        "margin": [0.0, 1e-9, 0.499, 0.5],
        "alpha": [0.0, 0.2, 0.21],
        "shadow_labels": [29, 30],
        "canary_units": [0, 1],
        "step_labels": [9, 10],
        "min_per_arm": [29, 30],
        "planned_per_arm": [99, 100],
        "promotion": ["auto", "approve", "never"],
        "dwell": ["1h", "90m", "0s", "36500d", "36501d", "9999999d", "x", ""],
        "limit": ["30d", "-1d"],
        "watch": ["7d", "1y"],
        "stages": [
            ["ab:0.5"],
            ["shadow", "canary", "ab:0.5"],
            ["canary", "shadow", "ab:0.5"],
            ["ab:0"],
            [],
            ["ab:nan"],
        ],
    }
    for name, values in edges.items():
        for value in values:
            assert takes(lambda: checked_options({name: value})) == takes(  # noqa: B023
                lambda: TrialSettings.model_validate({name: value})  # noqa: B023
            ), (name, value)


def takes(call: Any) -> bool:
    """Whether a call does not refuse."""
    try:
        call()
    except (PereneError, ValueError):
        return False
    return True


def test_who_registered_a_candidate_may_not_approve_it(ledger: Ledger) -> None:
    """Somebody else may, and once more is the same row; of an ended trial nobody may."""
    made = start(ledger, "toy", 2, actor="ann", reason="mine")
    with pytest.raises(NotAllowed, match="ann registered"):
        approve(ledger, "toy", made["experiment_id"], actor="ann")
    first = approve(ledger, "toy", made["experiment_id"], actor="bob", reason="read it")
    again = approve(ledger, "toy", made["experiment_id"], actor="bob", reason="read it")
    assert first == again
    assert first["approved_by"] == ["bob"]
    [row] = ledger.evidence("toy", approvals.APPROVAL)
    assert (row.body["experiment"], row.body["digest"]) == (made["experiment_id"], "d2")
    abort(ledger, "toy", made["experiment_id"], actor="ann", reason="no")
    with pytest.raises(LedgerConflict, match="has ended: aborted"):
        approve(ledger, "toy", made["experiment_id"], actor="eve")


def test_an_abort_takes_the_candidate_out_at_once(ledger: Ledger) -> None:
    """A deployment row with actor and reason; what waits is closed without one, and ended trials stay as they are."""
    waits = start(ledger, "toy", 2, actor="bob", reason="try")
    abort(ledger, "toy", waits["experiment_id"], actor="eve", reason="not now")
    row = find(ledger, "toy", waits["experiment_id"])
    assert (row.state, row.stage, row.body["why"]) == ("aborted", "done", "abort by eve: not now")
    assert ledger.deployment("toy").revision == 1  # type: ignore[union-attr]
    assert requested(ledger, "toy") == []

    runs = start(ledger, "toy", 2, actor="bob", reason="again")
    running(ledger, runs["experiment_id"])
    ledger.move("toy", expected_revision=1, champion=1, candidate=2, mode="shadow", actor="worker", reason="s")
    made = abort(ledger, "toy", runs["experiment_id"], actor="eve", reason="wrong features")
    now = ledger.deployment("toy")
    assert now is not None
    assert (now.candidate, now.actor, now.reason) == (None, "eve", "abort: wrong features")
    assert made["revision"] == now.revision == 3
    with pytest.raises(LedgerConflict):
        abort(ledger, "toy", runs["experiment_id"], actor="eve", reason="again")
    assert ledger.verify() == []


class Beginning(Ledger):
    """The worker begins the trial while it is being closed."""

    def record_experiment(self, *args: Any, **named: Any) -> None:
        super().record_experiment(*args, **named)
        Ledger(self._engine).move(
            "toy",
            expected_revision=1,
            champion=1,
            candidate=2,
            mode="shadow",
            salt="x",
            actor="worker",
            reason="shadow",
        )


def test_an_abort_leaves_no_candidate_that_entered_at_the_same_moment(ledger: Ledger) -> None:
    """Nobody would look after it; and an end of what never began gives retraining nothing to wait for."""
    asked = start(ledger, "toy", 2, actor="ann", reason="new")
    beginning = Beginning(ledger._engine)
    abort(beginning, "toy", asked["experiment_id"], actor="bea", reason="no")
    now = ledger.deployment("toy")
    assert now is not None
    assert (now.revision, now.candidate, now.actor) == (3, None, "bea")
    trial = ledger.experiments("toy")[0]
    assert (trial.state, trial.stage) == ("aborted", "done")
    assert "now" not in trial.body


def test_a_trial_that_is_over_does_not_go_on(ledger: Ledger) -> None:
    """A worker that read it before it ended may not write that it runs."""
    asked = start(ledger, "toy", 2, actor="ann", reason="new")
    abort(ledger, "toy", asked["experiment_id"], actor="bea", reason="no")
    with pytest.raises(LedgerConflict):
        running(ledger, asked["experiment_id"])
    assert ledger.experiments("toy")[0].stage == "done"


def test_an_abort_leaves_the_candidate_of_somebody_else_alone(ledger: Ledger) -> None:
    """A version that was put there by hand after the request stays."""
    waits = start(ledger, "toy", 2, actor="bob", reason="try")
    ledger.move("toy", expected_revision=1, champion=1, candidate=3, mode="shadow", actor="ann", reason="by hand")
    abort(ledger, "toy", waits["experiment_id"], actor="eve", reason="not now")
    now = ledger.deployment("toy")
    assert now is not None
    assert (now.revision, now.candidate) == (2, 3)
    assert find(ledger, "toy", waits["experiment_id"]).state == "aborted"


def test_an_id_that_is_none_is_told_what_is_near(ledger: Ledger) -> None:
    """Of a mistyped id the right one; of another model's trial nothing is said."""
    made = start(ledger, "toy", 2, actor="bob", reason="try")
    with pytest.raises(ExperimentUnknown) as caught:
        find(ledger, "toy", made["experiment_id"][:-1] + "z")
    assert made["experiment_id"] in caught.value.hint
    with pytest.raises(ExperimentUnknown) as caught:
        find(ledger, "other", made["experiment_id"])
    assert made["experiment_id"] not in caught.value.hint


def test_facts_of_a_trial_are_plain(ledger: Ledger) -> None:
    """Whoever shows them needs no class of the worker's room; looks lie under the name that the worker gives them."""
    running(ledger, "x-1", facts={"effect": 0.1})
    told = facts(find(ledger, "toy", "x-1"))
    assert (told["champion"], told["candidate"], told["state"]) == (1, 2, "running")
    assert trial_looks._name("x-1") == f"{LOOKS}x-1"
