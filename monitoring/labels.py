"""Labels meet predictions: join by id, put in order, turn into losses for the detector of realised quality.

Labels come late, twice, shuffled, and sometimes before their prediction. Each is held until event time has passed
it by `lateness`, then used in order of (its event time, its prediction's id): as long as labels are delivered
within that, the outcome does not depend on the order of delivery. Of several labels of one prediction the one
received last counts, until it is used; later revisions are counted only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np

from registry.contract import Output
from registry.loss import bounded_loss, class_index

LEAST_PROBABILITY = 1e-7
"""Float32's resolution near 1: a smaller probability is a rounding error, not a statement."""


class Made(msgspec.Struct, array_like=True):
    """A champion's prediction that waits for its label; `used` keeps it to recognise later revisions."""

    at: float
    values: list[float]
    used: bool = False


class Held(msgspec.Struct, array_like=True):
    """A label that is not used yet."""

    at: float
    received: float
    seq: int
    label: float | str


class Tally(msgspec.Struct):
    """Counts since the monitor started."""

    predictions: int = 0
    joined: int = 0
    revised: int = 0
    unusable: int = 0
    dropped: int = 0


class Book(msgspec.Struct):
    """State of the join."""

    made: dict[str, Made] = {}
    waiting: dict[str, Held] = {}
    orphans: dict[str, Held] = {}
    watermark: float = -math.inf
    losses: list[float] = []
    errors: list[float] = []
    tally: Tally = msgspec.field(default_factory=Tally)


def add_predictions(book: Book, rows: Iterable[tuple[str, float, list[float]]]) -> list[str]:
    """Remember champion predictions (id, event time, outputs); returns ids whose label came before them."""
    found = []
    for identifier, at, values in rows:
        if identifier in book.made:
            continue
        book.made[identifier] = Made(at, values)
        book.tally.predictions += 1
        if identifier in book.orphans:
            found.append(identifier)
    return found


def add_labels(book: Book, rows: Iterable[tuple[str, Held]]) -> None:
    """Hold labels by prediction id; a revision replaces what is held if it was received later."""
    for identifier, label in rows:
        made = book.made.get(identifier)
        if made is not None and made.used:
            book.tally.revised += 1
            continue
        shelf = book.orphans if identifier in book.orphans else book.waiting
        before = shelf.get(identifier)
        if before is None or (label.received, label.seq) > (before.received, before.seq):
            shelf[identifier] = label


def release(book: Book, found: Iterable[str], lateness: float) -> list[tuple[str, Held]]:
    """Labels whose turn has come, in order; those without a prediction are put aside."""
    due = [(i, book.orphans.pop(i)) for i in found if i in book.orphans]
    for identifier in [i for i, label in book.waiting.items() if label.at + lateness <= book.watermark]:
        label = book.waiting.pop(identifier)
        if identifier in book.made:
            due.append((identifier, label))
        else:
            book.orphans[identifier] = label
    return sorted(due, key=lambda item: (item[1].at, item[0]))


class Matured(msgspec.Struct, frozen=True):
    """A usable label: when its prediction was made, its own event time, and the loss and error it revealed."""

    made_at: float
    at: float
    loss: float
    error: float


def use(book: Book, due: list[tuple[str, Held]], output: Output, cap: float) -> list[Matured]:
    """Losses (and absolute errors, or log losses) of labels that are due, in their order; unusable ones counted."""
    if not due:
        return []
    made = [book.made[identifier] for identifier, _ in due]
    values = np.array([m.values for m in made], np.float64)
    labels = np.array([label.label for _, label in due], dtype=object)
    if output.kind == "regression":
        truth = np.array([value if isinstance(value, float) else math.nan for value in labels], np.float64)
        losses = bounded_loss(output, values[:, 0], truth, cap)
        errors = np.abs(values[:, 0] - truth)
    else:
        losses = bounded_loss(output, values, labels, cap)
        index = class_index(output, labels)
        errors = -np.log(np.clip(values[np.arange(len(index)), index], LEAST_PROBABILITY, 1.0))
    matured = []
    for (_, label), m, loss, error in zip(due, made, losses.tolist(), errors.tolist(), strict=True):
        m.used, m.values = True, []
        if math.isnan(loss):
            book.tally.unusable += 1
        else:
            matured.append(Matured(m.at, label.at, loss, error))
    return matured


def keep(book: Book, label: Matured, limit: int) -> None:
    """Count one label and add it to the sliding window of the last `limit`, which the gauges show."""
    book.tally.joined += 1
    book.losses = [*book.losses[-(limit - 1) :], label.loss]
    book.errors = [*book.errors[-(limit - 1) :], label.error]


def trim(book: Book, limit: int) -> None:
    """Forget the oldest entries beyond `limit` of each kind: memory is bounded, what is lost is counted."""
    if len(book.made) > limit:
        oldest = sorted(book.made, key=lambda i: (book.made[i].at, i))[: len(book.made) - limit]
        for identifier in oldest:
            book.tally.dropped += not book.made.pop(identifier).used
    for shelf in (book.waiting, book.orphans):
        if len(shelf) > limit:
            late = sorted(shelf, key=lambda i: (shelf[i].at, i))[: len(shelf) - limit]
            book.tally.dropped += len(late)
            for identifier in late:
                del shelf[identifier]
