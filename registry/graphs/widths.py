"""How many columns a tensor has, where the graph says so: an operator must not read beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from onnx import NodeProto

from registry.graphs.read import Array, Attributes

_KEEPS: Final = frozenset(
    {"Binarizer", "Cast", "Identity", "Imputer", "LabelEncoder", "Normalizer", "Relu", "Scaler", "Sigmoid", "Tanh"}
)
_AT_LEAST: Final = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})


def check_width(node: NodeProto, a: Attributes, read: int | None, widths: Mapping[str, int]) -> None:
    """Refuse a node that reads `read` columns from an input that has others.

    Raises:
        BundleCorrupt: naming the node.
    """
    width = widths.get(node.input[0]) if node.input else None
    if read is None or width is None:
        return
    fits = read <= width if node.op_type in _AT_LEAST else read == width
    a.require(fits, f"it reads {read} columns of {width}")


def width_of(node: NodeProto, a: Attributes, constants: Mapping[str, Array], widths: Mapping[str, int]) -> int | None:
    """Columns of a node's first output [N, columns], None where that does not follow."""
    inputs = [widths.get(name) for name in node.input]
    kind = node.op_type
    if kind in _KEEPS:
        return inputs[0]
    if kind == "Concat" and a.one("axis", 0) in (1, -1):
        return None if None in inputs else sum(width for width in inputs if width is not None)
    picks = kind == "ArrayFeatureExtractor" or (kind == "Gather" and a.one("axis", 0) == 1)
    if picks and inputs[0] is not None and (indices := constants.get(node.input[1])) is not None:
        least = 0 if kind == "ArrayFeatureExtractor" else -inputs[0]
        inside = bool(((indices >= least) & (indices < inputs[0])).all())
        a.require(inside, f"it takes a column beyond the {inputs[0]} that there are")
        return int(indices.size) if indices.ndim == 1 or kind == "ArrayFeatureExtractor" else None
    return None
