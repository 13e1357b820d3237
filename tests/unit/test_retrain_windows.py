"""Windows: no candidate sees a row of the holdout; settings are read strictly."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.errors import ConfigInvalid
from retrain.settings import RetrainSettings, WorkerSettings
from retrain.training.windows import parse_duration, plan, ready_at
from retrain.trials.trial_settings import TrialSettings
from retrain.triggering.scheduler import next_fire

NOW = datetime(2013, 9, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@given(
    st.lists(st.sampled_from(["30d", "90d", "expanding", "since-drift"]), min_size=1, max_size=4),
    st.integers(1, 30),
    st.integers(0, 5),
    st.none() | st.integers(0, 200),
)
def test_windows_end_where_the_holdout_starts(specs: list[str], holdout: int, maturity: int, drift: int | None) -> None:
    """Whatever is asked, training and judgement never overlap and nothing reaches past maturity."""
    at = None if drift is None else NOW - timedelta(days=drift)
    found = plan(specs, NOW, holdout=holdout * DAY, maturity=maturity * DAY, drift_at=at)
    assert found.holdout.end == NOW - maturity * DAY
    assert min(holdout, 8) * DAY <= found.holdout.end - found.holdout.start <= holdout * DAY
    assert found.train
    for named in found.train:
        assert named.window.start < named.window.end == found.holdout.start
    assert len({w.window for w in found.train}) == len(found.train)


@pytest.mark.parametrize(
    ("days", "windows", "holdout"),
    [
        (12, ["90d"], 14),
        (13, ["90d", "since-drift"], 8),
        (21, ["90d", "since-drift"], 10),
        (60, ["90d", "since-drift"], 14),
    ],
)
def test_soon_after_a_drift_half_of_it_is_learned_from(days: int, windows: list[str], holdout: int) -> None:
    """And half judged on, but never less than 8 days; before `ready_at` there is too little to learn."""
    at = NOW - days * DAY
    found = plan(["90d", "since-drift"], NOW, holdout=14 * DAY, maturity=DAY, drift_at=at)
    assert [w.name for w in found.train] == windows
    assert found.holdout.end - found.holdout.start == holdout * DAY
    assert (ready_at(at, 14 * DAY, DAY) <= NOW) == ("since-drift" in windows)


@pytest.mark.parametrize("text", ["", "14", "d", "-3d", "3 months", "1e9d"])
def test_unreadable_durations_are_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="duration"):
        parse_duration(text)


def test_settings_survive_json() -> None:
    """The worker hands them to its child as JSON."""
    raw = {"trainer": "a.b:train", "target": "y", "holdout": "36h", "schedule": "0 3 * * *"}
    settings = RetrainSettings.model_validate(raw)
    assert settings.holdout == timedelta(hours=36)
    assert RetrainSettings(**settings.model_dump(mode="json")) == settings
    worker = WorkerSettings.model_validate({"models": {"m": {"retrain": settings.model_dump(mode="json")}}})
    assert WorkerSettings.model_validate_json(worker.model_dump_json()) == worker


@pytest.mark.parametrize(
    "wrong",
    [{"holdout": "soon"}, {"windows": []}, {"windows": ["yesterday"]}, {"trainer": "nofunction"}, {"alpa": 0.1}],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RetrainSettings.model_validate({"trainer": "a:b", "target": "y", **wrong})


def test_cron_is_evaluated_on_any_clock() -> None:
    """The replayed year of 2013 has its own Mondays."""
    assert next_fire("0 3 * * mon", NOW) == datetime(2013, 9, 2, 3, tzinfo=UTC)
    assert next_fire("0 0 1 * *", NOW) > NOW
    with pytest.raises(ConfigInvalid, match="schedule"):
        next_fire("every monday", NOW)


@pytest.mark.parametrize("span", ["36501d", "99999999999d", "9" * 400 + "w", "P99999D", "-P1D", -5, 1e12])
def test_spans_that_lead_out_of_the_calendar_are_refused(span: Any) -> None:
    """In settings, in trials' too: a date that is counted from one would stop each turn of the worker."""
    for cls, name in ((TrialSettings, "watch"), (TrialSettings, "limit")):
        with pytest.raises(ValidationError):
            cls.model_validate({name: span})
    if isinstance(span, str) and span[-1] in "dw":
        with pytest.raises(ConfigInvalid):
            parse_duration(span)
    assert parse_duration("36500d") == 36_500 * DAY


@pytest.mark.parametrize(
    "outcome",
    [{"upper": 1.0, "sd": math.inf}, {"upper": 1.0, "tolerance": math.inf}, {"lower": -1e308, "upper": 1e308}],
)
def test_an_outcome_has_finite_bounds(outcome: dict[str, float]) -> None:
    """What is not finite would make a guardrail that never speaks."""
    with pytest.raises(ValidationError):
        TrialSettings.model_validate({"outcomes": {"revenue": {"lower": 0.0, **outcome}}})
    TrialSettings.model_validate({"outcomes": {"revenue": {"lower": 0.0, "upper": 1.0}}})
