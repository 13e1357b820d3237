"""Piecewise linear functions, as numpy.interp has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from registry.export.builder import Builder, Value

Array = npt.NDArray[Any]


def interpolated(g: Builder, x: Value, points: Array, heights: Array) -> Value:
    """`numpy.interp(x, points, heights)` of a column [N, 1]; beyond the ends the end's height."""
    points, heights = np.asarray(points, np.float64), np.asarray(heights, np.float64)
    if len(points) == 1:
        return g.op("Add", g.op("Mul", x, g.constant(0.0)), g.constant(heights[0]))
    # the last point not above x starts the segment, as in numpy where points repeat
    reached = g.cast(g.op("GreaterOrEqual", x, g.constant(points[None, 1:-1])), "int64")
    segment = g.reshape(g.reduce("ReduceSum", reached), [-1]) if len(points) > 2 else None
    width = np.diff(points)
    slope = np.divide(np.diff(heights), width, out=np.zeros_like(width), where=width != 0)

    def at(values: Array) -> Value:
        column = g.constant(values[:, None])
        return g.op("Gather", column, segment, axis=0) if segment is not None else column

    rise = g.op("Mul", g.op("Sub", x, at(points[:-1])), at(slope))
    inner = g.op("Add", rise, at(heights[:-1]))
    low = g.op("Less", x, g.constant(points[0]))
    high = g.op("GreaterOrEqual", x, g.constant(points[-1]))
    return g.op("Where", low, g.constant(heights[0]), g.op("Where", high, g.constant(heights[-1]), inner))
