"""How both versions bear disturbed rows: noise on numbers, nulls where they are allowed, categories never seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.contract import Contract
from registry.errors import PereneError
from registry.reference import numbers
from retrain.gates.bound import bound, summary
from retrain.gates.gates import Gate
from retrain.gates.side import Side, paired_losses

__all__ = ["MAX_ROWS", "disturbed", "judge_robustness", "robustness_gate"]

Floats = NDArray[np.float64]
Disturb = Callable[[Contract, pd.DataFrame, float, np.random.Generator], pd.DataFrame | None]
MAX_ROWS: Final = 5_000
ALPHA: Final = 0.05
UNSEEN: Final = "perene: never seen"


def robustness_gate(
    champion: Side,
    candidate: Side,
    frame: pd.DataFrame,
    labels: NDArray[Any],
    blocks: NDArray[np.int64],
    *,
    cap: float,
    noise: float,
    missing: float,
    margin: float,
    seed: int,
) -> Gate:
    """Ask both versions the same disturbed rows and compare their losses, pair by pair."""
    kept = np.linspace(0, len(frame) - 1, min(MAX_ROWS, len(frame))).astype(int) if len(frame) else np.arange(0)
    rows, labels, blocks = frame.iloc[kept], labels[kept], blocks[kept]
    found: dict[str, Any] = {}
    for name, changed in disturbed(champion.contract, rows, noise=noise, missing=missing, seed=seed).items():
        base, base_failed = _losses(champion, changed, labels, cap)
        fresh, fresh_failed = _losses(candidate, changed, labels, cap)
        base, fresh, usable = paired_losses(base, fresh)
        if fresh_failed and not base_failed:
            found[name] = {"refused": fresh_failed}
        elif not base_failed and usable.sum() >= 2:
            pair = {"champion": float(base[usable].mean()), "candidate": float(fresh[usable].mean())}
            found[name] = pair | summary((base - fresh)[usable], blocks[usable])
    return judge_robustness({"disturbed": found, "margin": margin, "alpha": ALPHA})


def judge_robustness(inputs: dict[str, Any]) -> Gate:
    """Each disturbance must be shown to cost no more than the margin against the champion under the same one."""
    if not inputs["disturbed"]:
        return Gate("robustness", "not applicable", "no column can be disturbed", inputs)
    said: list[str] = []
    kinds = sorted(inputs["disturbed"].items())  # the ledger keeps them in this order: a replay must say the same
    for name, entry in kinds:
        if "refused" in entry:
            said.append(f"{name}: the candidate does not answer ({entry['refused']})")
            continue
        lower = bound(entry, float(inputs["alpha"]), "lower")
        if lower <= -float(inputs["margin"]):
            said.append(f"{name}: lower bound {lower:+.4f} is not above -{inputs['margin']:g}")
    if said:
        return Gate("robustness", "fail", "; ".join(said), inputs)
    shown = ", ".join(f"{name} {e['champion']:.4f} to {e['candidate']:.4f}" for name, e in kinds)
    return Gate("robustness", "pass", f"loss: {shown}", inputs)


def disturbed(
    contract: Contract, frame: pd.DataFrame, *, noise: float, missing: float, seed: int
) -> dict[str, pd.DataFrame]:
    """The rows as each disturbance leaves them; without those that the contract leaves no room for."""
    strengths = {"noise": noise, "missing": missing, "unseen category": missing}
    made = {
        name: _DISTURBANCES[name](contract, frame, strength, np.random.default_rng([seed, number]))
        for number, (name, strength) in enumerate(strengths.items())
    }
    return {name: changed for name, changed in made.items() if changed is not None}


def _noise(contract: Contract, frame: pd.DataFrame, sd: float, generator: np.random.Generator) -> pd.DataFrame | None:
    """Normal noise of `sd` standard deviations of each column; integers stay integers."""
    changed: dict[str, Any] = {}
    for column in contract.columns:
        if column.dtype not in ("float", "int"):
            continue
        data = numbers(frame[column.name])
        finite = data[np.isfinite(data)]
        spread = float(finite.std()) if finite.size else 0.0
        if spread == 0.0 or not np.isfinite(spread):
            continue
        moved = data + generator.normal(0.0, sd * spread, data.size)
        changed[column.name] = np.rint(moved) if column.dtype == "int" else moved
    return frame.assign(**changed) if changed else None


def _missing(
    contract: Contract, frame: pd.DataFrame, share: float, generator: np.random.Generator
) -> pd.DataFrame | None:
    """A null in `share` of the rows of each column that may be null."""
    changed: dict[str, Any] = {}
    for column in contract.columns:
        if column.nullable:
            gone = generator.random(len(frame)) < share
            text = column.dtype == "string"
            data = frame[column.name].astype(object).to_numpy(copy=True) if text else numbers(frame[column.name]).copy()
            data[gone] = None if text else np.nan
            changed[column.name] = data
    return frame.assign(**changed) if changed else None


def _unseen(
    contract: Contract, frame: pd.DataFrame, share: float, generator: np.random.Generator
) -> pd.DataFrame | None:
    """A text that training cannot have seen in `share` of the rows of each text column."""
    changed = {
        column.name: np.where(generator.random(len(frame)) < share, UNSEEN, frame[column.name].astype(object))
        for column in contract.strings
    }
    return frame.assign(**changed) if changed else None


_DISTURBANCES: Mapping[str, Disturb] = {"noise": _noise, "missing": _missing, "unseen category": _unseen}


def _losses(side: Side, frame: pd.DataFrame, labels: NDArray[Any], cap: float) -> tuple[Floats, str]:
    try:
        return side.losses(frame, labels, cap), ""
    except PereneError as error:  # a version that falls over on a null is what this gate is for
        return np.full(len(frame), np.nan), type(error).__name__
