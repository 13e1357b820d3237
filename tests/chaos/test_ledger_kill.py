"""Promotion is atomic and audited under kill -9 (promise 8): 16 clients, SQLite and PostgreSQL, a history checker.

Clients move three models by compare-and-swap; one is killed at a random moment and replaced, again and again, while
readers look. In the end every acknowledged move is in the ledger exactly once, every other at most once, revisions
are contiguous, each move follows the revision it was decided on, and the hash chains hold. The control reads and
writes in two transactions, which the same checker must see. `PERENE_CHAOS=full` makes 10,000 moves instead of 1,000.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from registry.ledger import Ledger
from registry.ledger.database import connect, reading
from tests.chaos.history import Attempt, Read, Row, check
from tests.chaos.ledger_client import MODELS

FULL = os.environ.get("PERENE_CHAOS") == "full"
MOVES = 5_000 if FULL else 500
"""On each of the two databases."""
KILL_EVERY_S = 2.0 if FULL else 0.7
LEAST_KILLS = 10
"""However fast the moves are made."""
ROOT = Path(__file__).parents[2]
CURRENT = text(
    "SELECT model, revision, champion FROM perene_deployments d "
    "WHERE revision = (SELECT max(revision) FROM perene_deployments WHERE model = d.model)"
)


@dataclass
class Storm:
    """Clients over one ledger, killed and replaced by dice, with readers beside them."""

    url: str
    folder: Path
    manner: str
    seed: int
    kills: int = 0
    reads: list[Read] = field(default_factory=list)
    doubled: list[object] = field(default_factory=list)
    _clients: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def rage(self, clients: int, moves: int, *, kills: int = 0) -> None:
        """Until there are `moves` rows since all clients were at it, and so many kills."""
        Ledger.open(self.url).close()
        dice = random.Random(self.seed)
        self._clients = [self._start(n) for n in range(clients)]
        readers = [threading.Thread(target=self._read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            with closing(Ledger.open(self.url)) as ledger:
                # the first one alone would have nobody to compete with, and is soon done
                while not all((self.folder / f"{self.manner}-{n}.log").exists() for n in range(clients)):
                    self._stop.wait(0.05)
                goal = _moves(ledger) + moves
                while _moves(ledger) < goal or self.kills < kills:
                    self._stop.wait(dice.uniform(0.5, 1.5) * KILL_EVERY_S)
                    victim = dice.randrange(clients)
                    assert self._clients[victim].poll() is None, "a client ended by itself"
                    self._kill(victim)
                    self.kills += 1
                    self._clients[victim] = self._start(clients + self.kills)
        finally:
            self._stop.set()
            for number in range(clients):
                self._kill(number)
            for reader in readers:
                reader.join()

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        name = f"{self.manner}-{number}"
        log = str(self.folder / f"{name}.log")
        command = [sys.executable, "-m", "tests.chaos.ledger_client", self.url, log, name, self.manner]
        return subprocess.Popen(command, cwd=ROOT)

    def _kill(self, number: int) -> None:
        self._clients[number].kill()
        self._clients[number].wait()

    def _read(self) -> None:
        """Every model has one champion, whenever one looks."""
        engine = connect(self.url)
        try:
            while not self._stop.wait(0.01):
                start = time.monotonic_ns()
                with reading(engine) as connection:
                    rows = connection.execute(CURRENT).all()
                end = time.monotonic_ns()
                seen = {row.model: row for row in rows}
                if len(seen) != len(rows):
                    self.doubled.append(rows)
                for model in MODELS:
                    revision, champion = (seen[model].revision, seen[model].champion) if model in seen else (0, 0)
                    self.reads.append(Read(model, revision, champion, start, end))
        finally:
            engine.dispose()

    def attempts(self) -> list[Attempt]:
        """What the clients noted; a last line that was cut by the kill is none."""
        facts: dict[str, dict[str, object]] = {}
        for log in sorted(self.folder.glob("*.log")):
            for line in log.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    noted = json.loads(line)
                    facts.setdefault(noted["op"], {}).update(noted)
        return [Attempt(**noted) for noted in facts.values()]  # type: ignore[arg-type]

    def rows(self) -> list[Row]:
        """The ledger in the end."""
        engine = create_engine(self.url)
        with engine.connect() as connection:
            query = text("SELECT model, revision, champion, reason FROM perene_deployments ORDER BY model, revision")
            found = [Row(*row) for row in connection.execute(query)]
        engine.dispose()
        return found


def _moves(ledger: Ledger) -> int:
    return sum(row.revision for row in ledger.deployments().values())


@pytest.mark.timeout(60 + MOVES)
def test_acknowledged_moves_are_in_the_ledger_once_and_in_order(ledger_url: str, tmp_path: Path) -> None:
    """Sixteen clients, one killed every moment: one champion at every read, linearizable for each model."""
    storm = Storm(ledger_url, tmp_path, "careful", seed=8)
    storm.rage(16, MOVES, kills=LEAST_KILLS)
    attempts, rows = storm.attempts(), storm.rows()
    outcomes = Counter(attempt.outcome for attempt in attempts)
    print(f"{len(rows)} rows, {dict(outcomes)}, {storm.kills} kills, {len(storm.reads)} reads")
    assert storm.doubled == []
    assert check(attempts, rows, storm.reads) == []
    with closing(Ledger.open(ledger_url)) as ledger:
        assert ledger.verify() == []
    assert outcomes["ok"] >= MOVES * 0.9
    assert outcomes["conflict"] > 0, "nobody ever competed"


@pytest.mark.timeout(300)
def test_control_without_compare_and_swap_is_caught(ledger_url: str, tmp_path: Path) -> None:
    """Reading and writing in two transactions loses updates, and the checker says so."""
    storm = Storm(ledger_url, tmp_path, "careless", seed=9)
    storm.rage(6, 100)
    problems = check(storm.attempts(), storm.rows())
    print(f"{len(problems)} problems, first: {problems[:1]}")
    assert any("was decided on revision" in problem for problem in problems)
