"""Native models in the server: asked in threads of their own, since each answer waits for another process."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
import numpy.typing as npt

from registry.bundle import Bundle
from registry.errors import PereneError
from registry.native.process import NativeDied, NativeProcess
from serving.engine import Answer, answer_names, read_answer
from serving.errors import InferenceFailed, NotReady

Array = npt.NDArray[Any]
T = TypeVar("T")
THREADS: Final = 2
"""A model; champion and candidate have a process each."""
MOST_WAITING: Final = 64


class NativeEngine:
    """One version in a process of its own, which ends when nobody holds the engine any more.

    A version that a swap dropped is still held by the requests that chose it: its process outlives them.
    """

    provider: ClassVar[str] = "native"

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


@dataclass
class _Lane:
    threads: ThreadPoolExecutor
    waiting: int = 0


class Lanes:
    """Threads for models that block, a few for each: one that hangs keeps no other model waiting."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}

    async def run(self, model: str, work: Callable[[], T]) -> T:
        """Do `work`, which asks `model`, off the event loop.

        Raises:
            NotReady: too many requests wait for this model already.
        """
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = _Lane(ThreadPoolExecutor(THREADS, f"native-{model}"))
        if lane.waiting >= MOST_WAITING:
            raise NotReady("too many requests wait for this model", where="native", hint="try again later")
        lane.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(lane.threads, work)
        finally:
            lane.waiting -= 1

    def waiting(self, model: str) -> int:
        """Requests that are being answered, or wait to be."""
        lane = self._lanes.get(model)
        return lane.waiting if lane else 0

    def close(self) -> None:
        """Let the threads go; work that has begun is finished, what waits is dropped."""
        for lane in self._lanes.values():
            lane.threads.shutdown(wait=False, cancel_futures=True)
