"""MLflow's loader for a bundle: `mlflow.pyfunc.load_model("models:/name@champion").predict(frame)`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from registry.bundle import read_bundle
from registry.parity import answers
from registry.run import opened_bundle
from registry.tensors import pack_frame


class BundleModel:
    """Answers as the server does: a number a row, or the most probable class a row."""

    def __init__(self, folder: Path, *, allow_pickle: bool = False) -> None:
        self._bundle = read_bundle(folder)
        self._open = ExitStack()
        self._run = self._open.enter_context(opened_bundle(self._bundle, allow_pickle=allow_pickle))

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray[Any, Any]:
        """Predict N rows; returns float64 [N] (or [N, T] of several targets), or classes [N]."""
        contract = self._bundle.contract
        found = answers(contract, self._run(pack_frame(contract, frame)))
        if found.labels is None:
            return found.values if contract.output.targets else found.values[:, 0]
        return np.asarray(np.asarray(contract.output.classes)[found.labels])


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> BundleModel:
    """The name MLflow looks for; `model_config={"allow_pickle": True}` runs a native model that is a pickle."""
    return BundleModel(Path(path), allow_pickle=bool((model_config or {}).get("allow_pickle")))
