"""Whether a receipt still holds: it is whole, in its chain and in the ledger, and nothing of what it names is there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from monitoring.erasure.lake_files import file_digest
from monitoring.erasure.wanted import Wanted, spellings
from monitoring.intake.pseudonyms import plain
from monitoring.lake.lake import Key, Lake
from perene.config import Settings
from perene.erasure import receipt
from perene.erasure.erase import has_ledger
from perene.erasure.places import Aim, all_places
from registry.errors import StoreUnavailable
from registry.ledger import Ledger

__all__ = ["verify"]


def verify(settings: Settings, path: Path, *, subject: str | None = None) -> list[str]:
    """What speaks against a receipt; nothing when it holds.

    Args:
        settings: of the installation.
        path: the receipt.
        subject: the subject itself, where it is at hand: then its name is looked for too, and what 0.1 made of it.

    Raises:
        ConfigInvalid: this is no receipt, or it was changed.
    """
    found = receipt.read(path)
    lake = Lake(settings.places.lake)
    problems = [*_chain(path, found), *_evidence(settings, found)]
    try:
        aim = _aim(found, lake, subject)
    except StoreUnavailable as error:
        return [*problems, f"tombstone: {error.message}: {error.where}"]
    for place in all_places(settings.places.home, lake, found["model"], settings.places):
        try:
            problems += [f"{item.place}: {item.rows} {item.kind}(s) in {item.name}" for item in place.find(aim)]
        # what cannot be read is no proof that nothing is there: a file that is no spool, a damaged one
        except (OSError, sqlite3.Error, msgspec.MsgspecError, ValueError, StoreUnavailable) as error:
            problems.append(f"{place.name}: something in it cannot be read ({type(error).__name__})")
    return problems + list(_restored(found, lake))


def _aim(found: dict[str, Any], lake: Lake, subject: str | None) -> Aim:
    stones = lake.tombstones.named(Key(name) for name in found["tombstones"])
    ids = frozenset(i for stone in stones.values() for i in stone.ids)
    texts = frozenset(spellings(subject)) if subject else frozenset()
    subjects = frozenset(found["subjects"]).union(plain(text) for text in texts)
    since = float("inf") if found["since"] is None else found["since"]
    return Aim(Wanted(found["model"], found["until"], subjects, ids), texts, since, found["finished"])


def _chain(path: Path, found: dict[str, Any]) -> Iterator[str]:
    others = {other["sha256"] for other in receipt.kept(path.parent)}
    if found["previous"] and found["previous"] not in others:
        yield "chain: the receipt before this one is not beside it"


def _evidence(settings: Settings, found: dict[str, Any]) -> Iterator[str]:
    if not has_ledger(settings):
        return
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        rows = ledger.evidence(found["model"], "erasure", limit=100_000)
    if found["sha256"] not in {row.body.get("sha256") for row in rows}:
        yield "ledger: no evidence has this receipt's digest"


def _restored(found: dict[str, Any], lake: Lake) -> Iterator[str]:
    """Files that are again what they were before, as after a restored backup."""
    for item in found["items"]:
        if item["place"] == "lake" and file_digest(lake, Key(item["name"])) == item["before"]:
            yield f"lake: {item['name']} is what it was before"
