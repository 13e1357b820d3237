"""Trials on real flights: what was fitted anew is promoted in summer and refused in November and December."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from examples.flights.data import features
from examples.flights.source import flights
from examples.flights.trainer import train
from retrain.evidence import replay
from tests.integration.trial_world import MODEL, world

ROWS, A_DAY = 3_000, 250


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return flights()


@pytest.fixture(scope="module")
def winter(table: pd.DataFrame) -> Any:
    """The champion of both: fitted on the first quarter."""
    return fitted(table, "2013-01-01", "2013-04-01")


def span(table: pd.DataFrame, start: str, end: str) -> pd.DataFrame:
    at = table["_at"]
    return table[(at >= pd.Timestamp(start, tz="UTC")) & (at < pd.Timestamp(end, tz="UTC"))]


def fitted(table: pd.DataFrame, start: str, end: str) -> Any:
    rows = span(table, start, end)
    return train(rows.sample(ROWS, random_state=1).sort_values("_at", kind="stable"))


def tried(
    home: Path, table: pd.DataFrame, champion: Any, candidate: Any, start: str, end: str
) -> tuple[tuple[str, str], list[int]]:
    """The trial of a candidate over these days, a look after each: how it ended, and every champion there was."""
    settings: dict[str, Any] = {
        "stages": ("shadow", "ab:0.25", "ab:0.5"),
        "shadow_labels": 300,
        "step_labels": 100,
        "min_per_arm": 300,
        "planned_per_arm": 3_000,
        "dwell": "1d",
        "watch": "7d",
        "limit": "30d",
    }
    with world(home, {1: 0.0, 2: 0.0}, **settings) as found:
        found.cap, found.loss_sd = 30.0, 0.3
        rows = span(table, start, end)
        for day, flown in rows.groupby(rows["_at"].dt.floor("D")):
            chosen = flown.sample(min(A_DAY, len(flown)), random_state=2).sort_values("_at", kind="stable")
            said = {1: champion.predict(chosen[features]), 2: candidate.predict(chosen[features])}
            if found.count == 0:
                found.now = day.to_pydatetime()
                found.begin(reason="schedule")
                found.tick()
            found.now = (day + pd.Timedelta(days=1)).to_pydatetime()
            found.play([at.to_pydatetime() for at in chosen["_at"]], chosen["air_time"].tolist(), said)
            found.tick()
            if found.trial.stage == "done":
                break
        print([(body["action"], body["reason"], body["now"][:10]) for body in found.decisions()])
        assert all(replay(body) for body in found.decisions())
        assert found.ledger.verify() == []
        champions = [deployment.champion for deployment in found.ledger.history(MODEL)]
        return (found.trial.state, found.trial.stage), champions


def test_in_summer_what_was_fitted_anew_is_promoted(tmp_path: Path, table: pd.DataFrame, winter: Any) -> None:
    """And stays through the watch: flights of summer take less long than winter's model thinks."""
    anew = fitted(table, "2013-04-01", "2013-06-30")
    end, champions = tried(tmp_path, table, winter, anew, "2013-07-01", "2013-07-25")
    assert end == ("promoted", "done")
    assert champions[-1] == 2


def test_in_november_and_december_it_is_refused(tmp_path: Path, table: pd.DataFrame, winter: Any) -> None:
    """Fitted on August to October it is worse than winter's model once winter is back: it never answers for good."""
    anew = fitted(table, "2013-08-01", "2013-10-31")
    end, champions = tried(tmp_path, table, winter, anew, "2013-11-01", "2013-12-31")
    assert end[0] in ("rejected", "inconclusive", "rolled_back")
    assert end[1] == "done"
    assert set(champions) == {1}
