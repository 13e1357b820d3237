"""Versions that people logged with plain MLflow become certified ones; certificates are repeated on demand."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

import perene
from perene.cli import main
from perene.config import Settings
from registry.errors import ContractViolation, ConversionRefused, NotAllowed, VersionUnknown
from registry.ledger import Ledger
from registry.mlflow_store import Store
from registry.sandbox import check_in_child
from tests.conftest import toy_frame, toy_target
from tests.integration.native_models import Spy

NAME = "churn"


@dataclass
class Plain:
    """A store of plain MLflow, and the platform beside it."""

    home: Path
    settings: Settings

    @property
    def store(self) -> Store:
        return Store(self.settings.places.tracking_uri, self.settings.places.artifacts)

    def log(self, flavour: str, *model: Any, **options: Any) -> int:
        """As a user would, without Perene."""
        import mlflow
        from mlflow.models import infer_signature

        mlflow.set_tracking_uri(self.settings.places.tracking_uri)
        client = mlflow.MlflowClient()
        found = client.get_experiment_by_name(NAME)
        location = (self.home / "plain").as_uri()
        experiment = found.experiment_id if found else client.create_experiment(NAME, artifact_location=location)
        rows = toy_frame(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options.setdefault("signature", infer_signature(rows, [0.0] * 3))
            with mlflow.start_run(experiment_id=experiment):
                getattr(mlflow, flavour).log_model(
                    *model, name=NAME, registered_model_name=NAME, pip_requirements=["scikit-learn"], **options
                )
        return int(client.get_registered_model(NAME).latest_versions[0].version)


@pytest.fixture
def plain(home: Path) -> Plain:
    return Plain(home, Settings(home=home))


def encoder() -> Any:
    return make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["carrier"]), remainder="passthrough"
    )


def rows(count: int = 1_200) -> tuple[pd.DataFrame, Any]:
    frame = toy_frame(count).fillna({"temp": 3.0})
    frame["temp"] = frame["temp"].astype(np.float64)
    return frame, toy_target(frame)


def test_a_sklearn_version_becomes_a_certified_one(plain: Plain, tmp_path: Path) -> None:
    """MLflow's default format needs no permission; the old version stays, the new one says whence it came."""
    X, y = rows()
    old = plain.log("sklearn", make_pipeline(encoder(), Ridge()).fit(X, y))
    steps: list[str] = []
    made = perene.adopt(
        f"models:/{NAME}/{old}", X, y, settings=plain.settings, progress=lambda step, found: steps.append(step)
    )
    assert (made.model, made.version, made.verdict) == (NAME, old + 1, "exact")
    assert {"contract", "export", "certificate", "reference", "version"} <= set(steps)
    versions = {v["version"]: v["tags"] for v in plain.store.versions(NAME)}
    assert versions[made.version]["perene.adopted_from"] == str(old)
    assert "perene.digest" not in versions[old]
    check_in_child(plain.store.download(NAME, made.version, tmp_path / "bundle"))
    ledger = Ledger.open(plain.settings.places.ledger_url)
    assert ledger.deployment(NAME) is None
    ledger.close()
    again = perene.adopt(f"models:/{NAME}/{old}", X, y, settings=plain.settings)
    assert again.version == made.version


def test_a_pickle_needs_permission(plain: Plain) -> None:
    """And what ONNX cannot express then runs natively, as a pickle."""
    X, y = rows()
    estimator = make_pipeline(encoder(), FunctionTransformer(_odd), Ridge()).fit(X, y)
    old = plain.log("sklearn", estimator, serialization_format="cloudpickle")
    with pytest.raises(NotAllowed, match="allow_pickle=True"):
        perene.adopt(f"models:/{NAME}/{old}", X, y, settings=plain.settings)
    made = perene.adopt(f"models:/{NAME}/{old}", X, y, allow_pickle=True, settings=plain.settings)
    assert (made.verdict, made.certificate["runtime"]) == ("exact", "native")


def _odd(values: Any) -> Any:
    return np.round(np.asarray(values, np.float64), 1)


_odd.__module__ = "__main__"  # as in a notebook


def test_other_libraries(plain: Plain) -> None:
    """XGBoost and LightGBM as MLflow logs them, without permission for pickles."""
    from lightgbm import LGBMRegressor
    from xgboost import XGBClassifier

    X, y = rows()
    X = X.drop(columns="carrier").astype(np.float32)
    old = plain.log("lightgbm", LGBMRegressor(n_estimators=10, verbosity=-1).fit(X, y))
    made = perene.adopt(f"models:/{NAME}/{old}", X, y, settings=plain.settings)
    assert made.verdict in ("exact", "close")
    late = (y > np.median(y)).astype(int)
    old = plain.log("xgboost", XGBClassifier(n_estimators=10, n_jobs=1).fit(X, late))
    made = perene.adopt(f"models:/{NAME}/{old}", X, late, settings=plain.settings)
    assert made.verdict in ("exact", "close")
    assert made.contract.output.classes == (0, 1)


def test_the_input_example_serves_where_it_is_long_enough(plain: Plain) -> None:
    """Three rows are no ground for a certificate; a thousand are."""
    X, y = rows(1_000)
    estimator = make_pipeline(encoder(), LogisticRegression(max_iter=1_000)).fit(X, y > np.median(y))
    short = plain.log("sklearn", estimator, input_example=X.head(3))
    with pytest.raises(ContractViolation, match="has 3 rows"):
        perene.adopt(f"models:/{NAME}/{short}", settings=plain.settings)
    long = plain.log("sklearn", estimator, input_example=X)
    assert perene.adopt(f"models:/{NAME}/{long}", settings=plain.settings).certificate["rows"] == 1_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process give up network and files")
def test_a_hostile_pickle_reaches_nothing(plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, as allowed; it connects to no listener of this machine, and writes neither ledger nor canary."""
    X = pd.DataFrame({"x": np.linspace(7, 9, 1_000)})
    canary = tmp_path / "canary"
    monkeypatch.setenv("SECRET", "hunter2")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        spy = Spy(listener.getsockname()[1], str(canary)).fit(X, None)
        old = plain.log("sklearn", spy, serialization_format="cloudpickle")
        with pytest.raises(NotAllowed):
            perene.adopt(f"models:/{NAME}/{old}", X, settings=plain.settings)
        made = perene.adopt(f"models:/{NAME}/{old}", X, allow_pickle=True, settings=plain.settings)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert made.certificate["runtime"] == "native"
    assert not canary.exists()


def test_what_cannot_be_adopted_is_said(plain: Plain) -> None:
    """Addresses, versions and models that are not there or not estimators."""
    X, _ = rows(1_000)
    for uri in ("churn/3", "models:/churn", "models:/churn/3/x", "models:/churn/three"):
        with pytest.raises(ContractViolation, match="not the address"):
            perene.adopt(uri, X, settings=plain.settings)

    function = plain.log("pyfunc", loader_module="somewhere", data_path=str(plain.home / "mlflow.db"))
    with pytest.raises(ConversionRefused, match="holds no estimator, but python_function"):
        perene.adopt(f"models:/{NAME}/{function}", X, settings=plain.settings)
    old = plain.log("sklearn", make_pipeline(encoder(), Ridge()).fit(*rows()))
    with pytest.raises(VersionUnknown):
        perene.adopt(f"models:/{NAME}/{old + 7}", X, settings=plain.settings)
    with pytest.raises(ContractViolation, match="missing: 'hour'"):
        perene.adopt(f"models:/{NAME}/{old}", X.drop(columns="hour"), settings=plain.settings)


def test_a_certificate_is_repeated(plain: Plain, tmp_path: Path) -> None:
    """Golden rows alone; with rows the original is compared again; rows it was not made for are refused."""
    X, y = rows()
    made = perene.log_model(make_pipeline(encoder(), Ridge()).fit(X, y), X, y, name=NAME, settings=plain.settings)
    found = perene.certify(NAME, settings=plain.settings)
    assert (found["version"], found["verdict"], found["checked"]) == (made.version, "exact", "golden rows")
    found = perene.certify(NAME, rows=toy_frame(500, seed=9).fillna(1.0), settings=plain.settings)
    assert (found["verdict"], found["checked"], found["certificate"]["rows"]) == ("exact", "original", 500)
    with pytest.raises(ContractViolation, match="no column 'hour'"):
        perene.certify(NAME, rows=X.drop(columns="hour"), settings=plain.settings)


def test_the_commands(plain: Plain, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """`perene adopt` and `perene certify` say what was made and found, as JSON."""
    import json

    X, y = rows()
    old = plain.log("sklearn", make_pipeline(encoder(), Ridge()).fit(X, y))
    X.assign(minutes=y).to_parquet(tmp_path / "rows.parquet")

    def command(*words: str) -> tuple[int, Any]:
        monkeypatch.setattr(sys, "argv", ["perene", *words, "--home", str(plain.home), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr().out
        return int(ended.value.code or 0), json.loads(out) if out.strip() else None

    file = str(tmp_path / "rows.parquet")
    code, made = command("adopt", f"models:/{NAME}/{old}", "--rows", file, "--target", "minutes")
    assert (code, made["version"], made["verdict"], made["runtime"]) == (0, old + 1, "exact", "onnx")
    code, found = command("certify", NAME, "--version", str(made["version"]), "--rows", file)
    assert (code, found["verdict"], found["checked"]) == (0, "exact", "original")
    code, _ = command("adopt", f"models:/{NAME}/{old}", "--rows", str(tmp_path / "none.csv"))
    assert code == 2
    assert os.path.lexists(file)
