"""What `perene experiment` asks for, as calls: checked against MLflow and the settings before the ledger is written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from pydantic import ValidationError

from perene.api import actor, examiner, open_store
from perene.config import Settings
from perene.experiments import found
from registry import experiment_requests as requests
from registry.errors import ExperimentInvalid
from registry.ledger import Ledger
from retrain.settings import WatchSettings
from retrain.trials.trial_settings import TrialSettings

__all__ = ["abort", "approve", "start"]


def start(
    settings: Settings,
    model: str,
    candidate: int,
    *,
    reason: str,
    options: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Ask for a trial of `candidate`, once it is found certified, loadable and no surprise to callers.

    Raises:
        ModelUnknown, VersionUnknown, ExperimentInvalid, LedgerConflict: it cannot be tried now.
        NotAllowed, BundleCorrupt: the candidate is refused, or callers of the champion would break.
        StoreUnavailable: MLflow or the ledger does not answer; nothing was asked for.
    """
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:

        def check(champion: int, version: int) -> None:
            examiner(settings, ledger, open_store(settings)).examine_candidate(model, version, champion=champion)

        reason = requests.check_reason(reason)
        deployment, chosen = requests.check_start(ledger, model, candidate, options, registered=True)
        _obeyed(settings.models.get(model, WatchSettings()).trial, chosen)
        if dry_run:
            for version in (candidate, *chosen.get("others", ())):
                check(deployment.champion, version)
            told = {"model": model, "champion": deployment.champion, "candidate": candidate, "options": chosen}
            return {"dry_run": True, **told, "reason": reason}
        return requests.start(ledger, model, candidate, actor=actor(), reason=reason, options=options, check=check)


def approve(settings: Settings, identifier: str, *, reason: str, dry_run: bool = False) -> dict[str, Any]:
    """Approve the candidate of a trial; twice by the same person is once.

    Raises:
        ExperimentUnknown, LedgerConflict, NotAllowed: there is no such trial, it has ended, or this person may not.
    """
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        trial = found(ledger, identifier)
        if dry_run:
            candidate, _ = requests.check_approve(ledger, trial.model, trial.experiment_id, actor=actor())
            told = {"experiment_id": trial.experiment_id, "candidate": candidate, "by": actor()}
            return {"dry_run": True, **told}
        return requests.approve(ledger, trial.model, trial.experiment_id, actor=actor(), reason=reason)


def abort(settings: Settings, identifier: str, *, reason: str, dry_run: bool = False) -> dict[str, Any]:
    """End a trial at once; asks neither MLflow nor the policy.

    Raises:
        ExperimentUnknown, LedgerConflict: there is no such trial, or it has ended.
        ExperimentInvalid: the reason cannot be kept.
    """
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        trial = found(ledger, identifier)
        if dry_run:
            requests.check_reason(reason)
            requests.check_abort(ledger, trial.model, trial.experiment_id)
            now = ledger.deployment(trial.model)
            told = {"experiment_id": trial.experiment_id, "model": trial.model}
            return {"dry_run": True, **told, "candidate": now.candidate if now else None}
        made = requests.abort(ledger, trial.model, trial.experiment_id, actor=actor(), reason=reason)
        return {"model": trial.model, **made}


def _obeyed(settings: TrialSettings, options: Mapping[str, Any]) -> None:
    """Refuse options that the worker would: an outcome that no table names, for example."""
    own = {name: value for name, value in options.items() if name != "others"}  # no setting: versions to try as well
    try:
        TrialSettings.model_validate({**settings.model_dump(), **own})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ExperimentInvalid(
            f"the options cannot be obeyed: {first['msg'].removeprefix('Value error, ')}",
            where=".".join(("options", *map(str, first["loc"]))),
            hint="outcomes are named in [models.NAME.trial.outcomes]" if "metric" in first["msg"] else "",
        ) from None
