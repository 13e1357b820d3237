"""Gradient boosting of four libraries, ready ONNX graphs and PyTorch modules, each fitted on real rows."""

# ruff: noqa: E501 (tables of one family a line)

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier as HistClassifier
from sklearn.ensemble import HistGradientBoostingRegressor as HistRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from threadpoolctl import threadpool_limits

from examples.flights import source
from tests.families import rows
from tests.families.case import Case, Made

Data = Callable[[], rows.Data]


@cache
def categories() -> rows.Data:
    """Flights whose text is of pandas' type for categories."""
    frame, labels = rows.flights()
    return frame.astype(dict.fromkeys(source.STRINGS, "category")), labels


@cache
def late_categories() -> rows.Data:
    """The same flights, late or not."""
    return categories()[0], rows.late()[1]


@cache
def origins() -> rows.Data:
    """The same flights without their airport, which is asked for: 0, 1 or 2."""
    frame, _ = categories()
    return frame.drop(columns="origin"), frame["origin"].cat.codes.to_numpy(np.int64)


@cache
def numbers() -> rows.Data:
    """Numbers of the flights, some null."""
    frame, labels = rows.flights()
    return frame.select_dtypes("number"), labels


@cache
def few_categories() -> rows.Data:
    """Numbers of the flights and their airport as text."""
    frame, labels = rows.flights()
    return frame.drop(columns=["carrier", "dest"], errors="ignore"), labels


@cache
def epochs() -> rows.Data:
    """2,000 flights one after the other, with seconds since 1970 in float64."""
    table = source.flights().head(2_000)
    seconds = (table["_at"] - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(np.float64)
    return pd.DataFrame({"departed": seconds, "distance": table["distance"]}), table["air_time"].to_numpy(np.float64)


def _case(key: str, title: str, make: Callable[[], Any], data: Data, **more: Any) -> Case:
    def made() -> Made:
        frame, labels = data()
        with threadpool_limits(1):  # so little work is slower on more threads than there are idle processors
            return make().fit(frame, labels), frame, labels

    return Case(key, title, made, **more)


def _encoded(estimator: Any) -> Any:
    text = OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=20)
    encoder = make_column_transformer((text, make_column_selector(dtype_exclude="number")), remainder="passthrough")
    return make_pipeline(encoder, estimator)


def _hist(*, classes: bool = False, **more: Any) -> Any:
    return (HistClassifier if classes else HistRegressor)(max_iter=25, random_state=0, **more)


_HIST = [
    _case("hist-regression", "HistGradientBoostingRegressor, nulls", _hist, numbers),
    _case("hist-categories", "HistGradientBoostingRegressor, categories of the frame", _hist, categories),
    _case("hist-named", "HistGradientBoostingRegressor, text by name", lambda: _hist(categorical_features=["origin"]), few_categories),
    _case("hist-number-category", "HistGradientBoostingRegressor, numeric categories", lambda: _hist(categorical_features=[0]), rows.digits),
    _case("hist-monotone", "HistGradientBoostingRegressor, monotone", lambda: _hist(monotonic_cst={"distance": 1}), numbers),
    _case("hist-poisson", "HistGradientBoostingRegressor, Poisson", lambda: _hist(loss="poisson"), categories),
    _case("hist-gamma", "HistGradientBoostingRegressor, gamma", lambda: _hist(loss="gamma"), numbers),
    _case("hist-quantile", "HistGradientBoostingRegressor, quantile", lambda: _hist(loss="quantile", quantile=0.9), numbers),
    _case("hist-absolute", "HistGradientBoostingRegressor, absolute error", lambda: _hist(loss="absolute_error"), numbers),
    _case("hist-binary", "HistGradientBoostingClassifier, categories", lambda: _hist(classes=True), late_categories),
    _case("hist-multiclass", "HistGradientBoostingClassifier, 3 classes, categories", lambda: _hist(classes=True), origins),
    _case("hist-pipeline", "OneHotEncoder + HistGradientBoostingClassifier", lambda: _encoded(_hist(classes=True)), rows.late),
]  # fmt: skip


def _lightgbm(name: str = "LGBMRegressor", **more: Any) -> Any:
    import lightgbm

    return getattr(lightgbm, name)(**{"n_estimators": 40, "n_jobs": 1, "verbose": -1, "random_state": 0, **more})


class _Booster:
    """Fits a booster by its library's own function."""

    def __init__(self, fit: Callable[[pd.DataFrame, Any], Any]) -> None:
        self.fit = fit


def _lightgbm_booster() -> Any:
    import lightgbm

    settings = {"objective": "regression", "num_threads": 1, "verbosity": -1}
    return _Booster(lambda frame, labels: lightgbm.train(settings, lightgbm.Dataset(frame, labels), 40))


_LIGHTGBM = [
    _case("lightgbm-regression", "LGBMRegressor, nulls", _lightgbm, numbers, needs="lightgbm"),
    _case("lightgbm-categories", "LGBMRegressor, categories of the frame", _lightgbm, categories, needs="lightgbm"),
    _case("lightgbm-poisson", "LGBMRegressor, Poisson", lambda: _lightgbm(objective="poisson"), numbers, needs="lightgbm"),
    _case("lightgbm-zero", "LGBMRegressor, zero is null", lambda: _lightgbm(zero_as_missing=True), numbers, needs="lightgbm"),
    _case("lightgbm-forest", "LGBMRegressor, random forest", lambda: _lightgbm(boosting_type="rf", bagging_freq=1, bagging_fraction=0.7), numbers, needs="lightgbm"),
    _case("lightgbm-binary", "LGBMClassifier, categories", lambda: _lightgbm("LGBMClassifier"), late_categories, needs="lightgbm"),
    _case("lightgbm-multiclass", "LGBMClassifier, 3 classes", lambda: _lightgbm("LGBMClassifier"), origins, needs="lightgbm"),
    _case("lightgbm-one-vs-all", "LGBMClassifier, one against all", lambda: _lightgbm("LGBMClassifier", objective="multiclassova"), origins, needs="lightgbm"),
    _case("lightgbm-pipeline", "OneHotEncoder + LGBMClassifier", lambda: _encoded(_lightgbm("LGBMClassifier")).set_output(transform="pandas"), rows.late, needs="lightgbm"),
    _case("lightgbm-booster", "lightgbm.Booster", _lightgbm_booster, categories, needs="lightgbm"),
    _case("lightgbm-epochs", "LGBMRegressor over seconds since 1970", lambda: _lightgbm(max_bin=1_000), epochs, needs="lightgbm", note="float32 would change answers, so it is served in float64"),
    _case("lightgbm-linear", "LGBMRegressor, linear leaves", lambda: _lightgbm(linear_tree=True), rows.weather, needs="lightgbm", expect="native", note="leaves that are linear models are not trees of ONNX"),
]  # fmt: skip


def _xgboost(name: str = "XGBRegressor", **more: Any) -> Any:
    import xgboost

    settings = {"n_estimators": 40, "n_jobs": 1, "max_depth": 5, "enable_categorical": True, "random_state": 0}
    return getattr(xgboost, name)(**{**settings, **more})


def _xgboost_booster() -> Any:
    import xgboost

    def fit(frame: pd.DataFrame, labels: Any) -> Any:
        return xgboost.train({"nthread": 1}, xgboost.DMatrix(frame, labels, enable_categorical=True), 40)

    return _Booster(fit)


def _late_numbers() -> rows.Data:
    return numbers()[0], (rows.late()[1] == "late").astype(np.int64)


def _late_coded() -> rows.Data:
    return late_categories()[0], _late_numbers()[1]


def _xgboost_quantiles() -> Made:
    frame, labels = numbers()
    model = _xgboost(objective="reg:quantileerror", quantile_alpha=[0.1, 0.9]).fit(frame, labels)
    return model, frame, np.column_stack([labels, labels])


_XGBOOST = [
    _case("xgboost-regression", "XGBRegressor, nulls", _xgboost, numbers, needs="xgboost"),
    _case("xgboost-categories", "XGBRegressor, categories (sets)", _xgboost, categories, needs="xgboost"),
    _case("xgboost-one-hot", "XGBRegressor, categories (one by one)", lambda: _xgboost(max_cat_to_onehot=200), categories, needs="xgboost"),
    _case("xgboost-poisson", "XGBRegressor, Poisson", lambda: _xgboost(objective="count:poisson"), numbers, needs="xgboost"),
    Case("xgboost-quantiles", "XGBRegressor, two quantiles", _xgboost_quantiles, needs="xgboost"),
    _case("xgboost-missing", "XGBRegressor, zero is null", lambda: _xgboost(missing=0.0), rows.digits, needs="xgboost"),
    _case("xgboost-dart", "XGBRegressor, dart", lambda: _xgboost(booster="dart", rate_drop=0.2), numbers, needs="xgboost"),
    _case("xgboost-forest", "XGBRFRegressor", lambda: _xgboost("XGBRFRegressor"), numbers, needs="xgboost"),
    _case("xgboost-binary", "XGBClassifier, categories", lambda: _xgboost("XGBClassifier"), _late_coded, needs="xgboost"),
    _case("xgboost-multiclass", "XGBClassifier, 3 classes", lambda: _xgboost("XGBClassifier"), origins, needs="xgboost"),
    _case("xgboost-pipeline", "OneHotEncoder + XGBClassifier", lambda: _encoded(_xgboost("XGBClassifier")), lambda: (rows.flights()[0], _late_numbers()[1]), needs="xgboost"),
    _case("xgboost-booster", "xgboost.Booster", _xgboost_booster, categories, needs="xgboost"),
    _case("xgboost-linear", "XGBRegressor, linear booster", lambda: _xgboost(booster="gblinear", max_depth=None), rows.weather, needs="xgboost", expect="native", note="it has no trees"),
]  # fmt: skip


def _catboost(name: str = "CatBoostRegressor", **more: Any) -> Any:
    import catboost

    settings = {"iterations": 40, "thread_count": 1, "verbose": 0, "allow_writing_files": False, "random_seed": 0}
    return getattr(catboost, name)(**{**settings, **more})


_CATBOOST = [
    _case("catboost-regression", "CatBoostRegressor, nulls", _catboost, numbers, needs="catboost"),
    _case("catboost-categories", "CatBoostRegressor, few categories", lambda: _catboost(cat_features=["origin"], one_hot_max_size=10), few_categories, needs="catboost"),
    _case("catboost-poisson", "CatBoostRegressor, Poisson", lambda: _catboost(loss_function="Poisson"), numbers, needs="catboost"),
    _case("catboost-leaves", "CatBoostRegressor, by leaves", lambda: _catboost(grow_policy="Lossguide"), numbers, needs="catboost"),
    _case("catboost-binary", "CatBoostClassifier", lambda: _catboost("CatBoostClassifier"), lambda: (numbers()[0], rows.late()[1]), needs="catboost"),
    _case("catboost-multiclass", "CatBoostClassifier, 10 classes", lambda: _catboost("CatBoostClassifier", iterations=20), rows.digits, needs="catboost"),
    _case("catboost-pipeline", "OneHotEncoder + CatBoostClassifier", lambda: _encoded(_catboost("CatBoostClassifier")), rows.late, needs="catboost"),
    _case("catboost-many-categories", "CatBoostRegressor, many categories", lambda: _catboost(cat_features=["carrier", "dest", "origin"]), rows.flights, needs="catboost", expect="native", note="statistics of the target by category have no operator"),
]  # fmt: skip


def _ready_probabilities() -> Made:
    from skl2onnx import to_onnx

    frame, labels = rows.iris()
    narrow = frame.astype(np.float32)
    return (
        to_onnx(LogisticRegression(max_iter=500).fit(narrow.to_numpy(), labels), narrow.to_numpy()[:1]),
        narrow,
        labels,
    )


def _ready_columns() -> Made:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    frame, labels = rows.flights()
    chosen = frame[["distance", "origin"]].assign(distance=frame["distance"].astype(np.float32))
    inner = make_column_transformer((OneHotEncoder(), ["origin"]), remainder="passthrough", sparse_threshold=0.0)
    inputs = [("distance", FloatTensorType([None, 1])), ("origin", StringTensorType([None, 1]))]
    return convert_sklearn(make_pipeline(inner, Ridge()).fit(chosen, labels), initial_types=inputs), chosen, labels


_READY = [
    Case("onnx-matrix", "ready ONNX graph, one matrix, ZipMap", _ready_probabilities),
    Case("onnx-columns", "ready ONNX graph, one input a column", _ready_columns),
]


def _trained(module: Any, data: rows.Data, loss: Any) -> Made:
    """A hundred steps of Adam over all rows."""
    import torch

    frame, labels = data
    x = torch.from_numpy(frame.to_numpy(np.float32))
    kind = torch.int64 if isinstance(loss, torch.nn.CrossEntropyLoss) else torch.float32
    y = torch.as_tensor(np.asarray(labels), dtype=kind)
    wanted = y if kind == torch.int64 else y.reshape(-1, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        loss(module(x), wanted).backward()
        optimizer.step()
    return module.eval(), frame, labels


def _torch_regression() -> Made:
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Linear(10, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
    return _trained(torch.nn.Sequential(*layers), rows.diabetes(), torch.nn.MSELoss())


def _torch_classifier() -> Made:
    import torch

    torch.manual_seed(0)
    frame, labels = rows.iris()
    module = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 3))
    module.classes_ = [0, 1, 2]
    return _trained(module, (frame.astype(np.float32), labels), torch.nn.CrossEntropyLoss())


_TORCH = [
    Case("torch-regression", "PyTorch module, one number", _torch_regression, needs="torch"),
    Case("torch-classifier", "PyTorch module with classes_", _torch_classifier, needs="torch"),
]

CASES: tuple[Case, ...] = (*_HIST, *_LIGHTGBM, *_XGBOOST, *_CATBOOST, *_READY, *_TORCH)
