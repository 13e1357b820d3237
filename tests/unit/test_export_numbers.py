"""Transformers of numbers: the graph answers as scikit-learn does, on random numbers and on the ones that hurt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import decomposition, feature_selection, impute, preprocessing
from sklearn.isotonic import IsotonicRegression

from registry.export.steps.functions import FUNCTIONS
from registry.export.steps.interpolating import interpolated
from registry.export.steps.quantile import normal_quantile
from tests.unit.one_step import computed, predicted, transformed

GENERATOR = np.random.default_rng(0)
TRAINED = np.column_stack(
    [GENERATOR.normal(size=400), GENERATOR.lognormal(size=400), np.round(GENERATOR.normal(size=400), 1)]
)
HARD = np.vstack([TRAINED[:50], TRAINED.min(axis=0) - 5.0, TRAINED.max(axis=0) + 5.0, np.zeros((1, 3)), TRAINED * 1e6])
SCALERS: list[Any] = [
    preprocessing.StandardScaler(),
    preprocessing.StandardScaler(with_mean=False),
    preprocessing.StandardScaler(with_std=False),
    preprocessing.MinMaxScaler(),
    preprocessing.MinMaxScaler(feature_range=(-2, 3), clip=True),
    preprocessing.MaxAbsScaler(),
    preprocessing.RobustScaler(),
    preprocessing.RobustScaler(with_centering=False),
    preprocessing.PowerTransformer(),
    preprocessing.PowerTransformer(standardize=False),
    preprocessing.QuantileTransformer(n_quantiles=50),
    preprocessing.QuantileTransformer(n_quantiles=50, output_distribution="normal"),
]
OTHERS: list[Any] = [
    preprocessing.Normalizer(),
    preprocessing.Normalizer("l1"),
    preprocessing.Normalizer("max"),
    preprocessing.Binarizer(threshold=0.5),
    preprocessing.PolynomialFeatures(3),
    preprocessing.PolynomialFeatures(2, interaction_only=True, include_bias=False),
    preprocessing.KBinsDiscretizer(4, encode="ordinal", quantile_method="averaged_inverted_cdf"),
    preprocessing.KBinsDiscretizer(5, encode="onehot-dense", strategy="uniform"),
    preprocessing.SplineTransformer(),
    preprocessing.SplineTransformer(degree=2, n_knots=6, include_bias=False, extrapolation="continue"),
    decomposition.PCA(2),
    decomposition.PCA(2, whiten=True),
    decomposition.TruncatedSVD(2),
    feature_selection.VarianceThreshold(1.1),
]


@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
@pytest.mark.parametrize("step", SCALERS, ids=repr)
def test_scalers_keep_every_bit_that_a_tree_behind_them_sees(step: Any, single: bool) -> None:
    """Nulls stay nulls; a matrix of float32 is rounded where scikit-learn rounds it."""
    kind = np.float32 if single else np.float64
    step.fit(TRAINED.astype(kind))
    x = HARD.astype(kind)
    x[3, 1] = np.nan
    got, wanted = transformed(step, x), step.transform(x)
    np.testing.assert_allclose(got, wanted, rtol=1e-5 if single else 1e-12, atol=1e-6 if single else 1e-12)
    if isinstance(step, (preprocessing.StandardScaler, preprocessing.RobustScaler, preprocessing.MaxAbsScaler)):
        np.testing.assert_array_equal(got.astype(np.float32), wanted.astype(np.float32))


@pytest.mark.parametrize("step", OTHERS, ids=repr)
def test_other_transformers_of_numbers(step: Any) -> None:
    """Within twelve digits, beyond the rows of training too."""
    step.fit(TRAINED)
    np.testing.assert_allclose(transformed(step, HARD[:60]), step.transform(HARD[:60]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_functions_of_numpy(function: Any) -> None:
    """Each function by name, on small and large numbers, keeps its digits."""
    x = np.concatenate([10.0 ** np.arange(-12, 2), [0.5, 2.0, 7.25]])[:, None]
    x = x if function in (np.log, np.log2, np.log10, np.sqrt, np.reciprocal) else np.vstack([x, -x / 100.0, [[0.0]]])
    np.testing.assert_allclose(computed(FUNCTIONS[function], x), function(x), rtol=1e-10)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.data())
def test_interpolation_is_numpy_s(points: list[float], data: st.DataObject) -> None:
    """At points, between, beyond, and where points repeat."""
    places = np.sort(np.round(points, 2))
    heights = np.asarray(data.draw(st.lists(st.floats(-10, 10), min_size=len(places), max_size=len(places))))
    x = np.concatenate([places, places - 0.005, places + 0.3, [-500.0, 500.0]])[:, None]
    got = computed(lambda g, value: interpolated(g, value, places, heights), x)
    np.testing.assert_allclose(got.ravel(), np.interp(x.ravel(), places, heights), rtol=1e-9, atol=1e-9)


def test_normal_quantiles_have_fifteen_digits() -> None:
    """In the middle and in both tails."""
    share = np.concatenate([np.linspace(0.001, 0.999, 500), [1e-7, 3e-6, 1 - 3e-6, 0.075, 0.925]])[:, None]
    np.testing.assert_allclose(computed(normal_quantile, share), stats.norm.ppf(share), rtol=1e-12, atol=1e-14)


def test_an_isotonic_regression_is_a_staircase() -> None:
    """Clipped beyond its ends."""
    x = GENERATOR.random(200)
    step = IsotonicRegression(out_of_bounds="clip").fit(x, x + GENERATOR.normal(0, 0.2, 200))
    asked = np.concatenate([x, step.X_thresholds_, [-1.0, 2.0]])
    np.testing.assert_allclose(predicted(step, asked[:, None]).ravel(), step.predict(asked), rtol=1e-12)


@pytest.mark.parametrize(
    "step",
    [
        impute.SimpleImputer(),
        impute.SimpleImputer(add_indicator=True),
        impute.SimpleImputer(strategy="median", add_indicator=True),
        impute.SimpleImputer(strategy="constant", fill_value=-1.0),
        impute.SimpleImputer(missing_values=0.0, strategy="most_frequent"),
        impute.SimpleImputer(keep_empty_features=True),
        impute.MissingIndicator(),
    ],
    ids=repr,
)
def test_imputers_fill_and_tell(step: Any) -> None:
    """The public converter drops the indicator without a word; ours keeps it."""
    x = TRAINED.copy()
    x[::3, 0] = x[1::7, 2] = 0.0 if getattr(step, "missing_values", np.nan) == 0.0 else np.nan
    np.testing.assert_allclose(transformed(step.fit(x), x), step.transform(x), rtol=1e-12)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_nulls_are_filled_from_the_nearest_rows(weights: str) -> None:
    """From rows that have the column; from its mean where a row has nothing in common with any."""
    full = GENERATOR.normal(size=(300, 3))  # no two rows are equally far: which of those counts is an accident
    x = np.where(GENERATOR.random(full.shape) < 0.2, np.nan, full)
    step = impute.KNNImputer(n_neighbors=3, weights=weights, add_indicator=True).fit(x)
    asked = np.vstack([x + 0.01, np.full((1, 3), np.nan), full[:5]])
    np.testing.assert_allclose(transformed(step, asked), step.transform(asked), rtol=1e-7)
