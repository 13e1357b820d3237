"""Greedy batching on the event loop: never wait while idle; what arrives in one turn of the loop goes together.

A row that cannot be packed, or that makes the graph fail, fails alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from registry.errors import PereneError
from serving.decode import Decoder
from serving.engine import Answer, Engine
from serving.errors import InferenceFailed

_log = logging.getLogger("perene.serving")
Row = tuple[Any, ...]
Outcome = Answer | PereneError
Done = Callable[[Outcome, float], None]
"""Called with the answer to one request, and the seconds its batch took."""

MAX_BATCH_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class Item:
    """One request's rows and whom to tell."""

    rows: list[Row]
    done: Done


class Batcher:
    """Runs one version's light requests. Used from one event loop, and never blocks it for long."""

    def __init__(self, engine: Engine, decoder: Decoder) -> None:
        self._engine = engine
        self._decoder = decoder
        self._waiting: list[Item] = []

    def submit(self, rows: list[Row], done: Done) -> None:
        """Answer `rows` in this turn of the loop; `done` is called later, never from here."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(Item(rows, done))

    def _flush(self) -> None:
        items, self._waiting = self._waiting, []
        while items:
            batch, items = _take(items)
            outcomes, seconds = self._answer(batch)
            for item, outcome in zip(batch, outcomes, strict=True):
                item.done(outcome, seconds)

    def _answer(self, items: list[Item]) -> tuple[list[Outcome], float]:
        began = perf_counter()
        outcomes: list[Outcome]
        try:
            outcomes = self._together(items) if len(items) > 1 else [self._alone(items[0])]
        except PereneError:
            outcomes = [self._alone(item) for item in items]
        except Exception:  # whoever waits must be told, whatever it was
            _log.exception("serving.batch_failed")
            outcomes = [InferenceFailed("the model failed on this input") for _ in items]
        return outcomes, perf_counter() - began

    def _alone(self, item: Item) -> Outcome:
        try:
            return self._engine.run(self._decoder.pack(item.rows))
        except PereneError as error:
            return error

    def _together(self, items: list[Item]) -> list[Outcome]:
        whole = self._engine.run(self._decoder.pack([row for item in items for row in item.rows]))
        outcomes: list[Outcome] = []
        start = 0
        for item in items:
            end = start + len(item.rows)
            outcomes.append(_part(whole, start, end))
            start = end
        return outcomes


def _take(items: list[Item]) -> tuple[list[Item], list[Item]]:
    """The first items that together have at most `MAX_BATCH_ROWS` rows, but at least one; and the others."""
    rows = len(items[0].rows)
    count = 1
    while count < len(items) and rows + len(items[count].rows) <= MAX_BATCH_ROWS:
        rows += len(items[count].rows)
        count += 1
    return items[:count], items[count:]


def _part(whole: Answer, start: int, end: int) -> Answer:
    def cut(values: list[Any] | None) -> list[Any] | None:
        return None if values is None else values[start:end]

    return Answer(whole.predictions[start:end], cut(whole.values), cut(whole.scores))
