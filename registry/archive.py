"""The original estimator as a file beside its version: for people who want it back; nothing of ours loads it."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib

from registry.errors import ConversionRefused

FOLDER = "original"


def archive(estimator: Any, folder: Path) -> Path | None:
    """Write the estimator into the new folder `folder` in its own format, else as a pickle; None when it has none."""
    made = _native(estimator) or _pickle(estimator)
    if made is None:
        return None
    file, data = made
    folder.mkdir(parents=True)
    (folder / file).write_bytes(data)
    return folder


def _native(estimator: Any) -> tuple[str, bytes] | None:
    from registry.native.process import dump

    try:
        return dump(estimator, allow_pickle=False)
    except ConversionRefused:
        return None


def _pickle(estimator: Any) -> tuple[str, bytes] | None:
    buffer = BytesIO()
    try:
        joblib.dump(estimator, buffer)
    except (pickle.PicklingError, AttributeError, TypeError):  # a lambda or a class of a notebook inside it
        return None
    return "model.joblib", buffer.getvalue()
