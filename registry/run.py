"""A model that can be asked: an ONNX graph in this process, or a native one in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from registry.bundle import ONNX, Bundle
from registry.contract import Contract
from registry.parity import Run, onnx_runner


@contextmanager
def opened(contract: Contract, file: str, data: bytes, *, allow_pickle: bool = False) -> Iterator[Run]:
    """Open the model `data`, whose name in the bundle is `file`, and close it afterwards.

    Raises:
        ConversionRefused: it does not load.
        NotAllowed: it is a pickle, and those are not allowed.
    """
    if file == ONNX:
        yield onnx_runner(data)
        return
    from registry.native.process import NativeProcess

    with NativeProcess(contract, file, data, allow_pickle=allow_pickle) as process:
        yield process.run


@contextmanager
def opened_bundle(bundle: Bundle, *, allow_pickle: bool = False) -> Iterator[Run]:
    """Open a bundle's model."""
    with opened(bundle.contract, bundle.model_file, bundle.model_bytes(), allow_pickle=allow_pickle) as run:
        yield run
