"""Histogram gradient boosting of scikit-learn: its graph answers as it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits

from registry.errors import ConversionRefused
from tests.integration.export_parity import assert_exact, certificate, classes, frame, numbers, target

LAST_BITS = 1e-12


def _fit(estimator: Any, rows: Any, labels: Any) -> Any:
    with threadpool_limits(1):
        return estimator.fit(rows, labels)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "squared_error", "monotonic_cst": {"normal": 1}},
        {"loss": "poisson"},
        {"loss": "gamma"},
        {"loss": "quantile", "quantile": 0.9},
        {"loss": "absolute_error"},
    ],
    ids=lambda options: str(options["loss"]),
)
def test_every_loss_with_categories_and_nulls(options: dict[str, Any]) -> None:
    """The exponential of the log link is there, and categories are compared, not ordered."""
    rows = frame()
    assert_exact(
        _fit(HistGradientBoostingRegressor(max_iter=15, **options), rows, target(rows)), rows, beyond=LAST_BITS
    )


@pytest.mark.parametrize("count", [2, 4])
def test_classes(count: int) -> None:
    """Two classes and several, with categories of the frame."""
    rows = frame()
    model = _fit(HistGradientBoostingClassifier(max_iter=10), rows, classes(rows, count))
    assert_exact(model, rows, beyond=LAST_BITS)


@pytest.mark.parametrize("chosen", [["whole"], [1], [False, True, False, False, False]], ids=["name", "place", "mask"])
def test_numeric_categories(chosen: list[Any]) -> None:
    """Given by name, by position or by mask."""
    rows = numbers()
    model = _fit(HistGradientBoostingRegressor(max_iter=15, categorical_features=chosen), rows, target(rows))
    assert_exact(model, rows, beyond=LAST_BITS)


def test_a_category_that_training_did_not_see_goes_with_the_nulls() -> None:
    """Whole numbers and text that are new to the model, and fractions among numeric categories."""
    seen = frame().astype({"few": object, "many": object}).dropna()
    model = _fit(
        HistGradientBoostingRegressor(max_iter=15, categorical_features=["whole", "few", "many"]),
        seen[seen["whole"] < 30],
        target(frame().loc[seen.index])[seen["whole"] < 30],
    )
    unseen = seen.assign(
        whole=seen["whole"] + 0.5 * (np.arange(len(seen)) % 2), many=seen["many"].str.replace("8", "x")
    )
    assert_exact(model, unseen, beyond=LAST_BITS)


def test_after_other_steps() -> None:
    """The last step of a pipeline, its categories being what an encoder made of text."""
    rows = frame().drop(columns="many").astype({"few": object}).dropna(subset="few")
    encoder = make_column_transformer((OrdinalEncoder(), ["few"]), remainder="passthrough")
    model = make_pipeline(encoder, HistGradientBoostingClassifier(max_iter=10, categorical_features=[0]))
    assert_exact(_fit(model, rows, (rows["whole"] > 20).map({True: "high", False: "low"})), rows, beyond=LAST_BITS)


def test_categories_that_are_fractions_are_refused() -> None:
    """ONNX compares whole numbers alone."""
    rows = numbers().assign(whole=lambda given: given["whole"] % 3 / 2)
    model = _fit(HistGradientBoostingRegressor(max_iter=3, categorical_features=["whole"]), rows, target(numbers()))
    with pytest.raises(ConversionRefused, match="not whole"):
        certificate(model, rows)
