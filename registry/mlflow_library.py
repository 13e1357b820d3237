"""MLflow used as a library: its settings, where its functions point, its errors; `registry.mlflow_store` asks it.

Importing this module costs seconds and 190 MB; `registry.mlflow_store` alone does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# before the import: MLflow reads it there, and knows `true` but not `1`
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# by default a server that is gone costs seven retries, four minutes, and a silent one 16 minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")

import mlflow
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from registry.errors import StoreUnavailable


@contextmanager
def pointed(uri: str) -> Iterator[None]:
    """MLflow's module functions at the store `uri`, and afterwards where the caller had them."""
    # what was unset is unset again, which None does though its annotation does not say so
    before: Any = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
    registry = mlflow.get_registry_uri()
    mlflow.set_tracking_uri(uri)
    # it follows the tracking URI unless somebody set it, and setting it would end that
    own = mlflow.get_registry_uri() != uri
    try:
        if own:
            mlflow.set_registry_uri(uri)
        yield
    finally:
        mlflow.set_tracking_uri(before)
        if own:
            mlflow.set_registry_uri(registry)


@contextmanager
def without_retries() -> Iterator[None]:
    """For the one call that must not happen twice: its answer may be lost on the way."""
    retries: Any = MLFLOW_HTTP_REQUEST_MAX_RETRIES
    before = retries.get()
    try:
        retries.set(0)
        yield
    finally:
        retries.set(before)


@contextmanager
def translated() -> Iterator[None]:
    """MLflow's errors, and those of what it stands on, as ours.

    Raises:
        StoreUnavailable: MLflow refused or does not answer.
    """
    try:
        yield
    # requests' errors are OSErrors, and so is a full or locked disk
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = error.error_code if isinstance(error, MlflowException) else type(error).__name__
        raise StoreUnavailable(
            f"MLflow refused or does not answer: {reason}",
            where="mlflow",
            hint="perene doctor checks the store; the call can be repeated",
        ) from error
