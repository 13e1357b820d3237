"""Segments of a deployment: looked up and changed, once their versions are found fit to answer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from perene.api import actor, configured, examiner, open_store
from perene.config import Settings
from registry.errors import LedgerConflict, ModelUnknown
from registry.ledger import Deployment, Ledger
from registry.names import check_name
from registry.routing import Routing, check_routing, routing_from

__all__ = ["route", "routing_of"]


def routing_of(name: str, *, settings: Settings | None = None) -> Routing:
    """What the present deployment says of routing.

    Raises:
        ModelUnknown: the model was never deployed.
    """
    check_name(name)
    settings = settings or configured()
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        return _deployed(ledger, name).routing or Routing(segments=())


def route(
    name: str, body: Mapping[str, Any], *, reason: str, by: str | None = None, settings: Settings | None = None
) -> Deployment:
    """Give a deployed model these segments, instead of those that it has.

    Each version must be as fit as a champion: registered, certified, loadable, allowed by the policy, and no surprise
    to callers of the champion.

    Args:
        name: the model.
        body: `{"segments": [{"when": {"header" or "column": …, "in": […]}, "version": …}]}`.
        reason: goes to the ledger.
        by: whom it is done for, where a service acts for people; by default this account.
        settings: where the stores are; by default from `perene.toml` and the environment.

    Raises:
        LedgerConflict: the segments cannot be, a trial is under way, or somebody moved at the same time.
        ModelUnknown, VersionUnknown: the model is not deployed, or has no such version.
        NotAllowed, BundleCorrupt: a version is not fit.
    """
    check_name(name)
    settings = settings or configured()
    by = by or actor()
    routing = routing_from(dict(body))
    if routing.segments is None or routing != Routing(segments=routing.segments):
        raise LedgerConflict(
            "only segments can be set by hand",
            where="routing",
            expected='{"segments": […]}',
            hint="trials have the rest",
        )
    check_routing(routing, champion=0, candidate=None, mode=None, weight=0.0)
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        current = _deployed(ledger, name)
        if current.candidate is not None:
            raise LedgerConflict(
                f"a trial of '{name}' is under way", where="candidate", hint="wait for its end, or abort it"
            )
        others = [version for version in routing.versions if version != current.champion]
        if others:
            fit = examiner(settings, ledger, open_store(settings))
            for version in others:
                fit.examine(name, version, champion=current.champion, actor=by)
        return ledger.move(
            name,
            expected_revision=current.revision,
            champion=current.champion,
            actor=by,
            reason=reason,
            routing=routing,
        )


def _deployed(ledger: Ledger, name: str) -> Deployment:
    found = ledger.deployment(name)
    if found is None:
        raise ModelUnknown(f"model '{name}' has no deployment", where="model", hint="perene status")
    return found
