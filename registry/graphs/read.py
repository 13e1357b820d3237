"""Attributes and tensors of a graph that nobody trusts, as numpy arrays whose lengths were checked first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, NodeProto, TensorProto, helper

from registry.errors import BundleCorrupt

Array = npt.NDArray[Any]
MAX_ELEMENTS: Final = 2**28
MAX_RANK: Final = 6
ELEMENTS: Final[Mapping[int, str]] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.INT32: "int32_data",
    TensorProto.UINT8: "int32_data",
    TensorProto.INT8: "int32_data",
    TensorProto.BOOL: "int32_data",
    TensorProto.FLOAT16: "int32_data",
    TensorProto.STRING: "string_data",
}
"""Element types that a graph may hold, and where those are kept that are not raw bytes."""
_PLAIN: Final[Mapping[int, str]] = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
}
"""Kinds of attribute that a graph may hold: neither graphs nor sparse tensors nor types."""


def refused(reason: str) -> BundleCorrupt:
    """The one way a graph is turned down."""
    return BundleCorrupt(f"the bundle is refused: {reason}", where="model.onnx", hint="the old version keeps serving")


def shown(name: str | bytes) -> str:
    """A name out of the graph, short and printable: it goes to logs."""
    # protobuf hands out text that is not UTF-8 as bytes
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    plain = "".join(c if c.isprintable() and c.isascii() else "?" for c in text[:48])
    return f"'{plain}'"


def title(node: NodeProto) -> str:
    """How messages name a node."""
    return f"{node.domain or 'ai.onnx'}.{node.op_type[:48]} {shown(node.name or next(iter(node.output), ''))}"


def tensor(proto: TensorProto, owner: str) -> Array:
    """The values of a tensor; strings as objects.

    Raises:
        BundleCorrupt: data outside of the file, an element type without use, or another number of elements than
            its dimensions say.
    """
    if proto.data_location != TensorProto.DEFAULT or proto.external_data or proto.HasField("segment"):
        raise refused(f"{owner} keeps data outside the graph")
    field = ELEMENTS.get(proto.data_type)
    if field is None:
        raise refused(f"{owner} has element type {proto.data_type}, which is not allowed")
    dims = list(proto.dims)
    if len(dims) > MAX_RANK or any(d < 0 for d in dims) or math.prod(dims) > MAX_ELEMENTS:
        raise refused(f"{owner} has dimensions that cannot be")
    count = math.prod(dims)
    kinds = ("float_data", "double_data", "int64_data", "int32_data", "uint64_data", "string_data")
    filled = [kind for kind in kinds if len(getattr(proto, kind))] + (["raw_data"] if proto.raw_data else [])
    if count and filled not in ([field], ["raw_data"]):
        raise refused(f"{owner} keeps its elements in another place than its type says")
    if not count and filled:
        raise refused(f"{owner} has elements, but dimensions for none")
    if proto.data_type == TensorProto.STRING:
        values = np.array([bytes(text) for text in proto.string_data], dtype=object)
    elif proto.raw_data:
        dtype = helper.tensor_dtype_to_np_dtype(proto.data_type)
        if len(proto.raw_data) != count * dtype.itemsize:
            raise refused(f"{owner} has {len(proto.raw_data)} bytes for {count} elements")
        values = np.frombuffer(proto.raw_data, dtype=dtype)
    else:
        values = np.array(getattr(proto, field))
    if len(values) != count:
        raise refused(f"{owner} has {len(values)} values for {count} elements")
    return values.reshape(dims)


class Attributes:
    """A node's attributes by name. Lists are arrays; what is absent is empty or the default."""

    def __init__(self, node: NodeProto) -> None:
        self.title = title(node)
        self._of: dict[str, Any] = {}
        for attribute in node.attribute:
            where = f"attribute {shown(attribute.name)} of {self.title}"
            field = _PLAIN.get(attribute.type)
            if attribute.HasField("g") or attribute.graphs:
                raise refused(f"{where} carries a graph of its own")
            if field is None or attribute.ref_attr_name or attribute.HasField("sparse_tensor"):
                raise refused(f"{where} is of a kind that is not allowed")
            if attribute.name in self._of:
                raise refused(f"{where} is given twice")
            value = getattr(attribute, field)
            self._of[attribute.name] = tensor(value, where) if field == "t" else value

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def one(self, name: str, default: Any) -> Any:
        """A single number or text, of the default's kind."""
        value = self._of.get(name, default)
        kinds = (bytes, str) if isinstance(default, str) else (int, float)
        if not isinstance(value, kinds):
            raise refused(f"attribute '{name}' of {self.title} has another type than it must have")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def length(self, name: str) -> int:
        """How many values a list or tensor has; 0 when absent."""
        value = self._of.get(name, ())
        return int(np.size(value)) if isinstance(value, np.ndarray) else len(value)

    def kind(self, name: str) -> str:
        """The kind of numpy's type of a tensor's elements; empty where there is none."""
        value = self._of.get(name)
        return value.dtype.kind if isinstance(value, np.ndarray) else ""

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        values = self._of.get(name, ())
        found = list(values.ravel()) if isinstance(values, np.ndarray) else values
        if isinstance(found, (bytes, int, float)) or not all(isinstance(text, bytes) for text in found):
            raise refused(f"attribute '{name}' of {self.title} has another type than it must have")
        return [text.decode("utf-8", "replace") for text in found]

    def whole(self, name: str) -> npt.NDArray[np.int64]:
        """A list, or tensor, of integers."""
        return self._array(name, self._of.get(name, ()), "iub").astype(np.int64)

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """A list of floats, or the tensor that newer versions of an operator hold under the name `…_as_tensor`."""
        self.require(not (name in self and f"{name}_as_tensor" in self), f"'{name}' is given twice")
        given = self._of.get(name, self._of.get(f"{name}_as_tensor", ()))
        return self._array(name, given, "fiu").astype(np.float64)

    def finite(self, name: str) -> npt.NDArray[np.float64]:
        """The same, where neither NaN nor infinity has a meaning."""
        values = self.numbers(name)
        if not np.isfinite(values).all():
            raise refused(f"attribute '{name}' of {self.title} holds NaN or infinity")
        return values

    def constant(self) -> Array:
        """The value of a `Constant` node, whichever of its attributes holds it."""
        self.require(len(self._of) == 1, "it needs one value")
        return np.array(next(iter(self._of.values())))

    def _array(self, name: str, given: Any, kinds: str) -> Array:
        values = np.array(given).ravel()
        if len(values) and values.dtype.kind not in kinds:
            raise refused(f"attribute '{name}' of {self.title} has another type than it must have")
        return values

    def require(self, holds: bool, reason: str) -> None:  # noqa: FBT001
        """Refuse the node unless `holds`."""
        if not holds:
            raise refused(f"{self.title}: {reason}")
