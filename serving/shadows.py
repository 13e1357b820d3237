"""Candidates that are asked without being heard: after the caller has its answer, and only as far as nobody feels it.

Whether a request's shadow is asked depends on dice and on how busy the process is, never on the request, its answer or
the candidate's: so the pairs that are kept are a fair sample.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from monitoring.alerting.metrics import ServeMetrics
from registry.errors import PereneError
from serving.engine import Answer
from serving.errors import InferenceFailed

if TYPE_CHECKING:
    from serving.loaded.models import Model, Version

MOST_REQUESTS: Final = 64
MOST_ROWS: Final = 20_000
"""What may wait for one version's answers at once: a candidate that hangs holds no more than this."""
WAIT_S: Final = 5.0
"""A shadow that takes longer is counted as failed; a server that stops waits no longer either."""
SHARE: Final = 0.1
"""Part of the time that shadows may take while callers wait for the engine or the loop."""
BURST_S: Final = 0.05
LOGGING_S: Final = 3e-5
"""What comparing and logging an answer takes, beside the engine."""
_log = logging.getLogger("perene.serving")


class Served(msgspec.Struct, frozen=True):
    """What the caller was answered, by which deployment, and when its shadow was asked."""

    at: float | None
    answer: Answer
    ids: list[str]
    began: float
    deployment: int


class Allowance:
    """A part of the time, saved up to a burst. As long as something is left one may take more than that: who would be
    refused for taking much would be missing from the sample.

    >>> a = Allowance(0.1, 0.05)
    >>> a.take(0.06, 100.0), a.take(0.01, 100.05), a.take(0.02, 100.2), a.take(0.01, 100.2)
    (True, False, True, False)
    """

    def __init__(self, share: float, burst_s: float) -> None:
        self._share = share
        self._burst_s = self._left = burst_s
        self._at = -math.inf

    def take(self, seconds: float, now: float) -> bool:
        """Take so much, if something is left."""
        self._left = min(self._burst_s, self._left + (now - self._at) * self._share)
        self._at = now
        if self._left <= 0.0:
            return False
        self._left -= seconds
        return True


class Shadows:
    """Asks the candidates of shadow deployments in one process. Used from one event loop."""

    def __init__(
        self,
        metrics: ServeMetrics,
        log: Callable[[Version, Served, Answer], None],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._metrics = metrics
        self._log_answer = log
        self._draw = draw
        self._allowance = Allowance(SHARE, BURST_S)
        self._requests: Counter[tuple[str, int]] = Counter()
        self._rows: Counter[tuple[str, int]] = Counter()
        self._told: set[tuple[str, int, str]] = set()

    def drawn(self, model: Model) -> bool:
        """Whether a request is one of those that the deployment wants asked."""
        share = model.route.shadow_share
        return share >= 1.0 or self._draw() < share

    def enter(self, model: Model, version: Version, rows: int) -> bool:
        """Make room for so many rows; False, and counted, where callers would feel it. `told` gives the room back."""
        key = version.model, version.version
        requests, held = self._requests[key], self._rows[key]
        full = requests >= MOST_REQUESTS or held >= MOST_ROWS or version.batcher.behind
        if full or not self._affordable(model, version, rows):
            self._metrics.rejected_total.labels(reason="shadow_dropped").inc()
            return False
        self._requests[key] += 1
        self._rows[key] += rows
        return True

    def _affordable(self, model: Model, version: Version, rows: int) -> bool:
        if not (model.champion.batcher.pressed or version.batcher.pressed):
            return True
        return self._allowance.take(version.batcher.cost_s(rows) + LOGGING_S, perf_counter())

    def told(self, version: Version, served: Served, outcome: Answer | PereneError) -> None:
        """Compare and log what a shadow that was entered came to; one that failed leaves rows without an answer."""
        rows, key = len(served.ids), (version.model, version.version)
        self._requests[key] -= 1
        self._rows[key] -= rows
        if isinstance(outcome, PereneError):
            self._failed(version, outcome)
            self._log_answer(version, served, Answer([None] * rows, None, None))
            return
        differ = sum(not _same(a, b) for a, b in zip(outcome.predictions, served.answer.predictions, strict=True))
        if differ:
            self._metrics.shadow_disagreements_total.labels(model=version.model).inc(differ)
        self._log_answer(version, served, outcome)

    def ask(self, model: Model, version: Version, rows: list[tuple[Any, ...]], served: Served) -> None:
        """Ask a version of the champion's layout, if it is drawn and there is room."""
        if not (self.drawn(model) and self.enter(model, version, len(rows))):
            return
        until = served.began + WAIT_S
        version.batcher.submit(
            rows,
            lambda outcome, *_times: self.told(version, served, outcome),
            lambda: perf_counter() > until,
        )

    def _failed(self, version: Version, error: PereneError) -> None:
        self._metrics.rejected_total.labels(reason="shadow_failed").inc()
        found = (version.model, version.version, error.code)
        if found not in self._told:  # a candidate that fails always would fill the log
            self._told.add(found)
            extra = {"model": version.model, "version": version.version, "code": error.code}
            _log.warning("serving.shadow_failed", extra=extra)


def broken() -> InferenceFailed:
    """For a shadow that failed in a way that nobody thought of."""
    return InferenceFailed("the shadow failed on this input")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return bool(a == b)
