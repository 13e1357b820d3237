"""The ledger as handlers of operators' routes ask it: in a thread of its own, and never for long.

Predictions never come here. What talks to databases is imported with the first question, so a server that nobody asks
about trials never loads it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

from registry.errors import StoreUnavailable
from serving.errors import Overloaded

if TYPE_CHECKING:
    from registry.ledger import Ledger

T = TypeVar("T")
WAITING: Final = 32
"""Questions that may wait for the one that is being answered."""


class LedgerDesk:
    """The ledger at `url`, opened when somebody asks for the first time.

    Args:
        url: of the ledger's database; it may hold a password, and is not shown.
        seconds: how long an answer may take, with waiting.
    """

    def __init__(self, url: str, *, seconds: float = 5.0) -> None:
        self._url = url
        self._seconds = seconds
        self._ledger: Ledger | None = None
        self._questions: SimpleQueue[tuple[Future[Any], Callable[[Ledger], Any]] | None] = SimpleQueue()
        # a daemon: a database that hangs must not keep the process from ending
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._waiting = 0
        self._began: float | None = None

    async def do(self, work: Callable[[Ledger], T]) -> T:
        """What `work` returns or raises; what has begun when the time is up goes on, so it must bear a repeat.

        Raises:
            StoreUnavailable: the ledger does not answer, or not in time.
            Overloaded: too many wait.
        """
        if self._began is not None and time.monotonic() - self._began > self._seconds:
            raise _silent()  # one hangs already: whoever comes now need not wait to hear that
        if self._waiting > WAITING:
            raise Overloaded("too many questions wait for the ledger", hint="try again after Retry-After")
        if not self._thread.is_alive():
            self._thread.start()
        self._waiting += 1
        try:
            future: Future[T] = Future()
            self._questions.put((future, work))
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise _silent() from None
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Close the ledger once it answers; a question that hangs is not waited for."""
        self._questions.put(None)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            future, work = question
            if not future.set_running_or_notify_cancel():
                continue  # its caller has gone with a 503, and must not find it done later
            self._began = time.monotonic()
            try:
                future.set_result(work(self._opened()))
            except BaseException as error:  # whatever it is, it is the caller's
                future.set_exception(error)
            finally:
                self._began = None
        if self._ledger is not None:
            self._ledger.close()

    def _opened(self) -> Ledger:
        if self._ledger is None:
            from registry.ledger import Ledger

            self._ledger = Ledger.open(self._url)
        return self._ledger


def _silent() -> StoreUnavailable:
    return StoreUnavailable(
        "the ledger does not answer", where="ledger_url", hint="predictions go on; try again, or see perene doctor"
    )
