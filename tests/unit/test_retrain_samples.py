"""From joined rows to strata and pairs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from registry.contract import Output
from retrain.trials.samples import ab_stats, paired_losses

NUMBER = Output("regression")
CLASSES = Output("classification", (0, 1))
DAY = datetime(2013, 7, 1, tzinfo=UTC)


def joined(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as the lake joins them; what is not given is null."""
    stamp = pa.timestamp("us", tz="UTC")
    types = {
        "_id": pa.string(),
        "_at": stamp,
        "_version": pa.int64(),
        "_arm": pa.string(),
        "_entity": pa.string(),
        "_prediction": pa.float64(),
        "_probabilities": pa.list_(pa.float32()),
        "_label_at": stamp,
        "_shadow_prediction": pa.float64(),
        "_shadow_probabilities": pa.list_(pa.float32()),
        "_shadow_version": pa.int64(),
    }
    label = pa.string() if any(isinstance(r.get("_label"), str) for r in rows) else pa.float64()
    return pa.table({n: pa.array([r.get(n) for r in rows], t) for n, t in {**types, "_label": label}.items()})


def row(i: int, version: int, prediction: float, **more: Any) -> dict[str, Any]:
    return {
        "_id": f"r{i}",
        "_at": DAY + timedelta(minutes=i),
        "_version": version,
        "_arm": "champion" if version == 1 else "candidate",
        "_entity": "",
        "_prediction": prediction,
        "_label": 10.0,
        "_label_at": DAY + timedelta(minutes=100 - i),
        **more,
    }


def test_nothing_before_the_first_candidate_counts() -> None:
    """Until serving follows, the champion's rows are of another moment."""
    rows = [row(0, 1, 0.0), row(1, 2, 0.0), row(2, 1, 12.0), row(3, 2, 11.0), row(4, 9, 0.0)]
    found = ab_stats(joined(rows), output=NUMBER, cap=10.0, champion=1, candidate=2)
    assert found.exposed == (1, 1)
    (only,) = found.strata
    assert (only.key, only.n_t, only.n_c) == ("2013-07-01", 1, 1)
    assert (only.sum_t, only.sum_c) == pytest.approx((0.1, 0.2))


def test_an_entity_counts_once_a_day_by_its_mean() -> None:
    rows = [row(0, 2, 0.0)] + [row(i, 1, 10.0 + i, _entity="plane") for i in (1, 3)] + [row(4, 1, 10.0)]
    found = ab_stats(joined(rows), output=NUMBER, cap=10.0, champion=1, candidate=2)
    assert found.exposed == (2, 0)
    assert found.strata[0].n_c == 2
    assert found.strata[0].sum_c == pytest.approx(0.2)


def test_unlabelled_rows_are_exposed_but_not_judged() -> None:
    rows = [row(0, 2, 0.0), row(1, 2, 10.0, _label=None), row(2, 1, 10.0)]
    found = ab_stats(joined(rows), output=NUMBER, cap=10.0, champion=1, candidate=2)
    assert found.exposed == (1, 1)
    assert (found.strata[0].n_t, found.strata[0].n_c) == (0, 1)


def test_no_rows_are_no_evidence() -> None:
    assert ab_stats(joined([]), output=NUMBER, cap=1.0, champion=1, candidate=2).exposed == (0, 0)
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


def test_a_pinned_request_is_not_part_of_the_trial() -> None:
    """Its caller chose the version; nobody drew a lot."""
    drawn = [row(0, 2, 10.0), row(1, 1, 10.0), row(2, 2, 10.0)]
    pinned = [row(3, 2, 50.0, _arm="pinned"), row(4, 1, 50.0, _arm="pinned")]
    without = ab_stats(joined(drawn), output=NUMBER, champion=1, candidate=2, cap=20.0)
    assert without.exposed == (1, 1)
    assert ab_stats(joined(drawn + pinned), output=NUMBER, champion=1, candidate=2, cap=20.0) == without
