"""The clock: APScheduler says when to look, never what to do. The only module that imports it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from registry.errors import ConfigInvalid

__all__ = ["Clock", "next_fire"]


def next_fire(cron: str, after: datetime) -> datetime:
    """The first time the five-field `cron` (UTC) fires strictly after `after`, on whichever clock `after` is.

    Raises:
        ConfigInvalid: the expression cannot be read or never fires.

    >>> next_fire("0 3 * * mon", datetime(2013, 7, 1, 12, tzinfo=UTC)).isoformat()
    '2013-07-08T03:00:00+00:00'
    """
    try:
        trigger = CronTrigger.from_crontab(cron, timezone=UTC)
    except ValueError as error:
        raise ConfigInvalid(
            "a schedule could not be read",
            where="schedule",
            expected="five cron fields",
            got=cron[:60],
            hint='write for example "0 3 * * mon"',
        ) from error
    found = trigger.get_next_fire_time(after, after)
    if found is None:
        raise ConfigInvalid("a schedule never fires", where="schedule", got=cron[:60])
    fire: datetime = found
    return fire


class Clock:
    """Calls functions at intervals from a background thread; jobs live in memory, leases in the ledger."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(jobstores={"default": MemoryJobStore()}, timezone=UTC)

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call at once and then every `seconds`; late calls are merged, never queued."""
        self._scheduler.add_job(
            call,
            IntervalTrigger(seconds=max(seconds, 0.01), timezone=UTC),
            next_run_time=datetime.now(UTC),
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )

    def start(self) -> None:
        """Begin calling."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop calling and wait for calls that are on their way."""
        self._scheduler.shutdown(wait=True)
