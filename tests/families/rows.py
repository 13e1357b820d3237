"""Real rows that families are fitted on: scikit-learn's data sets, New York's flights, names of airports."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_linnerud, load_wine

from examples.flights import source

Data = tuple[pd.DataFrame, Any]


@cache
def cancer() -> Data:
    """569 tumours, 30 numbers: malignant or benign."""
    return _named(load_breast_cancer(return_X_y=True, as_frame=True))


@cache
def wine() -> Data:
    """178 wines, 13 numbers, three growers."""
    return _named(load_wine(return_X_y=True, as_frame=True))


@cache
def iris() -> Data:
    """150 flowers, four numbers, three species."""
    return _named(load_iris(return_X_y=True, as_frame=True))


@cache
def digits() -> Data:
    """1,797 pictures of digits, 64 whole numbers, ten classes."""
    return _named(load_digits(return_X_y=True, as_frame=True))


@cache
def diabetes() -> Data:
    """442 patients, ten numbers: how the disease went on."""
    return _named(load_diabetes(return_X_y=True, as_frame=True))


@cache
def linnerud() -> Data:
    """20 men, three exercises, three measures of the body."""
    found = load_linnerud(as_frame=True)
    return found.data, found.target.to_numpy()


@cache
def flights(rows: int = 2_000) -> Data:
    """Flights with text, whole numbers and weather with nulls: minutes in the air."""
    table = _sample(rows)
    return table[_FEATURES], table["air_time"].to_numpy(np.float64)


@cache
def late(rows: int = 2_000) -> Data:
    """The same flights: more than a quarter of an hour late?"""
    table = _sample(rows)
    return table[_FEATURES], np.where(table["late"] == 1, "late", "on time")


@cache
def weather(rows: int = 2_000) -> Data:
    """Numbers of the flights alone, float32, without nulls: minutes in the air."""
    table = _sample(rows)
    numbers = ["distance", "scheduled_departure", "temp", "dewp", "humid", "wind_speed", "visib"]
    whole = table.dropna(subset=numbers)
    return whole[numbers].astype(np.float32), whole["air_time"].to_numpy(np.float64)


@cache
def weather_above_zero() -> Data:
    """The same without signs."""
    frame, labels = weather()
    return frame.abs(), labels


@cache
def flights_without_some_text() -> Data:
    """Flights of which every seventh has no carrier."""
    frame, labels = flights()
    carriers = frame["carrier"].to_numpy(object, copy=True)
    carriers[::7] = None
    return frame.assign(carrier=carriers), labels


@cache
def airports() -> Data:
    """1,458 names of airports and the part of the country they are in."""
    table = source.read_raw().airports.dropna(subset=["tzone"])
    common = table["tzone"].value_counts().head(4).index
    kept = table[table["tzone"].isin(common)].reset_index(drop=True)
    return kept[["name"]], kept["tzone"].to_numpy(str).astype(object)


_FEATURES = [*source.STRINGS, *source.INTEGERS, *source.WEATHER]


@cache
def _sample(rows: int) -> pd.DataFrame:
    return source.flights().sample(rows, random_state=0).reset_index(drop=True)


def _named(data: tuple[pd.DataFrame, pd.Series[Any]]) -> Data:
    frame, labels = data
    named = frame.rename(columns=lambda name: str(name).replace(" (cm)", "").replace(" ", "_").replace("/", "_"))
    return named, labels.to_numpy()
