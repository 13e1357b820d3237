"""One attempt at a better version: the windows and former champions compete, and the gates judge the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

import pandas as pd

from registry.errors import PereneError
from retrain.backtest.fits import Fit, Fits, Judge
from retrain.backtest.history import Rows
from retrain.gates.gates import Gate, contract_gate, passed
from retrain.gates.judge import Case, compare
from retrain.training.select import Contender, best
from retrain.training.windows import plan

__all__ = ["Attempt", "attempt", "blind"]

Outcome = Literal["candidate", "refused", "error"]
LEFT_OUT: Final = ("latency",)
"""Gates that are not asked: they time and weigh a graph, and a backtest makes none."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a run. `fits` counts calls of the trainer; `best` names the contender that was judged."""

    at: datetime
    reason: str
    outcome: Outcome
    why: str
    fits: int = 0
    best: str = ""
    winner: Fit | None = None
    claimed: bool = False
    """Whether it cost a part of the year's error budget."""


def blind(fits: Fits, now: datetime) -> Attempt:
    """What a crontab does: fit the first window up to the newest known label, and take the result as it comes."""
    settings = fits.settings
    laid = plan(settings.windows[:1], now, holdout=type(settings.holdout)(0), maturity=settings.maturity)
    try:
        fit = fits.fit(laid.train[0], now)
    except Exception as error:  # the user's trainer: whatever it raises is this run's failure, and history goes on
        return Attempt(now, "schedule", "error", _said(error), fits=1)
    if fit is None:
        return Attempt(now, "schedule", "refused", "too few labelled rows")
    return Attempt(now, "schedule", "candidate", "nobody judged it", 1, laid.train[0].name, fit)


def attempt(
    fits: Fits,
    judge: Judge,
    champion: Fit,
    former: Mapping[str, Fit],
    *,
    now: datetime,
    reason: str,
    drift_at: datetime | None,
    claims: int = 0,
) -> Attempt:
    """A run as the worker does it, on the rows whose labels are known at `now`.

    Args:
        champion: the version that serves.
        former: versions that served before, by name.
        drift_at: since when the champion's loss is confirmed to be worse.
        claims: earlier claims to be better than the champion, which the error budget of the year has paid for.
    """
    settings, history = fits.settings, fits.history
    laid = plan(settings.windows, now, holdout=settings.holdout, maturity=settings.maturity, drift_at=drift_at)
    holdout = history.learnable(laid.holdout, now)
    if len(holdout) < settings.min_labels:
        return Attempt(now, reason, "refused", f"{len(holdout)} holdout rows of {settings.min_labels} needed")
    contenders: dict[str, Contender] = {}
    found: dict[str, Fit] = {}
    trained = 0
    try:
        for window in laid.train:
            fit = fits.fit(window, now)
            if fit is None:
                continue
            trained += 1
            found[window.name] = fit
            contenders[window.name] = Contender(window.name, judge.losses(fit, holdout, now), fit.rows)
    except Exception as error:  # the user's trainer, as above; the worker's run would have failed as a whole
        return Attempt(now, reason, "error", _said(error), fits=trained + 1)
    for number, (name, fit) in enumerate(former.items()):
        found[name] = fit
        contenders[name] = Contender(name, judge.losses(fit, holdout, now), fit.rows, version=number)
    if not contenders:
        return Attempt(now, reason, "refused", "no window has enough rows")
    winner = best(contenders)
    case = Case(
        settings,
        history.frame(holdout, now).assign(_at=pd.to_datetime(history.at[holdout], unit="us", utc=True)),
        judge.cap,
        reason,
        now,
        contenders=len(contenders),
        claims=claims,
        accepted=champion.order,
    )
    fit = found[winner.name]
    gates = judged(judge, champion, fit, holdout, case)
    failed = next((gate for gate in gates if gate.verdict not in ("pass", "not applicable")), None)
    said = failed or next((gate for gate in gates if gate.gate == "non_inferiority"), gates[-1])
    outcome: Outcome = "candidate" if passed(gates) else "refused"
    if outcome == "candidate":
        judge.accept(fit, holdout, now)
    claimed = any(gate.gate == "alpha" and gate.verdict in ("pass", "fail") for gate in gates)
    return Attempt(now, reason, outcome, f"{said.gate}: {said.reason}", trained, winner.name, fit, claimed)


def judged(judge: Judge, champion: Fit, candidate: Fit, holdout: Rows, case: Case) -> list[Gate]:
    """Every gate that needs neither the graph of a bundle nor a stopwatch."""
    limits = case.settings.gates
    off = tuple(dict.fromkeys((*limits.off, *LEFT_OUT)))
    settings = case.settings.model_copy(update={"gates": limits.model_copy(update={"off": off})})
    contract = contract_gate(champion.contract, candidate.contract)
    if contract.verdict != "pass":
        return [contract]
    verdicts, _ = compare(judge.side(champion), judge.side(candidate), replace(case, settings=settings))
    return [contract, *verdicts]


def _said(error: Exception) -> str:
    """Ours say what is wrong; the text of others may quote rows."""
    return error.message if isinstance(error, PereneError) else f"the trainer raised {type(error).__name__}"
