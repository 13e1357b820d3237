"""LightGBM: its graph answers as it does, whatever the objective, nulls, zeros and categories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline

from registry.convert import convert
from registry.errors import ConversionRefused
from registry.infer import infer_contract
from tests.integration.export_parity import assert_exact, certificate, classes, frame, needs, numbers, target

LAST_BITS = 1e-12
SETTINGS = {"n_estimators": 20, "n_jobs": 1, "verbose": -1}


def _model(name: str = "LGBMRegressor", **options: Any) -> Any:
    return getattr(needs("lightgbm"), name)(**{**SETTINGS, **options})


@pytest.mark.parametrize(
    "objective",
    ["regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie"],
)
def test_objectives_of_numbers(objective: str) -> None:
    """With the exponential of those that have one."""
    rows = numbers()
    assert_exact(_model(objective=objective).fit(rows, target(rows)), rows, beyond=LAST_BITS)


@pytest.mark.parametrize("objective", ["cross_entropy", "cross_entropy_lambda"])
def test_objectives_of_shares(objective: str) -> None:
    """Answers between 0 and 1."""
    rows = numbers()
    labels = target(rows) / target(rows).max()
    assert_exact(_model(objective=objective).fit(rows, labels), rows, beyond=LAST_BITS)


@pytest.mark.parametrize(
    "options",
    [
        {"zero_as_missing": True},
        {"use_missing": False},
        {"reg_sqrt": True},
        {"boosting_type": "dart"},
        {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
    ],
    ids=str,
)
def test_options_that_change_what_trees_mean(options: dict[str, Any]) -> None:
    """Zero as null, null as zero, roots, and means instead of sums."""
    rows = numbers()
    assert_exact(_model(**options).fit(rows, target(rows)), rows, beyond=LAST_BITS)


def test_nulls_that_training_did_not_see_are_zeros() -> None:
    """The model was fitted without nulls, and is given some."""
    rows = numbers()
    assert_exact(_model().fit(rows.fillna(1.0), target(rows)), rows, beyond=LAST_BITS)


def test_categories_of_the_frame_and_of_numbers() -> None:
    """Text by its category, whole numbers by themselves."""
    rows = frame()
    model = _model(cat_smooth=1, min_data_per_group=1)
    assert_exact(model.fit(rows, target(rows), categorical_feature=["whole", "few", "many"]), rows, beyond=LAST_BITS)


@pytest.mark.parametrize(
    ("count", "options"), [(2, {"sigmoid": 2.5}), (2, {}), (4, {}), (4, {"objective": "multiclassova"})], ids=str
)
def test_classes(count: int, options: dict[str, Any]) -> None:
    """Two classes and several; each against all others does not add up to one, and need not."""
    rows = frame()
    assert_exact(_model("LGBMClassifier", **options).fit(rows, classes(rows, count)), rows, beyond=LAST_BITS)


def test_predictions_stop_at_the_best_round() -> None:
    """Early stopping keeps later trees in the model, and does not use them."""
    lightgbm, rows = needs("lightgbm"), numbers()
    labels = target(rows)
    data = lightgbm.Dataset(rows[:700], labels[:700], free_raw_data=False)
    booster = lightgbm.train(
        {"num_threads": 1, "verbosity": -1, "learning_rate": 0.5},
        data,
        300,
        valid_sets=[data.create_valid(rows[700:], labels[700:])],
        callbacks=[lightgbm.early_stopping(3, verbose=False)],
        keep_training_booster=True,
    )
    assert 0 < booster.best_iteration < booster.current_iteration()
    assert_exact(booster, rows, beyond=LAST_BITS)


def test_a_booster_of_classes_is_a_classifier() -> None:
    """It answers shares; the classes are counted from zero."""
    rows = frame()
    booster = _model("LGBMClassifier").fit(rows, classes(rows, 2)).booster_
    assert infer_contract(booster, rows, "exported").output.classes == (0, 1)
    assert_exact(booster, rows, beyond=LAST_BITS)


def test_a_ranking_is_a_number() -> None:
    """What orders the rows."""
    rows = numbers()
    assert_exact(_model("LGBMRanker").fit(rows, classes(rows, 4), group=[30] * 50), rows, beyond=LAST_BITS)


def test_after_other_steps() -> None:
    """Categories of text reach it through a transformer that leaves them as they are."""
    rows = frame()
    before = make_column_transformer(("passthrough", ["few", "many"]), remainder="passthrough")
    model = make_pipeline(before.set_output(transform="pandas"), _model())
    assert_exact(model.fit(rows, target(rows)), rows, beyond=LAST_BITS)


def test_leaves_that_are_linear_are_refused() -> None:
    """A leaf of ONNX is a number."""
    rows = numbers()
    with pytest.raises(ConversionRefused, match="linear"):
        certificate(_model(linear_tree=True).fit(rows, target(rows)), rows)


def test_seconds_since_1970_take_float64() -> None:
    """Float32 holds them to 128 seconds: that form is refused, naming the column, and the next is exact."""
    generator = np.random.default_rng(0)
    seconds = 1.6e9 + np.sort(generator.random(2_000)) * 86_400
    rows = pd.DataFrame({"departed": seconds, "distance": generator.integers(100, 900, 2_000)})
    labels = np.sin(seconds / 700) * 50 + rows["distance"] / 100
    model = _model(n_estimators=60, max_bin=1_000, min_child_samples=5).fit(rows, labels)
    contract = infer_contract(model, rows, "epochs")
    assert contract.precision == "float32"  # its values do not say that it needs more
    made = convert(model, contract, rows, runtime="onnx")
    first, second = made.certificate["tried"]
    assert (first["precision"], first["verdict"]) == ("float32", "refused")
    assert first["guilty_columns"][0] == "departed"
    assert (second["precision"], second["verdict"], made.contract.precision) == ("float64", "exact", "float64")


@pytest.mark.parametrize("wrap", ["calibrated", "voting", "stacking", "bagging"])
def test_inside_ensembles_of_scikit_learn(wrap: str) -> None:
    """Its answers go on into other steps; the member that they were made from is not fitted."""
    from sklearn import calibration, ensemble
    from sklearn.linear_model import LogisticRegression

    rows, inner = numbers(), _model("LGBMClassifier", n_estimators=5)
    members = [("trees", inner), ("more", _model("LGBMClassifier", n_estimators=3))]
    made = {
        "calibrated": lambda: calibration.CalibratedClassifierCV(inner, cv=2),
        "voting": lambda: ensemble.VotingClassifier(members, voting="soft"),
        "stacking": lambda: ensemble.StackingClassifier(members, LogisticRegression(), cv=2),
        "bagging": lambda: ensemble.BaggingClassifier(inner, n_estimators=3),
    }
    assert_exact(made[wrap]().fit(rows, classes(rows, 2)), rows, beyond=LAST_BITS)
