"""What the event lake says of one model over a span of time: a fold of slices into counts and a sample of labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monitoring.drift.assess import SCORE
from monitoring.lake.lake import Lake
from monitoring.reading import tables
from monitoring.reading.recorded import Newest, Recorded
from monitoring.watching import estimated
from registry.bundle import Bundle
from registry.contract import Output
from registry.estimate import confidence
from registry.loss import bounded_loss, class_index
from registry.reference import bin_counts

__all__ = ["Day", "Labelled", "Period", "fold"]

Array = npt.NDArray[Any]
SAMPLE: Final = 20_000
"""Labelled answers from which metrics are computed; losses are of all."""
_EDGES: Final = np.geomspace(0.01, 1e6, 931)
"""Milliseconds, in steps of 2 %."""


@dataclass
class Day:
    """One day of UTC by event time."""

    rows: int = 0
    labels: int = 0
    loss: float = 0.0
    latencies: Array = field(default_factory=lambda: np.zeros(len(_EDGES) + 1, np.int64))


@dataclass
class Labelled:
    """A sample of the champion's answers whose labels are known: `frame` holds stored columns by name."""

    values: Array
    labels: Array
    frame: dict[str, Array]

    def __len__(self) -> int:
        """Answers in the sample."""
        return len(self.labels)


@dataclass
class Period:
    """Counts of a span; `counts` are by the champion's reference, as a monitor's window has them."""

    days: dict[str, Day] = field(default_factory=dict)
    arms: Counter[tuple[int, str]] = field(default_factory=Counter)
    counts: dict[str, Array] = field(default_factory=dict)
    losses: int = 0
    loss_sum: float = 0.0
    loss_squares: float = 0.0
    sample: Labelled | None = None

    @property
    def rows(self) -> int:
        """Rows answered."""
        return sum(day.rows for day in self.days.values())

    @property
    def loss(self) -> tuple[float, float, float] | None:
        """Mean bounded loss with its 95 % interval; None without two labels."""
        if self.losses < 2:
            return None
        mean = self.loss_sum / self.losses
        spread = max(self.loss_squares / self.losses - mean**2, 0.0)
        error = 1.96 * (spread / self.losses) ** 0.5
        return mean, mean - error, mean + error

    def latency(self, quantile: float, day: str | None = None) -> float | None:
        """Milliseconds within which this share of rows was answered, to 2 %."""
        days = self.days.values() if day is None else [self.days[day]]
        total = np.sum([d.latencies for d in days], axis=0) if self.days else np.zeros(1)
        if not total.sum():
            return None
        place = int(np.searchsorted(np.cumsum(total), quantile * total.sum()))
        return float(_EDGES[min(place, len(_EDGES) - 1)])


def fold(lake: Lake, bundle: Bundle, version: int, *, low: int | None, high: int | None) -> Period:
    """Read a span once.

    Args:
        lake: where events lie.
        bundle: the champion's.
        version: the champion.
        low: first moment of event time, microseconds since 1970.
        high: moment after the last.
    """
    contract, reference = bundle.contract, bundle.reference
    model = contract.model
    wanted = [*reference["columns"], "_id", "_version", "_arm", "_prediction", "_probabilities", "_latency_ms"]
    recorded = Recorded(lake, model, low=low, high=high, columns=wanted)
    labels = Newest(lake, model, "label", ["_label", "_at"])
    step = max(-(-recorded.most() // SAMPLE), 1)
    found, parts = Period(), list[Labelled]()
    for table in recorded.slices():
        days = _days(table)
        _count_traffic(found, table, days)
        outputs = tables.outputs(table, contract.output)
        mine = tables.floats(table, "_version") == version
        _count_columns(found, table, bundle, outputs, mine)
        known = _truth(labels.of(table.column("_id").combine_chunks())["_label"], contract.output)
        loss = bounded_loss(contract.output, outputs, known, float(reference["quality"]["cap"]))
        usable = mine & np.isfinite(loss)
        found.losses += int(usable.sum())
        found.loss_sum += float(loss[usable].sum())
        found.loss_squares += float((loss[usable] ** 2).sum())
        for name in np.unique(days[usable]):
            chosen = usable & (days == name)
            found.days[str(name)].labels += int(chosen.sum())
            found.days[str(name)].loss += float(loss[chosen].sum())
        places = np.flatnonzero(usable)
        parts.append(_sampled(table, bundle, outputs, known, places[:: step if len(places) > step else 1]))
    found.sample = _joined(parts)
    return found


def _days(table: pa.Table) -> Array:
    micros = table.column("_at").cast(pa.int64()).to_numpy() // 86_400_000_000
    return np.asarray(micros.astype("datetime64[D]").astype(str), dtype=object)


def _count_traffic(found: Period, table: pa.Table, days: Array) -> None:
    latencies = tables.floats(table, "_latency_ms")
    for name in np.unique(days.astype(str)):
        day = found.days.setdefault(str(name), Day())
        here = latencies[days == name]
        day.rows += len(here)
        places = np.searchsorted(_EDGES, here[np.isfinite(here)])
        day.latencies += np.bincount(places, minlength=len(_EDGES) + 1)
    versions, arms = tables.floats(table, "_version"), tables.objects(table, "_arm")
    found.arms.update((int(v), str(a)) for v, a in zip(versions.tolist(), arms.tolist(), strict=True))


def _count_columns(found: Period, table: pa.Table, bundle: Bundle, outputs: Array, mine: Array) -> None:
    reference = bundle.reference
    made = {n: bin_counts(s, tables.feature(table, n, s["kind"])) for n, s in reference["columns"].items()}
    score = reference["score"]
    made[SCORE] = bin_counts(score, tables.scores(bundle.contract.output, outputs, score["kind"])[mine])
    curve = reference.get("estimate")
    if curve is not None and curve["kind"] == "calibration":
        made[estimated.FINE] = np.array(estimated.counted(curve, confidence(outputs)[mine]) or [0], np.int64)
    for name, counts in made.items():
        found.counts[name] = found.counts.get(name, 0) + counts


def _truth(column: pa.Array | pa.ChunkedArray, output: Output) -> Array:
    """Labels, NaN where there is none; of a regression what is no number is none."""
    values = column.to_pylist()
    usable = (float, int, bool) if output.kind == "regression" else (float, int, bool, str)
    found = np.full(len(values), np.nan, dtype=object)
    found[:] = [value if isinstance(value, usable) else np.nan for value in values]
    return found


def _sampled(table: pa.Table, bundle: Bundle, outputs: Array, labels: Array, places: Array) -> Labelled:
    specs = bundle.reference["columns"]
    output = bundle.contract.output
    frame = {name: tables.feature(table, name, spec["kind"])[places] for name, spec in specs.items()}
    if output.kind == "regression":
        return Labelled(outputs[places], labels[places].astype(np.float64), frame)
    return Labelled(outputs[places], class_index(output, labels[places]), frame)


def _joined(parts: list[Labelled]) -> Labelled | None:
    if not parts or not sum(map(len, parts)):
        return None
    return Labelled(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.labels for part in parts]),
        {name: np.concatenate([part.frame[name] for part in parts]) for name in parts[0].frame},
    )
