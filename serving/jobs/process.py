"""`python -m serving.jobs.process`: answers files one after the other, brings callbacks, and clears away.

A child of the server, one at work on a machine: others wait for its lock. It may be killed at any moment; the next one
takes up what it held.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from registry import child, process_log
from registry.errors import PereneError
from serving.jobs.deliveries import Deliveries
from serving.jobs.files import Places, every
from serving.jobs.job import Failure, Job
from serving.jobs.queue import Queue, opened
from serving.settings import ServingSettings

LOOK_S: Final = 0.25
TIDY_S: Final = 30.0
ORPHAN_S: Final = 3_600.0
"""A folder without a job that nothing was written into for so long belongs to an upload that broke off."""
_MOST_LINE: Final = 64 * 1024
_log = logging.getLogger("perene.jobs")


class Runner:
    """Works on file jobs until `asked` to end."""

    def __init__(self, queue: Queue, run: Path, settings: Path, asked: list[int]) -> None:
        self._queue = queue
        self._run = run
        self._settings = settings
        self._asked = asked
        self._tidy_at = 0.0

    def turn(self) -> bool:
        """Work on the next job, if there is one; false when there is none."""
        self.tidy()
        job = self._queue.take("batch")
        if job is None:
            return False
        _log.info("jobs.began", extra={"job": job.id, "model": job.model, "attempt": job.attempts})
        ended = self._work(job)
        if ended is not None:
            self._write_down(job, ended)
        if self._asked:
            self._queue.give_back(job)
        return True

    def tidy(self) -> None:
        """Now and then: remove what nobody asks for any more."""
        if self._queue.quiet or time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + TIDY_S
        for forgotten in self._queue.forget_old():
            Places(self._run, forgotten).remove()
        with contextlib.suppress(FileNotFoundError):
            folders = list(every(self._run))
            states = self._queue.states()  # after the folders: whoever has a folder now and no job yet is young
            for identifier, changed in folders:
                state = states.get(identifier)
                orphan = state is None and time.time() - changed > ORPHAN_S
                if orphan or state in ("failed", "cancelled"):
                    Places(self._run, identifier).remove()
                elif state == "done":
                    Places(self._run, identifier).remove_input()

    def _work(self, job: Job) -> dict[str, Any] | None:
        """How it ended; None when it is not this process's job any more, or this process is to end."""
        command = child.command("serving.jobs.child", str(self._run), job.id, str(self._settings), job.asked.decode())
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None  # noqa: S101
            try:
                for line in _lines(process.stdout.fileno()):
                    if self._asked:
                        return None
                    if not line and self._lost(job):  # it was cancelled
                        process.kill()
                        process.wait()
                        Places(self._run, job.id).remove()
                        return None
                    if line and "at" in line:
                        with contextlib.suppress(PereneError):
                            self._queue.progress(job, *line["at"])
                    elif line:
                        return line
            finally:
                process.kill()
            code = process.wait()
        word = f"signal {-code}" if code < 0 else f"status {code}"
        return {"again": {"code": "process_ended", "message": f"the process that answers the file ended ({word})"}}

    def _write_down(self, job: Job, ended: dict[str, Any]) -> None:
        kept = self._kept(job, ended)
        if kept is None:  # the next process works on it again
            return
        places = Places(self._run, job.id)
        if kept and "done" in ended:
            places.remove_input()
        if not kept or "failed" in ended:  # it was cancelled meanwhile, or nobody can use its files
            places.remove()
        _log.info("jobs.ended", extra={"job": job.id, "model": job.model, "how": next(iter(ended))})

    def _kept(self, job: Job, ended: dict[str, Any]) -> bool | None:
        """Write it into the queue, as soon as the disk lets us; false when the job is not ours any more.

        None: the disk did not let us until this process had to end.
        """
        while not self._asked:
            try:
                if "done" in ended:
                    return self._queue.done(job, **ended["done"])
                if "failed" in ended:
                    return self._queue.failed(job, msgspec.convert(ended["failed"], Failure))
                return self._queue.again(job, msgspec.convert(ended["again"], Failure))
            except PereneError as error:
                _log.warning("jobs.not_written", extra={"job": job.id, "code": error.code})
                time.sleep(LOOK_S)
        return None

    def _lost(self, job: Job) -> bool:
        try:
            return not self._queue.holds(job)
        except PereneError:  # nobody knows; the child goes on
            return False


def _lines(pipe: int) -> Iterator[dict[str, Any]]:
    """What the child says; an empty one each time that it was silent for a while."""
    waiting = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], LOOK_S)
        if not ready:
            yield {}
            continue
        part = os.read(pipe, _MOST_LINE)
        if not part:
            return
        *whole, waiting = (waiting + part).split(b"\n")
        for line in whole:
            yield json.loads(line)
        yield {}


def main() -> None:
    """Work until SIGTERM or the server's death; what is under way is taken up by the next one."""
    parser = argparse.ArgumentParser(prog="python -m serving.jobs.process")
    parser.add_argument("--run", type=Path, required=True, help="the run folder of the home")
    parser.add_argument("--settings", type=Path, required=True, help="JSON of ServingSettings")
    options = parser.parse_args()
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: asked.append(number))
    child.die_with_parent(os.getppid())
    settings = ServingSettings.model_validate_json(options.settings.read_bytes())
    queue = opened(options.run, settings.jobs)
    with _alone(options.run, asked):
        deliveries = Deliveries(queue.store, settings.jobs)
        deliveries.start()
        runner = Runner(queue, options.run, options.settings, asked)
        while not asked:
            try:
                worked = runner.turn()
            # a disk that is full or away now may be there later
            except (PereneError, OSError) as error:
                _log.error("jobs.turn_failed", extra={"cause": type(error).__name__})
                worked = False
            if not worked:
                time.sleep(LOOK_S)
        deliveries.stop()


@contextlib.contextmanager
def _alone(run: Path, asked: list[int]) -> Iterator[None]:
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (run / "jobs.lock").open("w") as lock:
        while not asked:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(LOOK_S)
        yield


if __name__ == "__main__":
    process_log.configure()
    main()
