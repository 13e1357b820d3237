"""How much more neighbouring windows differ than windows of independent rows would.

Rows that depend on each other (a storm lasts all afternoon, one customer sends a hundred) hold less information than
their number says, and every test that counts them is then too sure. What such rows do to a test shows where nothing
has drifted yet: between one window and the next. The tests' statistics are divided by that factor, never multiplied.

A factor estimated from a few dozen windows is noisy, so columns share what they have in common (empirical Bayes): a
column keeps a factor of its own only as far as columns differ by more than noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from monitoring.drift.drift import APART, g_statistic, pool, rank_statistic
from monitoring.drift.grouped import Group

Floats = npt.NDArray[np.float64]

MIN_PAIRS: Final = 8
"""With fewer neighbours no factor is estimated."""
NOISE: Final = 3.9
"""Variance of the logarithm of a factor, times pairs, times degrees of freedom (by simulation)."""


@dataclass(frozen=True, slots=True)
class Factors:
    """By column: for the G statistic, and for the rank test."""

    g: Floats
    rank: Floats


def root(statistic: Floats, df: Any) -> Floats:
    """Square root of the standardised distance of two windows, in units of its mean for independent rows.

    A root, so that one jump among 63 quiet neighbours (a drift beginning) hardly moves the mean.
    """
    k = np.maximum(df, 1.0)
    # the mean of the fourth root of a chi-square variable with k degrees of freedom
    mean = np.exp(0.25 * np.log(2.0) + gammaln(k / 2.0 + 0.25) - gammaln(k / 2.0))
    return np.asarray(np.maximum(statistic, 0.0) ** 0.25 / mean)


def neighbours(window: Floats, *, in_order: bool) -> tuple[Floats, Floats, Floats]:
    """Of windows' cells [..., T, B]: roots of G, its degrees of freedom, and roots of ranks, each [..., T - 1]."""
    new, old = window[..., 1:, :], window[..., :-1, :]
    g, df = g_statistic(*pool(new, old))
    rank = rank_statistic(new[..., APART:], old[..., APART:]) if in_order else np.zeros_like(g)
    return root(g, df), df, root(rank, 1.0)


def shrink(means: Floats, df: Floats, pairs: Any) -> Floats:
    """Factors [F, ...] of columns from their mean roots, drawn to what columns have in common; at least 1.

    Args:
        means: mean root of each column, along the first axis.
        df: degrees of freedom of each column's distances; 0 leaves a column out.
        pairs: how many neighbours were compared.
    """
    used = (df > 0) & (means > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(used, 4.0 * np.log(np.where(used, means, 1.0)), 0.0)
        noise = np.where(used, NOISE / (np.maximum(df, 1.0) * pairs), np.inf)
        weight = np.where(used, 1.0 / noise, 0.0)
        sum_weight = weight.sum(0)
        center = np.where(sum_weight > 0, (weight * logs).sum(0) / sum_weight, 0.0)
        columns = used.sum(0)
        # DerSimonian and Laird's estimate of how much columns really differ
        excess = (weight * (logs - center) ** 2).sum(0) - (columns - 1)
        scale = sum_weight - (weight**2).sum(0) / sum_weight
        between = np.where(scale > 0, np.maximum(excess / np.where(scale > 0, scale, 1.0), 0.0), 0.0)
        own = np.where(used, between / (between + noise), 0.0)
    found = np.exp(center + own * (logs - center))
    return np.asarray(np.where(used, np.maximum(found, 1.0), 1.0))


def factors(groups: Sequence[Group]) -> list[Factors]:
    """Factors of each group's columns from their closed windows; 1 while there are few."""
    if not groups or groups[0].cells.shape[1] <= MIN_PAIRS:
        return [Factors(np.ones(len(group.names)), np.ones(len(group.names))) for group in groups]
    pairs = float(groups[0].cells.shape[1] - 1)
    made = [neighbours(group.cells, in_order=group.in_order) for group in groups]
    g_means = np.concatenate([g.mean(-1) for g, _, _ in made])
    g_df = np.concatenate([df.mean(-1) for _, df, _ in made])
    rank_means = np.concatenate([rank.mean(-1) for _, _, rank in made])
    rank_df = np.concatenate([np.full(len(group.names), float(group.in_order)) for group in groups])
    ends = np.cumsum([len(group.names) for group in groups])[:-1]
    g, rank = shrink(g_means, g_df, pairs), shrink(rank_means, rank_df, pairs)
    return [Factors(*found) for found in zip(np.split(g, ends), np.split(rank, ends), strict=True)]
