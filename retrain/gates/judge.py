"""All gates that compare a candidate with the champion, on the rows of one fresh holdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.bundle import Bundle
from registry.loss import bounded_loss
from retrain.gates.bound import summary
from retrain.gates.calibration import calibration_gate
from retrain.gates.fairness import fairness_gate
from retrain.gates.gates import (
    MIN_BLOCKS,
    Gate,
    PairedSample,
    certificate_gate,
    contract_gate,
    non_inferiority_gate,
    passed,
)
from retrain.gates.latency import latency_gate
from retrain.gates.leakage import leakage_gate
from retrain.gates.robustness import robustness_gate
from retrain.gates.side import Floats, Side, opened_side, paired_losses
from retrain.gates.slices import slices_gate
from retrain.gates.spending import alpha_gate
from retrain.settings import RetrainSettings

__all__ = ["Case", "compare", "declared_slices", "judge_bundles"]

DAY_NS = 86_400_000_000_000
NEARLY_ALL = 0.99
"""Share of distinct rows from which repeats are chance."""
GROUPS = 64


@dataclass(frozen=True, eq=False)
class Case:
    """What a candidate is judged on beside the two versions.

    `holdout` has the contract's columns, the target and `_at`. `reason` is why the run was made, `contenders` how many
    candidates the best was chosen of, `claims` how many claims to be better the model made before in this year of its
    clock, `declared` the columns that the champion's card shows slices of.
    """

    settings: RetrainSettings
    holdout: pd.DataFrame
    cap: float
    reason: str
    now: datetime
    contenders: int = 1
    claims: int = 0
    declared: Sequence[str] = ()
    accepted: float | None = None
    """How well the champion ordered the rows that it was accepted on, as its AUC; None where that is not known."""

    @property
    def blocks(self) -> NDArray[np.int64]:
        """The day of each row; of a few days with rows that repeat, a group in which equal rows are together.

        The same row forty times is one observation. Over enough days the error by day knows that by itself.
        """
        at = pd.to_datetime(self.holdout["_at"], utc=True).dt.as_unit("ns").astype("int64")
        days = np.asarray(at.to_numpy() // DAY_NS, np.int64)
        if len(np.unique(days)) >= MIN_BLOCKS:
            return days
        rows = pd.util.hash_pandas_object(self.holdout.drop(columns="_at"), index=False)
        if rows.nunique() > NEARLY_ALL * len(rows):
            return days
        return np.asarray(rows.to_numpy() % GROUPS, np.int64)

    @property
    def claimed(self) -> str:
        """The reason, or `freshness` where a scheduled successor need only be no worse."""
        return "freshness" if self.settings.freshness and self.reason == "schedule" else self.reason

    def features(self, names: Sequence[str]) -> pd.DataFrame:
        """The rows without their outcome."""
        return self.holdout[list(names)]


def judge_bundles(champion: Bundle, candidate: Bundle, case: Case, losses: Floats) -> tuple[list[Gate], Floats]:
    """Every verdict on `candidate`, and its bounded losses on the holdout.

    Args:
        losses: those of the estimator; all that is known of a version whose bundle cannot take the champion's rows.
    """
    found = [certificate_gate(candidate.certificate), contract_gate(champion.contract, candidate.contract)]
    with opened_side(champion) as old:
        if not passed(found):
            labels = case.holdout[case.settings.target].to_numpy()
            base, fresh, usable = paired_losses(
                old.losses(case.features(champion.contract.names), labels, case.cap), losses
            )
            return [*found, _better(case, base[usable], fresh[usable], case.blocks[usable])], losses
        with opened_side(candidate) as new:
            declared = declared_slices(champion)
            verdicts, served = compare(old, new, replace(case, declared=declared, accepted=accepted_order(champion)))
            return [*found, *verdicts], served


def declared_slices(champion: Bundle) -> list[str]:
    """Columns whose values the champion's owner wanted to see apart."""
    path = champion.path / "card.json"
    card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return list(dict.fromkeys(part["column"] for part in card.get("baseline", {}).get("slices", ())))


def accepted_order(champion: Bundle) -> float | None:
    """The AUC of two classes that the champion's reference tells of."""
    value = champion.reference.get("baseline", {}).get("metrics", {}).get("roc_auc", {}).get("value")
    return None if value is None else float(value)


def compare(champion: Side, candidate: Side, case: Case) -> tuple[list[Gate], Floats]:
    """As `judge_bundles`, of two versions that are open."""
    settings, limits = case.settings, case.settings.gates
    contract, output = champion.contract, champion.contract.output
    features = case.features(contract.names)
    labels = case.holdout[settings.target].to_numpy()
    blocks = case.blocks
    answers = champion.predict(features), candidate.predict(features)
    raw = [bounded_loss(output, found, labels, case.cap) for found in answers]
    base, fresh, usable = paired_losses(*raw)
    pairs = base[usable], fresh[usable]
    days = blocks[usable]
    rows, known = features[usable], labels[usable]
    told = answers[0][usable], answers[1][usable]
    found = [_better(case, *pairs, days)]
    measured: dict[str, Callable[[], Gate]] = {
        "slices": lambda: slices_gate(
            contract,
            rows,
            pairs[0] - pairs[1],
            days,
            declared=[*limits.slices, *(name for name in case.declared if name in contract.names)],
            automatic=limits.automatic_slices,
            min_rows=limits.slice_min_rows,
            margin=limits.slice_margin,
        ),
        "calibration": lambda: calibration_gate(
            output, told, pairs, known, days, cap=case.cap, limit=limits.calibration_limit
        ),
        "robustness": lambda: robustness_gate(
            champion,
            candidate,
            rows,
            known,
            days,
            cap=case.cap,
            noise=limits.noise,
            missing=limits.missing,
            margin=limits.robustness_margin,
            seed=settings.seed,
        ),
        "fairness": lambda: fairness_gate(
            contract,
            rows,
            pairs,
            days,
            columns=limits.fairness,
            min_rows=limits.slice_min_rows,
            margin=limits.fairness_margin,
        ),
        "latency": lambda: latency_gate(
            champion,
            candidate,
            features,
            ratio=limits.latency_ratio,
            free_ms=limits.latency_free_ms,
            size_ratio=limits.size_ratio,
        ),
        "leakage": lambda: leakage_gate(
            champion, candidate, rows, told, known, seed=settings.seed, accepted=case.accepted
        ),
        "alpha": lambda: alpha_gate(
            summary(pairs[0] - pairs[1], days),
            alpha=settings.alpha,
            before=case.claims,
            year=case.now.astimezone(UTC).year,
            contenders=case.contenders,
            reason=case.claimed,
        ),
    }
    with _quiet():
        found += [_off(name) if name in limits.off else _sure(name, ask) for name, ask in measured.items()]
    return found, np.where(usable, fresh, np.nan)


def _better(case: Case, base: Floats, fresh: Floats, days: NDArray[np.int64]) -> Gate:
    return non_inferiority_gate(
        PairedSample.of(base, fresh, days),
        margin=case.settings.margin,
        alpha=case.settings.alpha,
        k=case.contenders,
        reason=case.claimed,
        min_rows=case.settings.min_labels,
    )


def _off(name: str) -> Gate:
    return Gate(name, "not applicable", "switched off", {"off": True})


def _sure(name: str, ask: Callable[[], Gate]) -> Gate:
    """The gate's verdict, on inputs that a row of evidence can hold; what could not be measured did not pass."""
    try:
        gate = ask()
        return replace(gate, inputs=json.loads(json.dumps(gate.inputs, allow_nan=False)))
    # odd rows, a model that falls over: whatever it was, the run must end with a verdict and not with a traceback
    except Exception as error:
        why = f"it could not be measured: {type(error).__name__}"
        return Gate(name, "insufficient", why, {"unmeasured": type(error).__name__})


@contextmanager
def _quiet() -> Iterator[None]:
    """Rows made to be unusual overflow and divide by zero, and that is what they are for."""
    with np.errstate(all="ignore"):
        yield
