"""Versions, aliases and bundles in MLflow. The only module of the platform that imports it.

Importing this module costs seconds and 190 MB; the serving process and the worker never do, their children do.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# before the import: MLflow reads it there, and knows `true` but not `1`
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from registry.bundle import MANIFEST, read_bundle
from registry.contract import Contract
from registry.errors import BundleCorrupt, StoreUnavailable, VersionUnknown
from registry.names import check_name

DIGEST_TAG = "perene.digest"
VERDICT_TAG = "perene.verdict"
CONTENT_TAG = "perene.content"
"""sha256 over graph and contract: what is served, without the timings that a certificate also holds."""
_TYPES = {"float": DataType.double, "int": DataType.long, "bool": DataType.boolean, "string": DataType.string}


class Store:
    """A MLflow tracking store and model registry, used as a library."""

    def __init__(self, tracking_uri: str, artifact_root: Path) -> None:
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)  # a fresh store logs its 60 migrations
        if tracking_uri.startswith("sqlite:///"):
            Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._uri = tracking_uri
        self._artifacts = artifact_root.resolve()
        self._client = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def prepare(self) -> None:
        """Make sure that the store answers, creating and migrating it where needed (16 s on a fresh SQLite file)."""
        with _translated():
            self._client.search_experiments(max_results=1)

    def register(
        self,
        folder: Path,
        model: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> int:
        """Log the bundle in `folder` as an ordinary MLflow model and register it; returns its version.

        The same bundle registered twice is the same version. Nothing is registered before everything is logged,
        so an interrupted call leaves no version behind and can simply be repeated.

        Raises:
            BundleCorrupt: the bundle does not match its manifest.
            StoreUnavailable: MLflow does not answer.
        """
        check_name(model)
        bundle = read_bundle(folder)
        content = hashlib.sha256(
            (bundle.manifest["model.onnx"] + bundle.manifest["contract.json"]).encode()
        ).hexdigest()
        verdict = str(bundle.certificate["verdict"])
        marks = {DIGEST_TAG: bundle.digest, CONTENT_TAG: content, VERDICT_TAG: verdict, **(tags or {})}
        with _translated():
            existing = self.find(model, CONTENT_TAG, content)
            if existing is not None:
                return existing
            with self._run(model), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # asks for an input example; the bundle's golden rows are better
                mlflow.log_params(dict(params or {}))
                mlflow.log_metrics(dict(metrics or {}))
                mlflow.set_tags(marks)
                info = mlflow.pyfunc.log_model(
                    name=model,
                    loader_module="registry.pyfunc",
                    data_path=str(folder),
                    signature=_signature(bundle.contract),
                    # given, or MLflow spends 12-16 s on guessing them
                    pip_requirements=["perene"],
                )
                mlflow.log_text((folder / "card.md").read_text(), "card.md")
            with contextlib.suppress(MlflowException):  # it exists: creation is how MLflow tells
                self._client.create_registered_model(model)
            logged = self._client.get_logged_model(info.model_id)
            version = self._client.create_model_version(
                model, logged.artifact_location, run_id=info.run_id, tags=marks, model_id=info.model_id
            )
            return int(version.version)

    def find(self, model: str, tag: str, value: str) -> int | None:
        """The newest version of `model` that carries `tag` with `value`."""
        with _translated():
            found = [int(v.version) for v in self._versions(model) if v.tags.get(tag) == value]
        return max(found, default=None)

    def download(self, model: str, version: int, to: Path) -> Path:
        """Copy a version's bundle into the new folder `to`, by way of a temporary name beside it.

        Raises:
            VersionUnknown: there is no such version.
            BundleCorrupt: the version was not logged by Perene.
            StoreUnavailable: MLflow does not answer.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        with _translated(), tempfile.TemporaryDirectory(dir=to.parent, prefix=".download-") as scratch:
            if not any(int(v.version) == version for v in self._versions(model)):
                raise VersionUnknown(f"model '{model}' has no version {version}", where="version")
            mlflow.set_tracking_uri(self._uri)
            mlflow.set_registry_uri(self._uri)
            got = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{model}/{version}", dst_path=scratch)
            manifests = sorted(Path(got).rglob(MANIFEST))
            if len(manifests) != 1:
                raise BundleCorrupt(
                    f"version {version} of '{model}' holds no Perene bundle",
                    hint="log it with perene.log_model",
                )
            if to.exists():
                shutil.rmtree(to)
            os.replace(manifests[0].parent, to)
        return to

    def set_alias(self, model: str, alias: str, version: int | None) -> None:
        """Point `alias` at `version`, or remove it when `version` is None."""
        with _translated():
            if version is not None:
                self._client.set_registered_model_alias(model, alias, str(version))
            elif alias in self.aliases(model):
                self._client.delete_registered_model_alias(model, alias)

    def aliases(self, model: str) -> dict[str, int]:
        """Every alias of `model` with its version."""
        with _translated():
            found = self._client.get_registered_model(model).aliases
        return {alias: int(version) for alias, version in found.items()}

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Version number, tags and creation time (ms) of every version, newest first."""
        with _translated():
            found = sorted(self._versions(model), key=lambda v: -int(v.version))
        return [{"version": int(v.version), "tags": dict(v.tags), "created_ms": v.creation_timestamp} for v in found]

    def log_files(self, model: str, folder: Path, tags: Mapping[str, str]) -> None:
        """Keep a folder (a drift report, say) as artifacts of a run of its own."""
        with _translated(), self._run(model):
            mlflow.set_tags(dict(tags))
            mlflow.log_artifacts(str(folder), "report")

    def _versions(self, model: str) -> list[MlflowVersion]:
        return list(self._client.search_model_versions(f"name = '{check_name(model)}'", max_results=10_000))

    @contextmanager
    def _run(self, model: str) -> Iterator[None]:
        mlflow.set_tracking_uri(self._uri)
        mlflow.set_registry_uri(self._uri)
        experiment = self._client.get_experiment_by_name(model)
        if experiment is None:
            location = (self._artifacts / model).as_uri()
            identifier = self._client.create_experiment(model, artifact_location=location)
        else:
            identifier = experiment.experiment_id
        with mlflow.start_run(experiment_id=identifier):
            yield


def _signature(contract: Contract) -> ModelSignature:
    inputs = Schema([ColSpec(_TYPES[c.dtype], c.name, required=not c.nullable) for c in contract.columns])
    if contract.output.kind == "regression":
        return ModelSignature(inputs, Schema([ColSpec(DataType.double, "prediction")]))
    first = contract.output.classes[0]
    label = (
        DataType.boolean if isinstance(first, bool) else DataType.long if isinstance(first, int) else DataType.string
    )
    return ModelSignature(inputs, Schema([ColSpec(label, "label")]))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise StoreUnavailable(
            f"MLflow refused or does not answer: {error.error_code}",
            where="mlflow",
            hint="perene doctor checks the store; the call can be repeated",
        ) from error
