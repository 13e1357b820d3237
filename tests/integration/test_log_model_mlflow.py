"""Whatever we write is an ordinary MLflow model: plain clients see and load everything, and we leave theirs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import mlflow
import numpy as np
import onnx
import pytest
from mlflow.entities import LoggedModelStatus

from registry.bundle import read_bundle
from registry.contract import Column, Contract, Output
from registry.errors import ContractViolation
from registry.log import Facts, log_model
from registry.mlflow_store import Store, _signature
from tests.conftest import Toy, fit, toy_frame, toy_target

UNSET: Any = None
"""MLflow takes it, though its annotation does not say so."""
FACTS = Facts(owner="ops", purpose="minutes | of <b>delay</b>", slices=["carrier"], window=("2026-01-01", "2026-02-01"))


@pytest.fixture
def uri(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow.db'}"


@pytest.fixture
def store(home: Path, uri: str) -> Store:
    return Store(uri, home / "artifacts")


@pytest.fixture
def noisy() -> Toy:
    from sklearn.ensemble import HistGradientBoostingRegressor

    frame = toy_frame()
    target = toy_target(frame) + np.random.default_rng(5).normal(0, 3, len(frame))
    return fit(HistGradientBoostingRegressor(max_iter=20), frame, target)


@pytest.fixture
def plain(uri: str) -> Any:
    """An MLflow client of somebody who does not know us, with the module pointed at the same store."""
    mlflow.set_tracking_uri(uri)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(UNSET)


def test_a_plain_client_sees_the_whole_story(noisy: Toy, store: Store, plain: Any, tmp_path: Path) -> None:
    """Version, description, tags, run, params, metrics, dataset, signature, example, both flavours, the original."""
    logged = log_model(noisy.estimator, noisy.X, noisy.y, name="toy", store=store, facts=FACTS, tags={"team": "air"})
    version = plain.get_model_version("toy", str(logged.version))
    assert version.tags["perene.digest"] == logged.digest
    assert version.tags["team"] == "air"
    assert "ops" in version.description
    assert "<b>" not in version.description
    run = plain.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["algorithm"].endswith("HistGradientBoostingRegressor")
    assert run.data.params["rows"] == "2000"
    assert run.data.metrics["mae_low"] <= run.data.metrics["mae"] <= run.data.metrics["mae_high"]
    assert run.data.metrics["mae"] == pytest.approx(logged.baseline["metrics"]["mae"]["value"])
    assert run.data.tags["perene.verdict"] == "exact"
    (dataset,) = run.inputs.dataset_inputs
    card = json.loads((read_bundle(store.download("toy", 1, tmp_path / "got")).path / "card.json").read_text())
    assert card["training"]["digest"].startswith(dataset.dataset.digest)
    assert json.loads(dataset.dataset.profile)["num_rows"] == 2_000
    assert {a.path for a in plain.list_artifacts(run.info.run_id)} == {"card.md", "original"}
    (model,) = plain.search_logged_models([run.info.experiment_id])
    assert model.status == LoggedModelStatus.READY
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    info = mlflow.models.get_model_info("models:/toy/1")
    assert set(info.flavors) == {"onnx", "python_function"}
    assert [column.name for column in info.signature.inputs] == list(noisy.X.columns)


def test_plain_flavours_answer_as_the_estimator(noisy: Toy, store: Store, plain: Any) -> None:
    """`mlflow.pyfunc` on a frame and on its own example; `mlflow.onnx` gives a graph that passes the checker."""
    version = log_model(noisy.estimator, noisy.X, noisy.y, name="toy", store=store)
    store.set_alias("toy", "champion", version.version)
    loaded = mlflow.pyfunc.load_model("models:/toy@champion")
    wanted = noisy.estimator.predict(noisy.X)
    np.testing.assert_allclose(loaded.predict(noisy.X), wanted, rtol=1e-5)
    assert len(loaded.predict(loaded.input_example)) == 3
    graph = mlflow.onnx.load_model("models:/toy/1")
    onnx.checker.check_model(graph)
    assert {i.name for i in graph.graph.input} == {"numbers", "strings"}


def test_classes_and_nullable_types_pass_mlflows_schema(classification: Toy, store: Store, plain: Any) -> None:
    """pandas' own integers, booleans and texts; answers are class values."""
    frame = classification.X.astype({"hour": "Int64", "late": "boolean", "carrier": "string"})
    log_model(classification.estimator, frame, classification.y, name="classes", store=store)
    loaded = mlflow.pyfunc.load_model("models:/classes/1")
    wanted = classification.estimator.predict(classification.X).tolist()
    assert set(wanted) == {0, 1}
    assert loaded.predict(frame).tolist() == wanted
    assert loaded.predict(classification.X).tolist() == wanted


def test_an_estimator_that_fails_on_its_rows_is_told_so(regression: Toy, store: Store) -> None:
    """With the kind of its error, not its text: that may hold values."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    columns = ["temp", "hour"]
    model = make_pipeline(StandardScaler(), Ridge()).fit(regression.X[columns].fillna(0), regression.y)
    with pytest.raises(ContractViolation, match="does not answer the rows of X: ValueError"):
        log_model(model, regression.X[columns], regression.y, name="toy", store=store)
    assert store.versions("toy") == []


def test_signature_of_several_targets() -> None:
    """Each has a name; integers and booleans that may be null are doubles."""
    columns = (Column("n", "int", nullable=True), Column("b", "bool", nullable=True), Column("t", "string"))
    signature = _signature(Contract("toy", columns, Output("regression", targets=("a", "b"))))
    assert [(c.name, c.type.name) for c in signature.inputs] == [("n", "double"), ("b", "double"), ("t", "string")]
    assert [c.name for c in signature.outputs] == ["a", "b"]


def test_the_original_comes_back(noisy: Toy, store: Store, tmp_path: Path) -> None:
    """As a file of its own format; versions that kept none say so."""
    log_model(noisy.estimator, noisy.X, noisy.y, name="toy", store=store)
    path = store.original("toy", 1, tmp_path / "original")
    assert path is not None
    assert path.name in ("model.skops", "model.joblib")
    if path.name == "model.joblib":
        again = joblib.load(path)
    else:
        import skops.io

        again = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    np.testing.assert_array_equal(again.predict(noisy.X), noisy.estimator.predict(noisy.X))


def test_a_version_without_its_original_says_so(toy_bundle: Path, store: Store, tmp_path: Path) -> None:
    """None, and no empty folder."""
    store.register(toy_bundle, "toy")
    assert store.original("toy", 1, tmp_path / "nothing") is None
    assert not (tmp_path / "nothing").exists()


def test_the_callers_own_run_and_store_are_left_alone(noisy: Toy, store: Store, tmp_path: Path, home: Path) -> None:
    """Called inside somebody's run on another store: neither is touched, nor where MLflow points afterwards."""
    import shutil

    shutil.copy(home / "mlflow.db", tmp_path / "theirs.db")
    theirs = f"sqlite:///{tmp_path / 'theirs.db'}"
    mlflow.set_tracking_uri(theirs)
    try:
        experiment = mlflow.MlflowClient().create_experiment("theirs", artifact_location=(tmp_path / "a").as_uri())
        with mlflow.start_run(experiment_id=experiment) as run:
            log_model(noisy.estimator, noisy.X, noisy.y, name="toy", store=store)
            active = mlflow.active_run()
            assert active is not None
            assert active.info.run_id == run.info.run_id
            mlflow.log_metric("after", 1.0)
        assert mlflow.get_tracking_uri() == theirs
        assert mlflow.get_registry_uri() == theirs
        assert mlflow.MlflowClient().get_run(run.info.run_id).data.metrics == {"after": 1.0}
    finally:
        mlflow.set_tracking_uri(UNSET)
    assert [v["version"] for v in store.versions("toy")] == [1]


def test_the_same_content_is_the_same_version_and_other_content_is_not(noisy: Toy, store: Store) -> None:
    """The answer names the registered bundle, whichever facts came with the second call."""
    first = log_model(noisy.estimator, noisy.X, noisy.y, name="toy", store=store)
    again = log_model(noisy.estimator, noisy.X, noisy.y, name="toy", store=store, facts=FACTS)
    assert (again.version, again.digest) == (first.version, first.digest)
    hashed = log_model(noisy.estimator, noisy.X, noisy.y, name="toy", store=store, policies={"carrier": "hash"})
    assert hashed.version == 2
    assert store.names() == ["toy"]


def test_a_bundle_older_than_cards_facts_still_registers(toy_bundle: Path, store: Store, tmp_path: Path) -> None:
    """No card.json: no params of it, and no description."""
    import shutil

    from registry.bundle import seal

    old = shutil.copytree(toy_bundle, tmp_path / "old")
    (old / "card.json").unlink()
    (old / "manifest.json").unlink()
    seal(old)
    assert store.register(old, "toy") == 1
