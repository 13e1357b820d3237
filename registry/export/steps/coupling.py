"""Probabilities of several classes from those of each pair, by libsvm's iteration written out."""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np

from registry.export.builder import Builder, Value

ROUNDS: Final = 8
"""libsvm stops as soon as it is close enough: after two rounds for two classes, four or five for ten."""
LEAST: Final = 1e-7


def coupled(g: Builder, pairs: Value, classes: int) -> Value:
    """Probabilities [N, K] from the share of the first class of each pair [N, pairs]."""
    first = g.op("Min", g.op("Max", pairs, g.constant(LEAST)), g.constant(1.0 - LEAST))
    won = _square(g, first, classes)
    lost = g.op("Transpose", won, perm=[0, 2, 1])
    own = g.reduce("ReduceSum", g.op("Mul", lost, lost), 2)  # [N, K, 1]
    quadratic = g.op("Sub", g.op("Mul", own, g.constant(np.eye(classes)[None])), g.op("Mul", won, lost))
    share = g.constant(np.full((1, classes), 1.0 / classes))
    for _ in range(3 if classes == 2 else ROUNDS):
        share = _round(g, quadratic, share, classes)
    return share


def _round(g: Builder, quadratic: Value, share: Value, classes: int) -> Value:
    """One pass over the classes; rows that are close enough stay as they are."""
    slope = g.reduce(
        "ReduceSum", g.op("Mul", quadratic, g.op("Unsqueeze", share, g.constant(np.array([1])))), 2, keep=False
    )
    whole = g.reduce("ReduceSum", g.op("Mul", share, slope))
    error = g.reduce("ReduceMax", g.op("Abs", g.op("Sub", slope, whole)))
    going = g.cast(g.op("GreaterOrEqual", error, g.constant(0.005 / classes)), "double")
    for t in range(classes):
        row = g.reshape(g.gather(quadratic, [t]), [-1, classes])
        diagonal, here = g.gather(row, [t]), g.gather(slope, [t])
        step = g.op("Mul", going, g.op("Div", g.op("Sub", whole, here), diagonal))
        more = g.op("Add", step, g.constant(1.0))
        share = g.op("Div", g.op("Add", share, g.op("Mul", step, g.constant(np.eye(classes)[[t]]))), more)
        rise = g.op("Mul", step, g.op("Add", g.op("Mul", step, diagonal), g.op("Add", here, here)))
        whole = g.op("Div", g.op("Div", g.op("Add", whole, rise), more), more)
        slope = g.op("Div", g.op("Add", slope, g.op("Mul", step, row)), more)
    return share


def _square(g: Builder, first: Value, classes: int) -> Value:
    """Share of class i against class j at [i, j], zero on the diagonal [N, K, K]."""
    order = list(combinations(range(classes), 2))
    sides = g.concat([first, g.op("Sub", g.constant(1.0), first)])
    places = np.zeros((classes, classes), np.int64)
    for n, (i, j) in enumerate(order):
        places[i, j], places[j, i] = n, len(order) + n
    laid = g.reshape(g.gather(sides, places.ravel()), [-1, classes, classes])
    return g.op("Mul", laid, g.constant(1.0 - np.eye(classes)[None]))
