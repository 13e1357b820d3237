"""Static checks of a graph that nobody trusts, before ONNX Runtime sees it: pure Python on its bytes.

ONNX's own checker and the runtime accept graphs that crash or never end once they are run. What made them do so in
100,000 mutations is refused here by rule, and by name; `registry/sandbox.py` runs what passes, in a child with limits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto

from registry.contract import Contract
from registry.graphs.allowed import IR_VERSIONS, MAIN, MICROSOFT, OPERATORS, OPSETS, domain_of
from registry.graphs.divisions import check_division
from registry.graphs.operators import CHECKS
from registry.graphs.read import Array, Attributes, refused, shown, tensor, title
from registry.graphs.sizes import check_sizes
from registry.graphs.widths import check_width, width_of

MAX_BYTES: Final = 512 * 1024 * 1024
MAX_NODES: Final = 100_000
MAX_NAME: Final = 1_000
MAX_INPUTS: Final = 10_000
_FLOATS: Final = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})
_WEIGHED: Final = frozenset({"MatMul", "Gemm"})
_SUMMED: Final = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Sum"})


def check_graph(data: bytes, contract: Contract) -> onnx.ModelProto:
    """Refuse a graph that could crash, hang, grow without bound, reach outside, or does not fit its contract.

    Raises:
        BundleCorrupt: naming the node or operator, and the reason.
    """
    if len(data) > MAX_BYTES:
        raise refused(f"model.onnx is larger than {MAX_BYTES} bytes")
    try:
        model = onnx.load_model_from_string(data)
    # protobuf's DecodeError is not exported under one stable name
    except Exception as error:
        raise refused("model.onnx is not an ONNX graph") from error
    graph = model.graph
    if not graph.node:
        raise refused("model.onnx is not an ONNX graph, or holds no operator")
    if len(graph.node) > MAX_NODES:
        raise refused(f"the graph has more than {MAX_NODES} nodes")
    if model.functions or model.training_info:
        raise refused("it keeps data or functions outside the graph")
    if graph.sparse_initializer or graph.quantization_annotation:
        raise refused("it holds sparse or quantized data, which no export makes")
    for node in graph.node:
        if node.op_type not in OPERATORS.get(domain_of(node.domain), frozenset()):
            raise refused(f"operator {shown(f'{node.domain or MAIN}.{node.op_type}')} is not allowed")
    constants = {_name(t.name): tensor(t, f"constant {shown(t.name)}") for t in graph.initializer}
    if len(constants) != len(graph.initializer):
        raise refused("a constant is given twice")
    opsets = _versions(model)
    _check_inputs(graph.input, contract)
    known = {value.name for value in graph.input}
    if known & constants.keys():
        raise refused("a constant has the name of an input")
    by_value = set(known)
    known |= constants.keys()
    widths = {"numbers": len(contract.numbers), "strings": len(contract.strings)}
    whole: set[str] = set()
    for node in graph.node:
        attributes = _check_node(node, opsets, known, constants, widths)
        check_division(node, attributes, constants, whole)
        check_sizes(node, constants, by_value)
    _check_outputs(graph.output, contract, {name for node in graph.node for name in node.output})
    return model


def _versions(model: onnx.ModelProto) -> dict[str, int]:
    if model.ir_version not in IR_VERSIONS:
        raise refused(f"its IR version {model.ir_version} is not one of {_range(IR_VERSIONS)}")
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        # the converter names the default domain twice; the runtime takes the newer
        domain = domain_of(entry.domain)
        opsets[domain] = max(entry.version, opsets.get(domain, 0))
    for domain, version in opsets.items():
        supported = OPSETS.get(domain)
        # a domain that is imported and not used does nothing
        if supported is not None and version not in supported:
            raise refused(f"opset {version} of {domain or MAIN} is not one that the runtime has: {_range(supported)}")
    return opsets


def _range(numbers: range) -> str:
    return f"{numbers.start} to {numbers.stop - 1}"


def _check_node(
    node: NodeProto, opsets: dict[str, int], known: set[str], constants: dict[str, Array], widths: dict[str, int]
) -> Attributes:
    """One node: as its schema says, with lists that fit. Adds what it makes to the three tables."""
    domain = domain_of(node.domain)
    if domain not in opsets:
        raise refused(f"{title(node)}: its domain has no version")
    if len(node.input) > MAX_INPUTS or len(node.output) > MAX_INPUTS:
        raise refused(f"{title(node)} has more than {MAX_INPUTS} inputs or outputs")
    attributes = Attributes(node)
    optional = _check_schema(node, domain, opsets[domain])
    for position, name in enumerate(node.input):
        if name == "" and position not in optional:
            raise refused(f"{title(node)}: its input {position} is missing")
        if name != "" and name not in known:
            raise refused(f"{title(node)}: its input {shown(name)} is not made before it")
    for name in filter(None, node.output):
        if name in known:
            raise refused(f"{title(node)}: {shown(name)} is made twice")
        known.add(_name(name))
    _check_weights(node, constants)
    check = CHECKS.get(node.op_type)
    check_width(node, attributes, check(attributes) if check is not None else None, widths)
    if (width := width_of(node, attributes, constants, widths)) is not None:
        widths[node.output[0]] = width
    if node.op_type == "ArrayFeatureExtractor" and (indices := constants.get(node.input[1])) is not None:
        attributes.require(indices.size > 0 and bool((indices >= 0).all()), "it takes a column that cannot be")
    if node.op_type == "Constant":
        constants[node.output[0]] = attributes.constant()
    return attributes


def _check_schema(node: NodeProto, domain: str, version: int) -> set[int]:
    """Attributes and numbers of inputs and outputs as the operator has them; returns which inputs may be missing."""
    if domain == MICROSOFT:
        if len(node.input) != 1 or len(node.output) != 1:
            raise refused(f"{title(node)} takes one input and makes one output")
        names = {"mark", "mincharnum", "pad_value", "separators", "tokenexp", "stopexp", "stopwords"}
        if not {a.name for a in node.attribute} <= names - {"stopexp", "stopwords"}:
            raise refused(f"{title(node)} has an attribute that is not allowed")
        return set()
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        raise refused(f"{title(node)} does not exist in opset {version}") from None
    if schema.deprecated:
        raise refused(f"{title(node)} does not exist any more in opset {version}")
    for attribute in node.attribute:
        expected: Any = schema.attributes.get(attribute.name)
        if expected is None or expected.type.value != attribute.type:
            raise refused(f"{title(node)} has no attribute {shown(attribute.name)} of this type")
    given = {attribute.name for attribute in node.attribute}
    missing = [name for name, a in schema.attributes.items() if a.required and name not in given]
    if missing:
        raise refused(f"{title(node)} lacks attribute '{missing[0]}'")
    if not schema.min_input <= len(node.input) <= schema.max_input:
        raise refused(f"{title(node)} cannot have {len(node.input)} inputs")
    if not schema.min_output <= len(node.output) <= schema.max_output:
        raise refused(f"{title(node)} cannot have {len(node.output)} outputs")
    kind = onnx.defs.OpSchema.FormalParameterOption.Optional
    return {i for i, parameter in enumerate(schema.inputs) if parameter.option == kind}


def _check_weights(node: NodeProto, constants: dict[str, Array]) -> None:
    """NaN in a sum or product makes every answer NaN; infinity in a matrix does, with the next zero."""
    if node.op_type not in _WEIGHED | _SUMMED:
        return
    for name in node.input:
        values = constants.get(name)
        if values is None or values.dtype.kind != "f":
            continue
        if np.isnan(values).any() or (node.op_type in _WEIGHED and np.isinf(values).any()):
            raise refused(f"{title(node)}: its weights {shown(name)} hold NaN or infinity")


def _check_inputs(inputs: Iterable[ValueInfoProto], contract: Contract) -> None:
    """Exactly the contract's tensors: `numbers` [N, F] and `strings` [N, S]."""
    number = TensorProto.DOUBLE if getattr(contract, "precision", "float32") == "float64" else TensorProto.FLOAT
    wanted = {"numbers": (number, len(contract.numbers)), "strings": (TensorProto.STRING, len(contract.strings))}
    wanted = {name: entry for name, entry in wanted.items() if entry[1]}
    given = list(inputs)
    if len(given) != len(wanted) or {value.name for value in given} != wanted.keys():
        raise refused(f"its inputs are not the contract's: {', '.join(wanted)}")
    for value in given:
        element, width = wanted[value.name]
        dims = value.type.tensor_type.shape.dim
        if value.type.WhichOneof("value") != "tensor_type" or value.type.tensor_type.elem_type != element:
            raise refused(f"its input '{value.name}' has another type than the contract says")
        if len(dims) != 2 or (dims[1].WhichOneof("value") == "dim_value" and dims[1].dim_value != width):
            raise refused(f"its input '{value.name}' has another shape than the contract says: {width} columns")
        if dims[0].WhichOneof("value") == "dim_value":
            raise refused(f"its input '{value.name}' takes a fixed number of rows")


def _check_outputs(outputs: Iterable[ValueInfoProto], contract: Contract, made: set[str]) -> None:
    """The contract's answers, and `scores` where the graph has them."""
    given = list(outputs)
    names = [value.name for value in given]
    wanted = {"prediction"} if contract.output.kind == "regression" else {"label", "probabilities"}
    if len(set(names)) != len(names) or set(names) - {"scores"} != wanted:
        raise refused(f"its outputs are not the contract's: {', '.join(sorted(wanted))}")
    for value in given:
        if value.name not in made:
            raise refused(f"no node makes its output '{value.name}'")
        if value.type.WhichOneof("value") != "tensor_type":
            raise refused(f"its output '{value.name}' is not a tensor")
        if value.name != "label" and value.type.tensor_type.elem_type not in _FLOATS:
            raise refused(f"its output '{value.name}' does not hold floating-point numbers")


def _name(name: str) -> str:
    if len(name) > MAX_NAME:
        raise refused(f"the name {shown(name)}… is longer than {MAX_NAME} characters")
    return name
