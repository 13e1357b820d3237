"""Gates: checks on a trained version. `insufficient` is not a pass, and every verdict keeps what it was made on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from registry.contract import Contract, incompatibilities

__all__ = [
    "Gate",
    "PairedSample",
    "Verdict",
    "certificate_gate",
    "contract_gate",
    "held",
    "non_inferiority_gate",
    "passed",
]

Verdict = Literal["pass", "fail", "insufficient", "human", "not applicable"]
"""`human`: not a pass, and a person may let it through. `not applicable`: nothing was asked, so nothing failed."""

#: Under this many time blocks a clustered standard error is worthless, and the independent one is used.
MIN_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Gate:
    """One verdict; `inputs` suffice to compute it again."""

    gate: str
    verdict: Verdict
    reason: str
    inputs: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept as evidence."""
        return {"gate": self.gate, "verdict": self.verdict, "reason": self.reason, "inputs": self.inputs}


def passed(gates: Sequence[Gate]) -> bool:
    """Whether some gate passed, and every other one too or was not applicable."""
    found = {g.verdict for g in gates}
    return "pass" in found and found <= {"pass", "not applicable"}


def held(gates: Sequence[Gate]) -> bool:
    """Whether nothing but a person's word is missing."""
    found = {g.verdict for g in gates}
    return "human" in found and found <= {"pass", "human", "not applicable"}


def certificate_gate(certificate: Mapping[str, Any]) -> Gate:
    """The ONNX graph must predict what the original predicts."""
    found = str(certificate.get("verdict", ""))
    inputs = {"verdict": found}
    if not found:
        return Gate("certificate", "insufficient", "the bundle carries no verdict", inputs)
    if found == "refused":
        return Gate("certificate", "fail", "the conversion was refused", inputs)
    return Gate("certificate", "pass", f"certificate says {found}", inputs)


def _shape(contract: Contract) -> dict[str, Any]:
    """The contract without what training merely saw: ranges, categories and examples do not bind callers."""
    body = contract.to_dict()
    noted = {"minimum": None, "maximum": None, "categories": None, "example": None}
    return {**body, "columns": [{**c, **noted} for c in body["columns"]]}


def contract_gate(champion: Contract, candidate: Contract) -> Gate:
    """Every request that the champion accepts must mean the same to the candidate."""
    return judge_contract({"champion": _shape(champion), "candidate": _shape(candidate)})


def judge_contract(inputs: dict[str, Any]) -> Gate:
    """The rule behind `contract_gate`, on plain values."""
    old, new = Contract.from_dict(inputs["champion"]), Contract.from_dict(inputs["candidate"])
    problems = incompatibilities(old, new)
    if not problems and old.names != new.names:
        problems = ["the columns changed their order, and tensors are positional"]
    verdict: Verdict = "fail" if problems else "pass"
    return Gate("contract", verdict, "; ".join(problems[:8]) or "compatible", inputs)


@dataclass(frozen=True, slots=True)
class PairedSample:
    """Paired loss differences (champion - candidate) as sums per time block: [n, sum d, sum d^2]."""

    blocks: tuple[tuple[int, float, float], ...]

    @classmethod
    def of(
        cls,
        champion: NDArray[np.float64],
        candidate: NDArray[np.float64],
        blocks: NDArray[np.int64] | None = None,
    ) -> PairedSample:
        """Sum the differences of each block; without `blocks` all rows are one."""
        d = np.asarray(champion, dtype=np.float64) - np.asarray(candidate, dtype=np.float64)
        which = np.zeros(d.size, dtype=np.int64) if blocks is None else np.asarray(blocks, dtype=np.int64)
        _, index = np.unique(which, return_inverse=True)
        n = np.bincount(index)
        total, squares = np.bincount(index, d), np.bincount(index, d * d)
        return cls(tuple((int(a), float(b), float(c)) for a, b, c in zip(n, total, squares, strict=True)))

    @property
    def n(self) -> int:
        """Rows."""
        return sum(b[0] for b in self.blocks)

    @property
    def mean(self) -> float:
        """Mean difference."""
        return sum(b[1] for b in self.blocks) / self.n if self.n else 0.0

    def standard_error(self) -> tuple[float, int]:
        """Standard error of the mean and its degrees of freedom.

        Losses of one day share their weather: with enough blocks the larger of the independent and the
        block-clustered error is taken, so that a holdout of 14 days does not pass for 12,000 independent rows.
        """
        plain, clustered = self.errors()
        return (clustered, len(self.blocks) - 1) if clustered > plain else (plain, self.n - 1)

    def errors(self) -> tuple[float, float]:
        """The error of independent rows and that of independent blocks; 0 for the latter with too few blocks."""
        n, mean, g = self.n, self.mean, len(self.blocks)
        squares = sum(b[2] for b in self.blocks)
        plain = math.sqrt(max(squares / n - mean * mean, 0.0) / (n - 1))
        if g < MIN_BLOCKS:
            return plain, 0.0
        between = sum((b[1] - b[0] * mean) ** 2 for b in self.blocks) * g / (g - 1)
        return plain, math.sqrt(between) / n


def non_inferiority_gate(
    sample: PairedSample, *, margin: float, alpha: float, k: int, reason: str, min_rows: int
) -> Gate:
    """The best of `k` must be shown no worse than the champion by `margin`, and better unless the reason is freshness.

    The lower bound is one-sided at alpha / k, the price of having picked the best of `k` on the same holdout.
    """
    return judge_pairs(
        {
            "blocks": [list(b) for b in sample.blocks],
            "margin": margin,
            "alpha": alpha,
            "k": k,
            "reason": reason,
            "min_rows": min_rows,
        }
    )


def judge_pairs(inputs: dict[str, Any]) -> Gate:
    """The rule behind `non_inferiority_gate`, on plain values."""
    sample = PairedSample(tuple((int(a), float(b), float(c)) for a, b, c in inputs["blocks"]))
    facts: dict[str, Any] = {k: inputs[k] for k in ("blocks", "margin", "alpha", "k", "reason", "min_rows")}
    if sample.n < max(int(inputs["min_rows"]), 30):
        return Gate("non_inferiority", "insufficient", f"{sample.n} holdout rows are too few", facts)
    se, dof = sample.standard_error()
    quantile = float(stdtrit(dof, 1.0 - float(inputs["alpha"]) / max(int(inputs["k"]), 1)))
    lower = sample.mean - quantile * se
    facts |= {"n": sample.n, "effect": sample.mean, "lower": lower, "upper": sample.mean + quantile * se}
    said = f"effect {sample.mean:+.4f}, lower bound {lower:+.4f}"
    if lower <= -float(inputs["margin"]):
        return Gate("non_inferiority", "fail", f"{said} is not above -{inputs['margin']:g}", facts)
    if lower > 0:
        return Gate("non_inferiority", "pass", f"{said}: better than the champion", facts)
    if inputs["reason"] == "freshness":
        return Gate("non_inferiority", "pass", f"{said}: not worse, and fresher", facts)
    return Gate("non_inferiority", "fail", f"{said}: not shown to be better", facts)
