"""Schedules: zones whose clocks change, days that do not come, and fields as cron has always meant them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.errors import ConfigInvalid
from retrain.settings import RetrainSettings
from retrain.triggering.scheduler import next_fire

BERLIN = "Europe/Berlin"


def fires(cron: str, after: datetime, count: int, zone: str = "UTC") -> list[str]:
    found = []
    for _ in range(count):
        after = next_fire(cron, after, zone)
        found.append(after.strftime("%m-%d %H:%M"))
    return found


def test_an_hour_that_the_zone_skips_fires_once() -> None:
    """02:30 does not exist in Berlin on 29 March 2026: it fires at the moment it would have been, 01:30 UTC."""
    found = fires("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), 2, BERLIN)
    assert found == ["03-29 01:30", "03-30 00:30"]


def test_an_hour_that_comes_twice_fires_once() -> None:
    """02:30 comes at 00:30 and at 01:30 UTC on 25 October 2026."""
    found = fires("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), 2, BERLIN)
    assert found == ["10-25 00:30", "10-26 01:30"]


def test_numbers_of_weekdays_begin_with_sunday_as_in_cron() -> None:
    """1 is Monday and 0 and 7 are Sunday, whatever the library beneath counts from."""
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    assert next_fire("0 3 * * 1", datetime(2026, 11, 21, tzinfo=UTC)).date() == monday.date()
    assert {next_fire(f"0 3 * * {n}", monday).strftime("%a") for n in ("0", "7", "sun")} == {"Sun"}


def test_a_day_of_the_month_or_of_the_week_is_enough() -> None:
    found = fires("0 0 1 * mon", datetime(2026, 6, 29, 12, tzinfo=UTC), 3)
    assert found == ["07-01 00:00", "07-06 00:00", "07-13 00:00"]


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "61 * * * *", "* * * *", "* * * * 8", "", "x y"])
def test_a_schedule_that_never_fires_is_refused_with_the_settings(cron: str) -> None:
    with pytest.raises(ConfigInvalid):
        next_fire(cron, datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(ValidationError, match="schedule"):
        RetrainSettings(trainer="a:b", target="y", schedule=cron)


def test_a_leap_day_is_waited_for_and_an_unknown_zone_is_not() -> None:
    assert next_fire("0 0 29 2 *", datetime(2026, 3, 1, tzinfo=UTC)).year == 2028
    for zone in ("Mars/Olympus", "../etc/passwd", ""):
        with pytest.raises(ValidationError, match="zone"):
            RetrainSettings(trainer="a:b", target="y", schedule="0 3 * * *", timezone=zone)


@given(
    st.sampled_from(["30 2 * * *", "*/15 * * * *", "0 1-3 * * *", "5,55 2 * * sun"]),
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kolkata"]),
    st.integers(0, 2 * 365 * 24 * 60),
)
def test_a_fire_is_later_and_shows_the_time_asked_for(cron: str, zone: str, minutes: int) -> None:
    """Strictly after, and on the zone's clock one of the minutes named, but for an hour that was skipped."""
    after = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    fire = next_fire(cron, after, zone)
    assert fire > after
    minute = cron.split(maxsplit=1)[0]
    allowed = {0, 15, 30, 45} if minute == "*/15" else {int(m) for m in minute.split(",")}
    shift = {(m + 30) % 60 for m in allowed} if zone == "Australia/Lord_Howe" else set()
    assert fire.astimezone(ZoneInfo(zone)).minute in allowed | shift
