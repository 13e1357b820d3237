"""Labels meet predictions: join by id, put in order, turn into losses for the detector of realised quality.

Labels come late, twice, shuffled, and sometimes before their prediction. Each is held until event time has passed
it by `lateness`, then used in order of (its event time, its prediction's id): as long as labels are delivered
within that, the outcome does not depend on the order of delivery. Of several labels of one prediction the one
received last counts, until it is used; later revisions are counted only, and the same label again is none.

A label without a prediction is parked. After a while, or when too many are, it is given up: whoever owns the book
looks in the lake whether its prediction is there, since the book remembers only the newest ones and only those of one
version.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from monitoring.watching import maturity
from registry.contract import Output
from registry.loss import bounded_loss, class_index

LEAST_PROBABILITY = 1e-7
"""Float32's resolution near 1: a smaller probability is a rounding error, not a statement."""


class Made(msgspec.Struct, array_like=True):
    """A champion's prediction that waits for its label; `used` and `label` are kept to recognise later revisions."""

    at: float
    values: list[float]
    used: bool = False
    received: float = math.inf
    label: float | str | None = None
    part: bytes = b""
    """Its slices (`monitoring.watching.slices`), until its label is used."""


class Held(msgspec.Struct, array_like=True):
    """A label that is not used yet; `first_at` and `first_received` are the earliest of it and those it replaced."""

    at: float
    received: float
    seq: int
    label: float | str
    first_at: float = math.inf
    first_received: float = math.inf


class Tally(msgspec.Struct):
    """Counts since the monitor started."""

    predictions: int = 0
    joined: int = 0
    revised: int = 0
    unusable: int = 0
    dropped: int = 0
    foreign: int = 0
    """Predictions of former champions and pinned versions: not counted, their contract may be another one."""


class Book(msgspec.Struct):
    """State of the join."""

    made: dict[str, Made] = {}
    others: dict[str, float] = {}
    """Served predictions that are not this champion's, by event time: their labels wait for nothing."""
    waiting: dict[str, Held] = {}
    orphans: dict[str, Held] = {}
    given_up: list[str] = []
    """Ids of parked labels that were given up, and that nobody has looked for in the lake yet."""
    unlooked: int = 0
    """Labels given up beyond those: a flood."""
    watermark: float = -math.inf
    received: float = -math.inf
    """When the newest event was received, by the clock of its server."""
    maturity: maturity.Maturity = msgspec.field(default_factory=maturity.Maturity)
    losses: list[float] = []
    errors: list[float] = []
    tally: Tally = msgspec.field(default_factory=Tally)


def add_predictions(book: Book, rows: Iterable[tuple[str, float, float, list[float], bytes]]) -> list[str]:
    """Remember champion predictions (id, event time, arrival, outputs, slices).

    Returns:
        Ids whose label came before them.
    """
    found = []
    for identifier, at, received, values, part in rows:
        if identifier in book.made:
            continue
        book.made[identifier] = Made(at, values, received=received, part=part)
        book.tally.predictions += 1
        maturity.predicted(book.maturity, at)
        if identifier in book.orphans:
            found.append(identifier)
    return found


def add_others(book: Book, rows: Iterable[tuple[str, float]]) -> None:
    """Remember served predictions (id, event time) of other versions: their labels are not judged, nor parked."""
    for identifier, at in rows:
        book.others[identifier] = at
        book.waiting.pop(identifier, None)
        book.orphans.pop(identifier, None)


def add_labels(book: Book, rows: Iterable[tuple[str, Held]]) -> None:
    """Hold labels by prediction id; a revision replaces what is held if it was received later."""
    for identifier, label in rows:
        made = book.made.get(identifier)
        if made is not None and made.used:
            book.tally.revised += label.label != made.label
            continue
        if identifier in book.others:
            continue
        shelf = book.orphans if identifier in book.orphans else book.waiting
        label.first_at, label.first_received = label.at, label.received
        before, newest = shelf.get(identifier), label
        if before is not None:
            first = (min(label.at, before.first_at), min(label.received, before.first_received))
            newest = max(label, before, key=lambda held: (held.received, held.seq))
            newest.first_at, newest.first_received = first
        shelf[identifier] = newest


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


def give_up(book: Book, park_s: float) -> None:
    """Give up labels that were received `park_s` seconds before the newest event and still have no prediction."""
    for identifier in sorted(i for i, label in book.orphans.items() if label.received + park_s <= book.received):
        book.given_up.append(identifier)
        del book.orphans[identifier]


def inherit(book: Book, former: Book) -> None:
    """Take over from the book of the former champion: what is parked, delays of labels, and whom it had answered."""
    book.orphans = {**former.orphans, **former.waiting}
    book.others = {**former.others, **{identifier: made.at for identifier, made in former.made.items()}}
    for identifier in former.made.keys() & book.orphans.keys():
        del book.orphans[identifier]
    book.given_up, book.unlooked, book.maturity = former.given_up, former.unlooked, former.maturity
    book.watermark, book.received = former.watermark, former.received
    for made in former.made.values():
        if not made.used:
            maturity.forgot(book.maturity, made.at)


class Matured(msgspec.Struct, frozen=True):
    """A usable label: when its prediction was made, its own event time, the loss and error it revealed, its slices."""

    made_at: float
    at: float
    loss: float
    error: float
    part: bytes = b""


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
        part, m.part = m.part, b""
        m.used, m.values, m.label = True, [], label.label
        # there once its event time is reached and it has been received: a replay has only the one, a clerk's list
        # of last week only the other
        delay = max(label.first_at - m.at, label.first_received - m.received)
        maturity.labelled(book.maturity, m.at, delay)
        if math.isnan(loss):
            book.tally.unusable += 1
        else:
            matured.append(Matured(m.at, label.at, loss, error, part))
    return matured


def keep(book: Book, label: Matured, limit: int) -> None:
    """Count one label and add it to the sliding window of the last `limit`, which the gauges show."""
    book.tally.joined += 1
    book.losses = [*book.losses[-(limit - 1) :], label.loss]
    book.errors = [*book.errors[-(limit - 1) :], label.error]


def trim(book: Book, limit: int) -> None:
    """Forget the oldest entries beyond `limit` of each kind: memory is bounded, what is lost is counted."""
    for identifier in _oldest(book.made, limit):
        made = book.made.pop(identifier)
        if not made.used:
            book.tally.dropped += 1
            maturity.forgot(book.maturity, made.at)
        book.others[identifier] = made.at
    if (over := len(book.others) - limit) > 0:
        for identifier in sorted(book.others, key=lambda i: (book.others[i], i))[:over]:
            del book.others[identifier]
    for shelf in (book.waiting, book.orphans):
        for identifier in _oldest(shelf, limit):
            book.given_up.append(identifier)
            del shelf[identifier]
    if len(book.given_up) > limit:
        book.unlooked += len(book.given_up) - limit
        book.given_up = book.given_up[-limit:]
    maturity.trim(book.maturity)


def _oldest(shelf: Mapping[str, Made] | Mapping[str, Held], limit: int) -> list[str]:
    over = len(shelf) - limit
    return sorted(shelf, key=lambda i: (shelf[i].at, i))[:over] if over > 0 else []
