"""Pipelines of scikit-learn: scalers, encoders, imputers, selections and several targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import (
    compose,
    decomposition,
    ensemble,
    feature_selection,
    impute,
    linear_model,
    multioutput,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from tests.families import rows
from tests.families.making import case, numeric, scaled


def _columns(encoder: Any, estimator: Any, *, numbers: Any = None) -> Any:
    """Text through `encoder`, numbers through an imputer (or `numbers`), then the estimator."""
    transformer = compose.make_column_transformer(
        (encoder, ["carrier", "origin"]),
        (numbers or impute.SimpleImputer(), ["distance", "temp", "wind_gust", "pressure"]),
    )
    return pipeline.make_pipeline(transformer, estimator)


def _one_hot(**more: Any) -> Any:
    return preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False, **more)


def _plus_one(values: Any) -> Any:
    return values + 1


def _origin(data: rows.Data) -> rows.Data:
    return data[0][["carrier", "dest"]], data[0]["origin"].to_numpy(object)


CASES = (
    case(
        "pca",
        "PCA + LogisticRegression",
        lambda: pipeline.make_pipeline(
            preprocessing.StandardScaler(),
            decomposition.PCA(20, whiten=True),
            linear_model.LogisticRegression(tol=0.01),
        ),
        rows.digits,
    ),
    case(
        "truncated-svd",
        "TruncatedSVD + Ridge",
        lambda: pipeline.make_pipeline(decomposition.TruncatedSVD(5), linear_model.Ridge()),
        rows.diabetes,
    ),
    case(
        "select-k-best",
        "SelectKBest + RandomForest",
        lambda: pipeline.make_pipeline(
            feature_selection.SelectKBest(k=8), ensemble.RandomForestClassifier(20, random_state=0)
        ),
        rows.cancer,
    ),
    case("rfe", "RFE", lambda: feature_selection.RFE(linear_model.Ridge(), n_features_to_select=4), rows.diabetes),
    case(
        "union",
        "FeatureUnion (PCA, SelectKBest)",
        lambda: pipeline.make_pipeline(
            pipeline.FeatureUnion(
                [("p", decomposition.PCA(3)), ("k", feature_selection.SelectKBest(k=3))], transformer_weights={"p": 0.5}
            ),
            linear_model.Ridge(),
        ),
        rows.diabetes,
    ),
    case(
        "scaled-tree",
        "StandardScaler + DecisionTree",
        lambda: scaled(tree.DecisionTreeRegressor(max_depth=10)),
        rows.weather,
    ),
    case(
        "min-max",
        "MinMaxScaler (clip) + Ridge",
        lambda: pipeline.make_pipeline(preprocessing.MinMaxScaler(clip=True), linear_model.Ridge()),
        rows.weather,
    ),
    case(
        "max-abs",
        "MaxAbsScaler + RandomForest",
        lambda: pipeline.make_pipeline(
            preprocessing.MaxAbsScaler(), ensemble.RandomForestRegressor(10, random_state=0)
        ),
        rows.weather,
    ),
    case(
        "robust",
        "RobustScaler + SVR",
        lambda: pipeline.make_pipeline(preprocessing.RobustScaler(), svm.SVR()),
        rows.diabetes,
    ),
    case(
        "normalizer",
        "Normalizer + LogisticRegression",
        lambda: pipeline.make_pipeline(preprocessing.Normalizer(), linear_model.LogisticRegression(tol=0.01)),
        rows.digits,
    ),
    case(
        "power",
        "PowerTransformer + Ridge",
        lambda: pipeline.make_pipeline(preprocessing.PowerTransformer(), linear_model.Ridge()),
        rows.weather,
    ),
    case(
        "quantile-transformer",
        "QuantileTransformer + Ridge",
        lambda: pipeline.make_pipeline(preprocessing.QuantileTransformer(n_quantiles=100), linear_model.Ridge()),
        rows.weather,
    ),
    case(
        "quantile-normal",
        "QuantileTransformer (normal) + Ridge",
        lambda: pipeline.make_pipeline(
            preprocessing.QuantileTransformer(n_quantiles=100, output_distribution="normal"), linear_model.Ridge()
        ),
        rows.weather,
    ),
    case(
        "spline",
        "SplineTransformer + Ridge",
        lambda: pipeline.make_pipeline(preprocessing.SplineTransformer(), linear_model.Ridge()),
        rows.weather,
    ),
    case(
        "bins",
        "KBinsDiscretizer (one-hot) + Ridge",
        lambda: pipeline.make_pipeline(
            preprocessing.KBinsDiscretizer(5, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
            linear_model.Ridge(),
        ),
        rows.weather,
    ),
    case(
        "polynomial",
        "PolynomialFeatures (3) + Ridge",
        lambda: pipeline.make_pipeline(
            preprocessing.StandardScaler(), preprocessing.PolynomialFeatures(3), linear_model.Ridge()
        ),
        rows.diabetes,
    ),
    case(
        "function",
        "FunctionTransformer (np.log1p) + Ridge",
        lambda: pipeline.make_pipeline(preprocessing.FunctionTransformer(np.log1p), linear_model.Ridge()),
        rows.weather_above_zero,
    ),
    case(
        "function-python",
        "FunctionTransformer (own Python)",
        lambda: pipeline.make_pipeline(preprocessing.FunctionTransformer(_plus_one), linear_model.Ridge()),
        rows.weather,
        expect="refused",
        note="Python code: use a numpy function, or compute the column before",
    ),
    case(
        "one-hot",
        "OneHotEncoder + SimpleImputer + LogisticRegression",
        lambda: _columns(
            _one_hot(),
            linear_model.LogisticRegression(max_iter=2_000),
            numbers=pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler()),
        ),
        rows.late,
    ),
    case(
        "one-hot-infrequent",
        "OneHotEncoder (min_frequency, drop)",
        lambda: _columns(
            preprocessing.OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=150, drop="first"),
            linear_model.Ridge(),
        ),
        rows.flights,
    ),
    case(
        "ordinal",
        "OrdinalEncoder + RandomForest",
        lambda: _columns(
            preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            ensemble.RandomForestRegressor(20, random_state=0),
        ),
        rows.flights,
    ),
    case(
        "target-encoder",
        "TargetEncoder + Ridge",
        lambda: _columns(preprocessing.TargetEncoder(random_state=0), linear_model.Ridge()),
        rows.flights,
    ),
    case(
        "target-encoder-multiclass",
        "TargetEncoder, 3 classes",
        lambda: pipeline.make_pipeline(
            compose.make_column_transformer((preprocessing.TargetEncoder(random_state=0), ["carrier", "dest"])),
            linear_model.LogisticRegression(),
        ),
        lambda: _origin(rows.flights()),
    ),
    case(
        "indicator",
        "SimpleImputer (add_indicator) + Ridge",
        lambda: _columns(_one_hot(), linear_model.Ridge(), numbers=impute.SimpleImputer(add_indicator=True)),
        rows.flights,
    ),
    case(
        "imputed-text",
        "SimpleImputer on text + OneHotEncoder",
        lambda: _columns(
            pipeline.make_pipeline(
                impute.SimpleImputer(strategy="constant", fill_value="none", missing_values=None), _one_hot()
            ),
            linear_model.Ridge(),
        ),
        rows.flights_without_some_text,
    ),
    case(
        "knn-imputer",
        "KNNImputer + Ridge",
        lambda: pipeline.make_pipeline(impute.KNNImputer(), linear_model.Ridge()),
        lambda: numeric(rows.flights()),
    ),
    case(
        "passthrough",
        "ColumnTransformer (remainder='passthrough') + HistGradientBoosting",
        lambda: pipeline.make_pipeline(
            compose.make_column_transformer(
                (_one_hot(), compose.make_column_selector(dtype_include=object)), remainder="passthrough"
            ),
            ensemble.HistGradientBoostingRegressor(max_iter=50),
        ),
        rows.flights,
    ),
    case("multi-output-ridge", "Ridge, 3 targets", linear_model.Ridge, rows.linnerud),
    case(
        "multi-output-forest",
        "RandomForestRegressor, 3 targets",
        lambda: ensemble.RandomForestRegressor(20, random_state=0),
        rows.linnerud,
    ),
    case(
        "multi-output",
        "MultiOutputRegressor (GradientBoosting)",
        lambda: multioutput.MultiOutputRegressor(ensemble.GradientBoostingRegressor(n_estimators=10)),
        rows.linnerud,
    ),
    case("chain", "RegressorChain", lambda: multioutput.RegressorChain(linear_model.Ridge()), rows.linnerud),
    case(
        "target-log",
        "TransformedTargetRegressor (log1p, expm1)",
        lambda: compose.TransformedTargetRegressor(scaled(linear_model.Ridge()), func=np.log1p, inverse_func=np.expm1),
        rows.weather,
    ),
    case(
        "target-scaled",
        "TransformedTargetRegressor (StandardScaler)",
        lambda: compose.TransformedTargetRegressor(linear_model.Ridge(), transformer=preprocessing.StandardScaler()),
        rows.weather,
    ),
)
