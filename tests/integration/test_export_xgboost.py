"""XGBoost: its graph answers as it does; it sums in float32 itself, so that the last digits differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from registry.errors import ConversionRefused
from registry.infer import infer_contract
from tests.integration.export_parity import assert_exact, certificate, classes, frame, needs, numbers, target

SETTINGS = {"n_estimators": 20, "n_jobs": 1, "max_depth": 5, "enable_categorical": True}


def _model(name: str = "XGBRegressor", **options: Any) -> Any:
    return getattr(needs("xgboost"), name)(**{**SETTINGS, **options})


@pytest.mark.parametrize(
    "objective",
    [
        "reg:squarederror",
        "reg:squaredlogerror",
        "reg:absoluteerror",
        "reg:pseudohubererror",
        "count:poisson",
        "reg:gamma",
        "reg:tweedie",
    ],
)
def test_objectives_of_numbers(objective: str) -> None:
    """Each starts from a number of its own, in the unit of its answers."""
    rows = numbers()
    assert_exact(_model(objective=objective).fit(rows, target(rows)), rows)


def test_shares() -> None:
    """Answers between 0 and 1."""
    rows = numbers()
    assert_exact(_model(objective="reg:logistic").fit(rows, target(rows) / target(rows).max()), rows)


@pytest.mark.parametrize("options", [{"max_cat_to_onehot": 200}, {"max_cat_to_onehot": 2}], ids=str)
def test_categories_of_the_frame(options: dict[str, Any]) -> None:
    """Asked for one by one, or as sets."""
    rows = frame()
    assert_exact(_model(**options).fit(rows, target(rows)), rows)


def test_categories_whose_names_are_not_ascii_are_refused() -> None:
    """XGBoost 3.2 takes some of them for others, so that there is no table of them to copy."""
    rows = frame()
    rows["few"] = rows["few"].cat.rename_categories({"a": "à"})
    with pytest.raises(ConversionRefused, match="ASCII"):
        certificate(_model().fit(rows, target(rows)), rows)


@pytest.mark.parametrize(
    ("objective", "count"),
    [("binary:logistic", 2), ("binary:hinge", 2), ("multi:softprob", 4), ("multi:softmax", 4)],
)
def test_classes(objective: str, count: int) -> None:
    """Few of the second class, so that the start is not one half."""
    rows = frame()
    labels = classes(rows, count) if count > 2 else (target(rows) > np.quantile(target(rows), 0.9)).astype(int)
    assert_exact(_model("XGBClassifier", objective=objective).fit(rows, labels), rows)


@pytest.mark.parametrize(
    "options",
    [{"missing": 0.0}, {"booster": "dart", "rate_drop": 0.3}, {"num_parallel_tree": 3, "subsample": 0.5}],
    ids=str,
)
def test_options_that_change_what_trees_mean(options: dict[str, Any]) -> None:
    """Another null, weighted trees, several trees a round."""
    rows = numbers().fillna(1.0)
    assert_exact(_model(**options).fit(rows, target(rows)), rows)


def test_several_numbers_a_row() -> None:
    """Two quantiles, or two columns of labels."""
    rows = numbers()
    quantiles = _model(objective="reg:quantileerror", quantile_alpha=[0.1, 0.9])
    assert_exact(quantiles.fit(rows, target(rows)), rows)
    assert_exact(_model().fit(rows, np.column_stack([target(rows), -target(rows)])), rows)


def test_leaves_of_several_numbers_are_refused() -> None:
    """They would need a tree of ONNX each."""
    rows = numbers()
    model = _model(multi_strategy="multi_output_tree")
    with pytest.raises(ConversionRefused, match="several numbers"):
        certificate(model.fit(rows, np.column_stack([target(rows), -target(rows)])), rows)


def test_predictions_stop_at_the_best_round() -> None:
    """The scikit-learn form stops there, the booster itself does not."""
    rows = numbers()
    labels = target(rows)
    model = _model(n_estimators=300, learning_rate=0.7, early_stopping_rounds=3)
    model.fit(rows[:700], labels[:700], eval_set=[(rows[700:], labels[700:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    assert_exact(model, rows)
    assert_exact(model.get_booster(), rows)


@pytest.mark.parametrize("count", [2, 4])
def test_a_booster_of_classes_is_a_classifier(count: int) -> None:
    """It answers shares; the classes are counted from zero."""
    rows = frame()
    booster = _model("XGBClassifier").fit(rows, classes(rows, count)).get_booster()
    assert infer_contract(booster, rows, "exported").output.classes == tuple(range(count))
    assert_exact(booster, rows)


def test_forests() -> None:
    """Of numbers and of classes."""
    rows = numbers()
    assert_exact(_model("XGBRFRegressor").fit(rows, target(rows)), rows)
    assert_exact(_model("XGBRFClassifier").fit(rows, classes(rows, 2)), rows)


def test_a_ranking_is_a_number() -> None:
    """What orders the rows."""
    rows = numbers()
    assert_exact(_model("XGBRanker").fit(rows, classes(rows, 4), group=[30] * 50), rows)


def test_after_other_steps() -> None:
    """It reads in float32 what a scaler computed in float64."""
    rows = numbers().astype({"large": np.float64})
    before = make_column_transformer((StandardScaler(), ["large"]), remainder="passthrough")
    assert_exact(make_pipeline(before, _model("XGBClassifier")).fit(rows, classes(rows, 2)), rows)


def test_columns_of_float64_are_read_as_float32() -> None:
    """Large numbers with a fraction: the graph rounds them as XGBoost does."""
    rows = pd.DataFrame({"seconds": 1.6e9 + np.random.default_rng(0).random(1_500) * 86_400})
    labels = np.sin(rows["seconds"] / 5_000)
    assert_exact(_model().fit(rows, labels), rows)


def test_a_linear_booster_is_refused() -> None:
    """It has no trees."""
    rows = numbers().fillna(0.0)
    model = needs("xgboost").XGBRegressor(booster="gblinear", n_estimators=3, n_jobs=1)
    with pytest.raises(ConversionRefused, match="no trees"):
        certificate(model.fit(rows, target(rows)), rows)
