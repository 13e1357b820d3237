"""Callbacks that wait: taken by one thread at a time, tried again with longer and longer pauses, then given up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from random import Random
from time import time
from typing import Final

import msgspec

from registry.errors import PereneError
from serving.jobs.job import wait_s
from serving.jobs.queue import count
from serving.jobs.store import Store
from serving.jobs.webhook import SIGNATURE, Undelivered, send, signature, target_of
from serving.settings import JobSettings

THREADS: Final = 4
"""So many receivers may be slow before another one has to wait."""
LEASE_S: Final = 60.0
"""Who took a callback and did not say what became of it has been killed."""
_LOOK_S: Final = 0.5
_log = logging.getLogger("perene.jobs")


class Delivery(msgspec.Struct, frozen=True):
    """One callback, which is being brought."""

    id: str
    job: str
    url: str
    body: bytes
    attempts: int


class Deliveries:
    """The callbacks of a machine, brought by threads of this process until `stop`."""

    def __init__(
        self, store: Store, settings: JobSettings, clock: Callable[[], float] = time, bring: Callable[..., None] = send
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._bring = bring
        self._dice = Random()  # noqa: S311 - it spreads out repeats
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"webhook-{n}", daemon=True) for n in range(THREADS)]

    def start(self) -> None:
        """Begin to bring them."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Bring no more; what is under way may end, or is brought again later."""
        self._stop.set()

    def one(self) -> bool:
        """Bring the next one that is due; false when there is none."""
        taken = self._take()
        if taken is None:
            return False
        try:
            where = target_of(taken.url, self._settings.webhook_hosts)
            at = int(self._clock())
            headers = {SIGNATURE: signature(self._settings.webhook_secret, taken.body, at), "Perene-Delivery": taken.id}
            self._bring(where, taken.body, headers)
        except Undelivered as error:
            self._failed(taken, error.reason, final=error.final)
        except PereneError as error:  # the settings changed since it was accepted
            self._failed(taken, error.message, final=True)
        else:
            self._ended(taken, "done", "")
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._store.exists() or not self.one():
                    self._stop.wait(_LOOK_S)
            # whatever one callback meets, the next one must still be brought
            except Exception:
                _log.exception("jobs.callback_failed")
                self._stop.wait(_LOOK_S)

    def _take(self) -> Delivery | None:
        due = (
            "SELECT id, job, url, body, attempts FROM deliveries WHERE state = 'queued' AND due <= ?"
            " ORDER BY due LIMIT 1"
        )
        now = self._clock()
        with self._store.reading() as database:
            if database.execute(due, (now,)).fetchone() is None:
                return None
        with self._store.writing() as database:
            row = database.execute(due, (now,)).fetchone()
            if row is None:
                return None
            # a lease: until then nobody else takes it
            update = "UPDATE deliveries SET attempts = attempts + 1, due = ? WHERE id = ?"
            database.execute(update, (now + LEASE_S, row[0]))
        identifier, job, url, body, attempts = row
        return Delivery(identifier, job, url, body, attempts + 1)

    def _failed(self, taken: Delivery, reason: str, *, final: bool) -> None:
        if final or taken.attempts >= self._settings.webhook_attempts:
            self._ended(taken, "dead", reason)
            return
        with self._store.writing() as database:
            update = "UPDATE deliveries SET due = ?, error = ? WHERE id = ?"
            database.execute(update, (self._clock() + wait_s(taken.attempts, self._dice), reason, taken.id))
            count(database, "callbacks", "retried")

    def _ended(self, taken: Delivery, state: str, reason: str) -> None:
        with self._store.writing() as database:
            database.execute("UPDATE deliveries SET state = ?, error = ? WHERE id = ?", (state, reason, taken.id))
            count(database, "callbacks", "delivered" if state == "done" else "dead")
        if state == "dead":
            _log.warning("jobs.callback_dead", extra={"job": taken.job, "reason": reason})
