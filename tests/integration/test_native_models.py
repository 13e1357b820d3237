"""Originals in a process of their own answer as they did in the notebook: each library, each format."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, SplineTransformer
from sklearn.svm import LinearSVC

from registry.contract import Column, Contract, Output
from registry.convert import Converted, convert
from registry.errors import ConversionRefused, NotAllowed
from registry.infer import infer_contract
from registry.log import build_bundle
from registry.native.process import NativeProcess, dump
from registry.native.trusted_types import trusted
from registry.pyfunc import BundleModel
from registry.run import opened
from registry.tensors import pack_frame
from tests.conftest import toy_frame, toy_target
from tests.integration.native_models import CONTRACT, Canary, Moody, pickled


def numbers(rows: int = 1_500) -> pd.DataFrame:
    return toy_frame(rows)[["temp", "hour"]].fillna(3.0).astype(np.float64)


def hashed() -> tuple[Any, pd.DataFrame, Any]:
    """Text hashed to columns: ONNX has no operator that hashes."""
    frame = toy_frame(1_500)[["carrier", "hour"]]
    encoder = make_column_transformer((HashingVectorizer(n_features=32), "carrier"), remainder="passthrough")
    target = frame["hour"] + (frame["carrier"] == "AA")
    return make_pipeline(encoder, Ridge()).fit(frame, target), frame, target


def native(estimator: Any, frame: pd.DataFrame) -> Converted:
    return convert(estimator, infer_contract(estimator, frame, "toy"), frame, runtime="native")


def test_a_model_whose_texts_are_names_of_files_has_no_native_form() -> None:
    """Whoever asks it would choose which of the server's files it reads; a file made elsewhere does not load either."""
    from skops.io import dumps

    reader = make_pipeline(HashingVectorizer(n_features=32, input="filename"), Ridge())
    with pytest.raises(ConversionRefused, match="reads files"):
        dump(reader, allow_pickle=True)
    with pytest.raises(ConversionRefused, match="reads files"), opened(CONTRACT, "model.skops", dumps(reader)):
        pass


def test_what_onnx_cannot_express_is_served_by_the_original(tmp_path: Path) -> None:
    """`runtime="auto"` ends at the native runtime with an exact certificate, and MLflow's loader answers alike."""
    estimator, frame, target = hashed()
    bundle = build_bundle(estimator, frame, target, name="toy", to=tmp_path / "b", runtime="auto")
    assert (bundle.native, bundle.model_file) == (True, "model.skops")
    found = bundle.certificate
    assert (found["verdict"], found["runtime"], found["max_difference"]) == ("exact", "native", 0.0)
    answered = BundleModel(bundle.path).predict(frame.head(50))
    np.testing.assert_array_equal(answered, estimator.predict(frame.head(50)))


def test_onnx_only_refuses_instead() -> None:
    estimator, frame, _ = hashed()
    with pytest.raises(ConversionRefused):
        convert(estimator, infer_contract(estimator, frame, "toy"), frame, runtime="onnx")


def test_catboost_with_text_categories() -> None:
    """Categories encoded by target statistics live in the .cbm file."""
    from catboost import CatBoostClassifier

    frame = toy_frame()
    target = np.where(toy_target(frame) > 30, "long", "short")
    columns = ["late", "carrier"]
    frame = frame.assign(late=frame["late"].astype(str))
    made = CatBoostClassifier(iterations=20, cat_features=columns, max_ctr_complexity=2, verbose=False, thread_count=1)
    made.set_params(allow_writing_files=False, random_seed=0)
    found = native(made.fit(frame, target), frame)
    assert (found.file, found.certificate["verdict"]) == ("model.cbm", "exact")
    assert found.contract.output.classes == ("long", "short")


def test_xgboost_with_categories_and_its_own_null() -> None:
    """What the .ubj file does not hold (the value that stands for null) goes along with it."""
    from xgboost import XGBClassifier

    frame = toy_frame().fillna({"temp": -999.0})
    frame["carrier"] = frame["carrier"].astype("category")
    target = pd.qcut(toy_target(frame), 3, labels=False)
    made = XGBClassifier(n_estimators=15, missing=-999.0, enable_categorical=True, n_jobs=1).fit(frame, target)
    found = native(made, frame)
    assert (found.file, found.certificate["verdict"]) == ("model.ubj", "exact")
    assert found.contract.output.classes == (0, 1, 2)


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_lightgbm_with_categories(classes: int) -> None:
    """Regression, two and three classes from the text format, whose labels the text does not hold."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    frame = toy_frame()
    frame["carrier"] = frame["carrier"].astype("category")
    target = toy_target(frame)
    options: dict[str, Any] = {"n_estimators": 15, "n_jobs": 1, "verbosity": -1}
    if classes:
        names = np.array(["low", "middle", "high"])[:classes]
        found = native(LGBMClassifier(**options).fit(frame, names[pd.qcut(target, classes, labels=False)]), frame)
        assert set(found.contract.output.classes) == set(names)
    else:
        found = native(LGBMRegressor(**options).fit(frame, target), frame)
    assert (found.file, found.certificate["verdict"]) == ("model.txt", "exact")


def test_scores_instead_of_probabilities() -> None:
    """A linear SVM answers its margin; its probability is 1 for the class that it chose."""
    frame = numbers()
    estimator = LinearSVC().fit(frame, frame["hour"] > 12)
    made = native(estimator, frame)
    with NativeProcess(made.contract, made.file, made.data) as process:
        got = process.run({"numbers": frame.head(5).to_numpy()})
    assert got["label"].tolist() == estimator.predict(frame.head(5)).tolist()
    np.testing.assert_array_equal(got["scores"][:, 0], estimator.decision_function(frame.head(5)))
    assert got["probabilities"].sum(axis=1).tolist() == [1.0] * 5
    assert made.certificate["verdict"] == "exact"


@pytest.mark.parametrize(("null", "kind"), [(np.nan, "object"), (None, "object/None")])
def test_nulls_in_text_reach_the_original_as_they_were(null: Any, kind: str) -> None:
    """An encoder that learnt NaN, or None, as a category refuses the other one."""
    frame = toy_frame()[["carrier"]].copy()
    frame["carrier"] = frame["carrier"].where(frame.index % 3 != 0, null)
    target = (frame["carrier"] == "AA") | frame["carrier"].isna()
    estimator = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, target)
    column = Column("carrier", "string", True, example="AA", frame_dtype=kind)
    contract = Contract("toy", (column,), Output("classification", (False, True)), "float64")
    with opened(contract, *dump(estimator)) as run:
        got = run(pack_frame(contract, frame))
    np.testing.assert_array_equal(got["probabilities"], estimator.predict_proba(frame))


def double(values: Any) -> Any:
    return values * 2.0


def test_own_functions_need_a_pickle() -> None:
    """Refused with the fix; where pickles are allowed the function goes along by value."""
    frame = numbers()
    # as in a notebook: found in no module that another process can import
    double.__module__ = "__main__"
    estimator = make_pipeline(FunctionTransformer(double), SplineTransformer(), Ridge()).fit(frame, frame["hour"])
    with pytest.raises(ConversionRefused, match=r"holds __main__.double.*allow_pickle"):
        dump(estimator)
    contract = infer_contract(estimator, frame, "toy")
    made = convert(estimator, contract, frame, runtime="native", allow_pickle=True)
    assert (made.file, made.certificate["verdict"]) == ("model.joblib", "exact")


def test_a_bundle_with_a_pickle_is_built_only_where_it_is_allowed(tmp_path: Path) -> None:
    """And MLflow's loader runs it only for whoever says so."""
    frame = pd.DataFrame({"x": np.linspace(7, 9, 1_000)})
    estimator = Moody().fit(frame, frame["x"])
    with pytest.raises(ConversionRefused, match="allow_pickle"):
        build_bundle(estimator, frame, 2 * frame["x"], name="toy", to=tmp_path / "a")
    bundle = build_bundle(estimator, frame, 2 * frame["x"], name="toy", to=tmp_path / "b", allow_pickle=True)
    assert bundle.model_file == "model.joblib"
    with pytest.raises(NotAllowed, match="pickle"):
        BundleModel(bundle.path)
    assert BundleModel(bundle.path, allow_pickle=True).predict(frame.head(1)).tolist() == [14.0]


def test_a_pickle_that_is_not_allowed_is_never_loaded(tmp_path: Path) -> None:
    """The canary, which a load would create, is not there; a load that is allowed tries, and may not write."""
    canary = tmp_path / "canary"
    data = pickled(Canary(str(canary)))
    with pytest.raises(NotAllowed, match="pickle"):
        NativeProcess(CONTRACT, "model.joblib", data)
    assert not canary.exists()
    with pytest.raises(ConversionRefused, match="PermissionError"):
        NativeProcess(CONTRACT, "model.joblib", data, allow_pickle=True).start()
    assert not canary.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "builtins.getattr",
        "functools.partial",
        "numpy.memmap",
        "numpy.load",
        "sklearn.datasets._base.load_files",
        "sklearn.utils._testing.TempMemmap",
        "scipy.io.netcdf_file",
        "sklearn.no_such_module.Thing",
        "sklearn.linear_model._ridge.Ridge.fit",
        "sklearn.linear_model._ridge.ridge_regression",
        "pandas.core.frame.DataFrame",
    ],
)
def test_types_that_no_file_may_name(name: str) -> None:
    """Functions, what opens files, what calls what it is given, and what is not there."""
    assert not trusted(name)


def test_a_file_that_names_a_function_is_refused_unrun(tmp_path: Path) -> None:
    """A skops file whose schema was changed to call os.system: the type is named, nothing ran."""
    from skops.io import dumps

    frame = numbers().abs()
    data = dumps(make_pipeline(FunctionTransformer(np.log1p), Ridge()).fit(frame, frame["hour"]))
    text = zipfile.ZipFile(io.BytesIO(data)).read("schema.json").decode()
    log1p, system = '"__class__": "log1p", "__module__": "numpy"', '"__class__": "system", "__module__": "os"'
    schema = json.dumps(json.loads(text)).replace(log1p, system)
    assert "system" in schema
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
        for item in old.namelist():
            new.writestr(item, schema if item == "schema.json" else old.read(item))
    with pytest.raises(ConversionRefused, match=r"not trusted: os\.system"):
        NativeProcess(CONTRACT, "model.skops", changed.getvalue()).start()


@pytest.mark.parametrize("file", ["model.skops", "model.ubj", "model.txt", "model.cbm"])
def test_garbage_does_not_load(file: str) -> None:
    """Whatever the library does with it happens in the child."""
    with pytest.raises(ConversionRefused, match="does not load in a process of its own"):
        NativeProcess(CONTRACT, file, os.urandom(4_000)).start()
