"""A version's graph on ONNX Runtime: what provider really runs it, and its answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from registry.contract import Contract, Output
from registry.errors import BundleCorrupt, ConfigInvalid
from registry.onnx_session import CPU, available_providers, nodes_by_provider, open_session
from serving.devices.providers import CUDA, TENSORRT, Device, attempts, preload
from serving.devices.shapes import Bound, Bucketed, Run, Tensors, can_bind
from serving.devices.spare import WithSpare
from serving.errors import InferenceFailed, OutputNotFinite
from serving.settings import GpuSettings

_log = logging.getLogger("perene.serving")
Array = npt.NDArray[Any]
_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x12"
)
"""The smallest graph: y = x, opset 18, IR 8."""
_NO_GPU: Final = "no usable GPU"
_FAILED: Final = "the GPU failed"
_NO_TENSORRT: Final = "no usable TensorRT"


class Answer(msgspec.Struct, frozen=True):
    """N answers: numbers (lists of them where there are several targets) or classes.

    `values` is what the event log keeps beside each: probabilities of the classes, or every target.
    """

    predictions: list[Any]
    values: list[list[float]] | None = None
    scores: list[list[float]] | None = None


def _untold(_reason: str) -> None:
    """Nobody asked to be told."""


class Engine:
    """One graph. `provider` is the execution provider that really runs it, whatever was asked for.

    Args:
        model: verified bytes.
        contract: of the version.
        device: where to run; `cuda` refuses what `auto` falls back from.
        threads: of one run on the CPU.
        gpu: how the GPU is used.
        fell: told why, when less runs it than was asked for.

    Raises:
        BundleCorrupt: no session opens over it.
        ConfigInvalid: `cuda` without a usable GPU.
    """

    def __init__(
        self,
        model: bytes,
        contract: Contract,
        *,
        device: Device = "auto",
        threads: int = 1,
        gpu: GpuSettings = GpuSettings(),  # noqa: B008 - it is frozen
        fell: Callable[[str], None] = _untold,
    ) -> None:
        self._names, self._output = answer_names(contract.output), contract.output
        self._threads = threads
        self._fell = fell
        self.provider = CPU
        self.placement: Mapping[str, int] = {}
        """Nodes of the graph by provider, as far as a GPU was tried."""
        self.buckets: tuple[int, ...] = ()
        self._run = self._open(model, device, gpu)

    def run(self, tensors: Tensors) -> Answer:
        """Answer the rows of `tensors`.

        Raises:
            InferenceFailed: the graph failed on them.
            OutputNotFinite: an answer is NaN or infinite.
        """
        try:
            outputs = self._run(tensors)
        except Exception as error:
            raise InferenceFailed("the model failed on this input", hint="the request can be tried again") from error
        return read_answer(self._output, outputs)

    def warm(self, row: Tensors) -> None:
        """Run every shape that a GPU will see with a row that it can take: the first run of a shape is a slow one."""
        for size in self.buckets:
            self.run({name: np.repeat(tensor[:1], size, axis=0) for name, tensor in row.items()})

    def _open(self, model: bytes, device: Device, gpu: GpuSettings) -> Run:
        reason, failure = "", None
        for providers in attempts(device, gpu, available_providers()):
            try:
                session = open_session(model, providers, threads=self._threads)
            # ONNX Runtime's exceptions share no public base class
            except Exception as error:
                reason, failure = (_NO_TENSORRT if providers[0][0] == TENSORRT else _FAILED), error
                continue
            asked = len(providers) > 1
            if asked and CUDA not in session.get_providers():
                reason = _NO_GPU
            if device == "cuda" and CUDA not in session.get_providers():
                raise no_gpu()
            if reason:
                self._fell(reason)
            return self._placed(model, session, gpu) if asked and reason != _NO_GPU else self._plain(session)
        hint = "see whether the GPU has memory left" if device == "cuda" else "the old version keeps serving"
        raise BundleCorrupt("ONNX Runtime does not load the graph", where="model.onnx", hint=hint) from failure

    def _plain(self, session: Any) -> Run:
        return partial(session.run, self._names)

    def _on_cpu(self, model: bytes) -> Run:
        return self._plain(open_session(model, threads=self._threads))

    def _placed(self, model: bytes, session: Any, gpu: GpuSettings) -> Run:
        """Run on the GPU, if any of the graph is there at all: else it would only cost copies."""
        self.placement = nodes_by_provider(session)
        at_work = [name for name in session.get_providers() if self.placement.get(name)]
        if not at_work or at_work[0] == CPU:
            _log.info("engine.nothing_for_gpu", extra={"placement": dict(self.placement)})
            return self._on_cpu(model)
        self.provider = at_work[0]
        run = Bound(session, self._names, "cuda") if can_bind(session, self._names) else self._plain(session)
        bucketed = Bucketed(run, gpu.buckets)
        self.buckets = bucketed.buckets
        return WithSpare(bucketed, partial(self._on_cpu, model), self._left_gpu)

    def _left_gpu(self, error: Exception) -> None:
        _log.error("engine.gpu_failed", extra={"error": type(error).__name__})
        self.provider, self.buckets = CPU, ()
        self._fell(_FAILED)


def no_gpu() -> ConfigInvalid:
    """What is told where `cuda` was asked for in vain."""
    return ConfigInvalid(
        "device = 'cuda', but ONNX Runtime finds no usable GPU",
        where="serving.device",
        hint="install perene[gpu] on a machine with a GPU, or set device = 'auto'",
    )


def answer_names(output: Output) -> list[str]:
    """The outputs that an answer is read from, in order."""
    if output.kind == "regression":
        return ["prediction"]
    return ["label", "probabilities", *(["scores"] if output.scores else [])]


def read_answer(output: Output, outputs: Sequence[Array]) -> Answer:
    """Tensors named by `answer_names` as an answer.

    Raises:
        OutputNotFinite: a number is NaN or infinite.
    """
    if not all(np.isfinite(values).all() for values in outputs if values.dtype.kind == "f"):
        raise OutputNotFinite("the model's answer is not a finite number", where="predictions")
    if output.kind == "regression":
        if not output.targets:
            return Answer(outputs[0].reshape(-1).tolist())
        several = outputs[0].tolist()
        return Answer(several, several)
    labels = outputs[0].reshape(-1).tolist()
    if isinstance(output.classes[0], bool):
        labels = [bool(label) for label in labels]
    return Answer(labels, outputs[1].tolist(), outputs[2].tolist() if output.scores else None)


def require_device(device: Device) -> None:
    """Make ready for the device asked for, and check at start that it is really there.

    Raises:
        ConfigInvalid: `cuda` without a usable GPU.
    """
    available = available_providers()
    preload(device, available)
    if device != "cuda":
        return
    asked = attempts(device, GpuSettings(), available)[0]
    if CUDA not in open_session(_IDENTITY, asked).get_providers():
        raise no_gpu()
