"""The numbers of several processes as those of one: pure, over snapshots of what each has counted.

Counters and histograms are summed, those of processes that have ended included, so they never go back. Of gauges only
the living have a say; which of them is believed is said where the metric is defined (`Metric.across`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

Across = Literal["sum", "max"]
_COUNTED = frozenset(("counter", "histogram", "summary"))


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One series: its name, its labels and its value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """The series of one metric of one process."""

    name: str
    text: str
    kind: str
    samples: tuple[Sample, ...]


Snapshot = tuple[Family, ...]


def merge(snapshots: Iterable[Snapshot], across: Mapping[str, Across]) -> Snapshot:
    """One snapshot of them all; series keep the order in which they are met first.

    Args:
        snapshots: those of processes.
        across: how gauges add up, by name.
    """
    met: dict[str, list[Family]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            met.setdefault(family.name, []).append(family)
    return tuple(_merged(families, across) for families in met.values())


def _merged(families: Sequence[Family], across: Mapping[str, Across]) -> Family:
    first = families[0]
    highest = first.kind not in _COUNTED and across.get(first.name) == "max"
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in families:
        for sample in family.samples:
            key, value = (sample.name, sample.labels), sample.value
            before = values.get(key)
            if before is None:
                values[key] = value
            elif sample.name.endswith("_created"):
                values[key] = min(before, value)
            else:
                values[key] = max(before, value) if highest else before + value
    samples = tuple(Sample(name, labels, value) for (name, labels), value in values.items())
    return Family(first.name, first.text, first.kind, samples)


def counted(snapshot: Snapshot) -> Snapshot:
    """What stays of a process when it has ended: what it counted, and nothing of how it stood."""
    return tuple(family for family in snapshot if family.kind in _COUNTED)


class Tally:
    """The whole of a machine: what each process told last, and what those that are gone had counted."""

    def __init__(self, across: Mapping[str, Across]) -> None:
        self._across = across
        self._gone: Snapshot = ()
        self._last: dict[object, Snapshot] = {}
        self._shown: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def told(self, process: object, snapshot: Snapshot) -> None:
        """A process says how it stands."""
        self._last[process] = snapshot

    def ended(self, process: object) -> None:
        """A process is gone; the next one begins to count at 0."""
        self._gone = merge((self._gone, counted(self._last.pop(process, ()))), self._across)

    @property
    def processes(self) -> Collection[object]:
        """Those that are alive."""
        return self._last.keys()

    def whole(self, more: Snapshot = ()) -> Snapshot:
        """All of them as one."""
        made = merge((self._gone, *self._last.values(), more), self._across)
        return tuple(self._never_back(family) if family.kind in _COUNTED else family for family in made)

    def _never_back(self, family: Family) -> Family:
        """Sums of fractions depend on their order in the last digit, and to Prometheus a step back is a new start."""
        samples = []
        for sample in family.samples:
            key = sample.name, sample.labels
            value = sample.value
            if not sample.name.endswith("_created"):
                value = self._shown[key] = max(value, self._shown.get(key, value))
            samples.append(Sample(sample.name, sample.labels, value))
        return Family(family.name, family.text, family.kind, tuple(samples))
