"""Whether the candidate answers about as fast as the champion, and is about as large.

Both are timed on the same rows in turn, for whatever slows this machine down slows both. The clock cannot be turned
back, so the samples are kept, and the verdict follows from them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from registry.tensors import pack_frame
from retrain.gates.gates import Gate
from retrain.gates.side import Side

__all__ = ["judge_latency", "latency_gate", "timed"]

ROUNDS: Final = 20
CALLS: Final = 100
SURE: Final = 18
"""Rounds of 20 that must agree. Equal models exceed each other's p99 in half of the rounds at most, however noisy the
machine: 18 of 20 then agree by chance in 2 of 10,000 comparisons."""
SECONDS: Final = 4.0
SPARE_BYTES: Final = 1_048_576
"""A model of so many bytes is never too large."""


def latency_gate(
    champion: Side, candidate: Side, frame: pd.DataFrame, *, ratio: float, free_ms: float, size_ratio: float
) -> Gate:
    """Time single rows in interleaved rounds and compare sizes."""
    base, fresh = timed(champion, candidate, frame)
    return judge_latency(
        {
            "champion_p99_ms": base,
            "candidate_p99_ms": fresh,
            "champion_bytes": champion.size,
            "candidate_bytes": candidate.size,
            "ratio": ratio,
            "free_ms": free_ms,
            "size_ratio": size_ratio,
        }
    )


def judge_latency(inputs: dict[str, Any]) -> Gate:
    """Fail where nearly every round's p99 is beyond the ratio, and the typical one is beyond what is free."""
    base, fresh = inputs["champion_p99_ms"], inputs["candidate_p99_ms"]
    if len(fresh) < ROUNDS:
        return Gate("latency", "insufficient", f"{len(fresh)} of {ROUNDS} rounds were measured", inputs)
    slow = sum(f > float(inputs["ratio"]) * b for b, f in zip(base, fresh, strict=True))
    typical, own = float(np.median(fresh)), float(np.median(base))
    said = f"p99 of one row {own:.3f} to {typical:.3f} ms"
    sizes = f"size {inputs['champion_bytes']:,} to {inputs['candidate_bytes']:,} bytes"
    if slow >= SURE and typical > float(inputs["free_ms"]):
        return Gate("latency", "fail", f"{said}: {slow} of {len(fresh)} rounds beyond {inputs['ratio']:g}x", inputs)
    limit = max(float(inputs["size_ratio"]) * inputs["champion_bytes"], SPARE_BYTES)
    if inputs["candidate_bytes"] > limit:
        return Gate("latency", "fail", f"{sizes}: beyond {inputs['size_ratio']:g}x", inputs)
    return Gate("latency", "pass", f"{said}; {sizes}", inputs)


def timed(champion: Side, candidate: Side, frame: pd.DataFrame) -> tuple[list[float], list[float]]:
    """The p99 of each of 20 rounds of each side, in ms, both sides asked the same rows in alternating order.

    A slow model gets fewer calls a round, one that takes longer than a few seconds in all fewer rounds.
    """
    kept = np.linspace(0, len(frame) - 1, min(CALLS, len(frame))).astype(int)
    rows = [frame.iloc[[position]] for position in kept.tolist()]
    sides = [(side, [pack_frame(side.contract, row) for row in rows]) for side in (champion, candidate)]
    found: tuple[list[float], list[float]] = ([], [])
    if not rows:
        return found
    calls = min(CALLS, *(_affordable(side, tensors[0]) for side, tensors in sides))
    end = time.perf_counter() + 2 * SECONDS
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(ROUNDS):
            if time.perf_counter() > end:
                break
            samples: list[list[float]] = [[], []]
            for call in range(calls):
                for which in (0, 1) if (number + call) % 2 else (1, 0):
                    side, tensors = sides[which]
                    samples[which].append(_once(side, tensors[call % len(tensors)]))
            for which in (0, 1):
                found[which].append(float(np.quantile(samples[which], 0.99)))
    finally:
        if collecting:
            gc.enable()
    return found


def _affordable(side: Side, tensors: Any) -> int:
    """Calls a round; the first calls of a session also warm it up."""
    took: Sequence[float] = [_once(side, tensors) for _ in range(5)]
    return max(10, int(SECONDS * 1000 / ROUNDS / 2 / max(float(np.median(took)), 1e-3)))


def _once(side: Side, tensors: Any) -> float:
    start = time.perf_counter_ns()
    side.run(tensors)
    return (time.perf_counter_ns() - start) / 1e6
