"""Files in which an original estimator is kept: written beside it, loaded only in a process of its own.

The formats are open ones that hold data and no code: skops for scikit-learn, the libraries' own for boosted trees.
A pickle (`model.joblib`) is written and read only where the operator allows it.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from registry.contract import Contract
from registry.errors import ConversionRefused
from registry.native.process import PICKLE, check_pickle
from registry.native.trusted_types import refused_types

_LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "model.skops": ("sklearn", "skops.io", "pandas"),
    "model.ubj": ("xgboost", "sklearn", "pandas"),
    "model.txt": ("lightgbm", "pandas"),
    "model.cbm": ("catboost", "pandas"),
    PICKLE: ("sklearn", "joblib", "pandas"),
}
_WRAPPERS: Final = ("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor")
_NOTES: Final = "perene"
"""Attribute of a XGBoost model under which is kept what its own file does not hold."""


def dump(estimator: Any, *, allow_pickle: bool = False) -> tuple[str, bytes]:
    """Name and bytes of the file that a native process loads.

    Raises:
        ConversionRefused: only a pickle could hold it, and those are not allowed; or it has no native form.
    """
    package, name = type(estimator).__module__.partition(".")[0], type(estimator).__name__
    if package == "xgboost" and name in _WRAPPERS:
        return "model.ubj", _xgboost_bytes(estimator)
    if package == "lightgbm" and name in ("LGBMClassifier", "LGBMRegressor", "Booster"):
        booster = estimator if name == "Booster" else estimator.booster_
        return "model.txt", booster.model_to_string().encode()
    if package == "catboost":
        return "model.cbm", _catboost_bytes(estimator)
    if not hasattr(estimator, "predict"):
        raise ConversionRefused(
            f"a {package}.{name} has no native form", hint="log an estimator with predict, or let it run as ONNX"
        )
    _check_reads_no_files(estimator)
    refused = "it cannot be written without a pickle"
    try:
        from skops.io import dumps

        data = dumps(estimator)
        unknown = refused_types(data)[1]
        if not unknown:
            return "model.skops", data
        refused = f"it holds {', '.join(unknown[:5])}"
    # skops raises what the estimator's own code raises while it is taken apart
    except Exception as error:
        refused = f"it cannot be written without a pickle ({type(error).__name__})"
    if allow_pickle:
        return PICKLE, _pickled(estimator)
    raise ConversionRefused(
        f"the {name} cannot run natively without a pickle: {refused}",
        expected="steps of scikit-learn, XGBoost and LightGBM",
        hint="pass allow_pickle=True and allow it where it is served, or replace the step by one of scikit-learn's",
    )


def import_libraries(file: str) -> None:
    """Import what loading `file` needs: before memory is limited, since it is not the model's."""
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        for name in _LIBRARIES[file]:
            import_module(name)
    finally:
        sys.meta_path.remove(absent)


def load(contract: Contract, file: str, data: bytes, *, allow_pickle: bool = False) -> Any:
    """The estimator in `data`, with `predict` and, for classes, `predict_proba` or scores.

    Raises:
        NotAllowed: it is a pickle, and those are not allowed.
        ConversionRefused: it holds types that are not trusted.
    """
    check_pickle(file, allow_pickle=allow_pickle)
    readers: dict[str, Callable[[Contract, bytes], Any]] = {
        "model.skops": _load_skops,
        "model.ubj": _load_xgboost,
        "model.txt": BoostedText,
        "model.cbm": _load_catboost,
        PICKLE: _unpickle,
    }
    return readers[file](contract, data)


class _Absent(MetaPathFinder):
    """Hides PyTorch, which skops has scikit-learn import where there is one: 200 MB and two seconds for nothing."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Nothing is found here; PyTorch nowhere."""
        if fullname == "torch":
            raise ModuleNotFoundError("hidden while libraries are imported", name=fullname)


class BoostedText:
    """A LightGBM model from its text, asked without the wrapper that the text does not hold."""

    def __init__(self, contract: Contract, data: bytes) -> None:
        import lightgbm

        self._booster = lightgbm.Booster(params={"num_threads": 1, "verbosity": -1}, model_str=data.decode())
        self._output = contract.output

    def predict(self, frame: Any) -> Any:
        """Numbers, or classes of the contract."""
        if self._output.kind == "regression":
            return self._booster.predict(frame)
        # as the wrapper does it: the first of the most probable
        return np.asarray(self._output.classes)[np.argmax(self.predict_proba(frame), axis=1)]

    def predict_proba(self, frame: Any) -> Any:
        """Probabilities [N, K]."""
        found = np.asarray(self._booster.predict(frame), np.float64)
        return np.column_stack([1.0 - found, found]) if found.ndim == 1 else found


def _xgboost_bytes(estimator: Any) -> bytes:
    # what the file itself does not hold goes along as an attribute, so that it stays one that XGBoost loads
    missing = estimator.missing
    notes = {"wrapper": type(estimator).__name__, "missing": None if np.isnan(missing) else float(missing)}
    booster = estimator.get_booster().copy()
    booster.set_attr(**{_NOTES: json.dumps(notes)})
    return bytes(booster.save_raw("ubj"))


def _load_xgboost(contract: Contract, data: bytes) -> Any:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(data))
    notes = json.loads(booster.attr(_NOTES) or "{}")
    fallback = "XGBClassifier" if contract.output.kind == "classification" else "XGBRegressor"
    wrapper = notes.get("wrapper", fallback)
    if wrapper not in _WRAPPERS:
        raise ConversionRefused("the file names a kind of XGBoost model that does not exist", where="model.ubj")
    missing = notes.get("missing")
    options = {"n_jobs": 1, "enable_categorical": True, "missing": np.nan if missing is None else float(missing)}
    made = getattr(xgboost, wrapper)(**options)
    made.load_model(bytearray(data))
    return made


def _catboost_bytes(estimator: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="perene-") as folder:
        path = Path(folder) / "model.cbm"
        estimator.save_model(str(path), format="cbm")
        return path.read_bytes()


def _load_catboost(contract: Contract, data: bytes) -> Any:
    import catboost

    classes = contract.output.kind == "classification"
    made = catboost.CatBoostClassifier() if classes else catboost.CatBoostRegressor()
    made.load_model(blob=data)
    return made


def _load_skops(_contract: Contract, data: bytes) -> Any:
    from skops.io import loads

    trusted, refused = refused_types(data)
    if refused:
        raise ConversionRefused(f"it holds types that are not trusted: {', '.join(refused[:5])}", where="model.skops")
    made = loads(data, trusted=trusted)
    _check_reads_no_files(made)
    return made


def _check_reads_no_files(estimator: Any) -> None:
    """Refuse an estimator of texts whose texts are names of files: a request would choose what it reads.

    Raises:
        ConversionRefused: naming the step.
    """
    from registry.parts import parts

    for part in parts(estimator):
        if getattr(part, "input", "content") in ("filename", "file"):
            raise ConversionRefused(
                f"the {type(part).__name__} reads files that a request would name",
                expected="input='content'",
                hint="read the files before, and fit on their text",
            )


def _pickled(estimator: Any) -> bytes:
    import cloudpickle

    # functions of a notebook go along by value; the format is one that joblib reads
    return bytes(cloudpickle.dumps(estimator))


def _unpickle(_contract: Contract, data: bytes) -> Any:
    import joblib

    return joblib.load(io.BytesIO(data))
