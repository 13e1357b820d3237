"""Events of a model as a DataFrame, in one line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from monitoring.lake.lake import Lake
from monitoring.reading.unmatched import labels as _labels
from registry.errors import ConfigInvalid, ModelUnknown

__all__ = ["events", "labels", "moment"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str | datetime | float | None, now: datetime) -> datetime | None:
    """A point in time: an age such as "7d", "12h" or "30m" before `now`, an ISO 8601 time, or unix seconds.

    A time without zone is UTC.

    Raises:
        ConfigInvalid: the text is neither an age nor a time.
    """
    if text is None:
        return None
    if isinstance(text, int | float):
        return datetime.fromtimestamp(text, UTC)
    if isinstance(text, str):
        try:
            if age := re.fullmatch(r"([0-9]{1,6})([smhdw])", text.strip()):
                return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
            text = datetime.fromisoformat(text)
        except (ValueError, OverflowError) as error:
            raise ConfigInvalid(
                "the start is neither an age nor a time", where="since", hint='write "7d" or "2026-01-31T08:00:00Z"'
            ) from error
    return text if text.tzinfo else text.replace(tzinfo=UTC)


def events(
    lake_root: Path | str, model: str, *, since: str | datetime | float | None = None, labelled: bool = False
) -> pd.DataFrame:
    """Served predictions of a model, oldest first: its own columns, and ours with a leading underscore.

    Args:
        lake_root: folder or URL of the event lake.
        model: name of the model.
        since: an age ("7d"), an ISO time, a datetime or unix seconds; all events when left out.
        labelled: add each prediction's label, how many revisions it has, and the shadow answer; null where there is
            none.

    Raises:
        ModelUnknown: the lake has nothing of this model.
        ConfigInvalid: `since` is not understood.
    """
    lake = Lake(lake_root)
    start = moment(since, datetime.now(UTC))
    _require(lake, model)
    table = lake.joined(model, since=start) if labelled else lake.read(model, "prediction", since=start)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def labels(
    lake_root: Path | str, model: str, *, since: str | datetime | float | None = None, unmatched: bool = False
) -> pd.DataFrame:
    """Every label that was acknowledged, in order of receipt, with its `_revision`; the last one of an id counts.

    Args:
        lake_root: folder or URL of the event lake.
        model: name of the model.
        since: an age ("7d"), an ISO time, a datetime or unix seconds, compared with the label's event time.
        unmatched: only those whose prediction is not in the lake.

    Raises:
        ModelUnknown: the lake has nothing of this model.
        ConfigInvalid: `since` is not understood.
    """
    lake = Lake(lake_root)
    start = moment(since, datetime.now(UTC))
    _require(lake, model)
    frame: pd.DataFrame = _labels(lake, model, since=start, unmatched=unmatched).to_pandas()
    return frame


def _require(lake: Lake, model: str) -> None:
    if model not in lake.models():
        raise ModelUnknown(
            "the event lake has nothing of this model",
            where=model,
            expected=", ".join(lake.models()),
            hint="events appear a few seconds after the first prediction",
        )
