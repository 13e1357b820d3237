"""Sends finished spans from a thread of its own, drops what a collector does not take, and says so once an outage."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

MOST_WAITING: Final = 4_096
AT_ONCE: Final = 512
EVERY_S: Final = 0.5
CLOSE_S: Final = 2.0
_log = logging.getLogger("perene.serving")


class SpanSender(SpanProcessor):
    """A span processor with a bounded queue. `lost` counts the spans that no collector got."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.lost = 0
        self._exporter = exporter
        self._waiting: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._away = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if len(self._waiting) >= MOST_WAITING:
            self.lost += 1
            return
        self._waiting.append(span)

    def shutdown(self) -> None:
        """Send what waits; a collector that does not answer is not waited for."""
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        self._exporter.shutdown()  # a retry that is under way ends here

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Ask for sending now; it is not waited for."""
        self._wake.set()
        return True

    def _run(self) -> None:
        ending = False
        while not ending:
            ending = self._closing
            if not ending:
                self._wake.wait(EVERY_S)
                self._wake.clear()
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))])

    def _send(self, spans: list[ReadableSpan]) -> None:
        try:
            taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # whatever the exporter fails with, the next batch must still be tried
            taken = False
        if taken:
            if self._away:
                _log.info("tracing.sends_again", extra={"lost": self.lost})
            self._away = False
            return
        self.lost += len(spans)
        if not self._away:
            _log.warning(
                "tracing.lost",
                extra={"spans": len(spans), "hint": "is the collector of OTEL_EXPORTER_OTLP_ENDPOINT up?"},
            )
        self._away = True
