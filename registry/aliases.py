"""MLflow's aliases follow the ledger, and what happens to one that somebody moved there.

`champion` and `challenger` are set after the row is committed. What was set last is kept in the ledger's state
`aliases/MODEL`: an alias that differs while the ledger has not moved since was moved by a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec

from registry.errors import LeaseLost, LedgerConflict, NameInvalid, PereneError, StoreUnavailable
from registry.ledger import Deployment, Ledger
from registry.ledger.rows import utc_now
from registry.names import check_name

if TYPE_CHECKING:
    from registry.promotion import Examiner  # brings onnx, which neither the worker nor a rollback needs

EVIDENCE: Final = "alias"
ACTOR: Final = "mlflow"
"""Who moves where an alias is followed: MLflow does not say which person it was."""
SETTLING: Final = timedelta(seconds=30)
"""A younger row's projection may be under way, or was killed in the middle: its aliases are set, not taken in."""


class Aliases(Protocol):
    """The part of the MLflow store that knows aliases."""

    def aliases(self, model: str) -> Mapping[str, int]:
        """Every alias of `model` with its version."""

    def set_alias(self, model: str, alias: str, version: int | None) -> None:
        """Point `alias` at `version`, or remove it when that is None."""


class Projected(msgspec.Struct, frozen=True):
    """What the aliases were set to last, and by which revision."""

    revision: int
    champion: int
    challenger: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What to do about a model's aliases; `version` is where somebody moved `champion` to (None: they removed it)."""

    action: Literal["nothing", "project", "leave", "revert", "follow"]
    alias: str = ""
    version: int | None = None


def decide(
    policy: Literal["follow", "ignore", "revert"],
    deployment: Deployment,
    projected: Projected | None,
    found: Mapping[str, int],
    now: datetime,
) -> Finding:
    """What the aliases `found` in MLflow call for, given the ledger's row and what was projected last."""
    wanted = {"champion": deployment.champion, "challenger": deployment.candidate}
    moved = [alias for alias, version in wanted.items() if found.get(alias) != version]
    current = projected is not None and projected.revision == deployment.revision
    if not moved:
        return Finding("nothing" if current else "project")
    if not current or now - deployment.at < SETTLING:
        return Finding("project")
    alias = moved[0]
    version = found.get(alias)
    if policy == "ignore":
        return Finding("leave", alias, version)
    if policy == "follow" and alias == "champion" and version is not None:
        return Finding("follow", alias, version)
    return Finding("revert", alias, version)


def project(ledger: Ledger, store: Aliases, model: str, *, token: int | None = None) -> bool:
    """Make the aliases say what the ledger says; True when something was changed.

    Looks at the ledger again afterwards: of two processes that project at once the one with the older row must not
    have the last word.
    """
    changed = False
    deployment = ledger.deployment(model)
    while deployment is not None:
        wanted = {"champion": deployment.champion, "challenger": deployment.candidate}
        found = store.aliases(model)
        for alias, version in wanted.items():
            if found.get(alias) != version:
                store.set_alias(model, alias, version)
                changed = True
        done = Projected(deployment.revision, deployment.champion, deployment.candidate)
        ledger.save_state(_state(model), msgspec.json.encode(done), token=token)
        again = ledger.deployment(model)
        deployment = None if again is None or again.revision == deployment.revision else again
    return changed


def last_projected(ledger: Ledger, model: str) -> Projected | None:
    """What `project` set last."""
    body = ledger.load_state(_state(model))
    return msgspec.json.decode(body, type=Projected) if body else None


@dataclass(frozen=True)
class Intake:
    """One look at every model's aliases: projects, takes in, leaves or puts back, as the policy says."""

    ledger: Ledger
    store: Any
    examiner: Examiner
    token: int | None = None

    def look(self, now: datetime | None = None) -> dict[str, Finding]:
        """Look at all models; returns what was done about each. Every write carries the leader's token.

        Raises:
            StoreUnavailable: MLflow did not answer about a model; the others were looked at.
            LeaseLost: another worker leads.
        """
        now = now or utc_now()
        done: dict[str, Finding] = {}
        silent: StoreUnavailable | None = None
        for model, deployment in self.ledger.deployments().items():
            try:
                done[model] = self._deployed(model, deployment, now)
            except StoreUnavailable as error:
                silent = error
        if self.examiner.policy.aliases == "follow":
            for model, version in self.store.champions().items():
                if self.ledger.deployment(model) is not None:
                    continue
                try:
                    done[model] = self._first(model, version)
                except StoreUnavailable as error:
                    silent = error
        if silent is not None:
            raise silent
        return done

    def _deployed(self, model: str, deployment: Deployment, now: datetime) -> Finding:
        policy = self.examiner.policy.aliases
        found = self.store.aliases(model)
        finding = decide(policy, deployment, last_projected(self.ledger, model), found, now)
        if finding.action == "follow":
            finding = self._follow(model, deployment, finding)
        elif finding.action == "revert":
            self._say(model, finding, f"put back: policy.aliases is {policy}")
        if finding.action not in ("nothing", "leave"):
            project(self.ledger, self.store, model, token=self.token)
        return finding

    def _follow(self, model: str, deployment: Deployment, finding: Finding) -> Finding:
        version = finding.version or 0
        try:
            self.examiner.examine(model, version, champion=deployment.champion, actor=None)
            self._move(model, deployment.revision, version)
        except LedgerConflict:
            return Finding("project")  # the ledger moved meanwhile, and it is the one that counts
        except (StoreUnavailable, LeaseLost):
            raise
        except PereneError as error:
            refused = Finding("revert", finding.alias, version)
            self._say(model, refused, f"put back: {error.message}")
            return refused
        return finding

    def _first(self, model: str, version: int) -> Finding:
        """A model that has a champion in MLflow and no row yet; a refusal is written down once."""
        finding = Finding("follow", "champion", version)
        try:
            check_name(model)
            self.examiner.examine(model, version, champion=None, actor=None)
            self._move(model, 0, version)
            project(self.ledger, self.store, model, token=self.token)
        except (StoreUnavailable, LeaseLost):
            raise
        except (NameInvalid, LedgerConflict):
            return Finding("leave", "champion", version)
        except PereneError as error:
            finding = Finding("leave", "champion", version)
            why = f"not deployed: {error.message}"
            before = self.ledger.evidence(model, EVIDENCE, limit=1)
            if not before or (before[0].body.get("version"), before[0].body.get("why")) != (version, why):
                self._say(model, finding, why)
        return finding

    def _move(self, model: str, revision: int, version: int) -> None:
        reason = "the alias champion was moved in MLflow"
        self.ledger.move(
            model, expected_revision=revision, champion=version, actor=ACTOR, reason=reason, token=self.token
        )

    def _say(self, model: str, finding: Finding, why: str) -> None:
        body = {"alias": finding.alias, "version": finding.version, "action": finding.action, "why": why}
        self.ledger.record_evidence(model, EVIDENCE, body, token=self.token)


def _state(model: str) -> str:
    return f"aliases/{model}"
