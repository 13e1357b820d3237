"""Models for the tests of the native runtime, some of them ill-behaved; pickled by value where a test allows it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

from registry.bundle import seal
from registry.contract import Column, Contract, Output
from registry.log import build_bundle

# these classes exist in no installed package: their pickles carry them
cloudpickle.register_pickle_by_value(sys.modules[__name__])

CONTRACT = Contract("toy", (Column("x", "float", example=1.0, frame_dtype="float64"),), Output("regression"), "float64")
HANG, CRASH, FILL, RAISE, WIDE, TALK = 1.0, 2.0, 3.0, 4.0, 5.0, 6.0
"""What `Moody` does when a row's x is this."""


class Moody(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts 2 x, unless x asks for something else."""

    def fit(self, X: pd.DataFrame, y: Any) -> Moody:
        """Nothing to learn."""
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: pd.DataFrame) -> Any:
        """2 x, or mischief."""
        import os
        import signal
        import time

        x = X["x"].to_numpy()
        if (x == HANG).any():
            time.sleep(3600)
        if (x == CRASH).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        if (x == FILL).any():
            bytearray(64 << 30)
        if (x == RAISE).any():
            raise ValueError("x holds the secret 4.0")
        if (x == WIDE).any():
            return np.zeros((len(x), 3))
        if (x == TALK).any():
            sys.stdout.write("noise" * 1000)
            os.write(1, b"\x00" * 1000)
        return 2.0 * x


class Gated(Moody):
    """Waits until a file is there before it answers `HANG`."""

    def __init__(self, gate: str = "") -> None:
        self.gate = gate

    def predict(self, X: pd.DataFrame) -> Any:
        """2 x."""
        import time

        while (X["x"] == HANG).any() and not Path(self.gate).exists():
            time.sleep(0.01)
        return 2.0 * X["x"].to_numpy()


class Calm(Moody):
    """Predicts 3 x, whatever x is."""

    def predict(self, X: pd.DataFrame) -> Any:
        """3 x."""
        return 3.0 * X["x"].to_numpy()


class Caller(Moody):
    """Predicts 1 where it could reach a port of this machine, 0 where not; 2 where it saw a secret."""

    def __init__(self, port: int = 0) -> None:
        self.port = port

    def predict(self, X: pd.DataFrame) -> Any:
        """Tries."""
        import os
        import socket

        if "SECRET" in os.environ:
            return np.full(len(X), 2.0)
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
        except OSError:
            return np.zeros(len(X))
        return np.ones(len(X))


class Spy(Caller):
    """Also predicts 3 where it could write a file."""

    def __init__(self, port: int = 0, path: str = "") -> None:
        super().__init__(port)
        self.path = path

    def predict(self, X: pd.DataFrame) -> Any:
        """Tries."""
        try:
            Path(self.path).write_text("here")
        except OSError:
            return super().predict(X)
        return np.full(len(X), 3.0)


@dataclass
class Canary:
    """Creates a file when it is unpickled."""

    path: str

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.path),))


def pickled(model: Any) -> bytes:
    """As `registry.native.process.dump` writes a pickle."""
    return bytes(cloudpickle.dumps(model))


def moody_bundle(to: Path) -> Path:
    """A bundle of `Moody`, certified on rows that ask for nothing else."""
    frame = pd.DataFrame({"x": np.linspace(7.0, 9.0, 1_000)})
    build_bundle(
        Moody().fit(frame, None), frame, 2 * frame["x"], name="moody", to=to, runtime="native", allow_pickle=True
    )
    return to


def exchanged(bundle: Path, to: Path, model: Any) -> Path:
    """The bundle with another pickle in it, sealed."""
    shutil.copytree(bundle, to)
    (to / "model.joblib").write_bytes(pickled(model))
    seal(to)
    return to


def asked(*values: float) -> dict[str, Any]:
    """Rows of one column as tensors."""
    return {"numbers": np.array(values, np.float64).reshape(-1, 1)}
