"""Trials: each decision, and that its evidence decides the same again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.ledger import Deployment
from retrain.evidence import replay
from retrain.trials.experiments import advance, trial_evidence
from retrain.trials.guards import Counts, Outcome
from retrain.trials.policy import Baseline, Policy, Trial
from retrain.trials.reconcile import by_hand, reconcile
from retrain.trials.sequential import Stratum
from retrain.trials.stats import AbStats, Alarm, ShadowStats, Stats, Unfit, WatchStats

NOW = datetime(2013, 7, 1, tzinfo=UTC)
LADDER = ("shadow", "canary", "ab:0.05", "ab:0.25", "ab:0.5")
POLICY = Policy(
    margin=0.01,
    alpha=0.05,
    stages=LADDER,
    dwell_s=3600.0,
    shadow_labels=300,
    canary_units=100,
    step_labels=100,
    min_per_arm=300,
    planned_per_arm=3_000,
    limit_s=30 * 86_400.0,
    watch_s=7 * 86_400.0,
    loss_sd=0.15,
    errors=0.002,
    latency=1.5,
    predictions=0.5,
    rates=0.2,
)
SHADOW = Trial("e", 1, 2, "performance", NOW, NOW, POLICY, 40.0)
CANARY, AB5, AB25, AB, WATCH = (replace(SHADOW, step=step) for step in range(1, 6))
LATER = NOW + timedelta(hours=2)


def shadow(mean: float, n: int, sd: float = 0.1) -> ShadowStats:
    d = np.random.default_rng(1).normal(0.0, sd, n)
    return ShadowStats(np.clip(d - d.mean() + mean, -1, 1).astype(np.float32))


def units(step: int, c: int, t: int, hits_t: int = 0, hits_c: int = 0) -> Counts:
    weight = float(LADDER[step].partition(":")[2] or 0.01)
    return Counts(str(step), weight, t, hits_t, c, hits_c)


def ab(effect: float, per_day: int, days: int, *, step: int = 4, sd: float = 0.15, **more: Any) -> AbStats:
    """Equal arms on each day; losses around 0.3 and 0.3 - effect."""
    t, c = 0.3 - effect, 0.3
    squares = [per_day * (m * m + sd * sd) for m in (t, c)]
    rows = [
        Stratum(f"{step}/d{i}", per_day, per_day * t, squares[0], per_day, per_day * c, squares[1]) for i in range(days)
    ]
    n_t = per_day * days
    fair = units(step, round(n_t / (share := float(LADDER[step].partition(":")[2])) * (1 - share)), n_t)
    return AbStats(**{"strata": tuple(rows), "units": (fair,), **more})


@pytest.mark.parametrize(
    ("stats", "action"),
    [
        (shadow(0.1, 299), "continue"),
        (shadow(0.1, 400), "advance"),
        (shadow(0.0, 3000), "advance"),
        (shadow(0.0, 310, sd=0.5), "continue"),
        (shadow(-0.1, 250), "reject"),
    ],
)
def test_shadow(stats: ShadowStats, action: str) -> None:
    assert advance(SHADOW, stats, LATER).action == action


def test_a_stage_lasts_its_least_time() -> None:
    """However good the candidate looks; the control is the same look an hour later."""
    early = NOW + timedelta(minutes=59)
    canary = AbStats(units=(units(1, 9_900, 100),), failed=(units(1, 9_900, 100),))
    for trial, stats in ((SHADOW, shadow(0.1, 400)), (CANARY, canary), (AB5, ab(0.0, 40, 5, step=2))):
        assert advance(trial, stats, early).action == "continue"
        assert advance(trial, stats, LATER).action == "advance"


def test_canary_looks_at_errors_and_latency_only() -> None:
    """Labels, good or bad, decide nothing there; entities do, and what breaks does."""
    worse = ab(-0.02, 60, 1, step=4).strata
    fine = AbStats(strata=worse, units=(units(1, 9_900, 100),), failed=(units(1, 9_900, 100),))
    assert advance(CANARY, fine, LATER).action == "advance"
    few = AbStats(units=(units(1, 8_000, 80),), failed=(units(1, 8_000, 80),))
    assert advance(CANARY, few, LATER).reason == "20 more entities on the candidate's arm"
    broken = AbStats(units=(units(1, 8_000, 80),), failed=(units(1, 8_000, 80, hits_t=20),))
    found = advance(CANARY, broken, LATER)
    assert (found.action, found.cause) == ("rollback", "error_rate")


@pytest.mark.parametrize(
    ("stats", "action"),
    [
        (AbStats(), "continue"),
        (ab(0.1, 40, 5), "continue"),
        (ab(0.1, 100, 10), "promote"),
        (ab(0.0, 400, 20), "continue"),
        (ab(-0.05, 100, 10), "rollback"),
        (ab(0.1, 100, 10, units=(units(4, 1195, 1000),)), "pause"),
        (ab(0.1, 100, 10, units=(units(4, 1400, 1000),)), "abort"),
    ],
)
def test_ab(stats: AbStats, action: str) -> None:
    assert advance(AB, stats, LATER).action == action


def test_a_stage_is_widened_by_its_own_labels() -> None:
    """Labels of an earlier stage do not count for this one, and a candidate that is clearly better need not wait."""
    earlier, mine = ab(0.0, 200, 2, step=2), ab(0.0, 40, 2, step=3)
    both = AbStats(strata=(*earlier.strata, *mine.strata), units=(*earlier.units, *mine.units))
    assert advance(AB25, both, LATER).reason == "20 more labels in the smaller arm of ab:0.25"
    assert advance(AB25, ab(0.0, 40, 5, step=3), LATER).action == "advance"
    assert advance(AB25, ab(0.1, 100, 10, step=3), LATER).action == "promote"


def test_a_wrong_split_in_any_step_is_found_and_not_multiplied() -> None:
    """The largest e-value over the number of drawn steps: an earlier step's stays, and luck is not counted twice."""
    lucky = units(4, 1180, 1000)
    assert advance(AB, ab(0.1, 100, 10, units=(lucky, lucky)), LATER).action == "promote"
    wrong = ab(0.1, 100, 10, units=(units(3, 20_000, 10_000), units(4, 1000, 1000)))
    assert advance(AB, wrong, LATER).action == "abort"


def test_what_a_guardrail_finds_takes_the_candidate_out() -> None:
    """Errors, slow answers, other answers and a named outcome, each with its name as the cause."""
    n = 2_000
    fair = (units(4, n, n),)
    business = Outcome("revenue", (0.0, 10.0), True, 0.1, 2.0)
    trial = replace(AB, policy=replace(POLICY, outcomes=(business,)), baseline=Baseline(100.0, 50.0, 10.0))

    def strata(t: float, c: float, sd: float) -> tuple[Stratum, ...]:
        return (Stratum("4/d", n, n * t, n * (t * t + sd * sd), n, n * c, n * (c * c + sd * sd)),)

    cases: dict[str, AbStats] = {
        "error_rate": AbStats(units=fair, failed=(units(4, n, n, hits_t=40),)),
        "latency": AbStats(units=fair, failed=fair, slow=(units(4, n, n, hits_t=100, hits_c=15),)),
        "prediction_rate": AbStats(units=fair, failed=fair, answers=strata(1.0, 0.0, 1.0)),
        "revenue": AbStats(units=fair, failed=fair, outcomes={"revenue": strata(4.0, 5.0, 2.0)}),
    }
    for cause, stats in cases.items():
        found = advance(trial, stats, LATER)
        assert (found.action, found.cause) == ("rollback", cause)
    sound = AbStats(
        units=fair,
        failed=(units(4, n, n, hits_t=1),),
        slow=(units(4, n, n, hits_t=16, hits_c=15),),
        answers=strata(0.1, 0.0, 1.0),
        outcomes={"revenue": strata(5.0, 5.0, 2.0)},
    )
    assert advance(trial, sound, LATER).action == "continue"
    assert set(advance(trial, sound, LATER).facts["guardrails"]) == set(cases)


def test_other_answers_are_no_reason_once_labels_have_proved_the_candidate_better() -> None:
    n = 2_000
    answers = (Stratum("4/d", n, 1.0 * n, 2.0 * n, n, 0.0, 1.0 * n),)
    stats = AbStats(units=(units(4, n, n),), answers=answers)
    trial = replace(AB, baseline=Baseline(None, 50.0, 10.0))
    assert advance(trial, stats, LATER).cause == "prediction_rate"
    assert advance(replace(trial, better=True), stats, LATER).action == "continue"


def test_freshness_promotes_an_equal_model_at_the_planned_sample_only() -> None:
    fresh = replace(AB, reason="freshness")
    assert advance(fresh, ab(0.0, 290, 10), LATER).action == "continue"
    assert advance(fresh, ab(0.0, 300, 20), LATER).action == "promote"


def test_time_up_is_inconclusive_and_never_a_promotion() -> None:
    """Nor does a split that looks wrong keep a trial open for ever."""
    late = NOW + timedelta(days=30)
    assert advance(AB, ab(0.0, 100, 10), late).action == "inconclusive"
    assert advance(AB, AbStats(), late).action == "inconclusive"
    assert advance(AB, ab(0.1, 100, 10, units=(units(4, 1195, 1000),)), late).action == "inconclusive"
    assert advance(SHADOW, shadow(0.1, 10), late).action == "inconclusive"
    assert advance(AB, ab(0.1, 100, 10), late).action == "promote"


def test_an_alert_ends_a_trial_whatever_its_numbers_say() -> None:
    alarm = Alarm("PereneErrors", 7)
    cases: list[tuple[Trial, Stats]] = [
        (SHADOW, shadow(0.1, 400)),
        (AB, ab(0.1, 100, 10)),
        (WATCH, WatchStats(shadow(0.1, 400).d)),
    ]
    for trial, stats in cases:
        found = advance(trial, stats, LATER, alarm)
        assert (found.action, found.cause) == ("rollback", "alert")


def test_a_candidate_that_may_not_serve_is_rejected() -> None:
    found = advance(SHADOW, Unfit(("column x is missing",)), NOW)
    assert (found.action, found.reason) == ("reject", "the candidate may not serve: column x is missing")


def test_the_watch_keeps_what_does_no_harm_and_takes_back_what_does() -> None:
    """Harm on pairs, or on labels of the trial that came after its decision; with few pairs it lasts twice as long."""
    end = NOW + timedelta(days=7)
    assert advance(WATCH, WatchStats(shadow(0.0, 500).d), LATER).action == "continue"
    assert advance(WATCH, WatchStats(shadow(0.0, 500).d), end).action == "keep"
    few = WatchStats(shadow(0.0, 299).d)
    assert advance(WATCH, few, end).action == "continue"
    assert advance(WATCH, few, end + timedelta(days=7)).action == "keep"
    harmed = advance(WATCH, WatchStats(shadow(-0.1, 400).d), LATER)
    assert (harmed.action, harmed.cause) == ("rollback", "harm")
    late = advance(WATCH, WatchStats(np.zeros(0, np.float32), ab(-0.1, 100, 10).strata), LATER)
    assert (late.action, late.cause) == ("rollback", "harm")


@given(st.integers(0, 500), st.floats(-0.3, 0.3), st.sampled_from([SHADOW, WATCH]), st.booleans())
def test_shadow_evidence_replays_exactly(n: int, mean: float, trial: Trial, firing: bool) -> None:
    """Through JSON and back, the same action, reason and numbers; another number is noticed."""
    d = shadow(mean, n).d if n else np.zeros(0, dtype=np.float32)
    stats: Stats = ShadowStats(d) if trial is SHADOW else WatchStats(d, ab(0.0, 50, 3).strata)
    alarm = Alarm("a", 1) if firing else None
    decision = advance(trial, stats, LATER, alarm)
    body = json.loads(json.dumps(trial_evidence(trial, stats, LATER, decision, alarm=alarm)))
    assert replay(body)
    body["facts"]["effect"] += 1e-9
    assert not replay(body)


@example(59, 1, 0.0, 17)  # whose sums depend on the order of the classes, which the ledger changes
@given(st.integers(0, 300), st.integers(0, 20), st.floats(-0.2, 0.2), st.integers(0, 200))
def test_ab_evidence_replays_exactly(per_day: int, days: int, effect: float, hits: int) -> None:
    n = max(per_day * days, hits)
    counts = (units(4, n, n, hits_t=hits),)
    classes = {name: (units(4, n, n, hits_t=min(hits + k, n), hits_c=k % 3),) for k, name in enumerate("zebra")}
    stats = ab(effect, per_day, days, units=counts, failed=counts, slow=counts, classes=classes, outcomes={"x": ()})
    trial = replace(AB, baseline=Baseline(100.0, shares={"z": 0.3, "a": 0.1}))
    decision = advance(trial, stats, LATER)
    body = json.loads(json.dumps(trial_evidence(trial, stats, LATER, decision), sort_keys=True))
    assert replay(body)
    assert not replay({**body, "action": "keep"})
    assert not replay({**body, "cause": "because"})


def test_unknown_evidence_is_not_confirmed() -> None:
    assert not replay({"subject": "finding"})


def deployment(champion: int, candidate: int | None, mode: str | None, weight: float = 0.5) -> Deployment:
    return Deployment("m", 3, champion, candidate, mode, weight, "", "a", "r", NOW, None, "", "")  # type: ignore[arg-type]


def test_the_deployment_tells_how_far_a_trial_came() -> None:
    """After a crash between the move and the trial's row, the move is what happened."""
    assert reconcile(SHADOW, deployment(1, None, None)) == "out"
    assert reconcile(SHADOW, deployment(1, 2, "shadow", 0.0)) == 0
    assert reconcile(SHADOW, deployment(1, 2, "canary", 0.01)) == 1
    assert [reconcile(SHADOW, deployment(1, 2, "ab", w)) for w in (0.05, 0.25, 0.5)] == [2, 3, 4]
    assert reconcile(SHADOW, deployment(1, 2, "ab", 0.4)) == "aborted"
    assert reconcile(SHADOW, deployment(2, 1, "shadow", 0.0)) == 5
    assert reconcile(SHADOW, deployment(2, None, None)) == "promoted"
    assert reconcile(SHADOW, deployment(7, None, None)) == "aborted"
    assert reconcile(SHADOW, deployment(1, 9, "shadow")) == "aborted"


def test_what_somebody_s_move_makes_of_a_trial() -> None:
    """In the watch the promotion stands, unless the former champion is put back."""
    assert [by_hand(AB, place) for place in ("out", "promoted", "aborted")] == ["aborted", "promoted", "aborted"]
    assert [by_hand(WATCH, place) for place in ("out", "promoted", "aborted")] == [
        "rolled_back",
        "promoted",
        "promoted",
    ]


def test_chosen_labels_do_not_promote() -> None:
    """Labels of a fifth fewer of the candidate's users: it waits, and harm still counts; as many are the control."""
    fewer, as_many = (units(4, 1_250, 1_250, hits_t=hits, hits_c=1_000) for hits in (800, 1_000))
    better = ab(0.1, 80, 10, units=(units(4, 1_250, 1_250),), labelled=(fewer,))
    found = advance(AB, better, LATER)
    assert (found.action, found.facts["labels_told"]["fired"]) == ("pause", True)
    assert "labels" in found.reason
    assert advance(AB, replace(better, labelled=(as_many,)), LATER).action == "promote"
    worse = ab(-0.1, 80, 10, units=(units(4, 1_250, 1_250),), labelled=(fewer,))
    assert advance(AB, worse, LATER).action == "rollback"
    late = NOW + timedelta(days=40)
    ended = advance(AB, better, late)
    assert ended.action == "inconclusive"
    assert replay(json.loads(json.dumps(trial_evidence(AB, better, late, ended))))
