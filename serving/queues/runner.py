"""Runs of the engine: the rows of several requests as one, and request by request when that fails."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from prometheus_client import Counter, Histogram

from monitoring.alerting.metrics import ServeMetrics
from registry.errors import PereneError
from serving.decode import Decoder
from serving.engine import Answer
from serving.errors import InferenceFailed
from serving.queues.admission import Cost

_log = logging.getLogger("perene.serving")
Row = tuple[Any, ...]
Tensors = Mapping[str, npt.NDArray[Any]]
Outcome = Answer | PereneError
Done = Callable[[Outcome, float, float], None]
"""Told the outcome of a request, and the seconds that it waited and that its batch ran."""


class Runs(Protocol):
    """An engine."""

    def run(self, tensors: Tensors, /) -> Answer:
        """Answer the rows of `tensors`."""


class Item(msgspec.Struct, frozen=True):
    """One request: its rows, packed or not yet, whom to tell, and whether nobody waits for it any more."""

    rows: Sequence[Row]
    tensors: Tensors | None
    done: Done
    gone: Callable[[], bool]
    arrived: float


@dataclass(frozen=True)
class Counts:
    """What runs are counted in."""

    rows: Histogram
    idle: Counter
    full: Counter

    @classmethod
    def of(cls, metrics: ServeMetrics, model: str) -> Counts:
        """Those of one model."""
        released = metrics.batch_released_total
        return cls(metrics.batch_rows.labels(model=model), released.labels("idle"), released.labels("full"))


class Runner:
    """One version's engine, what its runs cost, and how many rows go together. Threads may share it.

    `together` is False for an engine in which one bad row hurts the others: requests then run one by one.
    """

    def __init__(
        self, engine: Runs, decoder: Decoder, cost: Cost, counts: Counts, *, most_rows: int, together: bool = True
    ) -> None:
        self._engine = engine
        self._decoder = decoder
        self._counts = counts
        self.cost = cost
        self.most_rows = most_rows
        self.together = together

    def packed(self, item: Item) -> Item | PereneError:
        """The request with its rows packed, or why they cannot be."""
        if item.tensors is not None:
            return item
        try:
            return msgspec.structs.replace(item, tensors=self._decoder.pack(item.rows))
        except PereneError as error:
            return error
        except Exception:  # whoever waits must be told, whatever it was
            _log.exception("serving.batch_failed")
            return InferenceFailed("the model failed on this input")

    def take(self, items: deque[Item]) -> list[Item]:
        """Remove the first items that go together: at least one, and no more rows than a batch may have."""
        batch = [items.popleft()]
        rows = len(batch[0].rows)
        while self.together and items and rows + len(items[0].rows) <= self.most_rows:
            batch.append(items.popleft())
            rows += len(batch[-1].rows)
        return batch

    def run(self, items: Sequence[Item], *, bounded: bool) -> list[Outcome]:
        """What each request gets. `bounded`: more waited than could go together."""
        (self._counts.full if bounded else self._counts.idle).inc()
        try:
            return self._together(items) if len(items) > 1 else [self._alone(items[0])]
        except PereneError:
            return [self._alone(item) for item in items]
        except Exception:  # whoever waits must be told, whatever it was
            _log.exception("serving.batch_failed")
            return [InferenceFailed("the model failed on this input") for _ in items]

    def _alone(self, item: Item) -> Outcome:
        try:
            return self._timed(item.tensors or self._decoder.pack(item.rows), len(item.rows))
        except PereneError as error:
            # its frames hold whom it is told to: a circle, in which the engine would stay until garbage is looked for
            return error.with_traceback(None)
        except Exception:  # whoever waits must be told, whatever it was
            _log.exception("serving.batch_failed")
            return InferenceFailed("the model failed on this input")

    def _together(self, items: Sequence[Item]) -> list[Outcome]:
        whole = self._timed(self._packed(items), sum(len(item.rows) for item in items))
        outcomes: list[Outcome] = []
        start = 0
        for item in items:
            end = start + len(item.rows)
            outcomes.append(_part(whole, start, end))
            start = end
        return outcomes

    def _timed(self, tensors: Tensors, rows: int) -> Answer:
        self._counts.rows.observe(rows)
        began = perf_counter()
        answer = self._engine.run(tensors)
        self.cost.learn(rows, perf_counter() - began)
        return answer

    def _packed(self, items: Sequence[Item]) -> Tensors:
        """All rows as one set of tensors; those that are not packed yet are packed in one go with their neighbours."""
        parts: list[Tensors] = []
        loose: list[Row] = []
        for item in items:
            if item.tensors is None:
                loose.extend(item.rows)
                continue
            if loose:
                parts.append(self._decoder.pack(loose))
                loose = []
            parts.append(item.tensors)
        if loose:
            parts.append(self._decoder.pack(loose))
        return parts[0] if len(parts) == 1 else {name: _joined([part[name] for part in parts]) for name in parts[0]}


def tell(items: Iterable[Item], outcomes: Iterable[Outcome], began: float, ended: float) -> None:
    """Tell each request its outcome. One that cannot be told keeps no other from being told."""
    for item, outcome in zip(items, outcomes, strict=True):
        try:
            item.done(outcome, began - item.arrived, ended - began)
        except Exception:  # a defect of ours in one answer: the others are still waited for
            _log.exception("serving.answer_failed")
            with contextlib.suppress(Exception):  # who was told already hears nothing new
                item.done(InferenceFailed("the answer could not be made"), began - item.arrived, ended - began)


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """All rows of tensors of one kind.

    For numbers NumPy lets go of the interpreter at each part, and a thread gets it back only when the busy loop is
    made to give it up: by way of bytes it is kept.
    """
    first = parts[0]
    if first.dtype.hasobject:
        return np.concatenate(parts)
    whole = b"".join([np.ascontiguousarray(part).data for part in parts])
    return np.frombuffer(whole, first.dtype).reshape(-1, *first.shape[1:])


def _part(whole: Answer, start: int, end: int) -> Answer:
    values, scores = whole.values, whole.scores
    return Answer(
        whole.predictions[start:end],
        None if values is None else values[start:end],
        None if scores is None else scores[start:end],
    )
