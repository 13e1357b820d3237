"""Metrics of answered predictions: noted as they are, and counted by the hundred or when somebody reads them.

Six counters and histograms of prometheus_client cost 8 µs a request, more than the model; a note costs 0.1 µs.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter, Histogram

from monitoring.alerting.metrics import ServeMetrics

NOTES: Final = 512
"""Notes that are counted at once."""
Note = tuple[int, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Meter:
    """Counters and histograms of one version on one arm, answered in one dialect."""

    requests: Counter
    rows: Counter
    stages: tuple[Histogram, ...]
    """Of parsing, waiting, the engine, encoding, and of the whole."""
    notes: list[Note] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(
        self, rows: int, parse_s: float, infer_s: float, encode_s: float, whole_s: float, queue_s: float = 0.0
    ) -> None:
        """Note one answer with status 200."""
        notes = self.notes
        notes.append((rows, parse_s, queue_s, infer_s, encode_s, whole_s))
        if len(notes) >= NOTES:
            self.count()

    def count(self) -> None:
        """Bring the collectors up to date. Any thread may, while another one notes answers."""
        with self.lock:
            notes = self.notes[:]
            del self.notes[: len(notes)]
        if not notes:
            return
        table = np.array(notes)
        self.requests.inc(len(notes))
        self.rows.inc(float(table[:, 0].sum()))
        for number, stage in enumerate(self.stages, 1):
            _observe(stage, table[:, number])


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

    def count(self) -> None:
        """Bring all collectors up to date."""
        for meter in list(self._known.values()):
            meter.count()

    def _make(self, model: str, version: int, arm: str, protocol: str) -> Meter:
        m = self._metrics
        stages = [m.stage_duration_seconds.labels(model, stage) for stage in ("parse", "queue", "infer", "encode")]
        return Meter(
            m.requests_total.labels(model=model, version=str(version), arm=arm, protocol=protocol, code="200"),
            m.rows_total.labels(model=model),
            (*stages, m.request_duration_seconds.labels(model=model)),
        )


def _observe(histogram: Histogram, values: npt.NDArray[np.float64]) -> None:
    """What `Histogram.observe` does for each value; the library has no other way to do it for many."""
    places = np.searchsorted(histogram._upper_bounds, values)
    for place, count in enumerate(np.bincount(places, minlength=len(histogram._upper_bounds)).tolist()):
        if count:
            histogram._buckets[place].inc(count)
    histogram._sum.inc(float(values.sum()))
