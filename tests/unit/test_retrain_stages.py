"""The ladder of a trial, its settings, what people ask for, and the looks that plots are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.errors import ConfigInvalid
from registry.experiment_options import OPTIONS, checked_options
from retrain.trials.guards import Outcome
from retrain.trials.looks import MOST, Look, thinned
from retrain.trials.plans import policy_of
from retrain.trials.stages import Step, ladder
from retrain.trials.trial_settings import TrialSettings


def test_the_default_ladder_widens_from_shadow_to_half() -> None:
    found = ladder(TrialSettings().stages)
    assert found[:2] == (Step("shadow", 0.0), Step("canary", 0.01))
    assert [s.weight for s in found[2:]] == [0.05, 0.25, 0.5]


@pytest.mark.parametrize(
    "stages",
    [
        [],
        ["shadow"],
        ["canary"],
        ["ab:0.5", "shadow"],
        ["ab:0.25", "canary"],
        ["ab:0.5", "ab:0.25"],
        ["ab:0.5", "ab:0.5"],
        ["shadow", "shadow", "ab:0.5"],
        ["ab"],
        ["ab:0"],
        ["ab:1"],
        ["ab:50"],
        ["ab:nan"],
        ["ab:-0.1"],
        ["ab:x"],
        ["shadow:0.1", "ab:0.5"],
        ["blue", "ab:0.5"],
    ],
)
def test_a_ladder_that_cannot_be_climbed_is_refused(stages: list[str]) -> None:
    """In the ladder, in settings and in what people ask for alike."""
    with pytest.raises(ConfigInvalid):
        ladder(stages)
    with pytest.raises(ValidationError):
        TrialSettings(stages=tuple(stages))


@given(st.lists(st.sampled_from(["shadow", "canary", "canary:0.02", "ab:0.05", "ab:0.25", "ab:0.5"]), max_size=5))
def test_whoever_asks_for_a_trial_is_told_the_same_as_by_settings(stages: list[str]) -> None:
    try:
        ladder(stages)
        good = True
    except ConfigInvalid:
        good = False
    try:
        checked_options({"stages": stages})
        asked = True
    except Exception:  # which error it is belongs to the test of options
        asked = False
    assert asked == good


def test_every_option_is_a_setting() -> None:
    """But for the further candidates, which are of one trial only."""
    assert set(OPTIONS) - {"others"} <= set(TrialSettings.model_fields)


def test_outcomes_need_bounds_and_a_metric_needs_an_outcome() -> None:
    with pytest.raises(ValidationError):
        TrialSettings(metric="revenue")
    for name, bounds in (
        ("revenue", {"lower": 1.0, "upper": 1.0}),
        ("revenue", {"lower": 0.0, "upper": float("inf")}),
        ("latency", {"lower": 0.0, "upper": 1.0}),
        ("Revenue!", {"lower": 0.0, "upper": 1.0}),
    ):
        with pytest.raises(ValidationError):
            TrialSettings.model_validate({"outcomes": {name: bounds}})
    bounds = {"lower": 0.0, "upper": 8.0, "tolerance": 0.5}
    found = TrialSettings.model_validate({"metric": "revenue", "outcomes": {"revenue": bounds}})
    policy = policy_of(found, 0.2)
    assert policy.goal() == Outcome("revenue", (0.0, 8.0), True, 0.5, 2.0)


def _look(number: int, stage: str) -> Look:
    return Look(
        at=f"{number:05d}", stage=stage, n_champion=number, n_candidate=number, effect=0.0, lower=-1.0, upper=1.0
    )


def test_looks_are_bounded_and_keep_the_first_the_last_and_each_change_of_stage() -> None:
    kept: list[Look] = []
    for number in range(5_000):
        kept = thinned([*kept, _look(number, "shadow" if number < 1_001 else "ab:0.5")])
    assert len(kept) <= MOST
    assert (kept[0].at, kept[-1].at) == ("00000", "04999")
    assert [a.stage for a in kept] == sorted((a.stage for a in kept), reverse=True)
    assert next(a.at for a in kept if a.stage == "ab:0.5") == "01001"
