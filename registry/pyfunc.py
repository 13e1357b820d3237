"""MLflow's loader for a bundle: `mlflow.pyfunc.load_model("models:/name@champion").predict(frame)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from registry.bundle import read_bundle
from registry.parity import answers, onnx_runner
from registry.tensors import pack_frame


class BundleModel:
    """Answers as the server does: a number a row, or the most probable class a row."""

    def __init__(self, folder: Path) -> None:
        self._bundle = read_bundle(folder)
        self._run = onnx_runner(self._bundle.model_bytes())

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray[Any, Any]:
        """Predict N rows; returns float64 [N] (or [N, T] of several targets), or classes [N]."""
        contract = self._bundle.contract
        found = answers(contract, self._run(pack_frame(contract, frame)))
        if found.labels is None:
            return found.values if contract.output.targets else found.values[:, 0]
        return np.asarray(np.asarray(contract.output.classes)[found.labels])


def _load_pyfunc(path: str) -> BundleModel:
    """The name MLflow looks for."""
    return BundleModel(Path(path))
