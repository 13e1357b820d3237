"""Rates and days counted in a Redis, for several machines: the `limits` library's sliding windows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Final

from serving.access.gcra import Rate

if TYPE_CHECKING:
    from limits.aio.strategies import SlidingWindowCounterRateLimiter

TIMEOUT_S: Final = 0.25
REST_S: Final = 5.0
"""After Redis did not answer it is left alone for so long: no request waits for a dead one but the first."""
_log = logging.getLogger("perene.serving")


class RedisCounts:
    """Counts in one Redis. Every method raises OSError while it is away."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._limiter: SlidingWindowCounterRateLimiter | None = None
        self._rest_until = 0.0

    async def take(self, caller: str, what: str, rate: Rate, cost: int) -> float:
        """Count `cost` units; 0, or the seconds to wait where they are too many, and then nothing is counted."""
        from limits import RateLimitItemPerSecond

        # windows count whole units; what costs more than a window takes a whole one
        window = 1 if rate.per_second.is_integer() else max(10, math.ceil(1 / rate.per_second))
        amount = max(1, int(rate.per_second * window))
        item = RateLimitItemPerSecond(amount, window, namespace="perene")
        if await self._hit(item, min(cost, amount), caller, what):
            return 0.0
        return float(window)

    async def take_of_day(self, caller: str, day: int, quota: int, cost: int) -> bool:
        """Count rows of a day of UTC; nothing is counted where they are too many."""
        from limits import RateLimitItemPerDay

        return await self._hit(RateLimitItemPerDay(quota, namespace="perene"), cost, caller, "day", str(day))

    async def close(self) -> None:
        """End the connections; they are made again when they are needed."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            storage: Any = limiter.storage
            await storage.bridge.storage.aclose(close_connection_pool=True)
            await asyncio.sleep(0)  # a transport closes its socket in the loop's next turn

    async def _hit(self, item: object, cost: int, *names: str) -> bool:
        from redis.exceptions import RedisError

        now = time.monotonic()
        if now < self._rest_until:
            raise OSError("Redis is left alone for now")
        try:
            try:
                return await self._connected().hit(item, *names, cost=cost)  # type: ignore[arg-type]
            finally:
                # redis-py sends inside `asyncio.wait_for`, which may swallow a cancellation before Python 3.12
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError
        except Exception as error:  # whatever a client says over a dead connection, the request must go on
            self._rest_until = now + REST_S
            _log.warning("serving.limits_redis_away", extra={"error": type(error).__name__})
            with contextlib.suppress(RedisError, OSError):
                await self.close()
            raise OSError("Redis does not answer") from error

    def _connected(self) -> SlidingWindowCounterRateLimiter:
        if self._limiter is None:
            from limits.aio.storage import RedisStorage
            from limits.aio.strategies import SlidingWindowCounterRateLimiter

            storage = RedisStorage(
                self._url, implementation="redispy", socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
            )
            self._limiter = SlidingWindowCounterRateLimiter(storage)
        return self._limiter
