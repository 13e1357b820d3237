"""Tensors of the Open Inference Protocol: their types, their bytes, and how they stand for rows.

A tensor is a column of the contract ([N] or [N, 1], by its name), or a matrix: [N, F] numbers, or [N, S] text, in the
contract's order. NaN is null; so is an empty text where the column may be null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np

from registry.contract import Column, Contract, Output
from serving.dataplane import Predicted
from serving.dialects.tabular import Array, Cells
from serving.errors import Malformed, TooLarge
from serving.explain import short

TYPES: Final[dict[str, str]] = {
    "BOOL": "?",
    **{f"{sign}INT{8 * size}": f"<{sign.lower() or 'i'}{size}" for sign in ("", "U") for size in (1, 2, 4, 8)},
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "O",
}
"""Data types of the protocol and numpy's names of them, little endian."""
MOST_INPUTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor; `values` are its elements in row-major order, `null` marks those that are null."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Array
    null: Array | None = None


def check_inputs(count: int) -> None:
    """Refuse more inputs, outputs or columns than any model has: each costs time, however small it is.

    Raises:
        Malformed: there are more.
    """
    if count > MOST_INPUTS:
        raise Malformed("too many inputs, outputs or columns", where="body", expected=f"at most {MOST_INPUTS}")


def check_rows(name: str, shape: Sequence[int], datatype: str, most: int) -> None:
    """Refuse a shape that is none, and more rows than a request may have, before any of them is read.

    Raises:
        Malformed, TooLarge: it is none, or there are more.
    """
    check_shape(name, shape, datatype)
    if shape[0] > most:
        raise TooLarge("too many rows in one request", where="rows", expected=f"at most {most}")


def check_shape(name: str, shape: Sequence[int], datatype: str) -> int:
    """The number of elements.

    Raises:
        Malformed: a negative or overflowing dimension, another rank than 1 or 2, or a data type that is none.
    """
    if datatype not in TYPES:
        raise _bad(name, "the data type is not known", ", ".join(TYPES))
    if len(shape) not in (1, 2) or min(shape) < 0 or math.prod(shape) >= 2**63:
        raise _bad(name, "the shape does not fit", "[N], [N, 1] or [N, columns]")
    return math.prod(shape)


def from_list(name: str, datatype: str, shape: Sequence[int], data: Any) -> Tensor:
    """A tensor whose elements came as JSON, flat or nested.

    Raises:
        Malformed: shape, type and elements do not agree.
    """
    count = check_shape(name, shape, datatype)
    if not isinstance(data, list):
        raise _bad(name, "the data is missing", "a list of elements")
    values = _flatten(name, data, shape)
    if len(values) != count:
        raise _bad(name, "shape and data do not agree", f"{len(values)} elements")
    wanted: set[type] = {int} if "INT" in datatype else {int, float}
    wanted = {bool} if datatype == "BOOL" else {str} if datatype == "BYTES" else wanted
    types = set(map(type, values))
    if not types <= wanted | {type(None)}:
        raise _bad(name, f"an element is not of type {datatype}", f"{datatype} elements")
    null = np.array([value is None for value in values], dtype=bool) if type(None) in types else None
    return Tensor(name, datatype, tuple(shape), _array(name, datatype, values, null), null)


def _array(name: str, datatype: str, values: list[Any], null: Array | None) -> Array:
    if datatype == "BYTES":
        return _objects(values)
    if null is not None:
        values = [0 if value is None else value for value in values]
    try:
        # numbers keep the digits that they came with: the contract says to what they are rounded
        return np.array(values, dtype=np.float64 if datatype.startswith("FP") else TYPES[datatype])
    except OverflowError:
        raise _bad(name, f"an element is beyond {datatype}", f"{datatype} elements") from None


def from_bytes(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Tensor:
    """A tensor whose elements came as bytes: little endian, texts with their lengths of 4 bytes before them.

    Raises:
        Malformed: shape, type and bytes do not agree.
    """
    count = check_shape(name, shape, datatype)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _objects(_texts(name, data, count)))
    kind = np.dtype(TYPES[datatype])
    if len(data) != count * kind.itemsize:
        raise _bad(name, "shape and bytes do not agree", f"{len(data) // kind.itemsize} elements")
    if datatype == "BOOL":
        raw = np.frombuffer(data, dtype=np.uint8)
        if (raw > 1).any():
            raise _bad(name, "a boolean is neither 0 nor 1", "bytes 0 and 1")
        return Tensor(name, datatype, tuple(shape), raw.astype(np.bool_))
    return Tensor(name, datatype, tuple(shape), np.frombuffer(data, dtype=kind))


def to_bytes(tensor: Tensor) -> bytes:
    """The elements as `from_bytes` reads them."""
    if tensor.datatype == "BYTES":
        encoded = [value.encode() for value in tensor.values.tolist()]
        return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
    return tensor.values.astype(TYPES[tensor.datatype]).tobytes()


def decoded(name: str, texts: Iterable[bytes]) -> list[str]:
    """Texts of a BYTES tensor.

    Raises:
        Malformed: one is not UTF-8.
    """
    try:
        return [bytes(text).decode() for text in texts]
    except UnicodeDecodeError:
        raise _bad(name, "a text is not UTF-8", "UTF-8") from None


def _texts(name: str, data: bytes | memoryview, count: int) -> list[str]:
    whole = bytes(data)
    if (plain := _plain_texts(whole, count)) is not None:
        return plain
    found: list[bytes] = []
    position, end = 0, len(data)
    # every text takes 4 bytes or more, so the work is bounded by the bytes that came, whatever the shape says
    while position + 4 <= end and len(found) < count:
        length = int.from_bytes(whole[position : position + 4], "little")
        position += 4 + length
        if position > end:
            break
        found.append(whole[position - length : position])
    if len(found) != count or position != end:
        raise _bad(name, "shape and bytes do not agree", "texts, each with its length of 4 bytes before it")
    return decoded(name, found)


def _plain_texts(data: bytes, count: int) -> list[str] | None:
    """All texts at once where each is of 1 to 127 ASCII characters: the zeros of the lengths stand between them.

    Nothing where they are others: bytes that look alike may mean something else then.
    """
    if not data.isascii():
        return None
    first, *pieces = data.decode("ascii").split("\0\0\0")
    if len(first) != 1 or not pieces or len(pieces) != count:
        return None
    # each piece but the last ends with the length of the next one
    lengths = [ord(first), *(ord(piece[-1:] or "\0") for piece in pieces[:-1])]
    texts = [*(piece[:-1] for piece in pieces[:-1]), pieces[-1]]
    return texts if lengths == list(map(len, texts)) else None


def _flatten(name: str, data: list[Any], shape: Sequence[int]) -> list[Any]:
    if not data or type(data[0]) is not list:
        return data
    if len(shape) != 2 or len(data) != shape[0] or any(type(row) is not list or len(row) != shape[1] for row in data):
        raise _bad(name, "shape and data do not agree", "rows as long as the shape says")
    return list(chain.from_iterable(data))


def _objects(values: list[Any]) -> Array:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def cells_of(contract: Contract, tensors: Sequence[Tensor]) -> tuple[dict[str, Cells], int]:
    """Tensors as columns by name, and their number of rows.

    Raises:
        Malformed: tensors of different lengths, a column that comes twice, or a matrix of another width.
    """
    if not tensors:
        raise Malformed("there are no inputs", where="inputs", expected="a tensor for each column, or one matrix")
    count = tensors[0].shape[0]
    found: dict[str, Cells] = {}
    for tensor in tensors:
        if tensor.shape[0] != count:
            raise _bad(tensor.name, "not as long as the first input", f"{count} rows")
        for column, cells in _columns(contract, tensor):
            if column in found:
                raise _bad(tensor.name, f"column '{short(column)}' comes twice", "each column once")
            found[column] = cells
    return found, count


def _columns(contract: Contract, tensor: Tensor) -> list[tuple[str, Cells]]:
    known = {column.name: column for column in contract.columns}
    block = contract.strings if tensor.datatype == "BYTES" else contract.numbers
    width = 1 if len(tensor.shape) == 1 else tensor.shape[1]
    if width == 1 and (tensor.name in known or len(block) != 1):
        null = tensor.null
        column = known.get(tensor.name)
        if column is not None and column.nullable and tensor.datatype == "BYTES":
            empty: Array = tensor.values == ""
            null = empty if null is None else null | empty
        return [(tensor.name, Cells(tensor.values, tensor.datatype, null))]
    if width != len(block):
        what = "text" if tensor.datatype == "BYTES" else "numbers"
        raise _bad(tensor.name, "a matrix of another width", f"{len(block)} columns of {what}, or one tensor a column")
    values = tensor.values.reshape(tensor.shape)
    null = None if tensor.null is None else tensor.null.reshape(tensor.shape)
    return [
        (column.name, _of_matrix(column, tensor.datatype, values[:, n], None if null is None else null[:, n]))
        for n, column in enumerate(block)
    ]


def _of_matrix(column: Column, datatype: str, values: Array, null: Array | None) -> Cells:
    """A matrix has one type for all of its columns: booleans are 0 and 1 in it."""
    if datatype == "BYTES" and column.nullable:
        empty: Array = values == ""
        null = empty if null is None else null | empty
    elif column.dtype == "bool" and values.dtype.kind in "iuf":
        missing = np.isnan(values)
        if ((values == 0) | (values == 1) | missing).all():
            return Cells(values == 1, datatype, missing if null is None else null | missing)
    return Cells(values, datatype, null)


def input_types(contract: Contract) -> list[tuple[str, str, list[int]]]:
    """Name, data type and shape of each input; -1 is any number of rows."""
    number = "FP64" if contract.precision == "float64" else "FP32"
    types = {"float": number, "int": "INT64", "bool": "BOOL", "string": "BYTES"}
    return [(column.name, types[column.dtype], [-1]) for column in contract.columns]


def output_types(output: Output) -> list[tuple[str, str, list[int]]]:
    """Name, data type and shape of each output."""
    if output.kind == "regression":
        return [("prediction", "FP64", [-1, len(output.targets)] if output.targets else [-1])]
    first = output.classes[0]
    label = "BOOL" if isinstance(first, bool) else "INT64" if isinstance(first, int) else "BYTES"
    beside = ("scores", "FP64", [-1, len(output.scores)])
    if not output.scores:
        beside = ("probabilities", "FP64", [-1, len(output.classes)])
    return [("label", label, [-1]), beside]


def outputs_of(done: Predicted, wanted: Sequence[str] = ()) -> list[Tensor]:
    """The outputs of these names, all when there are none."""
    answer, output = done.answer, done.version.contract.output
    numbers = answer.scores if output.scores else answer.values
    given: dict[str, list[Any]] = {"prediction": answer.predictions, "label": answer.predictions}
    made: list[Tensor] = []
    for name, datatype, shape in output_types(output):
        if wanted and name not in wanted:
            continue
        values = given.get(name, numbers or [])
        flat = _objects(values) if datatype == "BYTES" else np.array(values, dtype=TYPES[datatype]).reshape(-1)
        made.append(Tensor(name, datatype, (len(done.ids), *shape[1:]), flat))
    return sorted(made, key=lambda tensor: wanted.index(tensor.name)) if wanted else made


def check_outputs(output: Output, wanted: Sequence[str]) -> None:
    """Refuse an output that the model has not.

    Raises:
        Malformed: naming those that it has.
    """
    names = [name for name, _, _ in output_types(output)]
    for name in wanted:
        if name not in names:
            raise _bad(name, "the model has no such output", ", ".join(names))


def _bad(name: str, message: str, expected: str) -> Malformed:
    return Malformed(message, where=short(name), expected=expected)
