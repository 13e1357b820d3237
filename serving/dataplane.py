"""The plain core: rows become predictions and events, a label becomes durable. Knows nothing of HTTP or dialects."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
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
from serving.queues.patience import CandidateLate
from serving.routing import Choice, choose, segment
from serving.shadows import WAIT_S, Served, Shadows, broken

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
    header: Callable[[str], str | None] = lambda _name: None
    """A header of the request, by its name in lower case: what a segment may be told by."""


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
    deployment: int = 0
    assigned: int = 0


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
        self.shadows = Shadows(metrics, self._log_shadow)
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
        choice = None if pinned else _chosen(model, batch, who)
        if choice is None:
            ran = await _ran(pinned or model.champion, "pinned", batch)
        else:
            ran = await self._run(model, choice, read, batch, heavy=heavy)
        batch, answer = ran.batch, ran.answer
        ids = who.ids(len(batch.rows))
        taken = (time.perf_counter() - began) * 1e3
        drawn = (model.route.revision, choice.assigned) if choice else (0, 0)
        record = Record(ran.arm, batch.rows, batch.at, batch.entity or "", who.key, taken, who.received, *drawn)
        if self._strict:
            await asyncio.wrap_future(self._spool.append_durable(self._answered(ran.version, record, answer, ids)))
            self._logged["prediction"] += len(ids)
        else:
            self.log(ran.version, record, answer, ids)
        shadow = None
        if choice is not None and choice.shadow is not None and self.shadows.drawn(model):
            shadow = partial(self._shadow, model, model.versions[choice.shadow], read, batch, answer, ids, heavy=heavy)
        return Predicted(ran.version, ran.arm, answer, ids, shadow, parsed - began, ran.queue_s, ran.infer_s)

    def check_time(self, at: float | None) -> None:
        """Refuse an event time that lies ahead of now, or too far back."""
        if at is not None:
            check_at(at, self._clock())

    async def _run(self, model: Model, choice: Choice, read: Read, batch: Batch, *, heavy: bool) -> _Ran:
        """Ask whom routing chose; where that is not the champion and fails, or hangs, the champion."""
        champion = model.champion
        if choice.version == champion.version:
            return await _ran(champion, choice.arm, batch)
        version = model.versions[choice.version]
        try:
            if version.batcher.behind:
                raise CandidateLate("the candidate is behind")
            own = await _as_read_by(version, champion, read, batch, heavy=heavy)
            within = version.batcher.patience(len(own.rows), champion.batcher)
            return await _ran(version, choice.arm, own, within=within)
        except PereneError as error:
            self.fell(version, error, choice.arm)
        except Exception:  # a defect of what is tried must not cost the caller its answer
            _log.exception("serving.candidate_broke")
            self.fell(version, broken(), choice.arm)
        return await _ran(champion, "fallback" if choice.arm == "candidate" else choice.arm, batch)

    def fell(self, version: Version, error: PereneError, arm: Arm) -> None:
        """Count that the champion answers in the place of a version that failed."""
        self._metrics.rejected_total.labels(reason=f"{arm}_failed").inc()
        self._fallbacks.note(version.model, version.version, "segment" if arm == "segment" else "candidate", error.code)

    async def _shadow(
        self, model: Model, version: Version, read: Read, batch: Batch, served: Answer, ids: list[str], *, heavy: bool
    ) -> None:
        """Have a candidate answer as well, after the reply; whatever it does ends here, and in time."""
        if not self.shadows.enter(model, version, len(ids)):
            return
        told = Served(batch.at, served, ids, time.perf_counter(), model.route.revision)
        outcome: Answer | PereneError
        try:
            own = await _as_read_by(version, model.champion, read, batch, heavy=heavy)
            outcome, _, _ = await version.batcher.answer(own.rows, own.tensors, within=WAIT_S)
        except PereneError as error:
            outcome = error.with_traceback(None)  # else it holds this frame and this frame holds it
        except Exception:  # nobody waits for it, and nobody may suffer from it
            _log.exception("serving.shadow_broke")
            outcome = broken()
        self.shadows.told(version, told, outcome)

    def shadow(self, model: Model, version: Version, rows: Rows, answer: Answer, ids: list[str]) -> None:
        """Have a version of the same layout answer as well, now that the caller has an answer, and log it."""
        served = Served(rows.at, answer, ids, time.perf_counter(), model.route.revision)
        self.shadows.ask(model, version, rows.values, served)

    def _log_shadow(self, version: Version, served: Served, answer: Answer) -> None:
        taken = (time.perf_counter() - served.began) * 1e3
        record = Record("shadow", (), served.at, "", "", taken, deployment=served.deployment)
        self.log(version, record, answer, served.ids)

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
            record.deployment,
            record.assigned,
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


async def _ran(version: Version, arm: Arm, batch: Batch, *, within: float = math.inf) -> _Ran:
    cache = version.cache
    if cache is None or len(batch.rows) != 1:
        return _Ran(version, arm, batch, *await version.batcher.answer(batch.rows, batch.tensors, within=within))
    key = row_key(batch.tensors)
    known = cache.get(key)
    if known is not None:
        return _Ran(version, arm, batch, known, 0.0, 0.0)
    answer, queue_s, infer_s = await version.batcher.answer(batch.rows, batch.tensors, within=within)
    cache.put(key, answer)
    return _Ran(version, arm, batch, answer, queue_s, infer_s)


async def _aside(decoder: Decoder, read: Read, *, heavy: bool) -> Batch:
    return await asyncio.to_thread(read, decoder) if heavy else read(decoder)


async def _as_read_by(version: Version, reader: Version, read: Read, batch: Batch, *, heavy: bool) -> Batch:
    """The request as `version` reads it: read again where its columns, their order or their precision are others."""
    if version.contract.layout == reader.contract.layout:
        return batch
    return await _aside(version.decoder, read, heavy=heavy)


def _chosen(model: Model, batch: Batch, who: Who) -> Choice:
    """Whom routing names: the version of the request's segment, else of the arm that its entity draws."""
    route = model.route
    if route.rules:
        version = segment(route, who.header, batch.rows, model.champion.contract.names)
        if version is not None:
            return Choice(version, "segment")
    return choose(route, batch.entity or who.request_id)


def _rejected(item: LabelItem, error: PereneError) -> dict[str, Any]:
    first = error.errors[0] if isinstance(error, ContractViolation) and error.errors else FieldError("", error.message)
    return {
        "prediction_id": short(item.prediction_id),
        "status": "rejected",
        "error": {"code": error.code, "message": error.message, "expected": first.expected, "got": first.got},
    }
