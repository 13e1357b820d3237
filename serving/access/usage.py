"""What each key has used, for bills: counted as plain numbers and put into the metrics now and then."""

from __future__ import annotations

from dataclasses import dataclass, field

from monitoring.alerting.metrics import ServeMetrics


@dataclass(slots=True)
class Usage:
    """What one key has used since it was put into the metrics last."""

    requests: int = 0
    rows: int = 0
    seconds: float = 0.0

    def answered(self, rows: int, seconds: float) -> None:
        """Count an answered prediction: a few additions, for it is on the path of every request."""
        self.requests += 1
        self.rows += rows
        self.seconds += seconds


@dataclass(frozen=True, slots=True)
class Usages:
    """The usage of every key. There are as many as there are keys in the ledger, so labels are bounded."""

    metrics: ServeMetrics
    _known: dict[str, Usage] = field(default_factory=dict)

    def of(self, key: str) -> Usage:
        """The usage of a key that was found valid; the empty one is whoever calls while authentication is off."""
        found = self._known.get(key)
        return self._known.setdefault(key, Usage()) if found is None else found

    def flush(self) -> None:
        """Put what was counted into the metrics."""
        for key, usage in self._known.items():
            if usage.requests:
                self.metrics.key_requests_total.labels(key=key).inc(usage.requests)
                self.metrics.key_rows_total.labels(key=key).inc(usage.rows)
                self.metrics.cost_seconds_total.labels(key=key).inc(usage.seconds)
                usage.requests, usage.rows, usage.seconds = 0, 0, 0.0
