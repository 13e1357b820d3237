"""Rows without labels: clusters, outliers, and models whose labels come later. Quality is unknown, not zero."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import WorkerMetrics
from monitoring.settings import MonitoringSettings
from monitoring.watching.monitor import Monitor
from registry.bundle import Bundle
from registry.log import build_bundle
from registry.mlflow_store import Store
from retrain.gauges import Gauges
from tests.conftest import Toy

SETTINGS = MonitoringSettings(window_rows=100, min_rows=50, window_max_age_s=50_000)


def rows(count: int, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    centre = generator.integers(0, 3, count) * 6.0
    return pd.DataFrame({"a": generator.normal(centre), "b": generator.normal(-centre)})


def outliers() -> Any:
    from sklearn.ensemble import IsolationForest

    return IsolationForest(n_estimators=20, random_state=0).fit(rows(1_000))


def clusters() -> Any:
    from sklearn.cluster import KMeans

    return KMeans(3, n_init=3, random_state=0).fit(rows(1_000))


def events(bundle: Bundle, count: int) -> tuple[pa.Table, pa.Table]:
    """Predictions 100 s apart, and a label for each, in the form of the event lake."""
    frame, output = rows(count, seed=1), bundle.contract.output
    at = pa.array([1_700_000_000_000_000 + 100_000_000 * i for i in range(count)], pa.timestamp("us", tz="UTC"))
    shares = np.eye(len(output.classes))[np.zeros(count, int)] if output.classes else np.zeros((count, 0))
    answer = [str(output.classes[0])] * count if output.classes else frame["a"].tolist()
    label = [str(output.classes[-1])] * count if output.classes else (frame["a"] + 1e6).tolist()
    identifiers = [f"p{i:06d}" for i in range(count)]
    made = pa.table(
        {
            **{name: pa.array(frame[name]) for name in frame},
            "_id": identifiers,
            "_at": at,
            "_seq": list(range(count)),
            "_version": [1] * count,
            "_arm": ["champion"] * count,
            "_prediction": answer,
            "_probabilities": pa.array(shares.tolist(), pa.list_(pa.float32())),
        }
    )
    told = pa.table({"_id": identifiers, "_at": at, "_received": at, "_seq": list(range(count)), "_label": label})
    return made, told


@pytest.mark.parametrize("make", [outliers, clusters])
def test_without_labels_everything_but_quality_works(make: Any, home: Path, tmp_path: Path) -> None:
    """Certified, registered, watched for drift; labels that come later raise no finding, whatever they say."""
    bundle = build_bundle(make(), rows(1_000), name="calm", to=tmp_path / "bundle")
    quality = bundle.reference["quality"]
    assert (quality["n"], quality["loss"], quality["value"]) == (0, None, None)
    assert "quality is unknown" in (bundle.path / "card.md").read_text()
    store = Store(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")
    assert store.register(bundle.path, "calm") == 1
    watch(bundle)


def test_labels_that_come_later_have_a_scale(regression: Toy, tmp_path: Path) -> None:
    """A regression without y: the loss cap comes from the spread of its answers."""
    bundle = build_bundle(regression.estimator, regression.X, name="later", to=tmp_path / "bundle")
    spread = float(np.abs(regression.y - regression.y.mean()).mean())
    assert 0.5 * spread < bundle.reference["quality"]["cap"] / 4 < 2 * spread


def test_a_holdout_without_labels_is_one_too(regression: Toy, tmp_path: Path) -> None:
    """Labels of the training rows say nothing of it."""
    bundle = build_bundle(
        regression.estimator,
        regression.X,
        regression.y,
        name="later",
        to=tmp_path / "bundle",
        holdout=(regression.X.head(500), None),
    )
    assert bundle.reference["rows"] == 500
    assert bundle.reference["quality"]["loss"] is None


def watch(bundle: Bundle) -> None:
    """The monitor takes the reference, labels and all, and its gauges show what is known."""
    monitor = Monitor.start("calm", 1, bundle.contract, bundle.reference, SETTINGS)
    findings = monitor.observe(*events(bundle, 600))
    assert not [finding for finding in findings if finding.kind == "performance"]
    again = Monitor.restore(monitor.state(), bundle.contract, bundle.reference, SETTINGS)
    facts = again.snapshot()
    assert facts["labels_joined"] > 590
    assert facts["performance_state"] == "insufficient"
    assert facts["performance"]["reference"] is None
    metrics = WorkerMetrics(CollectorRegistry())
    gauges = Gauges(metrics)
    gauges.monitor("calm", facts)
    gauges.reference_age("calm", bundle.reference, datetime.now(UTC))
