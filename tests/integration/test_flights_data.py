"""The flights example on the published data: what is known when, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from examples.flights import source
from examples.flights.data import features, load, load_late
from examples.flights.replay import legs


@dataclass(frozen=True)
class Window:
    start: datetime
    end: datetime


MARCH = Window(datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def raw() -> source.Raw:
    return source.read_raw()


@pytest.fixture(scope="module")
def some(raw: source.Raw) -> source.Raw:
    """The first three weeks of July, with their weather."""
    days = raw.flights["day"].between(1, 21) & (raw.flights["month"] == 7)
    return replace(raw, flights=raw.flights[days])


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENE__HOME", str(tmp_path_factory.mktemp("home")))
        source.flights()
        yield


def test_every_flown_flight_is_there_once_and_no_cancelled_one(raw: source.Raw) -> None:
    """327,346 of 336,776 flights have an air time; ids are unique and the order is that of departure."""
    table = source.flights()
    assert 327_346 == raw.flights["air_time"].notna().sum() == len(table)
    assert table["_id"].is_unique
    assert table["_at"].is_monotonic_increasing
    assert table["air_time"].notna().all()


def test_the_second_read_comes_from_the_cache_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is assembled once and kept below PERENE__HOME; the published files are not read again."""
    assert source.cache_file().is_file()
    assert ["flights-2013-v1.parquet"] == [p.name for p in source.cache_file().parent.iterdir()]
    monkeypatch.setattr(source, "read_raw", lambda: pytest.fail("the published files were read again"))
    assert 327_346 == len(source.flights())


def test_without_a_home_the_cache_is_private_to_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two users of one machine do not share a folder that only one of them may write."""
    monkeypatch.delenv("PERENE__HOME")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert tmp_path in source.cache_file().parents
    assert tmp_path != source.cache_file().parent.parent
    assert source.cache_file().parent.parent.name.startswith("perene-")


def test_a_window_holds_only_flights_whose_outcome_was_known_at_its_end() -> None:
    """Departures from its start on, landings before its end: planes in the air at midnight are left out."""
    frame = load(MARCH)
    assert [*features, "air_time", "_at", "_label_at"] == list(frame.columns)
    assert frame["_at"].min() >= MARCH.start
    assert frame["_label_at"].max() < MARCH.end
    table = source.flights()
    airborne = (table["_at"] < MARCH.end) & (table["_label_at"] >= MARCH.end)
    assert 10 < airborne.sum() < 300
    departed = ((table["_at"] >= MARCH.start) & (table["_at"] < MARCH.end)).sum()
    assert departed - airborne.sum() == len(frame)


def test_no_feature_changes_when_the_rest_of_the_flight_goes_otherwise(some: source.Raw) -> None:
    """Scrambling all that is measured after departure leaves every feature, and the departure, as it was."""
    before = source.assemble(some)
    flown = some.flights["air_time"].notna()
    changed = some.flights.copy()
    for column in ("arr_time", "arr_delay", "air_time"):
        values = changed.loc[flown, column].sample(frac=1, random_state=3).to_numpy()
        changed.loc[flown, column] = values
    after = source.assemble(replace(some, flights=changed))
    known = [*features, "_at", "_id"]
    pd.testing.assert_frame_equal(before[known], after[known])
    assert (before["air_time"] != after["air_time"]).mean() > 0.9  # the scrambling did reach the labels


def test_no_feature_changes_when_later_weather_is_otherwise(some: source.Raw) -> None:
    """Weather from the hour of departure on is not used: that hour's report is written while it runs."""
    before = source.assemble(some)
    cut = pd.Timestamp("2013-07-10T15:00:00Z")
    weather = some.weather.copy()
    later = pd.to_datetime(weather["time_hour"], utc=True) >= cut
    weather.loc[later, list(source.WEATHER)] = -999.0
    after = source.assemble(replace(some, weather=weather))
    early = before["_at"] < cut + pd.Timedelta(hours=1)
    assert early.sum() > 5000
    pd.testing.assert_frame_equal(before.loc[early, features], after.loc[early, features])
    assert (after.loc[~early, "temp"] == -999.0).all()


def test_the_delay_at_departure_is_no_feature_and_moves_only_the_clock() -> None:
    """Neither delays, actual times, tail numbers nor the season's number are among the features."""
    assert 16 == len(features)
    assert not set(features) & {
        "dep_delay",
        "dep_time",
        "arr_time",
        "arr_delay",
        "air_time",
        "tailnum",
        "month",
        "late",
    }


def test_landing_agrees_with_the_published_delay(raw: source.Raw) -> None:
    """Departure to gate, by local clocks and zones, is the plan plus the published change of delay."""
    flown = raw.flights[raw.flights["arr_delay"].notna()]
    year = flown["year"] * 10_000 + flown["month"] * 100 + flown["day"]
    keys = flown["carrier"] + flown["flight"].astype(str) + "-" + year.astype(str) + "-" + flown["origin"]
    expected = pd.Series((flown["arr_delay"] - flown["dep_delay"]).to_numpy(), index=keys.to_numpy())
    table = source.flights().set_index("_id")
    elapsed = (table["_label_at"] - table["_at"]).dt.total_seconds() / 60
    change = elapsed - table["scheduled_minutes"]
    assert 0 == (change - expected.reindex(change.index)).abs().max()
    assert (elapsed >= table["air_time"] + 5).all()
    assert table["scheduled_minutes"].between(50, 700).all()


def test_every_month_has_the_same_columns_with_gaps() -> None:
    """The contract's nullable columns must not depend on the months trained on."""
    table = source.flights()
    month = table["_at"].dt.tz_convert(source.HOME_ZONE).dt.month
    for _, rows in table.groupby(month):
        gaps = rows[features].isna().any()
        assert list(source.MAY_BE_NULL) == sorted(gaps[gaps].index, key=list(source.MAY_BE_NULL).index)


def test_late_is_more_than_a_quarter_of_an_hour_at_the_gate() -> None:
    """The second model's label comes from the same rows and never beside the first one's."""
    late, frame = load_late(MARCH), load(MARCH)
    assert "air_time" not in late.columns
    pd.testing.assert_frame_equal(late[features], frame[features])
    assert {0, 1} == set(late["late"])
    assert 0.15 < late["late"].mean() < 0.35


def test_requests_carry_exactly_the_numbers_trained_on() -> None:
    """Five decimals bring back every float32 of the year's weather, and nulls where there are gaps."""
    rows = source.flights().iloc[::37]
    sent = pd.DataFrame([leg.features for leg in legs(rows, features, "air_time")])
    for name in source.WEATHER:
        expected = rows[name].to_numpy()
        np.testing.assert_array_equal(expected, sent[name].astype("float64").to_numpy().astype("float32"))
    assert all(type(value) is int for value in next(legs(rows, ["weekday", "distance"], "air_time")).features.values())
