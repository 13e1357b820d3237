"""Events as a DataFrame, in one line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from monitoring.lake import Lake
from registry.errors import ConfigInvalid

if TYPE_CHECKING:
    import pandas as pd

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def events(lake_root: Path, model: str, *, since: str | datetime | None = None, labelled: bool = False) -> pd.DataFrame:
    """Served predictions of `model`, oldest first; inputs under their own names, ours with a leading underscore.

    Args:
        lake_root: the event lake.
        model: whose predictions.
        since: an aware datetime, an ISO date, or an age such as "7d", "12h", "30m".
        labelled: only predictions whose label has come, with `_label` and `_label_at`.

    Raises:
        ConfigInvalid: `since` is none of these.
    """
    start = _since(since)
    lake = Lake(lake_root)
    if not labelled:
        frame: pd.DataFrame = lake.read(model, "prediction", since=start).to_pandas()
        return frame
    joined: pd.DataFrame = lake.joined(model, since=start).to_pandas()
    return joined[joined["_label"].notna()].reset_index(drop=True)


def _since(since: str | datetime | None) -> datetime | None:
    if since is None or isinstance(since, datetime):
        return since
    age = re.fullmatch(r"(\d{1,6})([mhd])", since)
    if age:
        return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as error:
        raise ConfigInvalid("since cannot be read", where="since", expected="'7d', '12h' or 2026-05-01") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
