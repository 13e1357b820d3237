"""The plain core: rows become predictions and events, a label becomes durable. Knows nothing of HTTP or dialects."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from monitoring.events import Arm, LabelEvent, PredictionEvent
from monitoring.ids import uuid7
from monitoring.metrics import ServeMetrics
from monitoring.spool import Spool
from registry.contract import Contract
from registry.errors import ContractViolation, FieldError, PereneError
from serving.decode import Batch, Decoder
from serving.engine import Answer
from serving.explain import short
from serving.labels import LabelItem, check_at, check_label
from serving.models import Model, Version
from serving.routing import Choice, choose

_log = logging.getLogger("perene.serving")


Read = Callable[[Decoder], Batch]
"""Reads one request by the contract of whichever version is to answer it: the only part that dialects differ in."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """N answers with their ids, who gave them, and the shadow work that is left for after the reply."""

    version: Version
    arm: Arm
    answer: Answer
    ids: list[str]
    shadow: Callable[[], None] | None = None
    parse_s: float = 0.0
    infer_s: float = 0.0

    def body(self) -> bytes:
        """The answer in Perene's own dialect."""
        body: dict[str, Any] = {
            "model": self.version.model,
            "version": self.version.version,
            "arm": self.arm,
            "predictions": self.answer.predictions,
        }
        if self.answer.scores is not None:
            body["scores"] = self.answer.scores
        elif self.version.contract.output.classes:
            body["probabilities"] = self.answer.values
        body["prediction_ids"] = self.ids
        return msgspec.json.encode(body)


@dataclass(frozen=True, slots=True)
class Record:
    """What the event log keeps of one answered request, beside the answer."""

    arm: Arm
    rows: Sequence[tuple[Any, ...]]
    at: float | None
    entity: str
    key: str
    latency_ms: float


class DataPlane:
    """Predictions and labels of one process."""

    def __init__(self, spool: Spool, metrics: ServeMetrics, clock: Callable[[], float] = time.time) -> None:
        self._spool = spool
        self._metrics = metrics
        self._clock = clock
        self._predictions = metrics.events_total.labels(kind="prediction")
        self._shadows = metrics.events_total.labels(kind="shadow")

    def predict(self, model: Model, read: Read, *, key: str, request_id: str, pinned: Version | None) -> Predicted:
        """Decode, choose the arm, run, log. A failing candidate falls to the champion and is counted.

        Raises:
            Malformed, TooLarge, ContractViolation: the body.
            InferenceFailed, OutputNotFinite: the champion failed.
        """
        began = time.perf_counter()
        reader = pinned or model.champion
        batch = read(reader.decoder)
        self.check_time(batch.at)
        parsed = time.perf_counter()
        entity = batch.entity or request_id
        choice = Choice(pinned.version, "champion") if pinned else choose(model.route, entity)
        version, arm, answer, batch = self._run(model, choice, read, batch, pinned)
        ended = time.perf_counter()
        ids = [uuid7() for _ in batch.rows]
        record = Record(arm, batch.rows, batch.at, batch.entity or "", key, (ended - began) * 1e3)
        self.log(version, record, answer, ids)
        shadow = self._shadow(model, choice.shadow, read, batch, answer, ids) if choice.shadow is not None else None
        return Predicted(version, arm, answer, ids, shadow, parsed - began, ended - parsed)

    def check_time(self, at: float | None) -> None:
        """Refuse an event time that lies ahead of now, or too far back."""
        if at is not None:
            check_at(at, self._clock())

    def _run(
        self, model: Model, choice: Choice, read: Read, batch: Batch, pinned: Version | None
    ) -> tuple[Version, Arm, Answer, Batch]:
        if pinned is not None:
            return pinned, "pinned", pinned.engine.run(batch.tensors), batch
        if choice.arm == "candidate":
            version = model.versions[choice.version]
            try:
                own = _as_read_by(version, model.champion, read, batch)
                return version, "candidate", version.engine.run(own.tensors), own
            except PereneError as error:
                self._metrics.rejected_total.labels(reason="candidate_failed").inc()
                _log.warning("serving.candidate_failed", extra={"model": model.name, "code": error.code})
        return model.champion, "champion", model.champion.engine.run(batch.tensors), batch

    def _shadow(
        self, model: Model, number: int, read: Read, batch: Batch, served: Answer, ids: list[str]
    ) -> Callable[[], None]:
        version = model.versions[number]

        def work() -> None:
            began = time.perf_counter()
            try:
                answer = version.engine.run(_as_read_by(version, model.champion, read, batch).tensors)
            except PereneError as error:
                self._metrics.rejected_total.labels(reason="shadow_failed").inc()
                _log.warning("serving.shadow_failed", extra={"model": model.name, "code": error.code})
                return
            differ = sum(not _same(a, b) for a, b in zip(answer.predictions, served.predictions, strict=True))
            if differ:
                self._metrics.shadow_disagreements_total.labels(model=model.name).inc(differ)
            taken = (time.perf_counter() - began) * 1e3
            self.log(version, Record("shadow", batch.rows, batch.at, "", "", taken), answer, ids)

        return work

    def log(self, version: Version, record: Record, answer: Answer, ids: Sequence[str]) -> None:
        """Append an event for each row; `ids` are new, or for a shadow those of the answer that was heard."""
        now = self._clock()
        at = now if record.at is None else record.at
        entity = hashlib.sha256(record.entity.encode()).hexdigest()[:16] if record.entity else ""
        contract, shadow = version.contract, record.arm == "shadow"
        latency = round(record.latency_ms, 3)
        for n, identifier in enumerate(ids):
            values = answer.values[n] if answer.values is not None else None
            self._spool.append(
                PredictionEvent(
                    identifier,
                    at,
                    now,
                    version.model,
                    version.version,
                    record.arm,
                    entity,
                    [] if shadow else kept(contract, record.rows[n]),
                    values[0] if contract.output.targets and values else answer.predictions[n],
                    values,
                    latency,
                    record.key,
                )
            )
        (self._shadows if shadow else self._predictions).inc(len(ids))

    async def feedback(self, models: Callable[[str], Model], items: list[LabelItem]) -> list[dict[str, Any]]:
        """Check each label and make the good ones durable; per-item results in order.

        Args:
            models: finds a deployed model by name.
            items: what was sent, each with its model.

        Raises:
            StoreUnavailable: the disk refused; nothing was acknowledged.
        """
        import asyncio

        now = self._clock()
        results: list[dict[str, Any]] = []
        events: list[LabelEvent] = []
        for item in items:
            try:
                contract = models(item.model).champion.contract
                label, at = check_label(contract.output, item)
                if at is not None:
                    check_at(at, now)
            except PereneError as error:
                results.append(_rejected(item, error))
                continue
            events.append(LabelEvent(item.prediction_id, item.model, label, now if at is None else at, now))
            results.append({"prediction_id": item.prediction_id, "status": "accepted"})
        if events:
            await asyncio.wrap_future(self._spool.append_durable(events))
            self._metrics.events_total.labels(kind="label").inc(len(events))
        self._metrics.feedback_total.labels(result="accepted").inc(len(events))
        self._metrics.feedback_total.labels(result="rejected").inc(len(items) - len(events))
        return results


def kept(contract: Contract, row: tuple[Any, ...]) -> list[Any]:
    """The row as the event log may keep it: stored, hashed or dropped by each column's policy."""
    if all(column.policy == "store" for column in contract.columns):
        return list(row)
    out: list[Any] = []
    for column, value in zip(contract.columns, row, strict=True):
        if column.policy == "store" or value is None:
            out.append(value)
        else:
            digest = hashlib.sha256(str(value).encode()).hexdigest()[:16]
            out.append(digest if column.policy == "hash" else None)
    return out


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
