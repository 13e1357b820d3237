"""`moment`: ages and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from monitoring.reading.api import moment
from registry.errors import ConfigInvalid

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("7d", NOW - timedelta(days=7)),
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T08:00:00+02:00", datetime(2026, 1, 31, 6, tzinfo=UTC)),
        (datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),  # noqa: DTZ001 - the case without zone
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_moment(given: str | datetime | float | None, expected: datetime | None) -> None:
    """Each spelling gives the moment it means."""
    assert moment(given, NOW) == expected


@pytest.mark.parametrize("given", ["yesterday", "7 days", "-3d", ""])
def test_what_is_not_understood_is_refused(given: str) -> None:
    """The error says how to write it and does not echo the value."""
    with pytest.raises(ConfigInvalid) as caught:
        moment(given, NOW)
    assert '"7d"' in str(caught.value)
