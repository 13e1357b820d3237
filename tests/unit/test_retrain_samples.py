"""From joined rows to strata and pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from registry.contract import Output
from retrain.trials.guards import Outcome
from retrain.trials.policy import Baseline, Mark, Policy, Trial
from retrain.trials.samples import ab_stats, baseline, paired_losses
from retrain.trials.several import Epoch
from retrain.trials.several_samples import several_stats

NUMBER = Output("regression")
CLASSES = Output("classification", (0, 1))
DAY = datetime(2013, 7, 1, tzinfo=UTC)
POLICY = Policy(
    margin=0.01,
    alpha=0.05,
    stages=("shadow", "ab:0.25", "ab:0.5"),
    dwell_s=0.0,
    shadow_labels=30,
    canary_units=1,
    step_labels=10,
    min_per_arm=30,
    planned_per_arm=100,
    limit_s=1e9,
    watch_s=0.0,
    loss_sd=0.2,
    latency=2.0,
)
TRIAL = Trial("e", 1, 2, "r", DAY, DAY, POLICY, 10.0, step=1, marks=(Mark(0, 3), Mark(1, 4), Mark(2, 6)))


def joined(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as the lake joins them; what is not given is null."""
    stamp = pa.timestamp("us", tz="UTC")
    types = {
        "_id": pa.string(),
        "_at": stamp,
        "_version": pa.int64(),
        "_arm": pa.string(),
        "_entity": pa.string(),
        "_deployment": pa.int64(),
        "_assigned": pa.int64(),
        "_latency_ms": pa.float64(),
        "_outcome_revenue": pa.float64(),
        "_prediction": pa.float64(),
        "_probabilities": pa.list_(pa.float32()),
        "_label_at": stamp,
        "_shadow_prediction": pa.float64(),
        "_shadow_probabilities": pa.list_(pa.float32()),
        "_shadow_version": pa.int64(),
    }
    if any(isinstance(r.get("_prediction"), str) for r in rows):
        types["_prediction"] = pa.string()
    label = pa.string() if any(isinstance(r.get("_label"), str) for r in rows) else pa.float64()
    return pa.table({n: pa.array([r.get(n) for r in rows], t) for n, t in {**types, "_label": label}.items()})


def row(i: int, version: int, prediction: float, **more: Any) -> dict[str, Any]:
    return {
        "_id": f"r{i}",
        "_at": DAY + timedelta(minutes=i),
        "_version": version,
        "_arm": "champion" if version == 1 else "candidate",
        "_entity": "",
        "_deployment": 4,
        "_assigned": version,
        "_latency_ms": 1.0,
        "_prediction": prediction,
        "_label": 10.0,
        "_label_at": DAY + timedelta(minutes=100 - i),
        **more,
    }


def test_only_what_the_trial_s_deployments_drew_counts() -> None:
    """Not the rows of other revisions, of pinned callers and segments, nor of other versions."""
    rows = [row(0, 1, 0.0, _deployment=3), row(1, 2, 11.0), row(2, 1, 12.0), row(3, 9, 0.0)]
    rows += [row(4, 2, 50.0, _assigned=0, _arm="pinned"), row(5, 1, 50.0, _assigned=None)]
    rows += [row(6, 1, 0.0, _deployment=5)]
    found = ab_stats(joined(rows), TRIAL, NUMBER)
    assert found.exposed == (1, 1)
    (only,) = found.strata
    assert (only.key, only.n_t, only.n_c) == ("1/2013-07-01", 1, 1)
    assert (only.sum_t, only.sum_c) == pytest.approx((0.1, 0.2))


def test_an_entity_counts_once_by_its_mean() -> None:
    """On the day of its first request."""
    more = {"_entity": "plane"}
    rows = [row(0, 2, 0.0), row(1, 1, 11.0, **more), row(3, 1, 13.0, _at=DAY + timedelta(days=3), **more)]
    rows += [row(4, 1, 10.0)]
    found = ab_stats(joined(rows), TRIAL, NUMBER)
    assert found.exposed == (2, 1)
    (only,) = found.strata
    assert only.n_c == 2
    assert only.sum_c == pytest.approx(0.2)


def test_an_entity_that_comes_back_in_a_wider_step_counts_there_alone() -> None:
    """With the arm that it has there; the split is still checked in each step."""
    rows = [row(0, 1, 15.0, _entity="a"), row(1, 2, 10.0, _entity="b")]
    rows += [row(2, 2, 11.0, _entity="a", _deployment=6), row(3, 1, 12.0, _deployment=6)]
    found = ab_stats(joined(rows), TRIAL, NUMBER)
    assert [s.key for s in found.strata] == ["1/2013-07-01", "2/2013-07-01"]
    assert [(s.n_t, s.n_c) for s in found.strata] == [(1, 0), (1, 1)]
    assert [(u.key, u.weight, u.n_t, u.n_c) for u in found.units] == [("1", 0.25, 1, 1), ("2", 0.5, 1, 1)]


def test_what_the_candidate_failed_is_its_own_though_the_champion_answered() -> None:
    """Intention to treat: the row counts in the candidate's arm, and as a failure there."""
    rows = [row(0, 2, 10.0), row(1, 1, 15.0, _arm="fallback", _assigned=2), row(2, 1, 10.0)]
    found = ab_stats(joined(rows), TRIAL, NUMBER)
    assert (found.failed[0].n_t, found.failed[0].hits_t, found.failed[0].hits_c) == (2, 1, 0)
    assert found.strata[0].sum_t == pytest.approx(0.5)


def test_guardrails_measure_against_what_the_champion_did_before() -> None:
    """Its p99 times what is tolerated, and the spread of its answers."""
    before = [row(i, 1, float(i % 10), _latency_ms=10.0, _deployment=3) for i in range(200)]
    base = baseline(joined([*before, row(1, 2, 1e9)]), TRIAL, NUMBER)
    assert base.slow_ms == 20.0
    assert (base.mean, base.sd) == pytest.approx((4.5, 2.872), abs=1e-3)
    assert baseline(joined(before[:99]), TRIAL, NUMBER) == Baseline()
    trial = replace(TRIAL, baseline=base)
    rows = [row(0, 2, 1e9, _latency_ms=20.5), row(1, 2, 4.5, _latency_ms=20.0), row(2, 1, 4.5)]
    found = ab_stats(joined(rows), trial, NUMBER)
    assert (found.slow[0].hits_t, found.slow[0].hits_c) == (1, 0)
    assert (found.answers[0].sum_t, found.answers[0].sum_c) == pytest.approx((5.0, 0.0))


def test_classes_are_counted_once_for_each_entity() -> None:
    base = Baseline(shares={"0": 0.5, "1": 0.5})
    said = [row(i, 1 + i % 2, 0.0, _prediction=str(i % 2), _probabilities=[0.5, 0.5]) for i in range(4)]
    said.append(row(4, 2, 0.0, _prediction="0", _probabilities=[0.5, 0.5], _entity="r1"))
    found = ab_stats(joined(said), replace(TRIAL, baseline=base), CLASSES)
    assert [(c.n_t, c.hits_t, c.n_c, c.hits_c) for c in found.classes["1"]] == [(2, 2, 2, 0)]


def test_an_outcome_may_be_what_is_compared() -> None:
    """As a loss: 0 at its best bound and 1 at its worst; what nobody told is left out."""
    revenue = Outcome("revenue", (0.0, 10.0), True, 0.0, 2.0)
    rows = [row(0, 2, 0.0, _outcome_revenue=8.0), row(1, 1, 0.0, _outcome_revenue=99.0), row(2, 1, 0.0)]
    for metric, low_t in (("revenue", 0.2), ("loss", 1.0)):
        trial = replace(TRIAL, policy=replace(POLICY, metric=metric, outcomes=(revenue,)))
        found = ab_stats(joined(rows), trial, NUMBER)
        assert found.strata[0].sum_t == pytest.approx(low_t)
        assert set(found.outcomes) == ({"revenue"} if metric == "loss" else set())
    assert (found.strata[0].n_c, found.outcomes["revenue"][0].n_c) == (2, 1)
    assert found.outcomes["revenue"][0].sum_c == 10.0


def test_unlabelled_rows_are_exposed_but_not_judged() -> None:
    rows = [row(0, 2, 0.0, _label=None), row(1, 2, 10.0, _label=None), row(2, 1, 10.0)]
    found = ab_stats(joined(rows), TRIAL, NUMBER)
    assert found.exposed == (1, 2)
    assert (found.strata[0].n_t, found.strata[0].n_c) == (0, 1)


def test_no_rows_are_no_evidence() -> None:
    assert ab_stats(joined([]), TRIAL, NUMBER).exposed == (0, 0)
    assert paired_losses(joined([]), output=NUMBER, cap=1.0, champion=1, candidate=2)[0] == []


def test_pairs_come_in_the_order_of_their_labels() -> None:
    """And only from requests that both versions answered."""
    both = {"_shadow_version": 2, "_shadow_prediction": 10.0}
    rows = [row(0, 1, 12.0, **both), row(1, 1, 15.0, **both), row(2, 1, 15.0), row(3, 1, 11.0, **both, _label=None)]
    ids, d = paired_losses(joined(rows), output=NUMBER, cap=10.0, champion=1, candidate=2)
    assert ids == ["r1", "r0"]
    np.testing.assert_allclose(d, [0.5, 0.2], rtol=1e-6)


def test_classes_are_compared_by_their_probabilities() -> None:
    """Labels are text in the lake; a row without probabilities is left out."""
    both = {"_shadow_version": 2, "_shadow_probabilities": [0.0, 1.0]}
    rows = [
        row(0, 1, 0.0, _label="1", _probabilities=[0.5, 0.5], **both),
        row(1, 1, 0.0, _label="1", _probabilities=None, **both),
    ]
    ids, d = paired_losses(joined(rows), output=CLASSES, cap=1.0, champion=1, candidate=2)
    assert ids == ["r0"]
    np.testing.assert_allclose(d, [0.25])


def test_a_unit_that_comes_back_counts_once_among_those_that_may_have_failed() -> None:
    """In its last epoch, failed or not: failures of one epoch among the units of all would be fewer every day."""
    marks = (Mark(0, 5, ((2, 0.4), (3, 0.3), (1, 0.3))), Mark(0, 6, ((2, 0.4), (3, 0.2), (1, 0.4))))
    trial = replace(TRIAL, others=(3,), marks=marks)
    rows = [
        (epoch, entity, 2 if entity < 40 else 1) for epoch in (5, 6) for entity in range(60) if epoch == 5 or entity
    ]
    table = joined(
        [
            {
                "_id": f"{epoch}-{entity}",
                "_entity": str(entity),
                "_deployment": epoch,
                "_assigned": version,
                "_arm": "fallback" if version == 2 and entity % 4 == 0 else "candidate",
                "_prediction": 0.0,
                "_label": 0.0,
            }
            for epoch, entity, version in rows
        ]
    )
    first, second = several_stats(table, trial, NUMBER).epochs
    assert (first.units[2], second.units[2]) == (40, 39)
    assert (first.once[2], second.once[2]) == (1, 39)
    assert (first.failed[2], second.failed[2]) == (1, 9)
    assert Epoch.from_dict(json.loads(json.dumps(first.to_dict()))) == first
