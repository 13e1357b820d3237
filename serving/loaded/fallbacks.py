"""What answers with less than was asked for: counted, logged once, and told by `/readyz?verbose` while it lasts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal

from monitoring.alerting.metrics import ServeMetrics

_log = logging.getLogger("perene.serving")
Kind = Literal["candidate", "segment", "gpu"]


@dataclass(frozen=True, slots=True)
class Fallback:
    """A version that fell back: the champion answers for a candidate or a segment's version, the CPU for the GPU."""

    model: str
    version: int
    kind: Kind
    reason: str


class Fallbacks:
    """Those of one process. Threads may share it."""

    def __init__(self, metrics: ServeMetrics) -> None:
        self._counter = metrics.fallbacks_total
        self._lock = threading.Lock()
        self._known: dict[Fallback, None] = {}

    def note(self, model: str, version: int, kind: Kind, reason: str) -> None:
        """Count one; the first of its kind is logged as well."""
        self._counter.labels(model=model, kind=kind).inc()
        found = Fallback(model, version, kind, reason)
        with self._lock:
            new = found not in self._known
            self._known[found] = None
        if new:
            _log.warning("serving.fell_back", extra=asdict(found))

    def keep(self, deployed: Collection[tuple[str, int]]) -> None:
        """Forget versions that are deployed no more."""
        with self._lock:
            self._known = {found: None for found in self._known if (found.model, found.version) in deployed}

    def told(self) -> list[dict[str, Any]]:
        """All of them, for people."""
        with self._lock:
            return [asdict(found) for found in self._known]
