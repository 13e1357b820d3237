"""The replay on histories whose truth is known."""

from __future__ import annotations

import json
import weakref
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from registry.errors import ConfigInvalid, PereneError, TrainingFailed
from retrain.backtest.history import History, LabelTooEarly, micros
from retrain.backtest.policies import chosen
from retrain.backtest.replay import Asked
from retrain.training.windows import Window
from retrain.trials.trial_settings import TrialSettings
from tests.unit.toy_history import BEGIN, DRIFT, END, PLAN, START, history, line, replayed, rows

SCHEDULED = PLAN.model_copy(update={"schedule": "0 6 1 * *"})
WEEK = timedelta(days=7)


def test_a_jump_is_answered_once_and_never_before_it() -> None:
    """One deployment, some days after the jump, and the error comes back to what it was."""
    found = replayed(history(), "trigger")
    (move,) = found["trigger"].moves
    assert DRIFT + timedelta(days=3) < move.at < DRIFT + timedelta(days=20)
    assert all(run.at > DRIFT for run in found["trigger"].runs)
    before, after = found["never"].months[0], found["never"].months[-1]
    assert before.error < 0.5
    assert after.error > 2.5
    assert found["trigger"].months[-1].error < 0.6
    assert found["trigger"].gained > 0.5
    assert found["never"].gained == 0 == found["never"].fits


@pytest.mark.parametrize("seed", range(3))
def test_without_drift_nothing_is_moved(seed: int) -> None:
    """No performance-triggered run, and no deployment by the gate; a blind schedule deploys every time."""
    found = replayed(history(drift=None, seed=seed), plan=SCHEDULED)
    assert [run.reason for run in found["trigger"].runs if run.reason == "performance"] == []
    assert found["trigger"].deployments == found["cron+gate"].deployments == 0
    assert found["cron"].deployments == found["cron"].fits == 3


def test_labels_that_are_late_make_the_answer_late() -> None:
    """With labels ten days after their rows nothing can be known of the jump for ten days."""
    late = timedelta(days=10)
    plan = PLAN.model_copy(update={"maturity": late, "windows": ("20d", "since-drift")})
    soon, found = replayed(history(), "trigger"), replayed(history(delay=late), "trigger", plan=plan)
    assert all(run.at >= DRIFT + late for run in found["trigger"].runs)
    assert soon["trigger"].moves[0].at < found["trigger"].moves[0].at


def test_no_decision_depends_on_a_label_that_was_not_known() -> None:
    """Other labels from some moment on change nothing that was decided before it."""
    truth = history()
    cut = micros(DRIFT + timedelta(days=12))
    other = truth.relabelled(lambda known, y: np.where(known > cut, 1_000.0 - y, y))
    one, two = (replayed(found, plan=SCHEDULED) for found in (truth, other))
    assert _before(one, cut) == _before(two, cut) != []


def test_a_policy_that_sees_the_future_is_caught() -> None:
    """Control of the check above: rows whose labels are not known yet are refused, and would change decisions."""
    with pytest.raises(LabelTooEarly):
        replayed(_as(Early, history()), "trigger")
    truth, cut = history(), micros(DRIFT - timedelta(days=3))
    other = truth.relabelled(lambda known, y: np.where(known > cut, 1_000.0 - y, y))
    plan = SCHEDULED.model_copy(
        update={"schedule": "0 6 * * *", "maturity": timedelta(0), "holdout": timedelta(days=4)}
    )
    one, two = (replayed(_as(Cheating, found), "cron+gate", plan=plan) for found in (truth, other))
    assert _before(one, cut) != _before(two, cut)


def _before(found: Any, cut: int) -> list[Any]:
    return [
        (course.policy, part)
        for course in found.policies
        for part in (*course.runs, *course.moves)
        if micros(part.at) <= cut
    ]


@dataclass(frozen=True, eq=False)
class Early(History):
    """Takes rows whatever is known of them."""

    def learnable(self, window: Window, now: datetime) -> Any:
        """All rows of a window."""
        return self.between(Window(window.start, window.end + WEEK))


@dataclass(frozen=True, eq=False)
class Cheating(Early):
    """And reads their labels."""

    def truth(self, rows: Any, now: datetime | None) -> Any:
        """Whatever was asked for."""
        return self.labels[rows]


def _as(kind: type[History], found: History) -> History:
    return kind(found.features, found.target, found.labels, found.at, found.known_at)


def test_the_same_seed_gives_the_same_result() -> None:
    """Byte for byte; another seed draws other rows."""
    one, two, other = (replayed(history(), plan=SCHEDULED, sample=0.5, seed=seed) for seed in (1, 1, 2))
    assert json.dumps(one.to_dict()) == json.dumps(two.to_dict())
    assert one["never"].error != other["never"].error


def test_policies_share_fits_and_forget_them() -> None:
    """A window that two policies ask for at the same moment is fitted once."""
    calls: list[int] = []

    def counted(frame: Any) -> Any:
        calls.append(len(frame))
        return line(frame)

    found = replayed(history(drift=None), "cron+gate", "trigger", plan=SCHEDULED, train=counted)
    assert found["cron+gate"].fits == found["trigger"].fits == 3
    assert found.fits == len(calls) == 4  # the first version is one of them


def test_memory_does_not_grow_with_the_span() -> None:
    """A hundred fits and deployments, a handful of versions alive at any time."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = []

    def watched(frame: Any) -> Any:
        estimator = line(frame)
        alive.add(estimator)
        most.append(len(alive))
        return estimator

    daily = PLAN.model_copy(update={"schedule": "0 6 * * *", "cooldown": timedelta(hours=1)})
    found = replayed(history(), "cron", "trigger", plan=daily, train=watched)
    assert found["cron"].deployments >= 99
    assert len(most) > 100
    assert max(most) <= 12


def test_a_trainer_that_fails_once_is_a_failed_run_and_history_goes_on() -> None:
    """The failure is recorded with its type, never its text, and a later run succeeds."""
    calls: list[int] = []

    def fragile(frame: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("secret value 42")
        return line(frame)

    found = replayed(history(), "trigger", train=fragile)
    first, *later = found["trigger"].runs
    assert (first.outcome, first.why) == ("error", "the trainer raised ValueError")
    assert "candidate" in [run.outcome for run in later]
    assert found["trigger"].deployments == 1


def test_a_trial_promotes_later_than_the_gate_alone() -> None:
    """With a paired trial the candidate first has to win on rows that both answer."""
    alone, tried = (replayed(history(), "trigger", trial=trial) for trial in (None, TrialSettings()))
    assert alone["trigger"].moves[0].at < tried["trigger"].moves[0].at
    assert tried.promotion == "a paired trial after the gates"


def test_a_former_champion_comes_back_when_its_world_does() -> None:
    """Twenty days of another world, then the old one: version 1 returns without a fit of its own."""
    frame = rows(drift=None)
    away = (frame["_at"] >= BEGIN + timedelta(days=55)) & (frame["_at"] < BEGIN + timedelta(days=95))
    frame["y"] += np.where(away, 3.0, 0.0)
    found = replayed(History.of(frame, target="y", maturity=PLAN.maturity), "trigger")
    assert [move.version for move in found["trigger"].moves] == [2, 1]


def test_accounts_are_of_the_version_that_served() -> None:
    """The mean is that of the months, weighted by rows; gains are against never."""
    found = replayed(history(), plan=SCHEDULED)
    for course in found.policies:
        total = sum(month.rows * month.error for month in course.months)
        assert course.error == pytest.approx(total / course.rows)
        assert course.gained == pytest.approx(found["never"].error - course.error)
        assert sum(month.rows for month in course.months) == found.rows == len(_played())


def _played() -> Any:
    at = rows()["_at"]
    return at[(at >= START) & (at < END)]


def test_classes_are_judged_by_brier() -> None:
    """Half the Brier score, from class probabilities."""
    from sklearn.linear_model import LogisticRegression

    frame = rows()
    frame["y"] = np.where(frame["y"] > 1, "high", "low")
    found = replayed(
        History.of(frame, target="y", maturity=PLAN.maturity),
        "trigger",
        train=lambda f: LogisticRegression().fit(f[["a", "b"]], f["y"]),
    )
    assert found.measure == "half the Brier score"
    assert found["trigger"].months[-1].error < found["never"].months[-1].error < 1


def test_a_result_speaks_json_and_html() -> None:
    """Plain values, and a table for notebooks."""
    found = replayed(history(drift=None), "never")
    assert json.loads(json.dumps(found.to_dict()))["policies"][0]["policy"] == "never"
    assert "<table>" in found._repr_html_()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="_at"), "gave no column '_at'"),
        (lambda f: f.drop(columns="y"), "gave no column 'y'"),
        (lambda f: f[["y", "_at"]], "gave no features"),
        (lambda f: f.to_dict("list"), "gave no DataFrame"),
        (lambda f: f.assign(_at="soon"), "'_at' of the loader holds no times"),
        (lambda f: f.assign(_at=None), "have no '_at'"),
        (lambda f: f.assign(_label_at=f["_at"] - timedelta(hours=1)), "are known before their row"),
        (lambda f: f[f["_at"] < START], "no labelled row in this span"),
        (lambda f: f.assign(y=f["y"].where(f["_at"] < START)), "no labelled row in this span"),
        (lambda f: f[f["_at"] >= START], "0 rows to learn from"),
        (lambda f: f.iloc[:0], "no labelled row in this span"),
        (lambda f: f.assign(y=1.0), "labels are all the same"),
        (lambda f: f.assign(_label_at=f["_at"] + timedelta(days=400)), "0 rows to learn from"),
    ],
)
def test_rows_that_cannot_be_replayed_are_refused(change: Any, message: str) -> None:
    """One clear error each."""
    with pytest.raises(TrainingFailed, match=message):
        replayed(History.of(change(rows()), target="y", maturity=PLAN.maturity), "trigger")


def test_a_trainer_that_never_works_is_refused_by_its_name() -> None:
    """There is nothing to begin with."""

    def broken(frame: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(TrainingFailed, match="first window: ZeroDivisionError"):
        replayed(history(), "trigger", train=broken)


def test_a_misspelt_policy_is_told_the_right_one() -> None:
    """With a suggestion; a schedule that is missing is named too."""
    with pytest.raises(ConfigInvalid) as caught:
        chosen(["triger"], scheduled=True)
    assert caught.value.hint == "did you mean 'trigger'?"
    with pytest.raises(ConfigInvalid, match="needs a schedule"):
        chosen(["cron"], scheduled=False)
    assert [policy.name for policy in chosen(scheduled=False)] == ["never", "trigger"]


@pytest.mark.parametrize(
    "more", [{"start": END, "end": START}, {"sample": 0.0}, {"sample": 1.5}, {"step": timedelta(0)}]
)
def test_what_cannot_be_asked_is_refused(more: dict[str, Any]) -> None:
    """Before any work."""
    with pytest.raises(ConfigInvalid):
        Asked(**{"start": START, "end": END, "policies": chosen(scheduled=False), **more})


def test_rows_out_of_order_and_without_labels_make_no_difference() -> None:
    """A loader may shuffle, and give rows whose label never came."""
    frame = rows()
    extra = frame.sample(200, random_state=0).assign(y=None)
    shuffled = pd.concat([frame, extra.astype({"y": float})]).sample(frac=1.0, random_state=1)
    found = History.of(shuffled, target="y", maturity=PLAN.maturity)
    assert replayed(found, "trigger").to_dict() == replayed(history(), "trigger").to_dict()


def test_errors_are_ours() -> None:
    """What refuses a leak is one of the platform's errors."""
    assert issubclass(LabelTooEarly, PereneError)
