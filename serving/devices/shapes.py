"""Batches of few sizes: rows are filled up to a bucket, so that the shapes that a GPU sees repeat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]
Run = Callable[[Tensors], Sequence[Array]]
"""Tensors of N rows in, outputs of N rows."""


def parts(rows: int, buckets: Sequence[int]) -> list[tuple[int, int, int]]:
    """Begin, end and bucket of each run that `rows` are answered in: full largest buckets, then one that fits.

    >>> parts(5, (1, 8, 64)), parts(130, (1, 8, 64))
    ([(0, 5, 8)], [(0, 64, 64), (64, 128, 64), (128, 130, 8)])
    """
    most = buckets[-1]
    full = [(start, start + most, most) for start in range(0, rows - most + 1, most)]
    begun = len(full) * most
    if begun < rows:
        full.append((begun, rows, next(size for size in buckets if size >= rows - begun)))
    return full


class Bucketed:
    """Answers any number of rows with runs of bucket sizes; what was filled in is not part of the answer."""

    def __init__(self, run: Run, buckets: Sequence[int]) -> None:
        self._run = run
        self.buckets = tuple(sorted(set(buckets)))

    def __call__(self, tensors: Tensors) -> Sequence[Array]:
        """The outputs for the rows of `tensors`."""
        rows = len(next(iter(tensors.values())))
        found = [self._part(tensors, *part) for part in parts(rows, self.buckets)]
        return found[0] if len(found) == 1 else [np.concatenate(pieces) for pieces in zip(*found, strict=True)]

    def _part(self, tensors: Tensors, start: int, end: int, size: int) -> Sequence[Array]:
        outputs = self._run({name: _filled(tensor[start:end], size) for name, tensor in tensors.items()})
        return [output[: end - start] for output in outputs]


class Bound:
    """Runs a session on memory of its own for each shape: what is on the device is allocated once.

    One run at a time, since they share that memory.
    """

    def __init__(self, session: Any, names: Sequence[str], device: str) -> None:
        self._session = session
        self._names = names
        self._device = device
        self._lock = threading.Lock()
        self._shapes: dict[tuple[tuple[int, ...], ...], tuple[Any, Mapping[str, Any]]] = {}

    def __call__(self, tensors: Tensors) -> Sequence[Array]:
        """The outputs for the rows of `tensors`."""
        with self._lock:
            binding, held = self._binding(tensors)
            for name, tensor in tensors.items():
                held[name].update_inplace(np.ascontiguousarray(tensor))
            self._session.run_with_iobinding(binding)
            return list(binding.copy_outputs_to_cpu())

    def _binding(self, tensors: Tensors) -> tuple[Any, Mapping[str, Any]]:
        key = tuple(tensor.shape for tensor in tensors.values())
        found = self._shapes.get(key)
        if found is None:
            import onnxruntime

            make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
            held = {name: make(list(t.shape), t.dtype, self._device, 0) for name, t in tensors.items()}
            binding = self._session.io_binding()
            for name, value in held.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._names:
                binding.bind_output(name, "cpu")  # the answer is read here; ONNX Runtime copies it once
            found = self._shapes[key] = (binding, held)
        return found


def can_bind(session: Any, names: Sequence[str]) -> bool:
    """Whether everything that goes in and comes out is a number.

    Texts live in the machine's memory whatever runs the graph. ONNX Runtime 1.31 refuses to bind them as inputs, and
    ends the process when they are bound as outputs.
    """
    outputs = [output for output in session.get_outputs() if output.name in names]
    return all(value.type != "tensor(string)" for value in (*session.get_inputs(), *outputs))


def _filled(tensor: Array, size: int) -> Array:
    """Rows up to `size`: the last one again, since a row that came is one that the graph can take."""
    missing = size - len(tensor)
    return tensor if missing == 0 else np.concatenate([tensor, np.repeat(tensor[-1:], missing, axis=0)])
