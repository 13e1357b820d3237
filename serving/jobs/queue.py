"""The queue: what is accepted is on disk, each job is worked on by one process at a time, and ends once.

A process that takes a job writes down who it is. When it is gone, the job is anybody's again: an attempt more.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from time import time
from typing import Any, Final

import msgspec

from monitoring.intake.ids import uuid7
from registry.errors import PereneError
from serving.access.alive import alive, lives
from serving.errors import IdempotencyConflict, JobUnknown, Limited, QueueFull
from serving.jobs.job import Failure, Job, Kind, State, told, wait_s
from serving.jobs.store import Store, storage_full
from serving.settings import JobSettings

_FIELDS: Final = tuple(field.name for field in msgspec.structs.fields(Job))
_ALL: Final = ", ".join(_FIELDS)
_MOST_LISTED: Final = 200
_UNFINISHED: Final = "state IN ('queued', 'running')"


class Queue:
    """The jobs of a machine, as one process uses them; calls wait for the disk."""

    def __init__(self, store: Store, settings: JobSettings, clock: Callable[[], float] = time) -> None:
        self.store = store
        self._settings = settings
        self._clock = clock
        self._dice = Random()  # noqa: S311 - it spreads out repeats
        self._me = alive(os.getpid())

    @property
    def quiet(self) -> bool:
        """Whether there never was a job here: then nobody need look."""
        return not self.store.exists()

    def now(self) -> float:
        """The time by which jobs are due."""
        return self._clock()

    def check_room(self, key: str, size: int) -> None:
        """Refuse what there is no place for, before it is received.

        Raises:
            Limited, QueueFull, StorageFull: there is none.
        """
        with self.store.reading() as database:
            self._check_room(database, key, size)

    def add(self, job: Job) -> tuple[Job, bool]:
        """Accept a job; when this returns, it is on disk. A repeat of an idempotency key is given the job that is.

        Returns:
            The job, and whether it is new.

        Raises:
            IdempotencyConflict: the key came with another request.
            Limited, QueueFull, StorageFull: there is no place for it.
            StoreUnavailable: the file cannot be written.
        """
        with self.store.writing() as database:
            if job.idempotency:
                found = _one(database, "key = ? AND idempotency = ?", job.key, job.idempotency)
                if found is not None:
                    return _repeated(found, job), False
            self._check_room(database, job.key, job.size)
            made = msgspec.structs.replace(job, created=self._clock())
            marks = ", ".join("?" * len(_FIELDS))
            database.execute(f"INSERT INTO jobs ({_ALL}) VALUES ({marks})", msgspec.structs.astuple(made))  # noqa: S608
        return made, True

    def find(self, identifier: str, *, key: str | None, kind: Kind | None = None, model: str | None = None) -> Job:
        """A job; of another key than `key` there is none, unless that is None.

        Raises:
            JobUnknown: there is no such job.
        """
        job: Job | None = None
        if not self.quiet:
            with self.store.reading() as database:
                job = _one(database, "id = ?", identifier)
        if (
            job is None
            or (key not in (None, job.key))
            or kind not in (None, job.kind)
            or model not in (None, job.model)
        ):
            raise JobUnknown("there is no such job", where="job", hint="jobs that ended are kept for some days")
        return job

    def listed(self, *, key: str | None = None, state: State | None = None) -> list[Job]:
        """The newest jobs, without what they hold."""
        if self.quiet:
            return []
        names = ", ".join("x'' AS " + name if name in ("asked", "answer") else name for name in _FIELDS)
        with self.store.reading() as database:
            rows = database.execute(
                f"SELECT {names} FROM jobs WHERE (? IS NULL OR key = ?) AND (? IS NULL OR state = ?)"  # noqa: S608
                " ORDER BY id DESC LIMIT ?",
                (key, key, state, state, _MOST_LISTED),
            ).fetchall()
        return [_job(row) for row in rows]

    def take(self, kind: Kind) -> Job | None:
        """The next job that is due, which is this process's from now on; one whose process is gone is due as well."""
        if self.quiet:
            return None
        now = self._clock()
        with self.store.reading() as database:  # most looks find nothing, and then nothing is written
            running = database.execute(
                "SELECT holder FROM jobs WHERE state = 'running' AND kind = ?", (kind,)
            ).fetchall()
            due = database.execute(
                "SELECT 1 FROM jobs WHERE state = 'queued' AND kind = ? AND due <= ? LIMIT 1", (kind, now)
            ).fetchone()
        if due is None and all(_working(holder) for (holder,) in running):
            return None
        with self.store.writing() as database:
            self._take_back(database, kind)
            job = _one(database, "state = 'queued' AND kind = ? AND due <= ? ORDER BY due, id LIMIT 1", kind, now)
            if job is None:
                return None
            taken = msgspec.structs.replace(
                job, state="running", attempts=job.attempts + 1, holder=f"{self._me}/{job.attempts + 1}", started=now
            )
            database.execute(
                "UPDATE jobs SET state = 'running', attempts = ?, holder = ?, started = ? WHERE id = ?",
                (taken.attempts, taken.holder, now, job.id),
            )
            count(database, "attempts", kind)
        return taken

    def holds(self, job: Job) -> bool:
        """Whether the job is still the one that was taken: not cancelled, and nobody else's."""
        with self.store.reading() as database:
            found = _one(database, "id = ?", job.id)
        return found is not None and _held(found, job)

    def progress(self, job: Job, reached: int, total: int, rows: int) -> None:
        """Write down how far a job is."""
        with self.store.writing() as database:
            database.execute(
                "UPDATE jobs SET reached = ?, total = ?, rows = ? WHERE id = ? AND state = 'running' AND holder = ?",
                (reached, total, rows, job.id, job.holder),
            )

    def done(self, job: Job, *, answer: bytes = b"", rows: int = 0, rejected: int = 0, size: int = 0) -> bool:
        """End a job with an answer; false when it was cancelled meanwhile, or is somebody else's."""
        ended = msgspec.structs.replace(job, answer=answer, rows=rows, rejected=rejected, size=size, error=b"")
        return self._end(job, ended, "done")

    def failed(self, job: Job, failure: Failure) -> bool:
        """End a job that no further attempt can mend."""
        return self._end(job, msgspec.structs.replace(job, error=msgspec.json.encode(failure)), "failed")

    def again(self, job: Job, failure: Failure) -> bool:
        """Try a job again later, or give it up when it was tried often enough: then it is a dead letter."""
        said = msgspec.structs.replace(job, error=msgspec.json.encode(failure))
        if job.attempts >= self._settings.attempts:
            return self._end(job, said, "dead")
        due = self._clock() + wait_s(job.attempts, self._dice)
        with self.store.writing() as database:
            found = database.execute(
                "UPDATE jobs SET state = 'queued', holder = '', due = ?, error = ?"
                " WHERE id = ? AND state = 'running' AND holder = ?",
                (due, said.error, job.id, job.holder),
            )
            return found.rowcount == 1

    def give_back(self, job: Job) -> None:
        """Let the next process take it up at once: that this one was told to end is no attempt that failed."""
        with self.store.writing() as database:
            database.execute(
                "UPDATE jobs SET state = 'queued', holder = '', attempts = attempts - 1"
                " WHERE id = ? AND state = 'running' AND holder = ?",
                (job.id, job.holder),
            )

    def cancel(self, identifier: str) -> Job:
        """End a job that has not ended; of one that has nothing changes.

        Raises:
            JobUnknown: there is no such job.
        """
        with self.store.writing() as database:
            job = _one(database, "id = ?", identifier)
            if job is None:
                raise JobUnknown("there is no such job", where="job")
            if job.state in ("queued", "running", "dead"):
                self._write_end(database, job, "cancelled")
                job = _one(database, "id = ?", identifier)
                assert job is not None  # noqa: S101
        return job

    def retry(self, identifier: str) -> Job:
        """Take a dead letter up again, as if it had never been tried: the job, or the callback that tells of its end.

        Raises:
            JobUnknown: there is no dead job of this id.
        """
        with self.store.writing() as database:
            sent = database.execute(
                "UPDATE deliveries SET state = 'queued', attempts = 0, due = 0 WHERE job = ? AND state = 'dead'",
                (identifier,),
            )
            job = _one(database, "id = ?", identifier)
            if job is None or (job.state != "dead" and not sent.rowcount):
                raise JobUnknown("there is no dead letter of this id", where="job", hint="perene jobs list --dead")
            if job.state == "dead":
                job = msgspec.structs.replace(job, state="queued", attempts=0, due=0.0, ended=0.0, holder="")
                database.execute(
                    "UPDATE jobs SET state = 'queued', attempts = 0, due = 0, ended = 0 WHERE id = ?", (job.id,)
                )
        return job

    def forget_old(self) -> list[str]:
        """Forget jobs that ended long ago, and their callbacks; returns who is forgotten."""
        until = self._clock() - self._settings.keep_seconds
        old = f"SELECT id FROM jobs WHERE NOT {_UNFINISHED} AND ended < ?"  # noqa: S608
        with self.store.reading() as database:
            found = [row[0] for row in database.execute(old, (until,))]
        if found:
            with self.store.writing() as database:
                found = [row[0] for row in database.execute(old, (until,))]
                database.executemany("DELETE FROM jobs WHERE id = ?", [(identifier,) for identifier in found])
                database.execute("DELETE FROM deliveries WHERE state != 'queued' AND created < ?", (until,))
        return found

    def callbacks(self, job: str) -> list[dict[str, Any]]:
        """What became of the callbacks of a job."""
        with self.store.reading() as database:
            rows = database.execute("SELECT state, attempts, error FROM deliveries WHERE job = ?", (job,)).fetchall()
        return [{"state": state, "attempts": attempts, "error": error} for state, attempts, error in rows]

    def states(self) -> dict[str, State]:
        """State of every job by its id."""
        with self.store.reading() as database:
            return dict(database.execute("SELECT id, state FROM jobs").fetchall())

    def tally(self) -> dict[tuple[str, str], int]:
        """How many jobs there are by kind and state; callbacks are a kind, too."""
        if self.quiet:
            return {}
        with self.store.reading() as database:
            rows = database.execute("SELECT kind, state, count(*) FROM jobs GROUP BY kind, state").fetchall()
            rows += database.execute("SELECT 'callback', state, count(*) FROM deliveries GROUP BY state").fetchall()
        return {(kind, state): n for kind, state, n in rows}

    def take_counts(self) -> list[tuple[str, str, int]]:
        """What was counted since somebody last took it: each count is taken once, by whoever exports it."""
        if self.quiet:
            return []
        with self.store.reading() as database:
            if database.execute("SELECT 1 FROM counts LIMIT 1").fetchone() is None:
                return []
        with self.store.writing() as database:
            rows = database.execute("SELECT what, label, n FROM counts").fetchall()
            database.execute("DELETE FROM counts")
        return list(rows)

    def _check_room(self, database: sqlite3.Connection, key: str, size: int) -> None:
        most = self._settings
        of_key, all_open = (
            database.execute(f"SELECT count(*) FROM jobs WHERE {_UNFINISHED}{more}", values).fetchone()[0]  # noqa: S608
            for more, values in ((" AND key = ?", (key,)), ("", ()))
        )
        if of_key >= most.max_jobs_per_key:
            error = Limited(
                "this key has as many jobs as it may", where="jobs", expected=f"at most {most.max_jobs_per_key} unended"
            )
            error.reason, error.retry_after_s = "jobs", 30.0
            raise error
        if all_open >= most.max_jobs:
            raise QueueFull("as many jobs wait as may", where="jobs", hint="try again after Retry-After")
        kept = database.execute("SELECT coalesce(sum(size), 0) FROM jobs").fetchone()[0]
        if kept + size > most.max_bytes:
            raise storage_full()

    def _take_back(self, database: sqlite3.Connection, kind: Kind) -> None:
        """Free the jobs whose process is gone."""
        rows = database.execute(
            f"SELECT {_ALL} FROM jobs WHERE state = 'running' AND kind = ?",  # noqa: S608
            (kind,),
        ).fetchall()
        for job in map(_job, rows):
            if _working(job.holder):
                continue
            if job.attempts >= self._settings.attempts:
                gone = Failure("process_ended", "the process that worked on it ended each time")
                self._write_end(database, msgspec.structs.replace(job, error=msgspec.json.encode(gone)), "dead")
                continue
            database.execute("UPDATE jobs SET state = 'queued', holder = '' WHERE id = ?", (job.id,))

    def _end(self, taken: Job, ended: Job, state: State) -> bool:
        with self.store.writing() as database:
            found = _one(database, "id = ?", taken.id)
            if found is None or not _held(found, taken):
                return False
            self._write_end(database, ended, state)
        return True

    def _write_end(self, database: sqlite3.Connection, job: Job, state: State) -> None:
        """The end of a job, and the callback that tells of it, in one transaction."""
        now = self._clock()
        size = job.size if state in ("done", "dead") else 0
        ended = msgspec.structs.replace(job, state=state, ended=now, holder="", size=size)
        # a caller's rows are kept for as long as somebody may have to answer them
        asked = job.asked if job.kind == "batch" or state == "dead" else b""
        database.execute(
            "UPDATE jobs SET state = ?, holder = '', ended = ?, asked = ?, answer = ?, rows = ?, rejected = ?,"
            " size = ?, error = ? WHERE id = ?",
            (state, now, asked, job.answer, job.rows, job.rejected, size, job.error, job.id),
        )
        count(database, "ended", f"{job.kind} {state}")
        if job.callback:
            facts = told(ended, now)
            facts.pop("answer", None)  # of a prediction: it is fetched with the key
            body = msgspec.json.encode(facts)
            database.execute(
                "INSERT INTO deliveries VALUES (?, ?, ?, ?, 'queued', 0, ?, '', ?)",
                (uuid7(), job.id, job.callback, body, now, now),
            )


def _held(found: Job, taken: Job) -> bool:
    return found.state == "running" and found.holder == taken.holder


def _working(holder: str) -> bool:
    return lives(holder.partition("/")[0])


def _repeated(found: Job, job: Job) -> Job:
    if found.fingerprint != job.fingerprint:
        raise IdempotencyConflict(
            "this idempotency key came before, with another request",
            where="Idempotency-Key",
            expected="a new key for each request",
        )
    return found


def count(database: sqlite3.Connection, what: str, label: str) -> None:
    """Count something, until a process that exports numbers takes it over."""
    database.execute(
        "INSERT INTO counts VALUES (?, ?, 1) ON CONFLICT (what, label) DO UPDATE SET n = n + 1", (what, label)
    )


def _one(database: sqlite3.Connection, where: str, *values: Any) -> Job | None:
    row = database.execute(f"SELECT {_ALL} FROM jobs WHERE {where}", values).fetchone()  # noqa: S608
    return None if row is None else _job(row)


def _job(row: Sequence[Any]) -> Job:
    return Job(**dict(zip(_FIELDS, row, strict=True)))


def opened(folder: Path, settings: JobSettings) -> Queue:
    """The queue in a home's run folder; the file is made by the first job."""
    return Queue(Store(folder), settings)


def failure_of(error: PereneError) -> Failure:
    """What is kept of an error: never a value."""
    return Failure(error.code, error.message, error.where, error.hint)
