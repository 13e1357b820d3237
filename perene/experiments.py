"""Trials as Python values: `experiment("x-…")` says how one stands, and shows itself in notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry.experiment_facts import asked, decisions, facts, find, listed, looks, stage_of
from registry.html import escaped, table
from registry.ledger import Experiment as Row
from registry.ledger import Ledger

if TYPE_CHECKING:
    from perene.config import Settings

__all__ = ["Experiment", "Forecast", "Replayed", "experiment", "experiments", "replay"]

_SHOWN: Final = 20
"""Decisions that a notebook shows."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """How many more labels the stage asks for in the smaller arm, and about when they will have come."""

    needed: int
    per_day: float | None
    at: datetime | None


@dataclass(frozen=True)
class Experiment:
    """One trial as the ledger has it. Effects are loss of the champion less loss of the candidate: above 0 is better.

    `state` is requested, running, promoted, rejected, rolled_back, inconclusive or aborted; `looks` are how its tests
    stood over time, `decisions` what was decided on which row of evidence.
    """

    id: str
    model: str
    state: str
    stage: str
    champion: int
    candidate: int
    reason: str
    started_at: datetime
    at: datetime
    why: str | None
    policy: dict[str, Any]
    looks: tuple[dict[str, Any], ...]
    decisions: tuple[dict[str, Any], ...]
    approved_by: tuple[str, ...] = ()
    by_people: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.stage == "done"

    @property
    def margin(self) -> float | None:
        """How much worse the candidate may be, in units of the metric."""
        return self.policy.get("margin")

    @property
    def waits(self) -> bool:
        """Whether it is won, and waits for a person to approve it."""
        bar = -math.log(self.policy.get("alpha") or 0.05)
        last = self.looks[-1] if self.looks and not self.ended else {}
        won = all(last.get(f"log_e_{name}", 0.0) >= bar for name in ("non_inferiority", "superiority"))
        drawn = str(last.get("stage", "")).startswith("ab") and last.get("needed") == 0
        return won and drawn and self.by_people and not self.approved_by

    @property
    def forecast(self) -> Forecast | None:
        """What its stage still needs; None where that cannot be said."""
        return None if self.ended else forecast(self.looks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; times are ISO 8601."""
        needed = self.forecast
        return {
            "experiment_id": self.id,
            "model": self.model,
            "state": self.state,
            "stage": self.stage,
            "champion": self.champion,
            "candidate": self.candidate,
            "reason": self.reason,
            "started_at": self.started_at.isoformat(),
            "at": self.at.isoformat(),
            "why": self.why,
            "margin": self.margin,
            "alpha": self.policy.get("alpha"),
            "metric": self.policy.get("metric"),
            "look": self.looks[-1] if self.looks else None,
            "looks": len(self.looks),
            "waits_for_approval": self.waits,
            "needed": needed.needed if needed else None,
            "needed_by": needed.at.isoformat() if needed and needed.at else None,
            "approved_by": list(self.approved_by),
            "decisions": list(self.decisions),
        }

    def plot(self, to: Path | str) -> Path:
        """Save the interval over time as a PNG, SVG or PDF.

        Raises:
            ConfigInvalid: the name ends in something else, or there is no such folder.
        """
        from perene.experiment_plot import save

        return save(self, to)

    def _repr_html_(self) -> str:
        from perene.experiment_plot import inline

        told = {name: value for name, value in self.to_dict().items() if name not in ("look", "looks", "decisions")}
        rows = [(name.replace("_", " "), value) for name, value in told.items() if value not in (None, [])]
        made = [(d["at"], d["stage"], d["action"], d["reason"]) for d in self.decisions[-_SHOWN:]]
        return "".join(
            [
                f"<div><b>trial {escaped(self.id)}</b>",
                table(("", ""), rows),
                inline(self),
                table(("at", "stage", "decision", "reason"), made) if made else "",
                "</div>",
            ]
        )


@dataclass(frozen=True, slots=True)
class Replayed:
    """A decision made again from its row of evidence alone."""

    evidence: int
    at: str
    action: str
    reason: str
    agrees: bool


def experiment(identifier: str, *, settings: Settings | None = None) -> Experiment:
    """A trial by its id, or the last one of a model by the model's name.

    Raises:
        ExperimentUnknown: there is none; what is near is named.
        StoreUnavailable: the ledger does not answer.
    """
    with closing(_ledger(settings)) as ledger:
        return _value(ledger, found(ledger, identifier))


def experiments(model: str | None = None, *, settings: Settings | None = None) -> list[Experiment]:
    """Trials of a model, or of all, newest first."""
    with closing(_ledger(settings)) as ledger:
        return [_value(ledger, row) for row in listed(ledger, model)]


def replay(identifier: str, *, settings: Settings | None = None) -> list[Replayed]:
    """Make each decision of a trial again, from what its row of evidence holds: neither lake nor models are asked.

    Raises:
        ExperimentUnknown: there is no such trial.
    """
    with closing(_ledger(settings)) as ledger:
        trial = found(ledger, identifier)
        numbers = [made["evidence"] for made in decisions(ledger, trial)]
        rows = {row.id: row for row in ledger.evidence(trial.model, "decision", limit=10_000)}
    return [
        Replayed(
            n, rows[n].at.isoformat(), str(rows[n].body["action"]), str(rows[n].body["reason"]), _agrees(rows[n].body)
        )
        for n in numbers
    ]


def _agrees(body: Mapping[str, Any]) -> bool:
    from retrain.evidence import replay as again

    try:
        return again(body)
    except Exception:  # a row that was altered may fail in any way, and then it does not agree
        return False


def found(ledger: Ledger, identifier: str) -> Row:
    """The row of an id; the name of a model stands for its last trial.

    Raises:
        ExperimentUnknown: there is none.
    """
    if ledger.deployment(identifier) is not None:
        last = listed(ledger, identifier, limit=1)
        if last:
            return last[0]
    return find(ledger, None, identifier)


def forecast(looks: Sequence[dict[str, Any]]) -> Forecast | None:
    """When the labels that the last look asks for will have come, if they go on as in the later half of the looks."""
    if not looks or looks[-1].get("needed") is None:
        return None
    last = looks[-1]
    same = [look for look in looks if look["stage"] == last["stage"]]
    first = same[len(same) // 2 - 1] if len(same) > 1 else last
    days = (_time(last) - _time(first)).total_seconds() / 86_400
    came = _smaller(last) - _smaller(first)
    if days <= 0 or came <= 0:
        return Forecast(last["needed"], None, None)
    wait = min(last["needed"] * days / came, 36_500.0)
    return Forecast(last["needed"], came / days, _time(last) + timedelta(days=wait))


def _smaller(look: dict[str, Any]) -> int:
    return min(int(look["n_champion"]), int(look["n_candidate"]))


def _time(look: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(look["at"])


def _value(ledger: Ledger, row: Row) -> Experiment:
    told = facts(row)
    about, request = row.body.get("trial") or row.body, asked(ledger, row)
    approvers: tuple[str, ...] = ()
    if told["candidate"] is not None:
        from registry.approvals import standing

        approvers = tuple(sorted(standing(ledger, row.model, int(told["candidate"])).approvers))
    return Experiment(
        id=row.experiment_id,
        model=row.model,
        state=row.state,
        stage=stage_of(about) if row.stage not in ("done", "waiting") else row.stage,
        champion=int(told["champion"]),
        candidate=int(told["candidate"]),
        reason=f"asked by {request['actor']}: {request['reason']}" if request else str(told["reason"] or ""),
        started_at=row.started_at,
        at=row.at,
        why=told["why"],
        policy=dict(about.get("policy") or about.get("options") or {}),
        looks=tuple(looks(ledger, row.experiment_id)),
        decisions=tuple(decisions(ledger, row)),
        approved_by=approvers,
        by_people=bool(about.get("by_people")),
    )


def _ledger(settings: Settings | None) -> Ledger:
    from perene.api import configured

    return Ledger.open((settings or configured()).places.ledger_url)
