"""Greedy batching: never wait while idle; what queued while the engine was busy goes together as the next batch.

A light model runs on the event loop, with what arrived in the same turn of it. A heavy one has a thread of its own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Final

from monitoring.alerting.metrics import ServeMetrics
from registry.errors import PereneError
from serving.decode import Decoder
from serving.engine import Answer
from serving.native import NativeEngine
from serving.queues.admission import LIGHT_PATIENCE, USED, Admission, Cost, Turn
from serving.queues.engine_queue import SLOWER, EngineQueue
from serving.queues.patience import Within
from serving.queues.runner import Counts, Done, Item, Outcome, Row, Runner, Runs, Tensors, tell
from serving.settings import ServingSettings

LIGHT_S: Final = 1e-3
BUSY_TURN_S: Final = 5e-4
"""After a turn that has read requests for so long, the next one waits for whatever is done on the loop."""
LIGHT_ROWS: Final = 16
"""A model that takes longer than `LIGHT_S` for so many rows is not asked on the loop: others would wait for it."""


def _never() -> bool:
    return False


class Batcher:
    """The queue of one version, for every lane and dialect. Used from one event loop.

    Threads are made when they are needed, and end when nobody holds the batcher any more.
    """

    def __init__(self, runner: Runner, admission: Admission, *, light: bool, patience_s: float = 0.05) -> None:
        self._runner = runner
        self._patience_s = patience_s
        self._measured = replace(runner.cost)
        self._admission = admission
        self._light = light
        self._turn: list[Item] = []
        self._turn_rows = 0
        self._queue = EngineQueue(runner, admission, "engine")
        self._large = EngineQueue(runner, admission, "engine-large")

    @property
    def waiting(self) -> int:
        """Requests that wait for the engine."""
        return len(self._turn) + self._queue.requests + self._large.requests

    @property
    def busy(self) -> bool:
        """Whether a request is being answered, or waits to be."""
        return bool(self._turn) or self._queue.busy or self._large.busy

    def admit(self) -> None:
        """Ask before a body is read whether its rows could be answered in time.

        Raises:
            Overloaded: they could not.
        """
        self._admission.check(self.waiting, self._queue.wait_s())

    @property
    def pressed(self) -> bool:
        """Whether callers would feel work that nobody waits for."""
        return self.waiting > 0 or self._admission.turn_s > BUSY_TURN_S

    @property
    def behind(self) -> bool:
        """Whether what is put into the queue now would be late, or the engine hangs; nothing is counted."""
        return self._queue.overrun_s() > self._patience_s or not self._admission.room(
            self.waiting, self._queue.wait_s()
        )

    def cost_s(self, rows: int) -> float:
        """Seconds that so many rows take in a run of their own."""
        return self._runner.cost.of(rows)

    def patience(self, rows: int, champion: Batcher) -> float:
        """Seconds that a caller waits for so many rows before the champion is asked; endless for what runs inline.

        By what runs cost when the version was loaded: one that gets slower and slower earns no more time.
        """
        if self._light and rows <= self._runner.most_rows:
            return math.inf
        return self._patience_s + SLOWER * max(self._measured.of(rows), champion.cost_s(rows))

    def submit(self, rows: Sequence[Row], done: Done, gone: Callable[[], bool] = _never) -> None:
        """Answer `rows` soon.

        Args:
            rows: as the contract's decoder reads them.
            done: called later on this loop, never from here.
            gone: says that nobody waits any more.
        """
        self._submit(Item(rows, None, done, gone, perf_counter()))

    async def answer(
        self, rows: Sequence[Row], tensors: Tensors, *, within: float = math.inf
    ) -> tuple[Answer, float, float]:
        """The answer to packed rows, and the seconds that they waited and that their batch ran.

        Raises:
            CandidateLate: it did not come within so many seconds.
            Overloaded: they waited for longer than they may, and were not run.
            InferenceFailed, OutputNotFinite: the engine failed on them.
        """
        future: asyncio.Future[tuple[Outcome, float, float]] = asyncio.get_running_loop().create_future()

        def done(*told: object) -> None:
            if not future.done():
                future.set_result(told)  # type: ignore[arg-type]

        told: Done = done if within == math.inf else Within(done, within)
        self._submit(Item(rows, tensors, told, future.done, perf_counter()))
        outcome, queue_s, infer_s = await future
        if isinstance(outcome, PereneError):
            try:
                raise outcome
            finally:
                # else it holds this frame and this frame holds it, and with it the engine
                del outcome, future, done, told
        return outcome, queue_s, infer_s

    def close(self) -> None:
        """Let the threads go; a run that has begun is finished, what waits is dropped."""
        self._queue.close()
        self._large.close()

    def _submit(self, item: Item) -> None:
        large = self._runner.together and len(item.rows) > self._runner.most_rows
        if large or not self._light:
            # a large one goes beside the others: they would wait for as long as all of its rows take
            self._put(self._large if large else self._queue, item)
        else:
            if self._turn_rows + len(item.rows) > self._runner.most_rows:
                self._flush(bounded=True)
            if not self._turn:
                asyncio.get_running_loop().call_soon(self._flush)
            self._turn.append(item)
            self._turn_rows += len(item.rows)

    def _put(self, queue: EngineQueue, item: Item) -> None:
        """Packed here: the thread of an engine waits for the interpreter while the loop is busy, the loop does not."""
        packed = self._runner.packed(item)
        if isinstance(packed, Item):
            queue.put(packed)
        else:
            asyncio.get_running_loop().call_soon(item.done, packed, 0.0, 0.0)

    def _flush(self, *, bounded: bool = False) -> None:
        items, self._turn, self._turn_rows = self._turn, [], 0
        if items:  # a full batch did not wait for the end of the turn
            began = perf_counter()
            outcomes = self._runner.run(items, bounded=bounded)
            tell(items, outcomes, began, perf_counter())


class Batchers:
    """Makes the batchers of one process: they share the event loop, and so the bound of its turns."""

    def __init__(self, settings: ServingSettings, metrics: ServeMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._turn = Turn(settings.queue.seconds)

    def of(self, engine: Runs, decoder: Decoder, cost: Cost) -> Batcher:
        """The batcher of a version.

        A native model answers one request after the other, since a row that ends its process must hurt no other
        request; and as long as it may take for one, the others may wait.
        """
        queue, model = self._settings.queue, decoder.contract.model
        native = isinstance(engine, NativeEngine)
        seconds = max(queue.seconds, self._settings.native_seconds) if native else queue.seconds
        counts = Counts.of(self._metrics, model)
        runner = Runner(engine, decoder, cost, counts, most_rows=queue.max_batch_rows, together=not native)
        refused = self._metrics.rejected_total.labels
        light = not native and cost.of(LIGHT_ROWS) <= LIGHT_S
        patience = LIGHT_PATIENCE if light else 1.0
        bound = queue.model_copy(update={"seconds": seconds})
        admission = Admission(bound, self._turn, refused, patience=patience)
        return Batcher(runner, admission, light=light, patience_s=queue.seconds * USED)
