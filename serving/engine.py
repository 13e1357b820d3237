"""A version's graph on ONNX Runtime: what provider really runs it, and its answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from registry.contract import Contract, Output
from registry.errors import BundleCorrupt, ConfigInvalid
from registry.onnx_session import available_providers, open_session
from serving.errors import InferenceFailed, OutputNotFinite

_log = logging.getLogger("perene.serving")
Array = npt.NDArray[Any]
Device = Literal["auto", "cpu", "cuda"]
_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x12"
)
"""The smallest graph: y = x, opset 18, IR 8."""


@dataclass(frozen=True, slots=True)
class Answer:
    """N answers: numbers (lists of them where there are several targets) or classes.

    `values` is what the event log keeps beside each: probabilities of the classes, or every target.
    """

    predictions: list[Any]
    values: list[list[float]] | None = None
    scores: list[list[float]] | None = None


class Engine:
    """One session. `provider` is the execution provider that really runs, whatever was asked for."""

    def __init__(self, model: bytes, contract: Contract, *, device: Device = "auto") -> None:
        try:
            self._session = open_session(model, _providers(device))
        # ONNX Runtime's exceptions share no public base class
        except Exception as error:
            raise BundleCorrupt(
                "ONNX Runtime does not load the graph", where="model.onnx", hint="the old version keeps serving"
            ) from error
        self.provider: str = self._session.get_providers()[0]
        if device == "cuda" and self.provider != "CUDAExecutionProvider":
            raise ConfigInvalid(
                "device = 'cuda', but ONNX Runtime finds no usable GPU",
                where="serving.device",
                hint="install perene[gpu] on a machine with a GPU, or set device = 'auto'",
            )
        if device == "auto" and len(_providers(device)) > 1 and self.provider == "CPUExecutionProvider":
            _log.info("engine.fell_back: no usable GPU, serving on the CPU")
        self._names, self._output = answer_names(contract.output), contract.output

    def run(self, tensors: Mapping[str, Array]) -> Answer:
        """Answer the rows of `tensors`.

        Raises:
            InferenceFailed: the graph failed on them.
            OutputNotFinite: an answer is NaN or infinite.
        """
        try:
            outputs = self._session.run(self._names, dict(tensors))
        except Exception as error:
            raise InferenceFailed("the model failed on this input", hint="the request can be tried again") from error
        return read_answer(self._output, outputs)


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
    """Check at start that the device asked for is really there.

    Raises:
        ConfigInvalid: `cuda` without a usable GPU.
    """
    if device == "cuda":
        Engine(_IDENTITY, Contract("probe", (), Output("regression")), device=device)


def _providers(device: Device) -> list[str]:
    available = available_providers()
    if device != "cpu" and "CUDAExecutionProvider" in available:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
