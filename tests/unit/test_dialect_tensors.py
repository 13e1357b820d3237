"""The codec of the Open Inference Protocol: what goes in comes out, and any bytes give tensors or an error of ours."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contract import Column, Contract, Output
from registry.errors import PereneError
from serving.decode import Decoder
from serving.dialects.grpc_body import parsed, read_message
from serving.dialects.oip_body import read_infer
from serving.dialects.proto import messages
from serving.dialects.tabular import read_table
from serving.dialects.tensors import TYPES, Tensor, _plain_texts, cells_of, from_bytes, from_list, to_bytes
from serving.errors import Malformed, status_of

CONTRACT = Contract(
    "toy",
    (
        Column("temp", "float", nullable=True, example=1.5),
        Column("carrier", "string", example="AA"),
        Column("hour", "int", example=3),
        Column("late", "bool", example=True),
        Column("gate", "string", nullable=True, example="B2"),
    ),
    Output("regression"),
)
DECODER = Decoder(CONTRACT, max_rows=50)
INTEGERS = sorted(name for name in TYPES if "INT" in name)


def limits(datatype: str) -> tuple[int, int]:
    info = np.iinfo(TYPES[datatype])
    return int(info.min), int(info.max)


@pytest.mark.parametrize("datatype", sorted(TYPES))
@given(data=st.data())
def test_elements_survive_the_way_through_bytes(datatype: str, data: st.DataObject) -> None:
    """Each data type, at any length."""
    elements: st.SearchStrategy[Any]
    if datatype == "BYTES":
        elements = st.text(max_size=10)
    elif datatype == "BOOL":
        elements = st.booleans()
    elif datatype in INTEGERS:
        elements = st.integers(*limits(datatype))
    else:
        elements = st.floats(width=int(datatype[2:]), allow_nan=False)  # type: ignore[arg-type]
    values = data.draw(st.lists(elements, max_size=20))
    sent = from_list("x", datatype, [len(values)], values)
    got = from_bytes("x", datatype, [len(values)], to_bytes(sent))
    assert got.values.tolist() == values
    column = from_list("x", datatype, [len(values), 1], [[value] for value in values])
    assert column.values.tolist() == sent.values.tolist()


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_are_held_to_their_type(datatype: str) -> None:
    """The limits are in; one beyond either is not, and is never wrapped around."""
    low, high = limits(datatype)
    assert from_list("x", datatype, [2], [low, high]).values.tolist() == [low, high]
    for beyond in (low - 1, high + 1, 10**30):
        with pytest.raises(Malformed, match="beyond"):
            from_list("x", datatype, [1], [beyond])


rows = st.fixed_dictionaries(
    {
        "temp": st.none() | st.floats(-(2.0**99), 2.0**99, width=32),
        "carrier": st.text(max_size=8),
        "hour": st.integers(-(2**24), 2**24),
        "late": st.booleans(),
        "gate": st.none() | st.text(min_size=1, max_size=8),
    }
)
KINDS = {"temp": "FP64", "carrier": "BYTES", "hour": "INT64", "late": "BOOL", "gate": "BYTES"}


@given(st.lists(rows, min_size=1, max_size=5))
def test_tensors_make_the_batch_that_rows_make(sent: list[dict[str, Any]]) -> None:
    """By JSON and by bytes: the same numbers, texts and rows for the event log."""
    own = DECODER.decode(json.dumps({"rows": sent}).encode())
    tensors = [from_list(name, KINDS[name], [len(sent)], [row[name] for row in sent]) for name in KINDS]
    packed = []
    for tensor in tensors:
        values: Any = tensor.values
        if tensor.null is not None and tensor.null.any():
            values = np.where(tensor.null, "" if tensor.datatype == "BYTES" else math.nan, values)
        blob = to_bytes(type(tensor)(tensor.name, tensor.datatype, tensor.shape, values))
        packed.append(from_bytes(tensor.name, tensor.datatype, tensor.shape, blob))
    for given_tensors in (tensors, packed):
        cells, count = cells_of(CONTRACT, given_tensors)
        batch = read_table(DECODER, cells, count)
        for name in ("numbers", "strings"):
            np.testing.assert_array_equal(batch.tensors[name], own.tensors[name])
            assert batch.tensors[name].dtype == own.tensors[name].dtype
        assert list(batch.rows) == list(own.rows)


def read_http(data: bytes, length: str | None) -> None:
    infer = read_infer(data, length, most_rows=50)
    cells, count = cells_of(CONTRACT, infer.inputs)
    read_table(DECODER, cells, count)


@given(st.binary(max_size=300), st.none() | st.text(max_size=4) | st.integers(0, 300).map(str))
def test_any_bytes_over_http_are_answered(data: bytes, length: str | None) -> None:
    """With any length in the header."""
    try:
        read_http(data, length)
    except PereneError as error:
        assert status_of(error) in (400, 413, 422)


shapes = st.lists(st.integers(-2, 5) | st.integers(-(2**70), 2**70), max_size=3)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*KINDS, "x", ""]),
        "datatype": st.sampled_from([*TYPES, "FP8", ""]),
        "shape": shapes,
    },
    optional={
        "data": st.lists(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers()),
            max_size=5,
        ),
        "parameters": st.fixed_dictionaries(
            {"binary_data_size": st.integers(-3, 40) | st.none() | st.text(max_size=2)}
        ),
    },
)


@given(st.lists(tensors, max_size=5), st.binary(max_size=60))
def test_any_tensors_over_http_are_answered(inputs: list[dict[str, Any]], tail: bytes) -> None:
    """With the right keys and wrong values, and bytes behind."""
    head = json.dumps({"inputs": inputs}).encode()
    try:
        read_http(head + tail, str(len(head)))
    except PereneError as error:
        assert status_of(error) in (400, 413, 422)
        assert len(error.message) < 500


@given(st.lists(tensors, max_size=5), st.lists(st.binary(max_size=20), max_size=5))
def test_any_tensors_over_grpc_are_answered(inputs: list[dict[str, Any]], raw: list[bytes]) -> None:
    """Shapes beyond 64 bits cannot be sent; everything else can."""
    request = messages()["ModelInferRequest"](raw_input_contents=raw)
    for tensor in inputs:
        shape = [size for size in tensor["shape"] if abs(size) < 2**63]
        given_tensor = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=shape)
        numbers = [v for v in tensor.get("data") or () if type(v) is int and abs(v) < 2**31]
        if numbers:
            given_tensor.contents.int64_contents.extend(numbers)
    try:
        infer = read_message(parsed("ModelInferRequest", request.SerializeToString()), most_rows=50)
        cells, count = cells_of(CONTRACT, infer.inputs)
        read_table(DECODER, cells, count)
    except PereneError as error:
        assert status_of(error) in (400, 413, 422)


@given(st.binary(max_size=200))
def test_any_bytes_over_grpc_are_a_message_or_an_error_of_ours(data: bytes) -> None:
    """Never protobuf's own exception."""
    try:
        parsed("ModelInferRequest", data)
    except Malformed as error:
        assert error.where == "ModelInferRequest"


def test_the_messages_are_those_of_the_protocol() -> None:
    """Bytes of a request as another implementation of the protocol writes it, field by field."""
    request = messages()["ModelInferRequest"](model_name="m", model_version="2", id="i", raw_input_contents=[b"r"])
    request.parameters["k"].bool_param = True
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[2])
    tensor.contents.fp32_contents.extend([1.0])
    request.outputs.add(name="o")
    wanted = (
        b"\x0a\x01m"
        b"\x12\x012"
        b"\x1a\x01i"
        b"\x22\x07\x0a\x01k\x12\x02\x08\x01"
        b"\x2a\x14\x0a\x01x\x12\x04FP32\x1a\x01\x02\x2a\x06\x32\x04\x00\x00\x80\x3f"
        b"\x32\x03\x0a\x01o"
        b"\x3a\x01r"
    )
    assert request.SerializeToString(deterministic=True) == wanted


TEXTS = st.lists(
    st.text(alphabet="ab\0\x01é", max_size=4) | st.sampled_from(["", "AA", "x" * 127, "x" * 128, "\0" * 7])
)


@given(TEXTS, st.integers(-2, 2), st.binary(max_size=3))
def test_plain_texts_are_read_as_all_others(texts: list[str], more: int, tail: bytes) -> None:
    """The quick way of reading texts tells the same as the one that goes from length to length, or leaves it alone."""
    data = to_bytes(Tensor("t", "BYTES", (len(texts),), np.array(texts, dtype=object))) + tail
    count = max(0, len(texts) + more)
    quick = _plain_texts(data, count)
    slow: list[str] = []
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "little")
        slow.append(data[place + 4 : place + 4 + size].decode("latin-1"))
        place += 4 + size
    assert quick is None or (quick == slow and len(quick) == count and place == len(data))


def test_ordinary_texts_are_read_the_quick_way() -> None:
    """The control of the test above."""
    texts = ["AA", "JFK", "x" * 127] * 5
    assert _plain_texts(to_bytes(Tensor("t", "BYTES", (15,), np.array(texts, dtype=object))), 15) == texts
