"""Metrics of answered predictions, resolved once per version and arm: finding a labelled child is the dear part."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from monitoring.metrics import ServeMetrics


@dataclass(frozen=True, slots=True)
class Meter:
    """Counters and histograms of one version on one arm, answered in one dialect."""

    requests: Counter
    rows: Counter
    parse: Histogram
    infer: Histogram
    encode: Histogram
    duration: Histogram

    def answered(self, rows: int, parse_s: float, infer_s: float, encode_s: float, whole_s: float) -> None:
        """Count one answer with status 200."""
        self.requests.inc()
        self.rows.inc(rows)
        self.parse.observe(parse_s)
        self.infer.observe(infer_s)
        self.encode.observe(encode_s)
        self.duration.observe(whole_s)


class Meters:
    """Finds the meter of a version, arm and dialect. The labels are those of deployed versions, so they are bounded."""

    def __init__(self, metrics: ServeMetrics) -> None:
        self._metrics = metrics
        self._known: dict[tuple[str, int, str, str], Meter] = {}

    def of(self, model: str, version: int, arm: str, protocol: str = "perene") -> Meter:
        """The meter, made when it is first asked for."""
        key = (model, version, arm, protocol)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._make(*key)
        return found

    def _make(self, model: str, version: int, arm: str, protocol: str) -> Meter:
        m = self._metrics
        stage = m.stage_duration_seconds
        return Meter(
            m.requests_total.labels(model=model, version=str(version), arm=arm, protocol=protocol, code="200"),
            m.rows_total.labels(model=model),
            stage.labels(model=model, stage="parse"),
            stage.labels(model=model, stage="infer"),
            stage.labels(model=model, stage="encode"),
            m.request_duration_seconds.labels(model=model),
        )
