"""One scheduler acts (promise 10): three worker processes are killed, restarted and stopped beyond their lease.

Every act is two writes under the leader's token. In the ledger's order a job that somebody began may be ended by the
same, or begun again by a newer leader; a write by an older leader after a newer one's first, or a second end of a job,
is an overlap. The control trusts the lease without a fence: the same checker must see it fail.
`PERENE_CHAOS=full`: 200 kills instead of 30, and four stops of 60 s with a lease of 3 s.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from registry.ledger import Ledger
from retrain.places import Places
from tests.chaos.acting_worker import MODEL

FULL = os.environ.get("PERENE_CHAOS") == "full"
CYCLES = 200 if FULL else 30
STOPS = 4 if FULL else 6
STOP_S = 60.0 if FULL else 1.5
TTL_S = 3.0 if FULL else 0.6
TRIES = 40
"""More stops than it ever takes to find a leader between its writes."""
ROOT = Path(__file__).parents[2]


class Crowd:
    """Three workers on one home, killed and replaced by dice."""

    def __init__(self, home: Path, manner: str) -> None:
        self.home, self.manner = home, manner
        self.started = self.locked = 0
        home.mkdir()
        (home / "acts").mkdir()
        Ledger.open(Places(home).ledger_url).close()
        self.workers = [self.start() for _ in range(3)]

    def start(self) -> subprocess.Popen[bytes]:
        """One more."""
        name = f"w{self.started}"
        self.started += 1
        log = str(self.home / "acts" / name)
        command = [sys.executable, "-m", "tests.chaos.acting_worker", str(self.home), log, name, self.manner]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "ACTING_TTL_S": str(TTL_S)})

    def leader(self) -> int | None:
        """Which of the three wrote last."""
        with closing(Ledger.open(Places(self.home).ledger_url)) as ledger:
            rows = ledger.evidence(MODEL, "act", limit=1)
        names = {f"w{n}" for n in range(self.started)}
        by = rows[0].body["by"] if rows and rows[0].body["by"] in names else None
        found = [n for n, worker in enumerate(self.workers) if worker.args[-2] == by]  # type: ignore[index]
        return found[0] if found else None

    def wait_for_acts(self, more: int, *, seconds: float = 90.0) -> bool:
        """Until somebody wrote again; whether that was in time."""
        with closing(Ledger.open(Places(self.home).ledger_url)) as ledger:
            known = len(ledger.evidence(MODEL, "act", limit=100_000))
            end = time.monotonic() + seconds
            while len(ledger.evidence(MODEL, "act", limit=100_000)) < known + more:
                if time.monotonic() > end:
                    return False
                time.sleep(0.05)
        return True

    def kill(self, number: int) -> None:
        """With -9, and a new one in its place."""
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = self.start()

    def stop_leader(self) -> None:
        """SIGSTOP in the middle of its work, beyond its lease; another one leads meanwhile.

        One that is stopped inside a transaction keeps the database's lock: nobody leads until it goes on.
        """
        number = self.leader()
        if number is None:
            return
        self.workers[number].send_signal(signal.SIGSTOP)
        try:
            self.locked += not self.wait_for_acts(4, seconds=max(STOP_S, 10 * TTL_S))
            time.sleep(STOP_S if FULL else 0.0)
        finally:
            self.workers[number].send_signal(signal.SIGCONT)
        assert self.wait_for_acts(4), "nobody leads"

    def end(self) -> None:
        """All of them."""
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def acts(self) -> list[dict[str, object]]:
        """In the order in which the ledger took them."""
        with closing(Ledger.open(Places(self.home).ledger_url)) as ledger:
            assert ledger.verify() == []
            return [row.body for row in reversed(ledger.evidence(MODEL, "act", limit=100_000))]

    def notes(self) -> list[dict[str, object]]:
        """What the workers noted of their writes; a last line that a kill cut is none."""
        lines = [line for log in (self.home / "acts").iterdir() for line in log.read_text().splitlines(keepends=True)]
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def refused(self) -> list[dict[str, object]]:
        """Writes that came too late, as the workers noted them."""
        return [note for note in self.notes() if note["row"] is None]


def overlaps(acts: list[dict[str, object]]) -> list[str]:
    """What two leaders did at once."""
    found: list[str] = []
    newest, open_job, done = 0, None, 0
    for act in acts:
        token, job = int(str(act["token"])), int(str(act["job"]))
        if token < newest:
            found.append(f"token {token} wrote after {newest}")
        newest = max(newest, token)
        if act["phase"] == "begin":
            open_job = (token, job)
            continue
        if open_job != (token, job):
            found.append(f"job {job} was ended by token {token}, which did not begin it last")
        if job != done:
            found.append(f"job {job} has a second end")
        done += 1
        open_job = None
    return found


@pytest.mark.timeout(600 + int(CYCLES * 5 * TTL_S + STOPS * STOP_S * 4))
def test_three_workers_never_act_at_once(tmp_path: Path) -> None:
    """Killed, restarted and stopped: no overlap, and every write of a leader that was replaced is refused."""
    crowd = Crowd(tmp_path / "home", "fenced")
    dice = random.Random(10)
    try:
        assert crowd.wait_for_acts(2), "nobody leads"
        for cycle in range(CYCLES):
            leader = crowd.leader()
            crowd.kill(leader if leader is not None and cycle % 2 else dice.randrange(3))
            # a new one takes seconds to start: kills go by what is done
            assert crowd.wait_for_acts(dice.randrange(1, 4)), "nobody leads"
            if cycle % (CYCLES // STOPS) == 0:
                crowd.stop_leader()
        # on a slow disk most of a turn is inside a transaction, and a stop seldom finds the leader between its writes
        for _ in range(TRIES):
            if crowd.refused():
                break
            crowd.stop_leader()
    finally:
        crowd.end()
    acts, notes, refused = crowd.acts(), crowd.notes(), crowd.refused()
    print(
        f"{len(acts)} acts, {CYCLES} kills, {len({a['token'] for a in acts})} leaders, {len(refused)} refused,"
        f" {crowd.locked} stops inside a transaction"
    )
    assert overlaps(acts) == []
    assert refused, "no stop ever found a leader between its writes"
    rows = {note["row"] for note in notes} - {None}
    assert len(rows) <= len(acts)  # a kill may come between the row and the note


@pytest.mark.timeout(900)
def test_a_lease_without_a_fence_is_caught(tmp_path: Path) -> None:
    """The control: stopped leaders go on with what they began, and the checker sees it."""
    crowd = Crowd(tmp_path / "home", "bare")
    try:
        assert crowd.wait_for_acts(2), "nobody leads"
        for _ in range(TRIES):
            crowd.stop_leader()
            time.sleep(0.3)
            if overlaps(crowd.acts()):
                break
    finally:
        crowd.end()
    assert overlaps(crowd.acts()) != []
