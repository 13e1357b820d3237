"""A5 and A10: is the split the one that was asked for, and does the check of it cry wolf."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from retrain.trials.sequential import log_srm_many
from serving.routing import bucket


def srm(
    *, runs: int, users: int, looks: int, shares: tuple[float, ...], true: tuple[float, ...], seed: int
) -> dict[str, float]:
    """Share of trials whose sample-ratio e-value ever reached 100 (pause) and 1,000 (stop), and p < .05 at any look."""
    generator = np.random.default_rng(seed)
    step = users // looks
    asked = np.array(shares)
    seen = np.zeros((runs, len(shares)))
    most = np.full(runs, -math.inf)
    peeked = np.zeros(runs, dtype=bool)
    for look in range(looks):
        seen += generator.multinomial(step, true, size=runs)
        most = np.maximum(most, log_srm_many(seen, asked))
        expected = step * (look + 1) * asked
        # chi-square at 5 %, of one degree of freedom or of two
        peeked |= ((seen - expected) ** 2 / expected).sum(axis=1) > (3.841 if len(shares) == 2 else 5.991)
    return {
        "pause": float((most >= math.log(100.0)).mean()),
        "stop": float((most >= math.log(1_000.0)).mean()),
        "chi_square_peeking": float(peeked.mean()),
    }


def assigned(entities: int, weights: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)) -> dict[str, float]:
    """The law of assignment: how far the split is off, in standard deviations, and whether a ramp lets anyone go."""
    drawn = np.array([bucket("bench", f"user-{i}") for i in range(entities)])
    again = np.array([bucket("bench", f"user-{i}") for i in range(0, entities, 100)])
    off = [abs((drawn < w).mean() - w) / math.sqrt(w * (1.0 - w) / entities) for w in weights]
    lost = sum(int(((drawn < small) & ~(drawn < large)).sum()) for small, large in pairwise(weights))
    return {
        "entities": entities,
        "sigma": max(off),
        "lost_by_ramp": lost,
        "same": float((drawn[::100] == again).mean()),
    }
