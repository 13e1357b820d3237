"""What is seen of one request on its way through the application, for its log line, its metrics and its spans."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from registry.line_writer import LineWriter
from serving.observed.request_log import Line, RequestLog
from serving.observed.tracing import Ended, Tracing
from serving.settings import ServingSettings

if TYPE_CHECKING:
    from serving.dataplane import Predicted


@dataclass(slots=True)
class Seen:
    """One request; filled in as it becomes known. `route` is a pattern of ours, never a caller's path."""

    request_id: str
    protocol: str
    method: str = ""
    route: str = ""
    rpc: str = ""
    """Service and method of a call over gRPC."""
    rpc_code: str = ""
    key: str = ""
    model: str = ""
    version: int = 0
    arm: str = ""
    rows: int = 0
    parse_s: float = 0.0
    queue_s: float = 0.0
    infer_s: float = 0.0
    encode_s: float = 0.0
    began: float = field(default_factory=perf_counter)

    @property
    def name(self) -> str:
        """What a span is called."""
        return self.rpc or f"{self.method} {self.route}".strip()

    def predicted(self, done: Predicted, protocol: str, encode_s: float) -> None:
        """Take over what a prediction tells."""
        self.protocol = protocol
        self.model, self.version, self.arm = done.version.model, done.version.version, done.arm
        self.rows = len(done.ids)
        self.parse_s, self.queue_s, self.infer_s, self.encode_s = done.parse_s, done.queue_s, done.infer_s, encode_s


@dataclass(frozen=True, slots=True)
class Observer:
    """Where requests are told of: the request log and the tracer, as far as they are switched on."""

    log: RequestLog | None = None
    tracing: Tracing | None = None

    def tell(self, seen: Seen, status: int, headers: Mapping[str, str]) -> None:
        """Tell of a request that ended with `status`; `headers` are the request's, by names in lower case."""
        whole = perf_counter() - seen.began
        parent = headers.get("traceparent", "")
        if self.tracing is not None:
            given = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
            parent = f"00-{self.tracing.trace(Ended(seen, status, whole), given)}-{1:016x}-00"
        if self.log is not None:
            seconds = (seen.parse_s, seen.queue_s, seen.infer_s, seen.encode_s, whole)
            told = (seen.request_id, seen.model, seen.version, seen.arm, seen.protocol, seen.rows, status, seconds)
            self.log.line(Line(*told, seen.key, parent.encode("latin-1", "replace"), seen.route or seen.rpc))

    def close(self) -> None:
        """Send the spans that wait."""
        if self.tracing is not None:
            self.tracing.close()


def pattern_of(path: str) -> str:
    """A route's path without the kinds of its parts.

    >>> pattern_of("/v1/models/{model:word}:predict")
    '/v1/models/{model}:predict'
    """
    return re.sub(r":\w+}", "}", path)


def observer_of(settings: ServingSettings, log: LineWriter | None) -> Observer:
    """What the settings ask for; lines of requests are written by `log`."""
    requests: RequestLog | None = None
    if settings.request_log and log is not None:
        requests = RequestLog(as_text=log.terminal)
        log.add(requests.take)
    return Observer(requests, Tracing() if settings.tracing else None)
