"""Five cron fields as people mean them: 0 and 7 are Sunday, two day fields are an or, a zone may change its clocks."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

__all__ = ["Walls", "earliest", "fields", "weekdays"]

_NAMES: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_RANGE: Final = re.compile(r"(?:(\d)(?:-(\d))?|\*)(?:/(\d))?\Z")
_SHIFT: Final = timedelta(hours=3)
"""More than any zone moves its clocks by, but for those that skipped a whole day."""
Walls = Callable[[datetime], datetime | None]
"""The next time on a clock on the wall, strictly after the one given; None when there is none."""


def weekdays(field: str) -> str:
    """A day-of-week field with names instead of numbers, for libraries that begin the week on another day.

    >>> weekdays("1-5"), weekdays("0,6"), weekdays("7"), weekdays("mon-fri"), weekdays("*/2")
    ('mon,tue,wed,thu,fri', 'sun,sat', 'sun', 'mon-fri', 'sun,tue,thu,sat')
    """
    found: list[str] = []
    for part in field.split(","):
        match = _RANGE.match(part)
        if match is None or part == "*":
            found.append(part)
            continue
        first, last, step = match.groups()
        low = int(first) if first else 0
        high = int(last) if last else 6 if first is None or step else low
        if not low <= high <= 7 or step == "0":
            raise ValueError(f"{part} is no range of days of the week")
        found += [_NAMES[day] for day in range(low, high + 1, int(step or 1))]
    return ",".join(dict.fromkeys(found))


def fields(cron: str) -> list[str]:
    """The expressions of which any one may fire: a day of the month *or* of the week, when both are named.

    >>> fields("0 3 * * 1"), fields("0 3 1 * 1")
    (['0 3 * * mon'], ['0 3 1 * *', '0 3 * * mon'])
    """
    parts = cron.split()
    if len(parts) != 5:
        raise ValueError("a schedule has five fields")
    minute, hour, day, month, week = *parts[:4], weekdays(parts[4])
    if day == "*" or week == "*":
        return [f"{minute} {hour} {day} {month} {week}"]
    return [f"{minute} {hour} {day} {month} *", f"{minute} {hour} * {month} {week}"]


def earliest(walls: Walls, after: datetime, zone: ZoneInfo) -> datetime | None:
    """The first moment strictly after `after` (aware) at which a clock of `zone` shows one of `walls`.

    An hour that the zone skips fires at the moment it would have been; one that comes twice fires the first time.
    """
    reached = after.astimezone(zone).replace(tzinfo=None) - _SHIFT
    found: datetime | None = None
    limit: datetime | None = None
    while limit is None or reached < limit:
        wall = walls(reached)
        if wall is None:
            return found
        moment = wall.replace(tzinfo=zone, fold=0).astimezone(after.tzinfo)
        if moment > after and (found is None or moment < found):
            found = moment
        if found is not None and limit is None:
            limit = wall + _SHIFT  # a skipped hour may come later than one that is later on the wall
        reached = wall
    return found
