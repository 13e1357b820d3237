"""A4: the paired comparison of shadow, read after every label."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from bench.promotion.traffic import CAP, TAIL, Floats
from retrain.trials.paired import paired_path

ALPHA = 0.05
CHUNK = 250


def differences(
    kind: Literal["binary", "heavy"], *, shape: tuple[int, int], gain: float, disagree: float, generator: list[int]
) -> Floats:
    """Champion loss - candidate loss of each label; the mean is `gain` (for heavy tails only 0 is exact)."""
    g = np.random.default_rng(generator)
    if kind == "binary":
        u = g.random(shape)
        found: Floats = (u < (disagree + gain) / 2.0).astype(np.float64) - (u > 1.0 - (disagree - gain) / 2.0)
        return found
    # two answers about the same row are wrong by about the same: a common heavy tail, times a factor of each
    x = (1.0 - g.random(shape)) ** (-1.0 / TAIL) - 1.0
    ours, theirs = np.exp(0.5 * g.standard_normal((2, *shape)))
    heavy: Floats = np.minimum(x * theirs, CAP) / CAP - np.minimum(x * ours * (1.0 - 6.0 * gain), CAP) / CAP
    return heavy


def paired(
    *,
    runs: int,
    labels: int,
    gain: float,
    seed: int,
    kind: Literal["binary", "heavy"] = "binary",
    disagree: float = 0.1,
    m0: float = 0.0,
) -> dict[str, float]:
    """How often H0 mean <= m0 is ever rejected, after how many labels, and how often 1.96 errors above it are."""
    first, peeked = [], 0
    for at in range(0, runs, CHUNK):
        shape = (min(CHUNK, runs - at), labels)
        d = differences(kind, shape=shape, gain=gain, disagree=disagree, generator=[seed, at])
        wealth = paired_path(d, m0)
        won = wealth >= -math.log(ALPHA)
        first += np.where(won.any(axis=1), won.argmax(axis=1) + 1, labels + 1).tolist()
        n = np.arange(1, labels + 1)
        mean, square = np.cumsum(d, axis=1) / n, np.cumsum(d * d, axis=1) / n
        z = (mean - m0) / np.sqrt(np.maximum(square - mean * mean, 1e-12) / n)
        peeked += int((z[:, 299:] > 1.645).any(axis=1).sum())
    found = np.array(first)
    return {
        "won": float((found <= labels).mean()),
        "median_labels": float(np.median(found)),
        "z_peeking": peeked / runs,
    }
