"""Several processes that answer on one port, and their parent: it starts them, adds up their numbers, and ends them.

The kernel spreads connections over the workers (SO_REUSEPORT); each is the whole server, with its own models in memory
and its own spool. The parent answers nobody, so it loads neither the application nor the engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

from monitoring.alerting.catalogue import SERVE, WORKER_RESTARTS
from registry.private import LEDGER, write_private
from registry.supervisor import Program, Supervisor
from serving.fleet.aggregate import Family, Sample, Snapshot, Tally
from serving.fleet.exchange import Peer
from serving.settings import ServingSettings

POLL_S: Final = 1.0
"""How often every worker is asked for its numbers: what one has counted since is lost with it when it is killed."""
ANSWER_S: Final = 0.5
"""A worker that does not say how it stands in time counts as it stood."""
HUNG_S: Final = 30.0
"""One that has not said so for as long is killed, and started again: it still gets its share of new connections."""
GRACE_S: Final = 9.0
"""A worker drains for up to 8 s; then it is killed."""
_TICK_S: Final = 0.1

_log = logging.getLogger("perene.serving")


class Fleet:
    """The workers as the parent's event loop sees them: a channel to each, and the tally of what they told."""

    def __init__(self, names: Sequence[str], program: Program, logs: Path, *, hung_s: float = HUNG_S) -> None:
        self._hung_s = hung_s
        workers = [replace(program, name=name, logs_here=True) for name in names]
        self._supervisor = Supervisor(workers, logs, link=self._link)
        self._tally = Tally({metric.name: metric.across for metric in SERVE})
        self._peers: dict[Peer, str] = {}
        self._restarts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def run(self, asked: Sequence[int]) -> int:
        """Keep the workers running until a signal has been `asked`; returns the exit status of this process."""
        await asyncio.to_thread(self._supervisor.start)
        answered, due = False, self._loop.time() + POLL_S
        failed: int | None = None
        while not asked and failed is None:
            await asyncio.sleep(_TICK_S)
            if self._loop.time() >= due or not answered:
                await self._poll()
                answered = answered or bool(self._tally.processes)
                due = self._loop.time() + POLL_S
            if not answered:  # a worker that cannot start says why; starting it again would not help
                failed = next((code for code in self._supervisor.codes.values() if code > 0), None)
        await asyncio.to_thread(self._supervisor.stop, GRACE_S)
        return failed or 0

    async def whole(self) -> Snapshot:
        """How all workers stand now, as one."""
        await self._poll()
        restarts = float(sum(self._supervisor.restarts.values()))
        name = WORKER_RESTARTS.name.removesuffix("_total")
        own = Family(name, WORKER_RESTARTS.help, "counter", (Sample(WORKER_RESTARTS.name, (), restarts),))
        return self._tally.whole((own,))

    async def _poll(self) -> None:
        await asyncio.gather(*(peer.ask(ANSWER_S) for peer in self._peers))
        for peer, name in self._peers.items():
            if peer.silent_s() > self._hung_s and (pid := self._supervisor.pid(name)) is not None:
                _log.error("serving.worker_hangs", extra={"worker": name, "seconds": round(peer.silent_s())})
                os.kill(pid, signal.SIGKILL)
        for name, restarts in self._supervisor.restarts.items():
            if restarts > self._restarts.get(name, 0):
                facts = {"worker": name, "code": self._supervisor.codes.get(name), "restarts": restarts}
                _log.warning("serving.worker_ended", extra=facts)
                self._restarts[name] = restarts

    def _link(self, name: str) -> socket.socket:
        """Called by the supervisor's thread each time that a worker starts."""
        ours, theirs = socket.socketpair()
        self._loop.call_soon_threadsafe(self._join, name, ours)
        return theirs

    def _join(self, name: str, ours: socket.socket) -> None:
        task = asyncio.ensure_future(self._follow(name, ours))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, name: str, ours: socket.socket) -> None:
        peer = Peer(ours, self.whole, lambda numbers: self._tally.told(peer, numbers))
        self._peers[peer] = name
        try:
            await peer.run()
        finally:
            del self._peers[peer]
            self._tally.ended(peer)


def supervise(settings: ServingSettings, home: Path, lake_url: str = "", ledger_url: str = "") -> int:
    """Answer with `settings.workers` processes until SIGTERM or SIGINT; returns the exit status."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)  # a second signal changes nothing

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    private = home / "run"
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    # what was read once: a worker that is started again must not be another server than those beside it
    fixed = private / f"serving-{os.getpid()}.json"
    write_private(fixed, json.dumps(settings.model_dump(mode="json")).encode())
    try:
        names = [f"worker-{number}" for number in range(1, settings.workers + 1)]
        lake = ("--lake", lake_url) if lake_url else ()
        program = Program(
            "", "serving", ("--home", str(home), "--settings", str(fixed), *lake), secrets={LEDGER: ledger_url}
        )

        async def run() -> int:
            return await Fleet(names, program, home / "logs").run(asked)

        return asyncio.run(run())
    finally:
        fixed.unlink(missing_ok=True)
