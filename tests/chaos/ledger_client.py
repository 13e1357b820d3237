"""A client of the ledger's chaos test: `python -m tests.chaos.ledger_client URL LOG NAME MANNER`, until killed.

It notes each attempt before it makes it and each answer after it has it, by one write each. The careless manner is
the control: it reads the revision in one transaction and writes the next row in another, with SQL of its own.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from registry.errors import LedgerConflict, StoreUnavailable
from registry.ledger import Ledger
from registry.ledger.database import connect, writing

MODELS = ("churn", "fraud", "price")


def careful(ledger: Ledger, model: str, expected: int, champion: int, op: str) -> int:
    """As the product does it."""
    row = ledger.move(model, expected_revision=expected, champion=champion, actor="chaos", reason=op)
    return row.revision


def careless(engine: Engine, model: str, champion: int, op: str) -> int:
    """The next row, whatever became of the one that was decided on; to decide takes a moment."""
    time.sleep(0.005)
    with writing(engine) as connection:
        newest = text("SELECT coalesce(max(revision), 0) FROM perene_deployments WHERE model = :model")
        revision = int(connection.execute(newest, {"model": model}).scalar() or 0) + 1
        connection.execute(
            text(
                "INSERT INTO perene_deployments"
                " (model, revision, champion, weight, salt, actor, reason, at, previous, hash)"
                " VALUES (:model, :revision, :champion, 0, '', 'chaos', :op, '2026-01-01T00:00:00+00:00', '', '')"
            ),
            {"model": model, "revision": revision, "champion": champion, "op": op},
        )
    return revision


def patiently(url: str) -> Ledger:
    """The ledger, once it can be opened: in a crowd on a slow disk SQLite's patience may end."""
    while True:
        try:
            return Ledger.open(url)
        except StoreUnavailable:
            continue


def main(url: str, log: str, name: str, manner: str) -> None:
    """Move models until killed."""
    ledger, engine = patiently(url), connect(url)
    dice = random.Random(name)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(**facts: Any) -> None:
        os.write(file, (json.dumps(facts) + "\n").encode())

    number = 0
    while True:
        number += 1
        op, model = f"{name}-{number}", dice.choice(MODELS)
        champion = dice.randrange(1, 1_000)
        try:
            current = ledger.deployment(model)
            expected = current.revision if current else 0
            note(op=op, model=model, expected=expected, start=time.monotonic_ns())
            try:
                if manner == "careful":
                    revision = careful(ledger, model, expected, champion, op)
                else:
                    revision = careless(engine, model, champion, op)
            except (LedgerConflict, IntegrityError):
                note(op=op, end=time.monotonic_ns(), outcome="conflict")
            else:
                note(op=op, end=time.monotonic_ns(), outcome="ok", revision=revision)
        except StoreUnavailable:
            continue  # too many wait for the one lock: no answer is no answer


if __name__ == "__main__":
    main(*sys.argv[1:5])
