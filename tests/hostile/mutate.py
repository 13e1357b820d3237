"""Mutations of a model: of any field of its protobuf message, and of its bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor

from registry.graphs.allowed import OPERATORS

_WHOLE = (0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63))
_REAL = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e30, -1e30, 3.4e38, float("nan"), float("inf"), float("-inf"))
_NAMES = sorted({name for names in OPERATORS.values() for name in names} | {"", "Loop", "Scan", "com.evil"})


def mutate(data: bytes, generator: random.Random) -> bytes:
    """A different model, or something that is none: two thirds by field, the others by byte."""
    if generator.random() < 1 / 3:
        return _bytes(bytearray(data), generator)
    model = onnx.load_model_from_string(data)
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        _field(model, generator)
    return bytes(model.SerializeToString())


def _bytes(data: bytearray, generator: random.Random) -> bytes:
    for _ in range(generator.choice((1, 1, 2, 5))):
        at = generator.randrange(len(data))
        length = generator.choice((1, 1, 4, 8, 50))
        kind = generator.randrange(5)
        if kind == 0:
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[at] = generator.randrange(256)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        else:
            data[at : at + length] = generator.randbytes(length)
        if not data:
            break
    return bytes(data)


def _fields(message: Any) -> Iterator[tuple[Any, FieldDescriptor]]:
    """Every field that is set, with the message that it belongs to."""
    for field, value in message.ListFields():
        yield message, field
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from _fields(inner)


def _field(model: onnx.ModelProto, generator: random.Random) -> None:
    everything = list(_fields(model))
    if not everything:
        return
    message, field = generator.choice(everything)
    if field.is_repeated:
        _list(getattr(message, field.name), field, generator, everything)
    elif generator.random() < 0.1:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        others = [getattr(m, f.name) for m, f in everything if f is field]
        getattr(message, field.name).CopyFrom(generator.choice(others))
    else:
        setattr(message, field.name, _value(getattr(message, field.name), field, generator, everything))


def _list(values: Any, field: FieldDescriptor, generator: random.Random, everything: list[Any]) -> None:
    """Change, remove, double or exchange elements."""
    at, other = generator.randrange(len(values)), generator.randrange(len(values))
    kind = generator.randrange(5)
    if kind == 0:
        del values[at]
    elif kind == 1 and field.type == FieldDescriptor.TYPE_MESSAGE:
        values.add().CopyFrom(values[at])
    elif kind == 1:
        values.append(values[at])
    elif kind == 2 and len(values) > 1:
        kept = list(values)
        kept[at], kept[other] = kept[other], kept[at]
        del values[:]
        values.extend(kept)
    elif kind == 3 and len(values) > 1:
        del values[at:]
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        values[at] = _value(values[at], field, generator, everything)


def _value(value: Any, field: FieldDescriptor, generator: random.Random, everything: list[Any]) -> Any:
    """Another value of the field's type, often one that hurts."""
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return generator.choice((*_REAL, -value, value * 1.5))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(bytearray(value), generator) if value else generator.randbytes(4)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        texts = [
            getattr(m, f.name) for m, f in everything if f.type == FieldDescriptor.TYPE_STRING and not f.is_repeated
        ]
        names = [
            name for m, f in everything if f.name in ("input", "output") for name in getattr(m, f.name) if f.type == 9
        ]
        return generator.choice([*texts, *names, *_NAMES])
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return generator.choice(field.enum_type.values).number
    narrow = field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32)
    number = generator.choice((*_WHOLE, value + 1, value - 1, value * 2))
    low, high = (-(2**31), 2**31 - 1) if narrow else (-(2**63), 2**63 - 1)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        low = 0
    return min(max(number, low), high)
