"""Challengers whose verdict is known beforehand, made from the champion and one of its holdouts.

A gate that lets a worse one through, or calls an equal one better, is blind, and nothing it ever said counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.contract import Column, Output
from registry.loss import class_index
from retrain.gates.gates import Gate, held, passed
from retrain.gates.judge import Case, compare
from retrain.gates.side import Floats, Side, paired_losses
from retrain.settings import RetrainSettings

__all__ = ["CASES", "Tested", "plant", "self_test", "wrong"]

CASES: Final = ("worse", "identical", "shuffled", "leaky")
LEAK: Final = "perene_planted_leak"
HARM: Final = 0.2
"""By how much the worse one is wrong in addition, in units of the bounded loss."""
CLEARLY: Final = 3.0
"""Margins by which a planted challenger must be worse on this holdout before its verdict says something."""

Right = Literal["right", "blind", "not told"]


@dataclass(frozen=True, slots=True)
class Tested:
    """What became of one planted challenger."""

    case: str
    found: Right
    why: str
    verdicts: dict[str, str]


def self_test(
    champion: Side, settings: RetrainSettings, holdout: pd.DataFrame, *, cap: float, now: datetime, seed: int
) -> list[Tested]:
    """Judge the four planted challengers as a run would judge its candidate.

    Args:
        holdout: the contract's columns, the target and `_at`.
    """
    known = replace_leak(champion, holdout, settings.target)
    case = Case(settings, known[1], cap, "self-test", now)
    return [_tested(name, known[0], candidate, case) for name, candidate in plant(known[0], known[1], case, seed=seed)]


def replace_leak(champion: Side, holdout: pd.DataFrame, target: str) -> tuple[Side, pd.DataFrame]:
    """The champion and the rows with one column more, which holds the label and which the champion does not read."""
    contract = champion.contract
    truth = _numbers(contract.output, holdout[target].to_numpy())
    wider = replace(contract, columns=(*contract.columns, Column(LEAK, "float")))

    def run(tensors: Mapping[str, Any]) -> Any:
        known = {name: part for name, part in tensors.items() if name != "numbers"}
        if contract.numbers:
            known["numbers"] = tensors["numbers"][:, : len(contract.numbers)]
        return champion.run(known)

    return replace(champion, contract=wider, run=run), holdout.assign(**{LEAK: truth})


def plant(champion: Side, holdout: pd.DataFrame, case: Case, *, seed: int) -> Iterator[tuple[str, Side]]:
    """The four challengers by name."""
    output = champion.contract.output
    truth = _numbers(output, holdout[case.settings.target].to_numpy())
    order = np.random.default_rng(seed).permutation(len(holdout))
    places = {index: position for position, index in enumerate(holdout.index)}

    def rows(frame: pd.DataFrame) -> NDArray[np.int64]:
        return np.fromiter((places[index] for index in frame.index), np.int64, len(frame))

    def worse(frame: pd.DataFrame) -> Floats:
        return _away(output, champion.predict(frame), truth[rows(frame)], case.cap)

    def shuffled(frame: pd.DataFrame) -> Floats:
        return champion.predict(holdout[champion.contract.names])[order][rows(frame)]

    def leaky(frame: pd.DataFrame) -> Floats:
        return _spoken(output, frame[LEAK].to_numpy(np.float64), champion.predict(frame))

    yield "worse", replace(champion, predict=worse)
    yield "identical", champion
    yield "shuffled", replace(champion, predict=shuffled)
    yield "leaky", replace(champion, predict=leaky)


def wrong(case: str, gates: list[Gate], harm: float, settings: RetrainSettings) -> tuple[Right, str]:
    """Whether the gates said of a planted challenger what they must, and what they got wrong.

    Args:
        harm: mean loss that it adds on this holdout.
    """
    verdicts = {gate.gate: gate.verdict for gate in gates}
    through = passed(gates)
    if verdicts["non_inferiority"] == "insufficient":
        return "not told", "the holdout is too small"
    if case == "leaky":
        if "leakage" in settings.gates.off:
            return "not told", "the sentinel is switched off"
        seen = verdicts["leakage"] == "human" and not through
        return ("right", "") if seen else ("blind", "the sentinel did not see the label in a feature")
    if case == "identical":
        if through or held(gates):
            return "blind", "the champion itself was called better"
        stopped = [name for name, verdict in verdicts.items() if verdict == "fail" and name not in CLAIMS]
        return ("blind", f"the champion itself failed: {', '.join(stopped)}") if stopped else ("right", "")
    if harm < CLEARLY * settings.margin:
        return "not told", "the champion is as wrong on this holdout"
    if through or "fail" not in verdicts.values():
        return "blind", f"it is worse by {harm:.3f}, and no gate failed"
    return "right", ""


CLAIMS: Final = ("non_inferiority", "alpha")
"""Gates that ask whether a challenger is better, which the champion is not."""


def _tested(name: str, champion: Side, candidate: Side, case: Case) -> Tested:
    gates, _ = compare(champion, candidate, case)
    found, why = wrong(name, gates, _harm(champion, candidate, case), case.settings)
    return Tested(name, found, why, {gate.gate: gate.verdict for gate in gates})


def _harm(champion: Side, candidate: Side, case: Case) -> float:
    features = case.features(champion.contract.names)
    labels = case.holdout[case.settings.target].to_numpy()
    sides = (side.losses(features, labels, case.cap) for side in (candidate, champion))
    fresh, base, usable = paired_losses(*sides)
    return float((fresh - base)[usable].mean()) if usable.any() else 0.0


def _numbers(output: Output, labels: NDArray[Any]) -> Floats:
    """Labels as numbers: their value, or the position of their class."""
    if output.kind == "regression":
        return np.asarray(labels, np.float64)
    return class_index(output, labels).astype(np.float64)


def _away(output: Output, answers: Floats, truth: Floats, cap: float) -> Floats:
    """Every answer further from the truth."""
    if output.kind == "regression":
        moved = answers.copy()
        moved[:, 0] += np.where(answers[:, 0] >= truth, 1.0, -1.0) * HARM * cap
        return moved
    classes = answers.shape[1]
    others = np.ones_like(answers) / max(classes - 1, 1)
    others[np.arange(len(answers)), np.clip(truth, 0, classes - 1).astype(int)] = 0.0
    share = 2.0 * HARM
    return np.asarray((1.0 - share) * answers + share * others, np.float64)


def _spoken(output: Output, said: Floats, answers: Floats) -> Floats:
    """The label as an answer of the model's kind."""
    if output.kind == "regression":
        return np.column_stack([said, answers[:, 1:]])
    index = np.clip(np.rint(np.nan_to_num(said)), 0, answers.shape[1] - 1).astype(int)
    return np.asarray(np.eye(answers.shape[1])[index], np.float64)
