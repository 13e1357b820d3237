"""How much each key may ask for: requests and rows a second, requests at once, rows in a day of UTC.

Two ways to ask: `enter`, `rows` and `leave` count on this machine and are for the fast lane; `admit` and `charge` are
for the application, and count in a Redis for several machines where there is one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from registry.keys import KeyLimits
from serving.access.counts import Counts, Used
from serving.access.gcra import Rate, ask, left, settled
from serving.errors import Limited
from serving.settings import LimitSettings

if TYPE_CHECKING:
    from serving.access.auth import Caller
    from serving.access.limits_redis import RedisCounts

DAY_S: Final = 86_400
SWEEP_S: Final = 5.0
_log = logging.getLogger("perene.serving")
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one caller may ask for, where it is counted, and how it is told."""

    slot: int
    requests: Rate | None
    rows: Rate | None
    concurrent: int | None
    rows_per_day: int | None
    policy: str
    """The value of `RateLimit-Policy`."""


class Limits:
    """The limits of every caller, in one process. For the thread of the event loop only."""

    def __init__(
        self,
        settings: LimitSettings,
        folder: Path,
        *,
        largest: int,
        away: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Count in `folder`.

        Args:
            settings: the limits of keys that have none of their own, and the Redis.
            folder: of this machine; made when there is somebody to count.
            largest: rows that one request can have.
            away: is told of each request for which Redis was asked in vain.
            monotonic: seconds of a clock that the processes of the machine share.
            wall: unix seconds.
        """
        self._settings = settings
        self._folder = folder
        self._largest = largest
        self._away = away
        self._now = monotonic
        self._wall = wall
        self._counts: Counts | None = None
        self._redis: RedisCounts | None = None
        self._sweep_at = 0.0

    @property
    def shared(self) -> bool:
        """Whether a Redis counts: only the application can wait for it."""
        return bool(self._settings.redis)

    def allowances(self, callers: Mapping[str, KeyLimits]) -> dict[str, Allowance]:
        """The allowance of each caller that has any limit and can be counted."""
        limited = {name: self._merged(own) for name, own in callers.items()}
        limited = {name: limits for name, limits in limited.items() if limits.given()}
        if not limited:
            return {}
        try:
            counts = self._open()
            slots = counts.slots(limited)
        except OSError as error:  # keys must still come and go: who cannot be counted is not limited
            _log.error("serving.limits_not_kept", extra={"error": type(error).__name__})
            self._away()
            if self._counts is None:
                return {}
            counts, slots = self._counts, self._counts.known(limited)
        return {name: self._allowance(counts, slot, limited[name]) for name, slot in slots.items()}

    def enter(self, caller: Caller) -> None:
        """Count a request that begins, before anything is done for it.

        Raises:
            Limited: it is one too many.
        """
        allowance, counts = caller.limits, self._counts
        if allowance is None or counts is None:
            return
        slot = allowance.slot
        held = counts.lock()
        try:
            self._has_room(caller)
            if allowance.requests is not None:
                used = counts.read(slot)
                verdict = ask(allowance.requests, used.requests, self._now(), 1)
                if not verdict.passes:
                    raise limited("rate", "this key asks too often", verdict.wait_s)
                counts.write(slot, Used(verdict.tat, used.rows, used.day, used.rows_of_day))
            counts.count(slot, 1)
        finally:
            counts.unlock(held=held)

    def rows(self, caller: Caller, rows: int) -> None:
        """Count rows that are to be predicted.

        Raises:
            Limited: they are too many.
        """
        allowance, counts = caller.limits, self._counts
        if allowance is None or counts is None or (allowance.rows is None and allowance.rows_per_day is None):
            return
        held = counts.lock()
        try:
            used, today = self._today(allowance.slot)
            if allowance.rows_per_day is not None and used.rows_of_day + rows > allowance.rows_per_day:
                raise limited("quota", "this key has used its rows of the day", self._to_midnight())
            even = used.rows
            if allowance.rows is not None:
                verdict = ask(allowance.rows, even, self._now(), rows)
                if not verdict.passes:
                    raise limited("rate", "this key asks for too many rows", verdict.wait_s)
                even = verdict.tat
            counts.write(allowance.slot, Used(used.requests, even, today, used.rows_of_day + rows))
        finally:
            counts.unlock(held=held)

    def back(self, caller: Caller, rows: int = 0) -> None:
        """Give back a request and its rows: the fast lane leaves it to the application, which counts it again."""
        allowance, counts = caller.limits, self._counts
        if allowance is None or counts is None:
            return
        held = counts.lock()
        try:
            used, today = self._today(allowance.slot)
            requests = used.requests - 1 / allowance.requests.per_second if allowance.requests else used.requests
            even = used.rows - rows / allowance.rows.per_second if allowance.rows else used.rows
            counts.write(allowance.slot, Used(requests, even, today, max(0, used.rows_of_day - rows)))
        finally:
            counts.unlock(held=held)
        counts.count(allowance.slot, -1)

    def leave(self, caller: Caller) -> None:
        """The request is over, answered or refused."""
        if caller.limits is not None and self._counts is not None:
            self._counts.count(caller.limits.slot, -1)

    async def admit(self, caller: Caller) -> None:
        """As `enter`, in Redis where there is one; requests at once are counted by each machine alone.

        Raises:
            Limited: it is one too many.
        """
        allowance, counts = caller.limits, self._counts
        if allowance is None or counts is None:
            return
        redis = self._shared()
        if redis is None:
            self.enter(caller)
            return
        self._has_room(caller)
        counts.count(allowance.slot, 1)
        entered = False
        try:
            wait_s = await redis.take(caller.id, "requests", allowance.requests, 1) if allowance.requests else 0.0
            entered = wait_s == 0.0
        except OSError:
            away = True
        else:
            away = False
        finally:
            if not entered:  # also when nobody waits any more: a call over gRPC is cancelled here
                counts.count(allowance.slot, -1)
        if away:
            self._away()
            self.enter(caller)
        elif not entered:
            raise limited("rate", "this key asks too often", wait_s)

    async def charge(self, caller: Caller, rows: int) -> None:
        """As `rows`, in Redis where there is one.

        Raises:
            Limited: they are too many.
        """
        allowance = caller.limits
        if allowance is None or (allowance.rows is None and allowance.rows_per_day is None):
            return
        redis = self._shared()
        if redis is None:
            self.rows(caller, rows)
            return
        try:
            if allowance.rows is not None:
                wait_s = await redis.take(caller.id, "rows", allowance.rows, rows)
                if wait_s > 0:
                    raise limited("rate", "this key asks for too many rows", wait_s)
            if allowance.rows_per_day is not None:
                day = int(self._wall() // DAY_S)
                if not await redis.take_of_day(caller.id, day, allowance.rows_per_day, rows):
                    raise limited("quota", "this key has used its rows of the day", self._to_midnight())
        except OSError:
            self._away()
            self.rows(caller, rows)

    def headers(self, caller: Caller) -> tuple[tuple[str, str], ...]:
        """What answers to a limited caller say: its policies, and what this machine knows to be left of them."""
        allowance, counts = caller.limits, self._counts
        if allowance is None or counts is None:
            return ()
        now = self._now()
        used, _ = self._today(allowance.slot)
        told: list[str] = []
        for name, rate, even in (
            ("requests", allowance.requests, used.requests),
            ("rows", allowance.rows, used.rows),
        ):
            if rate is not None:
                told.append(f'"{name}";r={left(rate, even, now)};t={math.ceil(max(0.0, even - now))}')
        if allowance.rows_per_day is not None:
            rest = max(0, allowance.rows_per_day - used.rows_of_day)
            told.append(f'"quota";r={rest};t={math.ceil(self._to_midnight())}')
        policy = ("ratelimit-policy", allowance.policy)
        # what is left in Redis would cost another journey
        return (policy,) if not told or self.shared else (policy, ("ratelimit", ", ".join(told)))

    def head(self, caller: Caller) -> bytes:
        """The same, as the fast lane writes it."""
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers(caller)).encode()

    def sweep(self) -> None:
        """Forget the requests of processes that have ended; now and then, however often this is asked for."""
        now = self._now()
        if self._counts is not None and now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            self._counts.sweep()

    async def close(self) -> None:
        """Let go of the file and of Redis."""
        if self._counts is not None:
            self._counts.close()
            self._counts = None
        if self._redis is not None:
            await self._redis.close()
            self._redis = None

    def _has_room(self, caller: Caller) -> None:
        allowance, counts = caller.limits, self._counts
        if allowance is None or counts is None or allowance.concurrent is None:
            return
        if counts.busy(allowance.slot) >= allowance.concurrent:
            raise limited("concurrency", "this key asks for too much at once", 1.0)

    def _today(self, slot: int) -> tuple[Used, int]:
        """What was used, with the rows of this day of UTC, and the day."""
        used, today = self._open().read(slot), int(self._wall() // DAY_S)
        return (used if used.day == today else used._replace(rows_of_day=0)), today

    def _to_midnight(self) -> float:
        return DAY_S - self._wall() % DAY_S

    def _open(self) -> Counts:
        if self._counts is None:
            self._counts = Counts(self._folder)
        return self._counts

    def _shared(self) -> RedisCounts | None:
        if self._redis is None and self._settings.redis:
            from serving.access.limits_redis import RedisCounts

            self._redis = RedisCounts(self._settings.redis)
        return self._redis

    def _merged(self, own: KeyLimits) -> KeyLimits:
        """The limits of a key's own before those of the server."""
        ours = self._settings
        return KeyLimits(
            _pick(own.requests_per_second, ours.requests_per_second),
            _pick(own.rows_per_second, ours.rows_per_second),
            _pick(own.concurrent, ours.concurrent),
            _pick(own.rows_per_day, ours.rows_per_day),
        )

    def _allowance(self, counts: Counts, slot: int, limits: KeyLimits) -> Allowance:
        requests = Rate(limits.requests_per_second) if limits.requests_per_second else None
        rows = Rate(limits.rows_per_second) if limits.rows_per_second else None
        used, now = counts.read(slot), self._now()
        # the clock of another boot may have been ahead
        even = settled(requests, used.requests, now, 1) if requests else used.requests
        rows_even = settled(rows, used.rows, now, self._largest) if rows else used.rows
        if (even, rows_even) != (used.requests, used.rows):
            counts.write(slot, used._replace(requests=even, rows=rows_even))
        return Allowance(slot, requests, rows, limits.concurrent, limits.rows_per_day, ", ".join(_policies(limits)))


def _pick(mine: _Number | None, ours: _Number | None) -> _Number | None:
    """A key's own limit, of which 0 is none, else the server's."""
    return (mine or None) if mine is not None else ours


def limited(reason: str, message: str, wait_s: float) -> Limited:
    """The refusal of a request that is over a limit."""
    hint = "wait as long as Retry-After says; RateLimit-Policy has the limits"
    error = Limited(message, where="Authorization", hint=hint)
    error.reason, error.retry_after_s = reason, wait_s
    return error


def _policies(limits: KeyLimits) -> Iterable[str]:
    """As draft-ietf-httpapi-ratelimit-headers has them: the quota of a window of seconds, and its unit."""
    for name, rate, unit in (
        ("requests", limits.requests_per_second, ""),
        ("rows", limits.rows_per_second, ';qu="rows"'),
    ):
        if rate:
            window = max(1, math.ceil(1 / rate))
            yield f'"{name}";q={max(1, int(rate * window))};w={window}{unit}'
    if limits.concurrent:
        yield f'"concurrent";q={limits.concurrent};qu="concurrent-requests"'
    if limits.rows_per_day:
        yield f'"quota";q={limits.rows_per_day};w={DAY_S};qu="rows"'
