"""A graph under construction: operators on named values, everything in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Value = str
"""Name of a tensor in the graph."""
OPSETS: Final[Mapping[str, int]] = {"": 18, "ai.onnx.ml": 5}
_OLD_TREES: Final = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor"})
"""In graphs that others made."""
LAYER: Final = "layer_"
"""How the names of the products in a neural network begin."""
MICROSOFT: Final = "com.microsoft"
KINDS: Final[Mapping[str, int]] = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}


class Builder:
    """Collects operators; an operator that was already asked for with the same inputs is not added again."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._known: dict[Any, list[Value]] = {}
        self._count = 0
        self._opsets = dict(OPSETS)
        self._layers: set[Value] = set()

    def op(self, kind: str, *inputs: Value, domain: str = "", **attributes: Any) -> Value:
        """Add an operator with one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def layer(self, value: Value, weights: npt.NDArray[Any], shift: npt.NDArray[Any]) -> Value:
        """`value @ weights + shift` of a neural network, which `registry.export.lean` may narrow."""
        product = self.op("MatMul", value, self.constant(np.asarray(weights, np.float64)))
        self._layers.add(product)
        return self.op("Add", product, self.constant(np.asarray(shift, np.float64)))

    def ops(self, kind: str, *inputs: Value, outputs: int, domain: str = "", **attributes: Any) -> list[Value]:
        """Add an operator with several outputs."""
        shared = (kind, inputs, domain, outputs, repr(sorted(attributes.items()))) if domain == "" else None
        if shared is not None and shared in self._known:
            return self._known[shared]
        names = [self._fresh() for _ in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        if domain == MICROSOFT:
            self._opsets[MICROSOFT] = 1
        if shared is not None:
            self._known[shared] = names
        return names

    def constant(self, values: Any) -> Value:
        """A constant: float64, int64, bool or string, as its numpy type says."""
        array = np.asarray(values)
        if array.dtype.kind == "f":
            array = array.astype(np.float64)
        elif array.dtype.kind in "iu":
            array = array.astype(np.int64)
        elif array.dtype.kind in "UO":
            array = array.astype(object)
        key = (array.dtype.str, array.shape, str(array.tolist()) if array.dtype == object else array.tobytes())
        if key not in self._known:
            name = self._fresh()
            self._constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
            self._known[key] = [name]
        return self._known[key][0]

    def cast(self, value: Value, kind: str) -> Value:
        """The value as `float`, `double`, `int64`, `bool` or `string`."""
        return self.op("Cast", value, to=KINDS[kind])

    def rounded(self, value: Value) -> Value:
        """float64 that was rounded to float32, as scikit-learn does before trees and for frames of float32."""
        return self.cast(self.cast(value, "float"), "double")

    def gather(self, value: Value, positions: Any, axis: int = 1) -> Value:
        """Columns (or rows) of `value` at constant positions."""
        return self.op("Gather", value, self.constant(np.asarray(positions, np.int64)), axis=axis)

    def concat(self, values: Sequence[Value], axis: int = 1) -> Value:
        """Values side by side."""
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=axis)

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """The value in another shape; -1 once, 0 keeps a dimension."""
        return self.op("Reshape", value, self.constant(np.asarray(shape, np.int64)))

    def reduce(self, kind: str, value: Value, axis: int = 1, *, keep: bool = True) -> Value:
        """`ReduceSum`, `ReduceMax`, … over one axis."""
        return self.op(kind, value, self.constant(np.asarray([axis], np.int64)), keepdims=int(keep))

    def argmax(self, value: Value) -> Value:
        """Position of the first largest number of each row [N]."""
        return self.op("ArgMax", value, axis=1, keepdims=0)

    def affine(self, value: Value, weights: npt.NDArray[Any], shift: npt.NDArray[Any] | float) -> Value:
        """`value @ weights + shift`."""
        product = self.op("MatMul", value, self.constant(np.asarray(weights, np.float64)))
        return self.op("Add", product, self.constant(np.asarray(shift, np.float64)))

    def inline(self, model: onnx.ModelProto, bound: Mapping[str, Value]) -> dict[str, Value]:
        """Add the operators of another graph whose inputs are `bound`; its outputs by their names."""
        prefix = f"{self._fresh()}_"
        names = dict(bound)

        def renamed(name: str) -> str:
            return names.get(name) or (prefix + name if name else "")

        for tensor in model.graph.initializer:
            copied = onnx.TensorProto()
            copied.CopyFrom(tensor)
            copied.name = renamed(tensor.name)
            self._constants.append(copied)
        for node in model.graph.node:
            made = onnx.NodeProto()
            made.CopyFrom(node)
            made.name = ""
            made.input[:] = [renamed(name) for name in node.input]
            made.output[:] = [renamed(name) for name in node.output]
            self._nodes.append(made)
        for opset in model.opset_import:
            domain = "" if opset.domain == "ai.onnx" else opset.domain
            self._opsets[domain] = max(self._opsets.get(domain, 1), opset.version)
        return {output.name: renamed(output.name) for output in model.graph.output}

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Mapping[Value, onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The graph of everything that the outputs need; `outputs` maps values to what they are called outside."""
        nodes = [
            *self._nodes,
            *(helper.make_node("Identity", [value], [info.name]) for value, info in outputs.items()),
        ]
        needed = {info.name for info in outputs.values()}
        kept: list[onnx.NodeProto] = []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
        for node in kept:
            if self._layers.intersection(node.output):
                node.name = f"{LAYER}{node.output[0]}"
        domains = {node.domain for node in kept} | {""}
        if any(node.op_type in _OLD_TREES for node in kept):
            self._opsets["ai.onnx.ml"] = 3  # they are gone from 5
        graph = helper.make_graph(
            list(reversed(kept)),
            "model",
            list(inputs),
            list(outputs.values()),
            [tensor for tensor in self._constants if tensor.name in needed],
        )
        opsets = [
            helper.make_opsetid(domain, version)
            for domain, version in sorted(self._opsets.items())
            if domain in domains
        ]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _fresh(self) -> str:
        self._count += 1
        return f"v{self._count}"
