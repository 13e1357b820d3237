"""CatBoost: its graph answers as it does, to the last bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from registry.errors import ConversionRefused
from registry.infer import infer_contract
from tests.integration.export_parity import assert_exact, certificate, classes, frame, needs, numbers, target

LAST_BITS = 1e-12
SETTINGS = {"iterations": 20, "thread_count": 1, "verbose": 0, "allow_writing_files": False}


def _model(name: str = "CatBoostRegressor", **options: Any) -> Any:
    return getattr(needs("catboost"), name)(**{**SETTINGS, **options})


def _texts() -> pd.DataFrame:
    """Text of few categories instead of those of the frame."""
    rows = frame().drop(columns="many")
    return rows.assign(few=rows["few"].astype(object).where(rows["few"].notna(), "é"))


@pytest.mark.parametrize(
    "loss",
    ["RMSE", "MAE", "Quantile:alpha=0.9", "Poisson", "Tweedie:variance_power=1.5", "LogCosh", "Huber:delta=1.0"],
)
def test_losses(loss: str) -> None:
    """With the exponential of those that have one."""
    rows = numbers()
    assert_exact(_model(loss_function=loss).fit(rows, target(rows)), rows, beyond=LAST_BITS)


@pytest.mark.parametrize("mode", ["Min", "Max"])
def test_nulls(mode: str) -> None:
    """Below every number, or above."""
    rows = numbers()
    assert_exact(_model(nan_mode=mode).fit(rows, target(rows)), rows, beyond=LAST_BITS)


@pytest.mark.parametrize("policy", ["SymmetricTree", "Depthwise", "Lossguide"])
@pytest.mark.parametrize("name", ["CatBoostRegressor", "CatBoostClassifier"])
def test_shapes_of_trees(name: str, policy: str) -> None:
    """Symmetric ones and others, with one sum and with several."""
    rows = numbers()
    labels: Any = target(rows) if name == "CatBoostRegressor" else classes(rows, 4)
    assert_exact(_model(name, grow_policy=policy).fit(rows, labels), rows, beyond=LAST_BITS)


@pytest.mark.parametrize("dtype", ["object", "category"])
def test_few_categories(dtype: str) -> None:
    """Text and whole numbers, compared by CatBoost's hash of them."""
    rows = _texts().astype({"few": dtype})
    model = _model(cat_features=["few", "whole"], one_hot_max_size=50)
    assert_exact(model.fit(rows, target(numbers())), rows, beyond=LAST_BITS)


def test_many_categories_are_refused() -> None:
    """CatBoost replaces them by statistics of the target, and serves them itself."""
    rows = frame()[["whole", "many"]]
    with pytest.raises(ConversionRefused, match="statistics of the target"):
        certificate(_model(cat_features=["many"]).fit(rows, rows["many"].cat.codes % 7), rows)


def test_a_category_that_the_rows_do_not_have_is_refused() -> None:
    """Its hash cannot be turned into a name."""
    rows = _texts()
    model = _model(cat_features=["few"], one_hot_max_size=50).fit(rows, rows["few"].map(ord) % 3)
    with pytest.raises(ConversionRefused, match="these rows do not have"):
        certificate(model, rows[rows["few"] == "b"])


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", [int, str])
def test_classes(count: int, kind: type) -> None:
    """Whole numbers and text."""
    rows = numbers()
    labels: Any = classes(rows, count).astype(kind)
    model = _model("CatBoostClassifier").fit(rows, labels)
    assert infer_contract(model, rows, "exported").output.classes == tuple(kind(n) for n in range(count))
    assert_exact(model, rows, beyond=LAST_BITS)


def test_booleans_and_each_against_all_others() -> None:
    """Classes false and true; and shares that do not add up to one."""
    rows = numbers()
    assert_exact(_model("CatBoostClassifier").fit(rows, classes(rows, 2) == 1), rows, beyond=LAST_BITS)
    model = _model("CatBoostClassifier", loss_function="MultiClassOneVsAll")
    assert_exact(model.fit(rows, classes(rows, 3)), rows, beyond=LAST_BITS)


def test_several_numbers_a_row() -> None:
    """Two columns of labels."""
    rows = numbers()
    model = _model(loss_function="MultiRMSE").fit(rows, np.column_stack([target(rows), -target(rows)]))
    assert_exact(model, rows, beyond=LAST_BITS)


def test_a_threshold_of_the_probability_is_refused() -> None:
    """It would change the label, not the probability."""
    rows = numbers()
    model = _model("CatBoostClassifier").fit(rows, classes(rows, 2))
    model.set_probability_threshold(0.2)
    with pytest.raises(ConversionRefused, match="threshold"):
        certificate(model, rows)


def test_after_other_steps() -> None:
    """It is no estimator of scikit-learn, and may be its last step."""
    rows = _texts()
    before = make_column_transformer((OneHotEncoder(sparse_output=False), ["few"]), remainder="passthrough")
    model = make_pipeline(before, _model("CatBoostClassifier"))
    assert_exact(model.fit(rows, classes(numbers(), 2)), rows, beyond=LAST_BITS)


def test_one_that_was_not_fitted_is_refused() -> None:
    """There are no trees to copy."""
    with pytest.raises(ConversionRefused, match="fit"):
        infer_contract(_model(), numbers(), "exported")
