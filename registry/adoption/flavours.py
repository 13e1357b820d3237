"""Estimators out of models that people logged with plain MLflow, without MLflow: for the child that adopts them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from registry.errors import ConversionRefused, NotAllowed

_ORDER: Final = ("sklearn", "xgboost", "lightgbm", "catboost", "onnx")
_KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "xgboost": ("Booster", "XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor"),
    "catboost": ("CatBoost", "CatBoostClassifier", "CatBoostRegressor"),
}


def choose(flavours: Mapping[str, Any]) -> str:
    """The flavour that holds the estimator itself.

    Raises:
        ConversionRefused: there is none, only a function or a network.
    """
    found = next((name for name in _ORDER if name in flavours), None)
    if found is None:
        raise ConversionRefused(
            f"the version holds no estimator, but {', '.join(sorted(flavours)) or 'nothing'}",
            expected=f"a flavour of {', '.join(_ORDER)}",
            hint="load it where it was made and pass the estimator inside it to perene.log_model",
        )
    return found


def needs_pickle(flavours: Mapping[str, Any]) -> bool:
    """Whether loading the version runs code that its author chose."""
    name = choose(flavours)
    facts = flavours[name]
    if name == "sklearn":
        return bool(facts.get("serialization_format") != "skops")
    return name == "lightgbm" and not str(facts.get("data", "")).endswith((".lgb", ".txt", ".skops"))


def load(folder: Path, flavours: Mapping[str, Any], *, allow_pickle: bool = False) -> Any:
    """The estimator of the version whose files lie in `folder`.

    Raises:
        NotAllowed: it is a pickle, and those are not allowed.
        ConversionRefused: it holds no estimator, or types that are not trusted.
    """
    name = choose(flavours)
    facts = flavours[name]
    check_pickle(flavours, allow_pickle=allow_pickle)
    if allow_pickle and facts.get("code"):
        sys.path.insert(0, str(_inside(folder, facts["code"])))  # modules that were logged beside it
    path = _inside(folder, facts.get("pickled_model") or facts.get("data") or "model")
    readers = {"sklearn": _estimator, "xgboost": _xgboost, "lightgbm": _lightgbm, "catboost": _catboost, "onnx": _onnx}
    return readers[name](path, facts)


def check_pickle(flavours: Mapping[str, Any], *, allow_pickle: bool) -> None:
    """Refuse a version that is a pickle where those are not allowed.

    Raises:
        NotAllowed: with what to pass.
    """
    if needs_pickle(flavours) and not allow_pickle:
        raise NotAllowed(
            "the version is a pickle, and loading one runs code that its author chose",
            where=choose(flavours),
            hint="pass allow_pickle=True (--allow-pickle) if you trust whoever logged it",
        )


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ConversionRefused("the version names a file outside of its folder", where="MLmodel")
    return path


def _estimator(path: Path, facts: Mapping[str, Any]) -> Any:
    data = path.read_bytes()
    if facts.get("serialization_format") != "skops":
        import joblib

        return joblib.load(path)
    from skops.io import loads

    from registry.native.trusted_types import refused_types

    trusted, refused = refused_types(data)
    if refused:
        raise ConversionRefused(f"it holds types that are not trusted: {', '.join(refused[:5])}", where=path.name)
    return loads(data, trusted=trusted)


def _xgboost(path: Path, facts: Mapping[str, Any]) -> Any:
    import xgboost

    made = getattr(xgboost, _class("xgboost", facts.get("model_class")))()
    made.load_model(bytearray(path.read_bytes()))
    return made


def _lightgbm(path: Path, facts: Mapping[str, Any]) -> Any:
    if path.suffix not in (".lgb", ".txt"):
        return _estimator(path, {"serialization_format": "skops" if path.suffix == ".skops" else "pickle"})
    import lightgbm

    return lightgbm.Booster(model_file=str(path))


def _catboost(path: Path, facts: Mapping[str, Any]) -> Any:
    import catboost

    made = getattr(catboost, _class("catboost", facts.get("model_type")))()
    made.load_model(str(path), format=facts.get("save_format", "cbm"))
    return made


def _onnx(path: Path, facts: Mapping[str, Any]) -> Any:
    import onnx

    return onnx.load_model_from_string(path.read_bytes())


def _class(package: str, name: Any) -> str:
    found = str(name).rpartition(".")[2]
    if found not in _KNOWN[package]:
        raise ConversionRefused(f"the version holds a {package} model of an unknown kind", where="MLmodel")
    return found
