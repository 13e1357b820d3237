"""Native models in the server: each answer comes from another process."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from registry.bundle import Bundle
from registry.errors import PereneError
from registry.native.process import NativeDied, NativeProcess
from serving.engine import Answer, answer_names, read_answer
from serving.errors import InferenceFailed

Array = npt.NDArray[Any]


class NativeEngine:
    """One version in a process of its own, which ends when nobody holds the engine any more.

    A version that a swap dropped is still held by the requests that chose it: its process outlives them.
    """

    provider: ClassVar[str] = "native"
    placement: ClassVar[Mapping[str, int]] = {}

    def __init__(self, bundle: Bundle, *, allow_pickle: bool, seconds: float) -> None:
        self._output = bundle.contract.output
        self.process = NativeProcess(
            bundle.contract, bundle.model_file, bundle.model_bytes(), allow_pickle=allow_pickle, seconds=seconds
        )
        self._close = weakref.finalize(self, self.process.close)
        self.process.start()

    def run(self, tensors: Mapping[str, Array]) -> Answer:
        """Answer the rows of `tensors`; once more, in a new process, when the process ends while it is asked.

        Raises:
            InferenceFailed: the model failed on them, took too long, or its process ended twice.
            OutputNotFinite: an answer is NaN or infinite.
        """
        try:
            try:
                outputs = self.process.run(tensors)
            except NativeDied:
                outputs = self.process.run(tensors)
        except PereneError as error:
            raise InferenceFailed(error.message, where="native", hint=error.hint) from error
        return read_answer(self._output, [np.asarray(outputs[name]) for name in answer_names(self._output)])

    def close(self) -> None:
        """End the process."""
        self._close()
