"""The clock: APScheduler says when to look, never what to do. The only module that imports it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from registry.errors import ConfigInvalid
from retrain.triggering.cron import Walls, earliest
from retrain.triggering.cron import fields as cron_fields

__all__ = ["Clock", "next_fire"]


def next_fire(cron: str, after: datetime, timezone: str = "UTC") -> datetime:
    """The first time the five-field `cron`, on clocks of `timezone`, fires strictly after `after` (aware).

    Raises:
        ConfigInvalid: the expression or the zone cannot be read, or the expression never fires.

    >>> next_fire("0 3 * * mon", datetime(2013, 7, 1, 12, tzinfo=UTC)).isoformat()
    '2013-07-08T03:00:00+00:00'
    >>> next_fire("0 3 * * *", datetime(2013, 7, 1, 12, tzinfo=UTC), "Europe/Berlin").isoformat()
    '2013-07-02T01:00:00+00:00'
    """
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigInvalid(
            "this time zone is not known", where="timezone", got=timezone[:60], hint='write for example "Europe/Berlin"'
        ) from error
    try:
        triggers = [CronTrigger.from_crontab(fields, timezone=UTC) for fields in cron_fields(cron)]
    except ValueError as error:
        raise ConfigInvalid(
            "a schedule could not be read",
            where="schedule",
            expected="five cron fields",
            got=cron[:60],
            hint='write for example "0 3 * * mon"',
        ) from error
    found = [fire for trigger in triggers if (fire := earliest(_walls(trigger), after, zone)) is not None]
    if not found:
        raise ConfigInvalid("a schedule never fires", where="schedule", got=cron[:60], hint="such a day does not come")
    return min(found)


def _walls(trigger: CronTrigger) -> Walls:
    """The trigger's times on a clock on the wall: in UTC, where no hour is skipped or comes twice."""

    def walls(after: datetime) -> datetime | None:
        moment = after.replace(tzinfo=UTC) + timedelta(microseconds=1)  # its search includes the moment given
        fire: datetime | None = trigger.get_next_fire_time(None, moment)
        return fire.replace(tzinfo=None) if fire is not None else None

    return walls


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
