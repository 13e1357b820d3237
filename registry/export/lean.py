"""Wide layers of neural networks in float32: half the memory, many times the speed; parity says whether it shows.

Only of neural networks: a product that is a distance, as of neighbours or kernels, loses its digits in a difference.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from registry.export.builder import LAYER

LARGE: Final = 1 << 16
"""Weights from which on a product takes longer than the casts around it."""


def lean(model: bytes) -> bytes | None:
    """The graph with every wide layer's product taken in float32; None when it has none.

    What lies between the products (sums, activations) stays in float64, so their errors do not add up there.
    """
    found = onnx.load_from_string(model)
    constants = {tensor.name: tensor for tensor in found.graph.initializer}
    layers = [node for node in found.graph.node if node.name.startswith(LAYER)]
    large = {node.input[1] for node in layers if _is_large(constants.get(node.input[1]))}
    large -= {name for node in found.graph.node if node not in layers for name in node.input}
    if not large:
        return None
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(found.graph.node):
        if not node.name.startswith(LAYER) or node.input[1] not in large:
            nodes.append(node)
            continue
        narrow, product = f"lean{number}_in", f"lean{number}_out"
        nodes += [
            helper.make_node("Cast", [node.input[0]], [narrow], to=TensorProto.FLOAT),
            helper.make_node("MatMul", [narrow, node.input[1]], [product]),
            helper.make_node("Cast", [product], [node.output[0]], to=TensorProto.DOUBLE),
        ]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    for name in large:
        # a weight that float32 cannot hold becomes infinite; the certificate refuses such a graph
        with np.errstate(over="ignore"):
            weights = numpy_helper.to_array(constants[name]).astype(np.float32)
        constants[name].CopyFrom(numpy_helper.from_array(weights, name))
    narrowed: bytes = found.SerializeToString()
    return narrowed


def _is_large(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == TensorProto.DOUBLE and int(np.prod(tensor.dims)) >= LARGE
