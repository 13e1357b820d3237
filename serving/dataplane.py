"""The plain core: rows become predictions and events, a label becomes durable. Knows nothing of HTTP or dialects."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.blocks import Answered
from monitoring.intake.events import Arm, LabelEvent
from monitoring.intake.ids import uuid7s
from monitoring.intake.spool import Spool
from registry.errors import ContractViolation, FieldError, PereneError
from serving.decode import Batch, Decoder, Rows
from serving.engine import Answer
from serving.explain import short
from serving.labels import LabelItem, check_at, check_label, check_outcomes
from serving.loaded.cache import row_key
from serving.loaded.fallbacks import Fallbacks
from serving.loaded.models import Model, Version
from serving.routing import Choice, choose

_log = logging.getLogger("perene.serving")


Read = Callable[[Decoder], Batch]
"""Reads one request by the contract of whichever version is to answer it: the only part that dialects differ in."""


class Predicted(msgspec.Struct, frozen=True):
    """N answers with their ids, who gave them, and the shadow work that is left for after the reply."""

    version: Version
    arm: Arm
    answer: Answer
    ids: list[str]
    shadow: Callable[[], Coroutine[Any, Any, None]] | None = None
    parse_s: float = 0.0
    queue_s: float = 0.0
    infer_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks: the id of a key and of a request, and the version that was asked for by its number."""

    key: str
    request_id: str
    pinned: Version | None
    ids: Callable[[int], list[str]] = uuid7s
    """Names the answers."""
    received: float | None = None
    """When the request came, unix seconds, where it had to wait for its answer: what is erased meanwhile is of then."""


@dataclass(frozen=True, slots=True)
class _Ran:
    """A run: whose, of what, and how long it waited and took."""

    version: Version
    arm: Arm
    batch: Batch
    answer: Answer
    queue_s: float
    infer_s: float


class Record(msgspec.Struct, frozen=True):
    """What the event log keeps of one answered request, beside the answer."""

    arm: Arm
    rows: Sequence[tuple[Any, ...]]
    at: float | None
    entity: str
    key: str
    latency_ms: float
    received: float | None = None
    """None is now."""


class _Served(msgspec.Struct, frozen=True):
    """What the caller was answered, whom a shadow is compared with, and when the shadow was asked."""

    at: float | None
    answer: Answer
    ids: list[str]
    began: float


class DataPlane:
    """Predictions and labels of one process."""

    def __init__(
        self,
        spool: Spool,
        metrics: ServeMetrics,
        fallbacks: Fallbacks,
        clock: Callable[[], float] = time.time,
        *,
        strict: bool = False,
    ) -> None:
        self._spool = spool
        self._metrics = metrics
        self._fallbacks = fallbacks
        self._clock = clock
        self._strict = strict
        self._received = -math.inf
        self._logged = {"prediction": 0, "shadow": 0}
        self._counted = dict(self._logged)

    async def predict(self, model: Model, read: Read, who: Who, *, heavy: bool) -> Predicted:
        """Decode, choose the arm, run, log. A failing candidate falls to the champion and is counted.

        Args:
            model: asked for.
            read: reads the rows.
            who: asks.
            heavy: reading takes longer than the event loop should wait: a thread does it.

        Raises:
            Malformed, TooLarge, ContractViolation: the body.
            InferenceFailed, OutputNotFinite: the champion failed.
            Overloaded: the rows waited for the champion longer than they may.
            StoreUnavailable: answers wait for their events here, and the spool refused them.
        """
        began = time.perf_counter()
        pinned = who.pinned
        batch = await _aside((pinned or model.champion).decoder, read, heavy=heavy)
        if batch.widened:
            self._metrics.coerced_total.labels(model=model.name).inc(batch.widened)
        self.check_time(batch.at)
        parsed = time.perf_counter()
        entity = batch.entity or who.request_id
        choice = Choice(pinned.version, "champion") if pinned else choose(model.route, entity)
        ran = await self._run(model, choice, read, batch, pinned)
        batch, answer = ran.batch, ran.answer
        ids = who.ids(len(batch.rows))
        taken = (time.perf_counter() - began) * 1e3
        record = Record(ran.arm, batch.rows, batch.at, batch.entity or "", who.key, taken, who.received)
        if self._strict:
            await asyncio.wrap_future(self._spool.append_durable(self._answered(ran.version, record, answer, ids)))
            self._logged["prediction"] += len(ids)
        else:
            self.log(ran.version, record, answer, ids)
        shadow = self._shadow(model, choice.shadow, read, batch, answer, ids) if choice.shadow is not None else None
        return Predicted(ran.version, ran.arm, answer, ids, shadow, parsed - began, ran.queue_s, ran.infer_s)

    def check_time(self, at: float | None) -> None:
        """Refuse an event time that lies ahead of now, or too far back."""
        if at is not None:
            check_at(at, self._clock())

    async def _run(self, model: Model, choice: Choice, read: Read, batch: Batch, pinned: Version | None) -> _Ran:
        if pinned is not None:
            return await _ran(pinned, "pinned", batch)
        if choice.arm == "candidate":
            version = model.versions[choice.version]
            try:
                version.batcher.admit()
                own = _as_read_by(version, model.champion, read, batch)
                return await _ran(version, "candidate", own)
            except PereneError as error:
                self._metrics.rejected_total.labels(reason="candidate_failed").inc()
                self._fallbacks.note(model.name, version.version, "candidate", error.code)
                _log.warning("serving.candidate_failed", extra={"model": model.name, "code": error.code})
        return await _ran(model.champion, "champion", batch)

    def _shadow(
        self, model: Model, number: int, read: Read, batch: Batch, served: Answer, ids: list[str]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        version = model.versions[number]

        async def work() -> None:
            began = time.perf_counter()
            outcome: Answer | PereneError
            try:
                version.batcher.admit()
                own = _as_read_by(version, model.champion, read, batch)
                outcome, _, _ = await version.batcher.answer(own.rows, own.tensors)
            except PereneError as error:
                outcome = error.with_traceback(None)  # else it holds this frame and this frame holds it
            self._shadowed(version, _Served(batch.at, served, ids, began), outcome)

        return work

    def shadow(self, version: Version, rows: Rows, answer: Answer, ids: list[str]) -> None:
        """Have a version of the same layout answer as well, now that the caller has an answer, and log it."""
        served = _Served(rows.at, answer, ids, time.perf_counter())
        try:
            version.batcher.admit()
        except PereneError as error:
            self._shadowed(version, served, error)
            return
        version.batcher.submit(rows.values, lambda outcome, *_times: self._shadowed(version, served, outcome))

    def _shadowed(self, version: Version, served: _Served, outcome: Answer | PereneError) -> None:
        if isinstance(outcome, PereneError):
            self._metrics.rejected_total.labels(reason="shadow_failed").inc()
            _log.warning("serving.shadow_failed", extra={"model": version.model, "code": outcome.code})
            return
        differ = sum(not _same(a, b) for a, b in zip(outcome.predictions, served.answer.predictions, strict=True))
        if differ:
            self._metrics.shadow_disagreements_total.labels(model=version.model).inc(differ)
        taken = (time.perf_counter() - served.began) * 1e3
        self.log(version, Record("shadow", (), served.at, "", "", taken), outcome, served.ids)

    def count(self) -> None:
        """Bring the counters of events up to date: adding to them for each request is dearer than all of `log`."""
        for kind, events in self._logged.items():
            self._metrics.events_total.labels(kind=kind).inc(events - self._counted[kind])
            self._counted[kind] = events

    def log(self, version: Version, record: Record, answer: Answer, ids: Sequence[str]) -> None:
        """Log each row, on the event loop; `ids` are new, or for a shadow those of the answer that was heard."""
        self._spool.append(self._answered(version, record, answer, ids))
        self._logged["shadow" if record.arm == "shadow" else "prediction"] += len(ids)

    def _answered(self, version: Version, record: Record, answer: Answer, ids: Sequence[str]) -> Answered:
        now = self._clock() if record.received is None else record.received
        at = now if record.at is None else record.at
        return Answered(
            version.contract,
            version.version,
            record.arm,
            at,
            now,
            record.entity,
            record.key,
            record.latency_ms,
            ids,
            record.rows,
            answer.predictions,
            answer.values,
        )

    async def feedback(self, models: Callable[[str], Model], items: list[LabelItem]) -> list[dict[str, Any]]:
        """Check each label and make the good ones durable; per-item results in order.

        Args:
            models: finds a deployed model by name.
            items: what was sent, each with its model.

        Raises:
            StoreUnavailable: the disk refused; nothing was acknowledged.
        """
        # never earlier than the last: of several labels of a prediction the one received last counts, whatever the
        # machine's clock does in between
        now = self._received = max(self._received, self._clock())
        results: list[dict[str, Any]] = []
        events: list[LabelEvent] = []
        for item in items:
            try:
                contract = models(item.model).champion.contract
                label, at = check_label(contract.output, item)
                outcomes = None if item.outcomes is None else check_outcomes(item.outcomes)
                if at is not None:
                    check_at(at, now)
            except PereneError as error:
                results.append(_rejected(item, error))
                continue
            told = now if at is None else at
            events.append(LabelEvent(item.prediction_id, item.model, label, told, now, outcomes))
            results.append({"prediction_id": item.prediction_id, "status": "accepted"})
        if events:
            await asyncio.wrap_future(self._spool.append_durable(events))
            self._metrics.events_total.labels(kind="label").inc(len(events))
        self._metrics.feedback_total.labels(result="accepted").inc(len(events))
        self._metrics.feedback_total.labels(result="rejected").inc(len(items) - len(events))
        return results


async def _ran(version: Version, arm: Arm, batch: Batch) -> _Ran:
    cache = version.cache
    if cache is None or len(batch.rows) != 1:
        return _Ran(version, arm, batch, *await version.batcher.answer(batch.rows, batch.tensors))
    key = row_key(batch.tensors)
    known = cache.get(key)
    if known is not None:
        return _Ran(version, arm, batch, known, 0.0, 0.0)
    answer, queue_s, infer_s = await version.batcher.answer(batch.rows, batch.tensors)
    cache.put(key, answer)
    return _Ran(version, arm, batch, answer, queue_s, infer_s)


async def _aside(decoder: Decoder, read: Read, *, heavy: bool) -> Batch:
    return await asyncio.to_thread(read, decoder) if heavy else read(decoder)


def _as_read_by(version: Version, reader: Version, read: Read, batch: Batch) -> Batch:
    """The request as `version` reads it: read again where its columns, their order or their precision are others."""
    return batch if version.contract.layout == reader.contract.layout else read(version.decoder)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return bool(a == b)


def _rejected(item: LabelItem, error: PereneError) -> dict[str, Any]:
    first = error.errors[0] if isinstance(error, ContractViolation) and error.errors else FieldError("", error.message)
    return {
        "prediction_id": short(item.prediction_id),
        "status": "rejected",
        "error": {"code": error.code, "message": error.message, "expected": first.expected, "got": first.got},
    }
