"""`log_model` on real estimators, into a real MLflow store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from registry.bundle import read_bundle
from registry.errors import BundleCorrupt, ContractViolation, ConversionRefused, NameInvalid, PereneError
from registry.log import build_bundle, log_model
from registry.mlflow_store import Store
from tests.conftest import Toy, fit, toy_frame, toy_target


@pytest.fixture
def store(home: Path) -> Store:
    return Store(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")


def test_regression_is_certified_and_registered(regression: Toy, store: Store, tmp_path: Path) -> None:
    """One call gives a version whose bundle can be downloaded and verified."""
    steps: list[str] = []
    version = log_model(
        regression.estimator,
        regression.X,
        regression.y,
        name="toy",
        store=store,
        progress=lambda step, found: steps.append(step),
    )
    assert (version.version, version.verdict) == (1, "exact")
    assert steps == ["contract", "export", "certificate", "reference", "golden rows", "version"]
    bundle = read_bundle(store.download("toy", 1, tmp_path / "got"))
    assert bundle.digest == version.digest
    assert bundle.certificate["adversarial_rows"] > 100


def test_plain_mlflow_loads_the_version_and_answers_as_the_estimator(regression: Toy, store: Store, home: Path) -> None:
    """`mlflow.pyfunc.load_model("models:/toy@champion")` needs nothing of ours but the package."""
    import mlflow

    version = log_model(regression.estimator, regression.X, regression.y, name="toy", store=store)
    store.set_alias("toy", "champion", version.version)
    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model("models:/toy@champion")
    rows = regression.X.head(50)
    np.testing.assert_allclose(loaded.predict(rows), regression.estimator.predict(rows), rtol=1e-5)


def test_classification_keeps_the_order_of_classes(classification: Toy, tmp_path: Path) -> None:
    """Probabilities come in the contract's class order."""
    from registry.parity import answers, predict_onnx
    from registry.tensors import pack_frame

    bundle = build_bundle(classification.estimator, classification.X, classification.y, name="toy", to=tmp_path / "b")
    assert bundle.contract.output.classes == (0, 1)
    got = answers(bundle.contract, predict_onnx(bundle.model_bytes(), pack_frame(bundle.contract, classification.X)))
    np.testing.assert_allclose(got.values, classification.estimator.predict_proba(classification.X), atol=1e-5)


def test_the_same_model_twice_is_one_version(regression: Toy, store: Store) -> None:
    """A repeated call after an interruption does not pile up versions."""
    first = log_model(regression.estimator, regression.X, regression.y, name="toy", store=store)
    again = log_model(regression.estimator, regression.X, regression.y, name="toy", store=store)
    assert again.version == first.version
    assert len(store.versions("toy")) == 1


def test_a_refused_model_registers_nothing(regression: Toy, store: Store) -> None:
    """A step without a converter is named, and the registry stays empty."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    broken = make_pipeline(FunctionTransformer(_double), regression.estimator)
    with pytest.raises(ConversionRefused, match="FunctionTransformer") as caught:
        log_model(
            broken.fit(regression.X, regression.y), regression.X, regression.y, name="toy", store=store, runtime="onnx"
        )
    assert "FunctionTransformer" in caught.value.where
    assert store.versions("toy") == []


def _double(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def test_a_column_that_float32_cannot_carry_is_named_and_served_in_float64(tmp_path: Path) -> None:
    """Epoch seconds: the certificate of the first form is refused and finds the column, the second form is exact."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    from registry.export import to_onnx
    from registry.infer import infer_contract
    from registry.parity import certify, onnx_runner

    generator = np.random.default_rng(1)
    seconds = 1_700_000_000 + generator.integers(0, 5_000, 3_000).astype(np.float64)
    frame = pd.DataFrame({"epoch": seconds, "calm": generator.normal(size=3_000)})
    target = (seconds - 1_700_000_000) / 100
    tree = HistGradientBoostingRegressor(max_iter=30).fit(frame, target)
    contract = replace(infer_contract(tree, frame, "toy"), precision="float32")
    certificate = certify(tree, onnx_runner(to_onnx(tree, contract)), contract, frame)
    assert (certificate["verdict"], certificate["guilty_columns"]) == ("refused", ["epoch"])
    bundle = build_bundle(tree, frame, target, name="toy", to=tmp_path / "b")
    assert (bundle.contract.precision, bundle.certificate["verdict"]) == ("float64", "exact")
    assert [tried["verdict"] for tried in bundle.certificate["tried"]] == ["refused", "exact"]


def test_what_the_public_converter_gets_wrong_is_right_here(tmp_path: Path) -> None:
    """Native categoricals: 24 % of its answers were wrong, without an error."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    frame = toy_frame(1_000)[["temp", "hour"]]
    target = frame["hour"].to_numpy() % 3
    model = HistGradientBoostingRegressor(max_iter=5, categorical_features=["hour"]).fit(frame, target)
    bundle = build_bundle(model, frame, target, name="toy", to=tmp_path / "b", runtime="onnx")
    assert bundle.certificate["verdict"] == "exact"


@pytest.mark.parametrize("kind", ["tree", "forest", "linear", "logistic"])
def test_common_estimators_are_exact(kind: str, tmp_path: Path) -> None:
    """The families of the first release."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.tree import DecisionTreeRegressor

    frame = toy_frame().fillna({"temp": 3.0})
    target = toy_target(frame)
    made: dict[str, Any] = {
        "tree": DecisionTreeRegressor(max_depth=6),
        "forest": RandomForestRegressor(n_estimators=10, max_depth=8, random_state=0),
        "linear": Ridge(),
        "logistic": LogisticRegression(max_iter=2_000),
    }
    labels = (target > target.mean()).astype(int) if kind == "logistic" else target
    toy = fit(made[kind], frame, labels)
    bundle = build_bundle(toy.estimator, frame, labels, name="toy", to=tmp_path / "b")
    assert bundle.certificate["verdict"] in ("exact", "close")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda t: {"name": "../evil"}, NameInvalid, "not valid"),
        (lambda t: {"X": t.X.to_numpy()}, ContractViolation, "DataFrame"),
        (lambda t: {"X": t.X.head(0)}, ContractViolation, "no rows"),
        (lambda t: {"X": t.X.assign(temp=np.nan)}, ContractViolation, "'temp'"),
        (lambda t: {"X": t.X.assign(carrier=[1, "a"] * (len(t.X) // 2))}, ContractViolation, "'carrier'"),
        (lambda t: {"X": t.X.assign(hour=2**60)}, ContractViolation, "integers beyond"),
        (lambda t: {"X": t.X.rename(columns={"hour": "temp"})}, ContractViolation, "two columns"),
        (lambda t: {"y": t.y[:-1]}, ContractViolation, "lengths"),
        (lambda t: {"y": np.full(len(t.X), np.nan)}, ContractViolation, "finite"),
    ],
)
def test_bad_input_is_named(change: Any, error: type[PereneError], says: str, regression: Toy, tmp_path: Path) -> None:
    """Each gets its own message, and leaves nothing behind."""
    given = {"X": regression.X, "y": regression.y, "name": "toy", **change(regression)}
    with pytest.raises(error, match=says):
        build_bundle(regression.estimator, given["X"], given["y"], name=given["name"], to=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_unfitted_estimator_is_refused(regression: Toy, tmp_path: Path) -> None:
    """The fix is in the message."""
    from sklearn.base import clone

    with pytest.raises(ConversionRefused, match="not a fitted"):
        build_bundle(clone(regression.estimator), regression.X, regression.y, name="toy", to=tmp_path / "b")


def test_an_interrupted_registration_can_be_repeated(
    regression: Toy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut between the artifacts and the version: no version exists, and the next call completes."""
    client = store._client
    real = client.create_model_version

    def cut(*_args: Any, **_kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "create_model_version", cut)
    with pytest.raises(KeyboardInterrupt):
        log_model(regression.estimator, regression.X, regression.y, name="toy", store=store)
    assert store.versions("toy") == []
    monkeypatch.setattr(client, "create_model_version", real)
    assert log_model(regression.estimator, regression.X, regression.y, name="toy", store=store).version == 1


def test_a_version_without_a_bundle_is_refused(store: Store, tmp_path: Path) -> None:
    """A version that somebody logged by other means is not served by accident."""
    store._client.create_registered_model("foreign")
    source = tmp_path / "foreign"
    source.mkdir()
    (source / "MLmodel").write_text("flavors: {}\n")
    store._client.create_model_version("foreign", source.as_uri())
    with pytest.raises(PereneError) as caught:
        store.download("foreign", 1, tmp_path / "got")
    assert not (tmp_path / "got").exists()
    assert caught.value.code in (BundleCorrupt.code, "store_unavailable")


def test_contract_of_a_bundle_names_its_model(toy_bundle: Path) -> None:
    """The bundle knows which model it is of."""
    bundle = read_bundle(toy_bundle)
    assert replace(bundle.contract, model="toy") == bundle.contract
