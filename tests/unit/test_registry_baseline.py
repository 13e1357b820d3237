"""Baseline metrics: the values are scikit-learn's, the intervals cover, slices are the rows they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from registry.baseline import MIN_ROWS, build_baseline
from registry.bootstrap import classification_statistics, intervals, regression_statistics, resamples
from registry.contract import Column, Contract, Output
from registry.errors import ContractViolation
from registry.original import Answers

GENERATOR = np.random.default_rng(7)
ROWS = 1_200
TRUTH = GENERATOR.gamma(2.0, 30.0, ROWS)
PREDICTED = TRUTH + GENERATOR.normal(1.0, 8.0, ROWS)
LABELS = GENERATOR.integers(0, 3, ROWS)
SHARES = GENERATOR.dirichlet([1, 1, 1], ROWS) * 0.6 + np.eye(3)[LABELS] * 0.4
COLUMNS = (
    Column("carrier", "string"),
    Column("temp", "float", nullable=True),
    Column("late", "bool"),
    Column("secret", "string", policy="hash"),
)
FRAME = pd.DataFrame(
    {
        "carrier": GENERATOR.choice(["AA", "UA", "a|b"], ROWS, p=[0.6, 0.35, 0.05]),
        "temp": np.where(np.arange(ROWS) % 7 == 0, np.nan, GENERATOR.normal(size=ROWS)),
        "late": GENERATOR.random(ROWS) < 0.5,
        "secret": "x",
    }
)
NUMBERS = Contract("toy", COLUMNS, Output("regression"))
CLASSES = Contract("toy", COLUMNS, Output("classification", ("a", "b", "c")))
TEXTS = np.array(["a", "b", "c"])[LABELS]


def test_regression_metrics_are_those_of_scikit_learn() -> None:
    """To the last digit that a sum of floats has."""
    found = build_baseline(NUMBERS, Answers(PREDICTED[:, None]), TRUTH, FRAME)["metrics"]
    expected = {
        "mae": metrics.mean_absolute_error(TRUTH, PREDICTED),
        "rmse": metrics.root_mean_squared_error(TRUTH, PREDICTED),
        "median_ae": metrics.median_absolute_error(TRUTH, PREDICTED),
        "r2": metrics.r2_score(TRUTH, PREDICTED),
        "bias": float(np.mean(PREDICTED - TRUTH)),
    }
    assert {name: figure["value"] for name, figure in found.items()} == pytest.approx(expected, rel=1e-12)


def test_classification_metrics_are_those_of_scikit_learn() -> None:
    """Of three classes, and with ties of two."""
    found = build_baseline(CLASSES, Answers(SHARES, SHARES.argmax(axis=1)), TEXTS, FRAME)["metrics"]
    expected = {
        "accuracy": metrics.accuracy_score(LABELS, SHARES.argmax(axis=1)),
        "log_loss": metrics.log_loss(LABELS, SHARES),
        "brier": metrics.brier_score_loss(LABELS, SHARES, labels=[0, 1, 2]) / 2,
    }
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert "roc_auc" not in found
    score = np.round(GENERATOR.random(ROWS), 2)
    pair = np.stack([1 - score, score], axis=1)
    up = (LABELS > 0).astype(np.int64)
    auc = classification_statistics(up, pair, pair.argmax(axis=1), probabilities=True)["roc_auc"]
    assert float(auc(np.ones((1, ROWS)))[0]) == pytest.approx(metrics.roc_auc_score(up, score), rel=1e-12)


def test_a_resample_is_the_metric_of_the_rows_drawn() -> None:
    """Each statistic of weights is the plain metric on repeated rows."""
    counts = np.bincount(GENERATOR.integers(0, ROWS, ROWS), minlength=ROWS)
    rows = np.repeat(np.arange(ROWS), counts)
    weights = counts[None, :].astype(np.float32)
    found = {name: float(f(weights)[0]) for name, f in regression_statistics(TRUTH, PREDICTED).items()}
    assert found["median_ae"] == pytest.approx(np.median(np.abs(PREDICTED - TRUTH)[rows]), rel=1e-9)
    assert found["r2"] == pytest.approx(metrics.r2_score(TRUTH[rows], PREDICTED[rows]), rel=1e-4)
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(TRUTH[rows], PREDICTED[rows]), rel=1e-4)
    pair = np.stack([1 - SHARES[:, 1], SHARES[:, 1]], axis=1)
    up = (LABELS == 1).astype(np.int64)
    of_classes = classification_statistics(up, pair, pair.argmax(axis=1), probabilities=True)
    assert float(of_classes["roc_auc"](weights)[0]) == pytest.approx(
        metrics.roc_auc_score(up[rows], pair[rows, 1]), rel=1e-4
    )


def test_intervals_cover_the_true_value_about_as_often_as_they_say() -> None:
    """The true mean absolute error of a normal error is known; 200 samples of 300 rows."""
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        error = generator.normal(size=300)
        figure = intervals({"mae": regression_statistics(np.zeros(300), error)["mae"]}, 300, seed=seed)["mae"]
        assert figure["low"] is not None
        assert figure["high"] is not None
        covered += figure["low"] <= np.sqrt(2 / np.pi) <= figure["high"]
    assert 0.90 <= covered / 200 <= 0.985


def test_the_same_rows_give_the_same_intervals() -> None:
    """The bootstrap is seeded."""
    one, two = (build_baseline(NUMBERS, Answers(PREDICTED[:, None]), TRUTH, FRAME) for _ in range(2))
    assert one == two


def test_slices_are_the_rows_they_name() -> None:
    """Categories by frequency, bins of a number by quantiles, null on its own; few rows are marked."""
    found = build_baseline(NUMBERS, Answers(PREDICTED[:, None]), TRUTH, FRAME, slices=["carrier", "temp", "late"])[
        "slices"
    ]
    error = np.abs(PREDICTED - TRUTH)
    for part in found:
        if part["column"] == "carrier":
            rows = (FRAME["carrier"] == part["value"]).to_numpy()
        elif part["value"] == "null":
            rows = FRAME["temp"].isna().to_numpy()
        elif part["column"] == "late":
            rows = (FRAME["late"] == (part["value"] == "true")).to_numpy()
        else:
            continue
        assert part["rows"] == rows.sum()
        assert part["sufficient"] == (rows.sum() >= MIN_ROWS)
        assert part["metrics"]["mae"]["value"] == pytest.approx(error[rows].mean())
    assert [p["value"] for p in found if p["column"] == "carrier"] == ["AA", "UA", "a|b"]
    assert sum(p["rows"] for p in found if p["column"] == "temp") == ROWS
    assert {p["value"]: p["sufficient"] for p in found}["a|b"] is False
    assert len([p for p in found if p["column"] == "temp"]) == 11


def test_metrics_of_ones_own() -> None:
    """Values stand as they are; functions get an interval, of a classification on class values."""
    given: dict[str, Any] = {"revenue": 12.5, "cost": lambda y, p: float(np.mean(p > y))}
    found = build_baseline(NUMBERS, Answers(PREDICTED[:, None]), TRUTH, FRAME, metrics=given)["metrics"]
    assert found["revenue"] == {"value": 12.5, "low": None, "high": None}
    assert found["cost"]["value"] == pytest.approx(np.mean(PREDICTED > TRUTH))
    assert found["cost"]["low"] < found["cost"]["value"] < found["cost"]["high"]
    f1 = {"f1": lambda y, p: metrics.f1_score(y, p, average="macro")}
    of_classes = build_baseline(CLASSES, Answers(SHARES, SHARES.argmax(axis=1)), TEXTS, FRAME, metrics=f1)["metrics"]
    assert of_classes["f1"]["value"] == pytest.approx(metrics.f1_score(LABELS, SHARES.argmax(axis=1), average="macro"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"slices": ["nothing"]}, "slice 'nothing'"),
        ({"slices": ["secret"]}, "slice 'secret'"),
        ({"metrics": {"": 1.0}}, "name and a finite value"),
        ({"metrics": {"a b": 1.0}}, "name and a finite value"),
        ({"metrics": {"mine": float("nan")}}, "name and a finite value"),
        ({"metrics": {"mine": "high"}}, "name and a finite value"),
        ({"metrics": {"mine": lambda y, p: 1 / 0}}, "metric 'mine' fails"),
        ({"metrics": {"mine": lambda y: 1.0}}, "metric 'mine' fails"),
        ({"metrics": {"mine": lambda y, p: "high"}}, "metric 'mine' fails"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments: dict[str, Any], says: str) -> None:
    """A column kept out of the log does not enter the card by a slice."""
    with pytest.raises(ContractViolation, match=says):
        build_baseline(NUMBERS, Answers(PREDICTED[:, None]), TRUTH, FRAME, **arguments)


def test_without_labels_there_are_no_metrics() -> None:
    """But given values stay."""
    found = build_baseline(NUMBERS, Answers(PREDICTED[:, None]), None, FRAME, slices=["late"], metrics={"cost": 2.0})
    assert found["slices"] == []
    assert found["metrics"] == {"cost": {"value": 2.0, "low": None, "high": None}}


def test_undefined_metrics_are_said_to_be() -> None:
    """r2 of a constant, roc_auc of one class: no number, and JSON can hold it."""
    flat = intervals(regression_statistics(np.ones(50), np.zeros(50)), 50)
    assert flat["r2"] == {"value": None, "low": None, "high": None}
    one = classification_statistics(
        np.zeros(50, np.int64), np.full((50, 2), 0.5), np.zeros(50, np.int64), probabilities=True
    )
    assert intervals(one, 50)["roc_auc"]["value"] is None


def test_many_rows_take_fewer_resamples() -> None:
    """So that the time stays bounded."""
    assert [resamples(n) for n in (1, 10_000, 40_000, 10_000_000)] == [1_000, 1_000, 500, 200]
