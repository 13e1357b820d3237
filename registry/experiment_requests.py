"""What people ask of trials: start one, approve its candidate, end it. Checked here, and written to the ledger.

A start is a row of evidence that the worker takes up in its next turn: what it decides is written by it alone. An end
takes effect at once, as a deployment of its own. Commands and HTTP share all of this.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Final

from registry import approvals
from registry.errors import ExperimentInvalid, LedgerConflict, ModelUnknown, NotAllowed, VersionUnknown
from registry.experiment_facts import REQUEST, did_you_mean, ended, find, latest, requested
from registry.experiment_options import checked_options
from registry.ledger import Deployment, Experiment, Ledger
from registry.ledger.rows import utc_now
from registry.names import check_name
from registry.routing import LARGEST_VERSION

__all__ = ["abort", "approve", "check_abort", "check_approve", "check_reason", "check_start", "start"]

MOST_REASON: Final = 2_000
MOST_ACTOR: Final = 120
"""What the ledger's column holds, with room for how the actor came."""
_TRIES: Final = 5

Check = Callable[[int, int], None]
"""Told the champion and the candidate: raises where the candidate is refused, or callers would break."""


def check_reason(reason: str) -> str:
    """A reason as the ledger may keep it and terminals may show it.

    Raises:
        ExperimentInvalid: it is empty, too long, or holds what a terminal would obey.
    """
    found = reason.strip()
    if not found or len(found) > MOST_REASON:
        raise ExperimentInvalid(
            "the reason is empty or too long", where="reason", expected=f"1-{MOST_REASON} characters"
        )
    _check_plain(found, "reason")
    return found


def check_start(
    ledger: Ledger,
    model: str,
    candidate: int,
    options: Mapping[str, Any] | None = None,
    *,
    registered: bool = False,
) -> tuple[Deployment, dict[str, Any]]:
    """Whether a trial of `candidate` could begin now; returns the deployment and the options in their own form.

    Args:
        ledger: where it would be asked for.
        model: name of the model.
        candidate: a version.
        options: instead of what the model's settings say, by name.
        registered: somebody else looks whether the candidate is registered: the ledger does not know all versions.

    Raises:
        ModelUnknown: the model was never deployed.
        VersionUnknown: nobody registered the candidate.
        ExperimentInvalid: it is the champion, or an option cannot be.
        LedgerConflict: a trial runs, or is asked for.
    """
    deployment = _deployed(ledger, model)
    found = checked_options(options or {})
    if type(candidate) is not int or not 0 < candidate <= LARGEST_VERSION:
        raise ExperimentInvalid("a version is a whole number from 1", where="candidate", expected="for example 3")
    if candidate == deployment.champion:
        raise ExperimentInvalid(
            f"version {candidate} is the champion of '{model}', and cannot be tried against itself",
            where="candidate",
            expected="another version",
        )
    known = sorted({int(row.body["version"]) for row in ledger.evidence(model, approvals.REGISTERED, limit=10_000)})
    others = found.get("others", ())
    if {candidate, deployment.champion} & set(others):
        raise ExperimentInvalid("a version is in the trial twice", where="options.others", expected="other candidates")
    unknown = next((version for version in (candidate, *others) if version not in known), None)
    if unknown is not None and not registered:
        raise VersionUnknown(
            f"nobody registered a version {unknown} of '{model}'",
            where="candidate",
            expected=", ".join(map(str, known[-10:])),
            hint=f"perene models {model}",
        )
    running = latest(ledger, model)
    if running is not None and not ended(running):
        raise _second(model, running.experiment_id)
    waiting = requested(ledger, model)
    if waiting:
        raise _second(model, str(waiting[0].body["experiment_id"]))
    if deployment.candidate is not None:
        raise LedgerConflict(
            f"version {deployment.candidate} of '{model}' is a candidate already, by {deployment.actor}",
            where="candidate",
            hint="end that first: promote or roll back",
        )
    return deployment, found


def start(
    ledger: Ledger,
    model: str,
    candidate: int,
    *,
    actor: str,
    reason: str,
    options: Mapping[str, Any] | None = None,
    check: Check | None = None,
) -> dict[str, Any]:
    """Ask for a trial; returns the request as it was written down.

    Args:
        ledger: where it is asked for.
        model: name of the model.
        candidate: a registered version.
        actor: who asks.
        reason: why.
        options: instead of what the model's settings say, by name.
        check: looks at the candidate itself, where somebody can; else it is one that the ledger saw registered.

    Raises:
        ModelUnknown, VersionUnknown, ExperimentInvalid, LedgerConflict: as `check_start`; and as `check` raises.
        StoreUnavailable: the ledger does not answer.
    """
    reason = check_reason(reason)
    _check_actor(actor)
    deployment, found = check_start(ledger, model, candidate, options, registered=check is not None)
    if check is not None:
        for version in (candidate, *found.get("others", ())):
            check(deployment.champion, version)
    body = {
        "action": "start",
        "experiment_id": f"x-{utc_now():%Y%m%d}-{secrets.token_hex(4)}",
        "candidate": candidate,
        "champion": deployment.champion,
        "options": found,
        "actor": actor,
        "reason": reason,
    }
    row = ledger.record_evidence(model, REQUEST, body)
    first = min(requested(ledger, model), key=lambda other: other.id, default=None)
    if first is not None and first.id < row:  # somebody else asked at the same moment, and was first
        _close(ledger, model, body, actor, "another trial was asked for at the same time")
        raise _second(model, str(first.body["experiment_id"]))
    return {**body, "evidence": row}


def approve(ledger: Ledger, model: str, experiment_id: str, *, actor: str, reason: str = "") -> dict[str, Any]:
    """Approve the candidate of a trial that has not ended, as a row of evidence; twice by the same person is once.

    Raises:
        ModelUnknown, ExperimentUnknown: there is no such trial.
        LedgerConflict: it has ended.
        NotAllowed: who approves has registered the candidate, or nobody knows what was registered.
    """
    reason = check_reason(reason) if reason else ""
    candidate, digest = check_approve(ledger, model, experiment_id, actor=actor)
    row = approvals.record(
        ledger, model, candidate, kind="approval", actor=actor, digest=digest, reason=reason, experiment=experiment_id
    )
    approvers = sorted(approvals.standing(ledger, model, candidate, digest).approvers)
    return {"experiment_id": experiment_id, "candidate": candidate, "evidence": row, "approved_by": approvers}


def check_approve(ledger: Ledger, model: str, experiment_id: str, *, actor: str) -> tuple[int, str]:
    """Whether `actor` may approve the candidate of a trial; returns the candidate and its digest.

    Raises:
        ModelUnknown, ExperimentUnknown, LedgerConflict, NotAllowed: as `approve`.
    """
    check_name(model)
    _check_actor(actor)
    trial = find(ledger, model, experiment_id)
    if ended(trial) or trial.stage == "watch":  # promoted already
        raise _over(trial)
    candidate = _candidate(trial)
    rows = [row.body for row in ledger.evidence(model, approvals.REGISTERED, limit=10_000)]
    digest = next((str(body["digest"]) for body in rows if body.get("version") == candidate), None)
    if digest is None:
        raise NotAllowed(
            f"nobody knows who registered version {candidate} of '{model}'",
            where="candidate",
            hint=f"perene approve {model} {candidate} asks MLflow",
        )
    if actor in approvals.standing(ledger, model, candidate).registrars:
        raise NotAllowed(
            f"{actor} registered version {candidate} of '{model}', and may not approve it as well",
            where="policy",
            hint="let somebody else approve it",
        )
    return candidate, digest


def check_abort(ledger: Ledger, model: str, experiment_id: str) -> Experiment:
    """The trial, if there is something to end.

    Raises:
        ExperimentUnknown, LedgerConflict: as `abort`.
    """
    check_name(model)
    trial = find(ledger, model, experiment_id)
    if ended(trial):
        raise _over(trial)
    return trial


def abort(ledger: Ledger, model: str, experiment_id: str, *, actor: str, reason: str) -> dict[str, Any]:
    """End a trial, or the watch after it: the candidate answers nobody any more. The worker closes its books.

    Raises:
        ModelUnknown, ExperimentUnknown: there is no such trial.
        ExperimentInvalid: the reason cannot be kept.
        LedgerConflict: it has ended, or the deployment keeps moving.
    """
    _check_actor(actor)
    reason = check_reason(reason)
    trial = check_abort(ledger, model, experiment_id)
    deployment, moved = _taken_out(ledger, model, trial, actor, reason)
    if not moved:
        if trial.body.get("entered"):  # the worker has moved, and closes it in its next turn
            raise _over(trial)
        _close(ledger, model, trial.body, actor, reason)
        deployment, _ = _taken_out(ledger, model, trial, actor, reason)  # begun at the same moment
    return {"experiment_id": experiment_id, "revision": deployment.revision, "champion": deployment.champion}


def _taken_out(ledger: Ledger, model: str, trial: Experiment, actor: str, reason: str) -> tuple[Deployment, bool]:
    """The deployment without the trial's candidate, and whether it had to be moved for that."""
    for _ in range(_TRIES):
        deployment = _deployed(ledger, model)
        if deployment.candidate not in _versions(trial):
            return deployment, False
        try:
            return ledger.move(
                model,
                expected_revision=deployment.revision,
                champion=deployment.champion,
                actor=actor,
                reason=f"abort: {reason}",
            ), True
        except LedgerConflict:  # the worker moved at the same moment: look again
            continue
    raise LedgerConflict(f"the deployment of '{model}' keeps moving", where="model", hint="try again")


def _close(ledger: Ledger, model: str, body: Mapping[str, Any], actor: str, reason: str) -> None:
    """End what never began: no time of the model's clock is written, for nothing has to cool down after it."""
    more = {"why": f"abort by {actor}: {reason}", "actor": actor}
    experiment_id = str(body.get("experiment_id") or body["trial"]["experiment_id"])
    ledger.record_experiment(experiment_id, model, state="aborted", stage="done", body={**body, **more})


def _versions(trial: Experiment) -> set[int]:
    """Who answers beside the champion while it runs: a candidate, or in the watch the former champion."""
    about = trial.body.get("trial") or trial.body
    return {int(v) for v in (about["candidate"], about["champion"], *about.get("others", ()))}


def _candidate(trial: Experiment) -> int:
    return int((trial.body.get("trial") or trial.body)["candidate"])


def _deployed(ledger: Ledger, model: str) -> Deployment:
    check_name(model)
    deployment = ledger.deployment(model)
    if deployment is None:
        near = did_you_mean(model, ledger.deployments())
        raise ModelUnknown(f"model '{model}' has no deployment", where="model", hint=near or "perene status lists them")
    return deployment


def _check_actor(actor: str) -> None:
    if not actor or len(actor) > MOST_ACTOR:
        raise ExperimentInvalid("the actor has no name", where="actor", expected=f"1-{MOST_ACTOR} characters")
    _check_plain(actor, "actor")


def _check_plain(text: str, where: str) -> None:
    # Cc, Cf: what terminals obey, and what turns the order of letters; Cs: halves of letters; Co, Cn: no letters
    if any(unicodedata.category(letter)[0] == "C" and letter != "\n" for letter in text):
        raise ExperimentInvalid(
            f"the {where} holds characters that are no text",
            where=where,
            expected="letters, without control characters",
        )


def _second(model: str, experiment_id: str) -> LedgerConflict:
    return LedgerConflict(
        f"'{model}' has a trial already",
        where="model",
        got=experiment_id,
        hint=f"perene experiment show {experiment_id}, or abort it first",
    )


def _over(trial: Experiment) -> LedgerConflict:
    state = "its candidate answers nobody" if trial.state == "running" else trial.state.replace("_", " ")
    return LedgerConflict(
        f"trial {trial.experiment_id} has ended: {state}",
        where="id",
        hint=f"perene experiment show {trial.experiment_id}",
    )
