"""A request of a limited caller in the fast lane: what it was counted for is settled once, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.access.auth import Caller
from serving.access.limits import Limits

if TYPE_CHECKING:
    from serving.wire.lane import Reply


class Visit:
    """Stands between the lane and its ways out, `reply` and `fall`. Callers without limits have none."""

    def __init__(self, limits: Limits, caller: Caller, reply: Reply, fall: Callable[[], None]) -> None:
        self._limits = limits
        self._caller = caller
        self._reply = reply
        self._fall = fall
        self._entered = False
        self._rows = 0

    def enter(self) -> None:
        """Count the request.

        Raises:
            Limited: it is one too many.
        """
        self._limits.enter(self._caller)
        self._entered = True

    def rows(self, rows: int) -> None:
        """Count its rows.

        Raises:
            Limited: they are too many.
        """
        self._limits.rows(self._caller, rows)
        self._rows = rows

    def reply(self, head: bytes, body: bytes, status: int = 200) -> None:
        """The request is answered or refused, and told what is left."""
        if self._settled():
            self._limits.leave(self._caller)
        self._reply(head + self._limits.head(self._caller), body, status)

    def fall(self) -> None:
        """The application takes the request, and counts it anew."""
        if self._settled():
            self._limits.back(self._caller, self._rows)
        self._fall()

    def _settled(self) -> bool:
        entered, self._entered = self._entered, False
        return entered
