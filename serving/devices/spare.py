"""A second way to answer: what fails on the GPU is answered by the CPU, and from then on only by it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from serving.devices.shapes import Array, Run, Tensors


class WithSpare:
    """Runs `run`; once it has failed on rows that the spare can answer, the spare for good.

    A GPU that ran out of memory or went away fails every later run as well, and each failure costs the time of one.
    Rows that fail on both are at fault themselves: they move nothing.
    """

    def __init__(self, run: Run, spare: Callable[[], Run], fell: Callable[[Exception], None]) -> None:
        self._run = run
        self._make = spare
        self._spare: Run | None = None
        self._fell = fell
        self._lock = threading.Lock()

    def __call__(self, tensors: Tensors) -> Sequence[Array]:
        """The outputs for the rows of `tensors`.

        Raises:
            Exception: of whatever kind the spare raises.
        """
        run = self._run
        try:
            return run(tensors)
        # ONNX Runtime's exceptions share no public base class
        except Exception as error:
            spare = self._opened()
            if run is spare:
                raise
            outputs = spare(tensors)
            self._move(error)
            return outputs

    def _opened(self) -> Run:
        with self._lock:
            if self._spare is None:
                self._spare = self._make()
            return self._spare

    def _move(self, error: Exception) -> None:
        with self._lock:
            if self._spare is None or self._run is self._spare:
                return
            self._run = self._spare
        self._fell(error)
