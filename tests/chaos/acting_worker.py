"""A real worker process that also acts in two fenced writes at each turn, and notes what became of each.

`python -m tests.chaos.acting_worker HOME LOG NAME fenced|bare`: a job is begun, takes a moment, and is ended; jobs are
numbered by those that have an end. `bare` is the control: it trusts the lease alone and writes without its token.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

from prometheus_client import CollectorRegistry

from registry.errors import LeaseLost, StoreUnavailable
from retrain.settings import WorkerSettings
from retrain.worker import Worker, create_worker

TTL_S = float(os.environ.get("ACTING_TTL_S", "0.6"))
MODEL = "acts"


def ended(worker: Worker) -> int:
    """Jobs with an end."""
    return len([row for row in worker.ledger.evidence(MODEL, "act", limit=100_000) if row.body["phase"] == "end"])


def act(worker: Worker, name: str, fenced: bool, log: TextIO, dice: random.Random) -> None:
    """One job; a write that was refused is noted, as is one that was made."""
    token = worker.leader.token
    if token is None:
        return
    job = ended(worker)
    for phase in ("begin", "end"):
        body = {"job": job, "phase": phase, "by": name, "token": token}
        try:
            row = worker.ledger.record_evidence(MODEL, "act", body, token=token if fenced else None)
        except LeaseLost:
            row = None
            worker.leader.drop()
        log.write(json.dumps({"token": token, "phase": phase, "row": row}) + "\n")
        log.flush()
        if row is None:
            return
        if phase == "begin":
            time.sleep(dice.uniform(0.1, 0.2))  # most of a turn lies between the two writes: a stop finds it there


def main(home: Path, log: Path, name: str, fenced: bool) -> None:
    """Tick and act until SIGTERM."""
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    settings = WorkerSettings(lease_ttl_s=TTL_S, port=0, reports=False)
    worker = create_worker(settings, home, registry=CollectorRegistry())
    worker.aliases.revision = worker.ledger.revision()  # MLflow's aliases have tests of their own
    worker.aliases._due = float("inf")
    dice = random.Random(name)
    with log.open("a") as file:
        while going:
            try:
                if worker.tick():
                    act(worker, name, fenced, file, dice)
            except StoreUnavailable:
                pass  # SQLite's patience ended in a crowd: the next turn tries again
            time.sleep(0.01)
    worker.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "fenced")
