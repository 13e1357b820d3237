"""The rows of a backtest in order of time, each with the moment from which its label may be known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.errors import PereneError, TrainingFailed
from retrain.training.windows import EPOCH, Window

__all__ = ["History", "LabelTooEarly", "micros", "moment"]

Rows = npt.NDArray[np.intp]
Times = npt.NDArray[np.int64]
_NEVER = np.iinfo(np.int64).max


class LabelTooEarly(PereneError):
    """A label was asked for before the moment at which it became known: the replay would cheat."""

    code = "label_too_early"


def micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - EPOCH) // timedelta(microseconds=1)


def moment(at: int) -> datetime:
    """The same as a time in UTC.

    >>> moment(1_364_774_400_000_000).isoformat()
    '2013-04-01T00:00:00+00:00'
    """
    return EPOCH + timedelta(microseconds=int(at))


@dataclass(frozen=True, eq=False)
class History:
    """Labelled rows, oldest first. Labels are read through `truth`, which knows what time it is."""

    features: pd.DataFrame
    target: str
    labels: npt.NDArray[Any]
    at: Times
    known_at: Times

    @classmethod
    def of(cls, frame: Any, *, target: str, maturity: timedelta) -> Self:
        """The rows of a loader: features, the target, `_at`, and `_label_at` or else labels that take `maturity`.

        Rows whose label never came are left out.

        Raises:
            TrainingFailed: it is no frame, a column is missing, times cannot be read, or labels precede their rows.
        """
        if not isinstance(frame, pd.DataFrame):
            raise TrainingFailed("the loader gave no DataFrame", where="loader", got=type(frame).__name__)
        for name, what in ((target, "the target"), ("_at", "the time of each row")):
            if name not in frame.columns:
                raise TrainingFailed(
                    f"the loader gave no column '{name}', {what}",
                    where="loader",
                    expected=f"features, '{target}', '_at' and perhaps '_label_at'",
                    hint=f"let the loader return '{name}'",
                )
        features = [c for c in frame.columns if c != target and not str(c).startswith("_")]
        if not features:
            raise TrainingFailed("the loader gave no features", where="loader", expected="columns besides the target")
        at = _times(frame["_at"], "_at")
        if (at == _NEVER).any():
            raise TrainingFailed("rows of the loader have no '_at'", where="loader", hint="drop them, or fill it")
        known = _times(frame["_label_at"], "_label_at") if "_label_at" in frame.columns else at + micros_of(maturity)
        early = int((known < at).sum())
        if early:
            raise TrainingFailed(
                f"{early} of {len(frame)} labels are known before their row",
                where="loader",
                expected="'_label_at' at or after '_at'",
                hint="give both in UTC, or leave '_label_at' out: then the setting maturity counts",
            )
        keep = np.flatnonzero(frame[target].notna().to_numpy() & (known != _NEVER))
        keep = keep[np.argsort(at[keep], kind="stable")]
        labels = frame[target].iloc[keep].infer_objects().to_numpy()
        return cls(frame[features].iloc[keep].reset_index(drop=True), target, labels, at[keep], known[keep])

    def __len__(self) -> int:
        return len(self.at)

    def between(self, window: Window) -> Rows:
        """Rows of a window of event time."""
        low, high = np.searchsorted(self.at, (micros(window.start), micros(window.end)))
        return np.arange(low, high)

    def learnable(self, window: Window, now: datetime) -> Rows:
        """Those whose label is known at `now`."""
        rows = self.between(window)
        return rows[self.known_at[rows] <= micros(now)]

    def truth(self, rows: Rows, now: datetime | None) -> npt.NDArray[Any]:
        """Labels of rows as of `now`; None is the end of all time, when the replay is over and accounts are made.

        Raises:
            LabelTooEarly: one of them was not known yet.
        """
        if now is not None and len(rows) and int(self.known_at[rows].max()) > micros(now):
            raise LabelTooEarly("a label was used before it was known", where=now.isoformat())
        return self.labels[rows]

    def frame(self, rows: Rows, now: datetime) -> pd.DataFrame:
        """What a trainer gets at `now`: features and target, in order of time."""
        return self.features.iloc[rows].assign(**{self.target: self.truth(rows, now)}).reset_index(drop=True)

    def relabelled(self, change: Callable[[Times, npt.NDArray[Any]], npt.NDArray[Any]]) -> History:
        """The same rows with other labels: for checks of what depends on which label."""
        return replace(self, labels=change(self.known_at, self.labels.copy()))


def micros_of(span: timedelta) -> int:
    """Length in microseconds."""
    return span // timedelta(microseconds=1)


def _times(column: Any, name: str) -> Times:
    try:
        raw = pd.to_datetime(column, utc=True).dt.tz_localize(None).to_numpy("datetime64[us]")
    except (ValueError, TypeError, AttributeError) as error:
        raise TrainingFailed(
            f"the column '{name}' of the loader holds no times", where="loader", expected="datetimes in UTC"
        ) from error
    found: Times = np.where(np.isnat(raw), _NEVER, raw.astype(np.int64))
    return found
