"""Messages of the Open Inference Protocol to tensors and back, with typed and with raw contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serving.dataplane import Predicted
from serving.dialects.oip_body import Infer, parameters_of
from serving.dialects.proto import messages
from serving.dialects.tensors import (
    Tensor,
    check_inputs,
    check_rows,
    decoded,
    from_bytes,
    from_list,
    to_bytes,
)
from serving.errors import Malformed
from serving.explain import short

_CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field that holds a data type's elements. FP16 has none: it comes as bytes only."""


def parsed(name: str, data: bytes) -> Any:
    """A message of this name.

    Raises:
        Malformed: the bytes are none.
    """
    from google.protobuf.message import DecodeError

    try:
        return messages()[name].FromString(data)
    except (DecodeError, UnicodeDecodeError):
        raise Malformed("the message is not of the protocol", where=name, expected="Protocol Buffers") from None


def read_message(request: Any, *, most_rows: int) -> Infer:
    """The tensors of a `ModelInferRequest`.

    Raises:
        Malformed: shapes, types and contents do not agree.
        TooLarge: more than `most_rows`.
    """
    check_inputs(len(request.inputs))
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise Malformed(
            "raw_input_contents does not agree with inputs", where="inputs", expected=f"{len(request.inputs)} buffers"
        )
    inputs: list[Tensor] = []
    for n, given in enumerate(request.inputs):
        name, datatype, shape = given.name, given.datatype, list(given.shape)
        check_rows(name, shape, datatype, most_rows)
        if raw and given.HasField("contents"):
            raise Malformed("both raw and typed contents", where=short(name), expected="one of them")
        inputs.append(from_bytes(name, datatype, shape, raw[n]) if raw else _typed(given, name, datatype, shape))
    parameters = {name: _value(parameter) for name, parameter in request.parameters.items()}
    return Infer(inputs, [output.name for output in request.outputs], bool(raw), parameters, request.id or None)


def _typed(given: Any, name: str, datatype: str, shape: Sequence[int]) -> Tensor:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise Malformed(f"{datatype} has no typed contents", where=short(name), expected="raw_input_contents")
    values = list(getattr(given.contents, field))
    return from_list(name, datatype, shape, decoded(name, values) if datatype == "BYTES" else values)


def _value(parameter: Any) -> Any:
    chosen = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, chosen) if chosen else None


def write_message(done: Predicted, infer: Infer, tensors: Sequence[Tensor]) -> Any:
    """A `ModelInferResponse`: raw where the request was raw, typed where it was typed."""
    answer = messages()["ModelInferResponse"](
        model_name=done.version.model, model_version=str(done.version.version), id=infer.id or ""
    )
    for name, value in parameters_of(done).items():
        answer.parameters[name].string_param = value
    for tensor in tensors:
        output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if infer.binary:
            answer.raw_output_contents.append(to_bytes(tensor))
            continue
        values = tensor.values.tolist()
        if tensor.datatype == "BYTES":
            values = [value.encode() for value in values]
        getattr(output.contents, _CONTENTS[tensor.datatype]).extend(values)
    return answer
