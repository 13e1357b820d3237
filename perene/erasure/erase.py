"""Erase one person's events, or one prediction, everywhere in an installation.

The tombstone comes first, while shipper and upkeep of this home pause: from then on nobody writes these rows to the
lake any more. Ids are written down before the rows that they were found by go. Every step may be repeated, so after a
crash the same command finishes the work.
"""

from __future__ import annotations

import getpass
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa

from monitoring.erasure import spools
from monitoring.erasure.lake_files import lake_hits
from monitoring.erasure.wanted import Wanted, check_subject, spellings
from monitoring.intake.ids import uuid7
from monitoring.intake.pseudonyms import load_pseudonyms
from monitoring.lake.lake import Key, Lake
from monitoring.lake.tombstones import Tombstone
from perene.config import Settings
from perene.erasure import receipt
from perene.erasure.places import Aim, Item, Place, all_places
from perene.erasure.work import Work
from registry.errors import ConfigInvalid, ModelUnknown, StoreUnavailable
from registry.ledger import Ledger
from registry.names import check_name
from retrain.reports.report_spec import lock_of

__all__ = ["Asked", "Done", "erase", "rehearse"]

SETTLE_S: Final = 0.5
"""What a server answered just before is in its spool after this: a few times the commit interval."""
ROUNDS: Final = 5
UPKEEP_S: Final = 180.0
"""A round of upkeep takes two minutes at most."""
REPORT_S: Final = 180.0


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is to be erased of which model: a subject, or one prediction."""

    model: str
    subject: str | None = None
    prediction_id: str | None = None

    def check(self, *, literal: bool = False) -> None:
        """Refuse what is not exactly one of both.

        Raises:
            ConfigInvalid: neither or both, an empty subject, or a pattern unless `literal`.
            NameInvalid: the model's name is none.
        """
        check_name(self.model)
        if (self.subject is None) == (self.prediction_id is None):
            raise ConfigInvalid("one of --subject and --prediction-id is needed", where="--subject")
        if self.subject is not None and not (literal and self.subject.strip()):
            check_subject(self.subject)
        if self.prediction_id is not None and not spools.is_id(self.prediction_id):
            raise ConfigInvalid(
                "this is not the id of a prediction", where="--prediction-id", expected="one that a prediction answered"
            )


@dataclass(frozen=True, slots=True)
class Done:
    """A finished erasure: its receipt, and the file that holds it."""

    receipt: dict[str, Any]
    path: Path


def rehearse(settings: Settings, asked: Asked, *, places: Sequence[Place] | None = None) -> list[Item]:
    """What would go, without changing anything."""
    with _worded():
        lake = _lake(settings, asked.model)
        wanted, texts = _wanted(settings, asked, time.time())
        ids, since = _collect(settings.places.home, lake, wanted)
        aim = Aim(wanted.with_ids(ids), texts, since)
        chosen = places or all_places(settings.places.home, lake, asked.model, settings.places)
        return [item for place in chosen for item in place.find(aim)]


def erase(settings: Settings, asked: Asked, *, places: Sequence[Place] | None = None) -> Done:
    """Erase, and write the receipt.

    Args:
        settings: of the installation.
        asked: who; checked before.
        places: where; all places when left out.

    Raises:
        ModelUnknown: nobody knows the model.
        StoreUnavailable: a store, the shipper or upkeep is in the way; the same command goes on later.
    """
    home = settings.places.home
    with _worded():
        lake = _lake(settings, asked.model)
    chosen = places or all_places(home, lake, asked.model, settings.places)
    folder = home / "erasures"
    with _worded(), spools.held(folder / "lock", "another erasure"):
        with ExitStack() as stack:
            # upkeep first: while it ends its round the shipper may go on
            stack.enter_context(spools.held(home / "upkeep" / "lock", "upkeep of the lake", UPKEEP_S))
            stack.enter_context(spools.held(lock_of(home), "a report", REPORT_S))
            if (home / "spool").is_dir():
                stack.enter_context(spools.held(home / "spool" / "shipper.lock", "the shipper"))
            names = _named(settings, asked)
            wanted, texts = _wanted(settings, asked, time.time())
            work = Work.open(folder, f"{asked.model}-{names[0] if names else asked.prediction_id}")
            stone = Tombstone(asked.model, wanted.until, names, sorted(wanted.ids))
            work.stone(str(lake.tombstones.add(stone)))
            if any(spools.alive(path) for path in spools.spool_files(home / "spool")):
                time.sleep(SETTLE_S)
            run = _Run(home, lake, names, texts, chosen, work)
            _go(run, wanted)
        return _finish(settings, asked, wanted, lake, work, folder)


@contextmanager
def _worded() -> Iterator[None]:
    """A disk or a file that is in the way is one error of ours."""
    try:
        yield
    except (OSError, sqlite3.Error, msgspec.MsgspecError, ValueError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
        raise StoreUnavailable(
            f"the erasure was broken off: {why}", where="home", hint="mend it and run the command again: it goes on"
        ) from error


@dataclass(frozen=True, slots=True)
class _Run:
    """One erasure under way; `names` are the subject's pseudonyms under the secret."""

    home: Path
    lake: Lake
    names: list[str]
    texts: frozenset[str]
    places: Sequence[Place]
    work: Work


def _go(run: _Run, wanted: Wanted) -> None:
    """Clear every place, and again for as long as something turns up."""
    stones, work = run.lake.tombstones, run.work
    for _ in range(ROUNDS):
        for path in spools.spool_files(run.home / "spool"):
            spools.settle(path)
        # all that was ever erased of the model: what another machine found late heals as well
        wanted = wanted.with_ids(stones.of(wanted.model).ids)
        ids, since = _collect(run.home, run.lake, wanted)
        work.first(since)
        if fresh := ids - wanted.ids:
            stones.add(Tombstone(wanted.model, ids=sorted(fresh), because=run.names, since=since))
            wanted = wanted.with_ids(fresh)
        _claim(run, wanted.model)
        aim = Aim(wanted, run.texts, work.since)
        for place in run.places:
            place.clear(aim, work.plan)
        if not any(place.find(aim) for place in run.places):
            return
    raise StoreUnavailable(
        "events of the subject keep coming",
        where="lake",
        hint="another machine ships what it had; run the command again in a minute: it goes on where it was",
    )


def _claim(run: _Run, model: str) -> None:
    """Count what was found for this subject, here or by a shipper while an earlier attempt was dead."""
    counted = {name for made in receipt.kept(run.home / "erasures") for name in made["tombstones"]}
    for key, stone in run.lake.tombstones.named(run.lake.tombstones.names(model)).items():
        if set(stone.because) & set(run.names) and str(key) not in counted:
            run.work.stone(str(key))
            run.work.first(float("inf") if stone.since is None else stone.since)


def _collect(home: Path, lake: Lake, wanted: Wanted) -> tuple[set[str], float]:
    """Ids of the predictions that are to go, and when the earliest of them was received."""
    ids: set[str] = set()
    since = float("inf")
    for path in spools.spool_files(home / "spool"):
        found, rows = spools.spool_hits(path, wanted)
        ids |= found
        since = min(since, rows.first if rows else since)
    for _, hits in lake_hits(lake, wanted, "prediction"):
        ids.update(hits.column("_id").to_pylist())
        since = min(since, min(hits.column("_received").cast(pa.int64()).to_pylist()) / 1e6)
    return ids, since


def _finish(settings: Settings, asked: Asked, wanted: Wanted, lake: Lake, work: Work, folder: Path) -> Done:
    finished = time.time()
    items = sorted(work.items.values(), key=lambda item: (item.place, item.name, item.kind))
    body = {
        "format": receipt.FORMAT,
        "id": uuid7(),
        "model": asked.model,
        "subjects": _named(settings, asked),
        "prediction": asked.prediction_id,
        "until": wanted.until,
        "since": None if work.since == float("inf") else work.since,
        "finished": finished,
        "at": datetime.fromtimestamp(finished, UTC).isoformat(timespec="seconds"),
        "actor": getpass.getuser(),
        "predictions": len(_erased_ids(lake, work)),
        "removed": _totals(items),
        "places": [place.name for place in all_places(settings.places.home, lake, asked.model)],
        "items": [{name: value for name, value in _told(item).items() if value is not None} for item in items],
        "tombstones": list(work.stones),
        "may_have_learned": _versions(settings, asked.model, work.since),
        "not_covered": list(receipt.LIMITS),
        "previous": receipt.last_digest(folder),
    }
    made = receipt.seal(body)
    path = receipt.write(folder, made, f"{datetime.fromtimestamp(finished, UTC):%Y%m%dT%H%M%S%f}-{asked.model}")
    if has_ledger(settings):
        with closing(Ledger.open(settings.places.ledger_url)) as ledger:
            kept = {name: made[name] for name in ("id", "at", "actor", "removed", "sha256")}
            ledger.record_evidence(asked.model, "erasure", {**kept, "previous_receipt": made["previous"]})
    work.end()
    return Done(made, path)


def _told(item: Item) -> dict[str, Any]:
    return {"place": item.place, "name": item.name, "kind": item.kind, "rows": item.rows, **_digests(item)}


def _digests(item: Item) -> dict[str, Any]:
    return {} if item.before is None else {"before": item.before, "after": item.after or "removed"}


def _totals(items: Sequence[Item]) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in items:
        if item.kind != "remnant":
            found[f"{item.place} {item.kind}"] = found.get(f"{item.place} {item.kind}", 0) + item.rows
    return found


def _erased_ids(lake: Lake, work: Work) -> set[str]:
    return {i for stone in lake.tombstones.named(_keys(work)).values() for i in stone.ids}


def _keys(work: Work) -> list[Key]:
    return [Key(name) for name in work.stones]


def _wanted(settings: Settings, asked: Asked, until: float) -> tuple[Wanted, frozenset[str]]:
    if asked.subject is None:
        return Wanted(asked.model, until, ids=frozenset({asked.prediction_id or ""})), frozenset()
    digest = load_pseudonyms(settings.places.home, settings.serving.subject_key)
    return Wanted.subject(asked.model, asked.subject, until, digest), frozenset(spellings(asked.subject))


def _named(settings: Settings, asked: Asked) -> list[str]:
    """The subject's pseudonyms under the secret; those of 0.1 could be guessed back, and are written nowhere."""
    if asked.subject is None:
        return []
    digest = load_pseudonyms(settings.places.home, settings.serving.subject_key)
    return [digest(text) for text in spellings(asked.subject)]


def _lake(settings: Settings, model: str) -> Lake:
    """The lake, once it is certain that somebody knows the model.

    Raises:
        ModelUnknown: a name that was never used is a slip, and must not end in a receipt that says "nothing found".
    """
    lake = Lake(settings.places.lake)
    if model in lake.models() or lake.tombstones.names(model) or _deployed(settings, model):
        return lake
    for path in spools.spool_files(settings.places.home / "spool"):
        if spools.names_model(path, model):
            return lake
    raise ModelUnknown(
        "nothing of this model was ever logged or deployed here",
        where=model,
        expected=", ".join(lake.models()),
        hint="mind the spelling, and --home",
    )


def has_ledger(settings: Settings) -> bool:
    return bool(settings.places.ledger) or (settings.places.home / "ledger.db").exists()


def _deployed(settings: Settings, model: str) -> bool:
    if not has_ledger(settings):
        return False
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        return ledger.deployment(model) is not None


def _versions(settings: Settings, model: str, since: float) -> list[int]:
    """Versions that were trained after the subject's first event."""
    if not has_ledger(settings):
        return []
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        runs = ledger.runs(model, limit=1_000)
    return sorted({int(run.body["version"]) for run in runs if run.at.timestamp() >= since and run.body.get("version")})
