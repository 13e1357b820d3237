"""Trials: each decision, and that its evidence decides the same again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.ledger import Deployment
from retrain.evidence import replay
from retrain.trials.experiments import AbStats, Policy, ShadowStats, Trial, advance, trial_evidence
from retrain.trials.sequential import Stratum
from retrain.trials.trials import reconcile

NOW = datetime(2013, 7, 1, tzinfo=UTC)
POLICY = Policy(0.01, 0.05, 300, 0.5, 300, 3000, 30 * 86_400.0, 0.15)
SHADOW = Trial("e", 1, 2, "performance", "shadow", NOW, POLICY, 40.0)
AB = SHADOW.at_stage("ab")


def shadow(mean: float, n: int, sd: float = 0.1) -> ShadowStats:
    d = np.random.default_rng(1).normal(0.0, sd, n)
    return ShadowStats(np.clip(d - d.mean() + mean, -1, 1).astype(np.float32))


def ab(effect: float, per_day: int, days: int, sd: float = 0.15, exposed: tuple[int, int] | None = None) -> AbStats:
    """Equal arms on each day; losses around 0.3 and 0.3 - effect."""
    t, c = 0.3 - effect, 0.3
    squares = [per_day * (m * m + sd * sd) for m in (t, c)]
    rows = [Stratum(f"d{i}", per_day, per_day * t, squares[0], per_day, per_day * c, squares[1]) for i in range(days)]
    return AbStats(tuple(rows), exposed or (per_day * days, per_day * days))


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
    assert advance(SHADOW, stats, NOW).action == action


@pytest.mark.parametrize(
    ("stats", "action"),
    [
        (AbStats((), (0, 0)), "continue"),
        (ab(0.1, 40, 5), "continue"),
        (ab(0.1, 100, 10), "promote"),
        (ab(0.0, 400, 20), "continue"),
        (ab(-0.05, 100, 10), "reject"),
        (ab(0.1, 100, 10, exposed=(1185, 1000)), "pause"),
        (ab(0.1, 100, 10, exposed=(1400, 1000)), "abort"),
    ],
)
def test_ab(stats: AbStats, action: str) -> None:
    assert advance(AB, stats, NOW).action == action


def test_freshness_promotes_an_equal_model_at_the_planned_sample_only() -> None:
    fresh = replace(AB, reason="freshness")
    assert advance(fresh, ab(0.0, 290, 10), NOW).action == "continue"
    assert advance(fresh, ab(0.0, 300, 20), NOW).action == "promote"


def test_time_up_is_inconclusive_and_never_a_promotion() -> None:
    late = NOW + timedelta(days=30)
    assert advance(AB, ab(0.0, 100, 10), late).action == "inconclusive"
    assert advance(SHADOW, shadow(0.1, 10), late).action == "inconclusive"
    assert advance(AB, ab(0.1, 100, 10), late).action == "promote"


@given(st.integers(0, 500), st.floats(-0.3, 0.3), st.sampled_from(["performance", "freshness"]))
def test_shadow_evidence_replays_exactly(n: int, mean: float, reason: str) -> None:
    """Through JSON and back, the same action, reason and numbers; another number is noticed."""
    trial = replace(SHADOW, reason=reason)
    stats = shadow(mean, n) if n else ShadowStats(np.zeros(0, dtype=np.float32))
    body = json.loads(json.dumps(trial_evidence(trial, stats, NOW, advance(trial, stats, NOW))))
    assert replay(body)
    body["facts"]["effect"] += 1e-9
    assert not replay(body)


@given(st.integers(0, 300), st.integers(0, 20), st.floats(-0.2, 0.2))
def test_ab_evidence_replays_exactly(per_day: int, days: int, effect: float) -> None:
    stats = ab(effect, per_day, days)
    body = json.loads(json.dumps(trial_evidence(AB, stats, NOW, advance(AB, stats, NOW))))
    assert replay(body)
    assert not replay({**body, "action": "rollback"})


def test_unknown_evidence_is_not_confirmed() -> None:
    assert not replay({"subject": "finding"})


def deployment(champion: int, candidate: int | None, mode: str | None) -> Deployment:
    return Deployment("m", 3, champion, candidate, mode, 0.5, "", "a", "r", NOW, None, "", "")  # type: ignore[arg-type]


def test_the_deployment_tells_how_far_a_trial_came() -> None:
    """After a crash between the move and the trial's row, the move is what happened."""
    assert reconcile(SHADOW, deployment(1, None, None)) == "enter"
    assert reconcile(SHADOW, deployment(1, 2, "shadow")) == "shadow"
    assert reconcile(SHADOW, deployment(1, 2, "ab")) == "ab"
    assert reconcile(SHADOW, deployment(2, None, None)) == "promoted"
    assert reconcile(SHADOW, deployment(7, None, None)) == "aborted"
    assert reconcile(SHADOW, deployment(1, 9, "shadow")) == "aborted"
