"""OpenTelemetry spans of answered and refused requests, made once the answer is known, from the times measured anyway.

A span for the request, in the caller's trace and sampled as the caller's flag says, and one for each stage below it.
They leave by a thread of their own: a collector that is away costs spans, which are counted, and no answer.
OpenTelemetry is imported only where `serving.tracing` is on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from registry import __version__
from registry.errors import ConfigInvalid

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from serving.observed.seen import Seen

HEADERS: Final = ("traceparent", "tracestate")
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def require_tracing(*, wanted: bool) -> None:
    """Tell before anything is started that spans cannot be made.

    Raises:
        ConfigInvalid: they are wanted and OpenTelemetry is not installed.
    """
    if not wanted:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise ConfigInvalid(
            "serving.tracing is on and OpenTelemetry is not installed",
            where="serving.tracing",
            hint="pip install 'perene[otel]', or switch tracing off",
        ) from error


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has ended: what was seen of it, and how it was answered."""

    seen: Seen
    status: int
    whole_s: float


class Tracing:
    """Makes the spans of one process."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        from serving.observed.span_sender import SpanSender

        # what is lost we count ourselves; the library would say so for each batch
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        # the environment may name the service: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
        resource = Resource({"service.name": "perene", "service.version": __version__}).merge(_of_environment())
        self._provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.sender = SpanSender(OTLPSpanExporter())
        self._provider.add_span_processor(self.sender)
        self._tracer = self._provider.get_tracer("perene.serving", __version__)
        self._context = TraceContextTextMapPropagator()

    def trace(self, ended: Ended, headers: Mapping[str, str] = _NOTHING) -> str:
        """Make the spans of a request; returns the id of its trace.

        Args:
            ended: the request.
            headers: its `traceparent` and `tracestate`, by their names in lower case.
        """
        from opentelemetry.trace import SpanKind, set_span_in_context

        end = time.time_ns()
        begin = end - int(ended.whole_s * 1e9)
        parent = self._context.extract({name: headers[name] for name in HEADERS if name in headers})
        span = self._tracer.start_span(
            ended.seen.name, parent, SpanKind.SERVER, _attributes(ended), start_time=begin, record_exception=False
        )
        if span.is_recording():
            _set_status(span, ended)
            here = set_span_in_context(span, parent)
            for stage, start, stop in _stages(ended, begin, end):
                self._tracer.start_span(stage, here, start_time=start).end(stop)
        span.end(end)
        return f"{span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what waits, for a moment."""
        self._provider.shutdown()


def _of_environment() -> Any:
    from opentelemetry.sdk.resources import OTELResourceDetector

    return OTELResourceDetector().detect()


def _attributes(ended: Ended) -> dict[str, str | int]:
    """By the semantic conventions where they have a name, else under `perene.`; no path, no address, no value."""
    seen = ended.seen
    found: dict[str, str | int] = {
        "perene.request_id": seen.request_id,
        "perene.protocol": seen.protocol,
        "perene.arm": seen.arm,
        "perene.rows": seen.rows,
    }
    if seen.model:
        found["perene.model"] = seen.model
    if seen.version:
        found["perene.version"] = seen.version
    if seen.rpc:
        found |= {"rpc.system.name": "grpc", "rpc.method": seen.rpc, "rpc.response.status_code": seen.rpc_code}
    else:
        found |= {"http.request.method": seen.method, "url.scheme": "http", "http.response.status_code": ended.status}
        if seen.route:
            found["http.route"] = seen.route
    if ended.status >= 500:
        found["error.type"] = str(ended.status)
    return {name: value for name, value in found.items() if value != ""}


def _set_status(span: Any, ended: Ended) -> None:
    from opentelemetry.trace import Status, StatusCode

    if ended.status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def _stages(ended: Ended, begin: int, end: int) -> list[tuple[str, int, int]]:
    """Stage, start and end; encoding comes last, the others one after the other from the start."""
    seen = ended.seen
    found: list[tuple[str, int, int]] = []
    at = begin
    for stage, seconds in (("parse", seen.parse_s), ("queue", seen.queue_s), ("infer", seen.infer_s)):
        if seconds > 0:
            stop = min(end, at + int(seconds * 1e9))
            found.append((stage, at, stop))
            at = stop
    if seen.encode_s > 0:
        found.append(("encode", max(at, end - int(seen.encode_s * 1e9)), end))
    return found
