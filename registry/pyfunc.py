"""MLflow's loader for a bundle: `mlflow.pyfunc.load_model("models:/name@champion").predict(frame)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from registry.bundle import read_bundle
from registry.parity import answers, predict_onnx
from registry.tensors import pack_frame


class BundleModel:
    """Answers as the server does: a number a row, or the most probable class a row."""

    def __init__(self, folder: Path) -> None:
        self._bundle = read_bundle(folder)
        self._graph = self._bundle.onnx_bytes()

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray[Any, Any]:
        """Predict N rows; returns float64 [N], or classes [N]."""
        contract = self._bundle.contract
        outputs = predict_onnx(self._graph, pack_frame(contract, frame))
        if contract.output.kind == "regression":
            return answers(contract, outputs)
        classes = np.asarray(contract.output.classes)
        return np.asarray(classes[answers(contract, outputs).argmax(axis=1)])


def _load_pyfunc(path: str) -> BundleModel:
    """The name MLflow looks for."""
    return BundleModel(Path(path))
