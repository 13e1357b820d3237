"""Play the flights in time order: each departure a request, each landing its label."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import groupby
from math import isnan
from typing import TYPE_CHECKING, Any

from examples.flights.wire import Refused, Stopped, Wire

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Counts", "Leg", "legs", "play", "replay", "sampled"]

STEP = timedelta(minutes=30)
"""Flights of one step are in the air together: none of them lands before all have been asked for."""

LABELS_A_POST = 200
LABEL_DELAY = timedelta(hours=6)
"""Event time a label may wait for company: each post is one fsync of the server."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One flight as its request and its label. `at` is departure, `landed` arrival at the gate, both UTC."""

    id: str
    at: datetime
    landed: datetime
    features: dict[str, Any]
    label: float | int


@dataclass(slots=True)
class Counts:
    """What a replay has done so far. Every flight that departs before `at` has been asked for: go on from there."""

    at: datetime
    predictions: int = 0
    labels: int = 0
    refused: int = 0
    retries: int = 0


def sampled(flight: str, *, sample: float, seed: int) -> bool:
    """Whether a flight is in the sample: by its own hash, so that neither order nor restarts change the choice.

    >>> [sampled(f"UA{n}-20130401-EWR", sample=0.5, seed=6) for n in (1, 2, 3, 4)]
    [True, True, False, True]
    """
    digest = blake2b(f"{seed}\x1f{flight}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < sample * 2**64


def legs(table: pd.DataFrame, features: list[str], target: str) -> Iterator[Leg]:
    """The rows of `table` as legs, in its order; gaps become null, float32 its shortest decimal."""
    ids = table["_id"].tolist()
    departures = [at.to_pydatetime() for at in table["_at"]]
    landings = [at.to_pydatetime() for at in table["_label_at"]]
    labels = table[target].tolist()
    columns = [_plain(table[name]) for name in features]
    for row in zip(ids, departures, landings, labels, *columns, strict=True):
        yield Leg(row[0], row[1], row[2], dict(zip(features, row[4:], strict=True)), row[3])


def _plain(column: pd.Series[Any]) -> list[Any]:
    if column.dtype.kind != "f":
        return column.tolist()
    # the source has at most five decimals, so these digits give the same float32 back
    return [None if isnan(value) else round(value, 5) for value in column.astype("float64").tolist()]


def replay(
    url: str,
    key: str,
    model: str,
    *,
    start: datetime,
    end: datetime,
    target: str = "air_time",
    sample: float = 0.25,
    seed: int = 2013,
    connections: int = 2,
    hold: Callable[[], bool] | None = None,
    on_progress: Callable[[Counts], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Counts:
    """Play the flights with start <= departure < end against the server at `url`.

    Args:
        url: where the server listens, `http://host:port`.
        key: an API key with the scopes `predict` and `feedback`.
        model: the model's name; `target` is the label's column, `air_time` or `late`.
        sample: the share of flights that are played; `seed` decides which.
        hold: while it answers true, event time stands still (a training run takes minutes, a replayed month seconds).
        on_progress: called after each step of event time.
        stop: checked between steps, and between two tries of a request.
    """
    import pandas as pd

    from examples.flights.data import features
    from examples.flights.source import flights

    table = flights()
    table = table[(table["_at"] >= pd.Timestamp(start)) & (table["_at"] < pd.Timestamp(end))]
    chosen = [sampled(flight, sample=sample, seed=seed) for flight in table["_id"]]
    stops = stop or (lambda: False)
    wires = [Wire(url, key, stop=stops) for _ in range(connections)]
    try:
        return play(
            legs(table[chosen], features, target),
            wires,
            model,
            start=start,
            hold=hold or (lambda: False),
            on_progress=on_progress or (lambda counts: None),
            stop=stops,
        )
    finally:
        for wire in wires:
            wire.close()


def play(
    flights: Iterable[Leg],
    wires: list[Wire],
    model: str,
    *,
    start: datetime,
    hold: Callable[[], bool],
    on_progress: Callable[[Counts], None],
    stop: Callable[[], bool],
) -> Counts:
    """Send `flights`, in order of departure, a step of event time at a time; labels follow once landed.

    After the last departure event time runs on until every plane has landed. When stopped, the planes still in the
    air stay without a label, as they would if the caller had died.
    """
    counts = Counts(start)
    tower = _Tower(model, counts)
    with ThreadPoolExecutor(len(wires)) as pool:
        for step, group in groupby(flights, key=_step):
            while hold() and not stop():
                time.sleep(0.05)
            if stop():
                return counts
            tower.send(pool, wires, list(group), tower.due(step))
            counts.at = step + STEP
            on_progress(counts)
        while tower.airborne and not stop():
            tower.send(pool, wires, [], tower.due(None))
        on_progress(counts)
    return counts


def _step(leg: Leg) -> datetime:
    seconds = STEP.total_seconds()
    return datetime.fromtimestamp(leg.at.timestamp() // seconds * seconds, UTC)


class _Tower:
    """Who was predicted and has not had its label sent."""

    def __init__(self, model: str, counts: Counts) -> None:
        self._model = model
        self._counts = counts
        self.airborne: list[tuple[datetime, str, float | int]] = []

    def due(self, now: datetime | None) -> list[dict[str, Any]]:
        """The labels to send at event time `now` (None: all that are left), oldest landing first."""
        waiting = self.airborne
        if now is not None and not (
            waiting and (waiting[0][0] <= now - LABEL_DELAY or sum(leg[0] <= now for leg in waiting) >= LABELS_A_POST)
        ):
            return []
        items: list[dict[str, Any]] = []
        while waiting and len(items) < LABELS_A_POST and (now is None or waiting[0][0] <= now):
            landed, prediction, label = heapq.heappop(waiting)
            items.append({"prediction_id": prediction, "label": label, "at": _iso(landed)})
        return items

    def send(self, pool: ThreadPoolExecutor, wires: list[Wire], step: list[Leg], due: list[dict[str, Any]]) -> None:
        """Ask for every leg of a step over all wires; the labels due go first on the first wire."""
        work: list[Future[_Done]] = [
            pool.submit(self._over, wire, step[number :: len(wires)], due if number == 0 else [])
            for number, wire in enumerate(wires)
        ]
        for part in work:
            done = part.result()
            self._counts.predictions += len(done.landings)
            self._counts.labels += done.labels
            self._counts.refused += done.refused
            for landing in done.landings:
                heapq.heappush(self.airborne, landing)
        self._counts.retries = sum(wire.retries for wire in wires)

    def _over(self, wire: Wire, step: list[Leg], due: list[dict[str, Any]]) -> _Done:
        done = _Done()
        with suppress(Stopped):  # what was answered before still counts
            if due:
                # the same labels again after a lost answer are harmless: the last revision of a label wins
                wire.post(f"/models/{self._model}/feedback", due)
                done.labels = len(due)
            for leg in step:
                self._ask(wire, leg, done)
        return done

    def _ask(self, wire: Wire, leg: Leg, done: _Done) -> None:
        # one entity per flight: each departure is randomised by itself. An airline or airport as entity would put
        # whole streams of alike flights on one arm, and compare airlines instead of models.
        body = {"rows": [leg.features], "entity": leg.id, "at": _iso(leg.at)}
        try:
            answer = wire.post(f"/models/{self._model}/predict", body)
        except Refused as error:
            if error.status != 422:  # wrong key or wrong route: no other flight will fare better
                raise
            done.refused += 1
            return
        done.landings.append((leg.landed, answer["prediction_ids"][0], leg.label))


@dataclass(slots=True)
class _Done:
    """What one wire got done of a step."""

    landings: list[tuple[datetime, str, float | int]] = field(default_factory=list)
    labels: int = 0
    refused: int = 0


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
