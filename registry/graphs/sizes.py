"""Operators that make a large tensor out of a small one: their sizes are constants with a bound, or come from shapes.

A size that follows from the *values* of a request could be anything; one that follows from its shape cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from onnx import NodeProto

from registry.graphs.read import Array, refused, title

MAX_MADE: Final = 2**26
"""Elements that one operator may make of a constant size: 256 MB of float32."""
_SIZES: Final[Mapping[str, tuple[int, ...]]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Tile": (1,),
    "TopK": (1,),
}
"""Which inputs of an operator are sizes."""


def check_sizes(node: NodeProto, constants: Mapping[str, Array], by_value: set[str]) -> None:
    """Refuse a node that could make more than the memory holds; add to `by_value` what follows from a request.

    Args:
        node: the next node in order.
        constants: tensors that the file holds.
        by_value: names of tensors that follow from the values of the inputs.

    Raises:
        BundleCorrupt: naming the node.
    """
    inputs = [name for name in node.input if name]
    if any(name in by_value for name in inputs) and node.op_type not in ("Shape", "Size"):
        by_value.update(node.output)
    positions = _SIZES.get(node.op_type, ())
    sizes = [node.input[i] for i in positions if i < len(node.input) and node.input[i]]
    if any(name in by_value for name in sizes):
        raise refused(f"{title(node)} takes its size from the values of a request")
    if not sizes or not all(name in constants for name in sizes):
        return
    values = [np.ravel(constants[name]).tolist() for name in sizes]
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for value in values for v in value):
        raise refused(f"{title(node)} has a size that is not a number")
    if _made(node.op_type, values) > MAX_MADE:
        raise refused(f"{title(node)} would make more than {MAX_MADE} elements")


def _made(operator: str, values: list[list[float]]) -> float:
    if operator == "Range":
        if [len(value) for value in values] != [1, 1, 1] or values[2][0] == 0:
            return math.inf
        return abs((values[1][0] - values[0][0]) / values[2][0])
    if operator == "Pad":
        return math.prod(1 + abs(v) for v in values[0])
    # -1 (as it is) and 0 (as before) do not enlarge
    return math.prod(max(1.0, abs(float(v))) for v in values[0])
