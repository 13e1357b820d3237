"""A7 and A8: how often the gates let equal and worse candidates pass."""

from __future__ import annotations

import numpy as np

from retrain.gates.gates import PairedSample, non_inferiority_gate

ALPHA, MARGIN = 0.05, 0.01


def gate(*, runs: int, rows: int, gain: float, reason: str, seed: int, k: int = 1) -> float:
    """Share of runs in which the best of `k` candidates, all of the same true gain, passes the gate."""
    generator = np.random.default_rng(seed)
    passes = 0
    for _ in range(runs):
        champion = (generator.random(rows) < 0.2).astype(float)
        candidates = []
        for _ in range(k):
            flip = generator.random(rows) < 0.05
            fresh = (generator.random(rows) < 0.2 - gain / 0.05).astype(float)
            candidates.append(np.where(flip, fresh, champion))
        best = min(candidates, key=lambda c: float(c.mean()))
        blocks = np.arange(rows) // max(rows // 14, 1)
        sample = PairedSample.of(champion, best, blocks)
        found = non_inferiority_gate(sample, margin=MARGIN, alpha=ALPHA, k=k, reason=reason, min_rows=30)
        passes += found.verdict == "pass"
    return passes / runs
