"""What every exported graph shares: opsets, names of inputs and outputs, grouped inputs, a last check."""

from __future__ import annotations

from typing import Final

import onnx
from onnx import TensorProto, helper

from registry.contract import Contract
from registry.errors import ConversionRefused

OPSET: Final = {"": 18, "ai.onnx.ml": 3}
"""Both pinned: without the second, skl2onnx picks one that ONNX Runtime may not have."""


def answers_of(contract: Contract) -> list[str]:
    """Names of the graph's outputs, in order."""
    if contract.output.kind == "regression":
        return ["prediction"]
    return ["label", "probabilities", *(["scores"] if contract.output.scores else [])]


def finish(model: onnx.ModelProto, contract: Contract) -> bytes:
    """Checked bytes of a graph whose inputs and outputs are the contract's; equal models are equal bytes."""
    model.producer_name = "perene"
    model.graph.name = contract.model
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def name_outputs(model: onnx.ModelProto, contract: Contract) -> None:
    wanted = answers_of(contract)
    outputs = list(model.graph.output)
    if len(outputs) != len(wanted):
        raise ConversionRefused(
            "the converted graph does not answer what the estimator does",
            expected=", ".join(wanted),
            got=", ".join(o.name for o in outputs),
        )
    for output, name in zip(outputs, wanted, strict=True):
        old = output.name
        if old == name:
            continue
        rename(model.graph, old, name)
        output.name = name


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
                elif name == new:
                    names[i] = f"{new}_inner"


def group_inputs(model: onnx.ModelProto, contract: Contract) -> None:
    """Replace one input per column by `numbers` and `strings`, split inside the graph.

    ONNX Runtime pays per input: 20 one-column inputs cost 95 µs a row, two grouped tensors 5 µs.
    """
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    nodes, inputs = [], []
    number = TensorProto.FLOAT if contract.precision == "float32" else TensorProto.DOUBLE
    groups = (
        ("numbers", contract.numbers, number),
        ("strings", contract.strings, TensorProto.STRING),
    )
    for group, columns, kind in groups:
        if not columns:
            continue
        inputs.append(helper.make_tensor_value_info(group, kind, [None, len(columns)]))
        for index, column in enumerate(columns):
            if column.name in used:
                position = f"{group}_{index}_position"
                graph.initializer.append(helper.make_tensor(position, TensorProto.INT64, [1], [index]))
                inner = f"{group}_{index}_column"
                rename(graph, column.name, inner)
                nodes.append(helper.make_node("Gather", [group, position], [inner], axis=1))
    rest = list(graph.node)
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.node[:]
    graph.node.extend(nodes + rest)
