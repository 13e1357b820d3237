"""The body of an inference request of the Open Inference Protocol over HTTP: JSON, and tensors as bytes behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.dataplane import Predicted
from serving.dialects.json_rows import parse
from serving.dialects.tensors import Tensor, check_inputs, check_rows, from_bytes, from_list, to_bytes
from serving.errors import Malformed
from serving.explain import short


class _Input(msgspec.Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct, frozen=True):
    inputs: list[_Input]
    outputs: list[_Output] = []
    parameters: dict[str, Any] = {}
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Infer:
    """An inference request; `binary` holds the outputs that are wanted as bytes, or stands for all of them."""

    inputs: Sequence[Tensor]
    outputs: Sequence[str]
    binary: frozenset[str] | bool
    parameters: dict[str, Any]
    id: str | None


def read_infer(data: bytes, header_length: str | None, *, most_rows: int) -> Infer:
    """Read a body; `header_length` is the header `Inference-Header-Content-Length`, the length of its JSON.

    Raises:
        Malformed: not JSON of the protocol, or lengths that do not agree.
        TooLarge: more than `most_rows`.
    """
    length = _length(header_length, len(data))
    try:
        # NVIDIA's client writes NaN where an element is one
        body = parse(data[:length], most_rows=most_rows, nan=True)
        for tensors in (body.get("inputs"), body.get("outputs")):
            check_inputs(len(tensors) if isinstance(tensors, list) else 0)
        request = msgspec.convert(body, _Request)
    except msgspec.ValidationError as error:
        raise Malformed("not an inference request", where=_where(error), expected=_expected(error)) from None
    tail = memoryview(data)[length:]
    inputs: list[Tensor] = []
    for given in request.inputs:
        check_rows(given.name, given.shape, given.datatype, most_rows)
        size = given.parameters.get("binary_data_size")
        if size is None:
            inputs.append(from_list(given.name, given.datatype, given.shape, given.data))
            continue
        if type(size) is not int or not 0 <= size <= len(tail) or given.data is not None:
            raise Malformed(
                "binary_data_size does not agree with the body",
                where=short(given.name),
                expected=f"at most the {len(tail)} bytes that are left, and no data",
            )
        inputs.append(from_bytes(given.name, given.datatype, given.shape, tail[:size]))
        tail = tail[size:]
    if len(tail):
        raise Malformed("bytes are left over", where="body", expected="as many as binary_data_size says")
    names = [output.name for output in request.outputs]
    return Infer(inputs, names, _binary(request), request.parameters, request.id)


def _length(header_length: str | None, size: int) -> int:
    if header_length is None:
        return size
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 15:
        raise Malformed("not a length", where="Inference-Header-Content-Length", expected="a number of bytes")
    if int(header_length) > size:
        raise Malformed(
            "longer than the body", where="Inference-Header-Content-Length", expected=f"at most {size} bytes"
        )
    return int(header_length)


def _binary(request: _Request) -> frozenset[str] | bool:
    everything = request.parameters.get("binary_data_output") is True
    if not request.outputs:
        return everything
    return frozenset(o.name for o in request.outputs if o.parameters.get("binary_data", everything) is True)


def write_infer(done: Predicted, infer: Infer, tensors: Sequence[Tensor]) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON where bytes follow it."""
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for tensor in tensors:
        made: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if infer.binary is True or (infer.binary and tensor.name in infer.binary):
            blobs.append(to_bytes(tensor))
            made["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            made["data"] = tensor.values.tolist()
        outputs.append(made)
    body: dict[str, Any] = {"model_name": done.version.model, "model_version": str(done.version.version)}
    if infer.id is not None:
        body["id"] = infer.id
    body["parameters"] = parameters_of(done)
    body["outputs"] = outputs
    head = msgspec.json.encode(body)
    return (b"".join((head, *blobs)), len(head)) if blobs else (head, None)


def parameters_of(done: Predicted) -> dict[str, str]:
    """What Perene says beside the outputs: the arm, and the ids that feedback is given for, with commas between."""
    return {"arm": done.arm, "prediction_ids": ",".join(done.ids)}


def _where(error: msgspec.ValidationError) -> str:
    _, _, path = str(error).partition(" - at ")
    return short(path.strip("`").removeprefix("$.")) or "body"


def _expected(error: msgspec.ValidationError) -> str:
    return str(error).partition(" - at ")[0].replace("`", "")[:100]
