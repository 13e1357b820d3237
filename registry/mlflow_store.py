"""Versions, aliases and bundles in MLflow: with `registry.mlflow_library` the only module that imports it.

Importing this module costs seconds and 190 MB; the serving process and the worker never do, their children do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from registry.mlflow_library import pointed, translated, without_retries  # first: its settings are read by MLflow

# isort: split

import mlflow
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, LoggedModelOutput, Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, DataType, Schema

from registry.bundle import MANIFEST, ONNX, Bundle, read_bundle
from registry.card import summary
from registry.contract import Column, Contract
from registry.errors import BundleCorrupt, VersionUnknown
from registry.mlflow_facts import content_of, example_of, metrics_of, params_of, read_card, tags_of
from registry.names import check_name, is_name
from registry.signing import Signer, sign_bundle

DIGEST_TAG = "perene.digest"
VERDICT_TAG = "perene.verdict"
CONTENT_TAG = "perene.content"
"""sha256 over model and contract: what is served, without the timings that a certificate also holds."""
_TYPES = {"float": DataType.double, "int": DataType.long, "bool": DataType.boolean, "string": DataType.string}


class Store:
    """A MLflow tracking store and model registry, used as a library."""

    def __init__(self, tracking_uri: str, artifact_root: Path, *, signer: Signer | None = None) -> None:
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)  # a fresh store logs its 60 migrations
        if tracking_uri.startswith("sqlite:///"):
            Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._uri = tracking_uri
        self._signer = signer
        self._artifacts = artifact_root.resolve()
        with translated():  # a database is looked at already here
            self._client = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def prepare(self) -> None:
        """Make sure that the store answers, creating and migrating it where needed (16 s on a fresh SQLite file)."""
        with translated():
            self._client.search_experiments(max_results=1)

    def register(
        self,
        folder: Path,
        model: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        original: Path | None = None,
    ) -> int:
        """Log the bundle in `folder` as an ordinary MLflow model and register it; returns its version.

        The same bundle registered twice is the same version. Nothing is registered before everything is logged,
        so an interrupted call leaves no version behind and can simply be repeated. Params, metrics, dataset and
        description come from the bundle's card.

        Args:
            params, metrics: further ones.
            original: folder with the estimator's own file, kept as the run's artifact `original`.

        Raises:
            BundleCorrupt: the bundle does not match its manifest.
            StoreUnavailable: MLflow does not answer.
        """
        check_name(model)
        bundle = read_bundle(folder)
        content = content_of(bundle, self._signer)
        verdict = str(bundle.certificate["verdict"])
        card = read_card(folder)
        marks = {DIGEST_TAG: bundle.digest, CONTENT_TAG: content, VERDICT_TAG: verdict, **tags_of(card), **(tags or {})}
        with translated(), pointed(self._uri):
            existing = self.find(model, CONTENT_TAG, content)
            if existing is not None:
                return existing
            if self._signer is not None:
                sign_bundle(folder, self._signer)
            experiment = self._experiment(model)
            run = self._client.create_run(experiment, run_name=f"{model} {bundle.digest[:12]}").info.run_id
            status = "FAILED"
            try:
                self._describe_run(run, bundle, card, marks, params or {}, metrics or {})
                logged = self._log(experiment, run, bundle, marks)
                self._client.log_text(run, (folder / "card.md").read_text(encoding="utf-8"), "card.md")
                if original is not None:
                    self._client.log_artifacts(run, str(original), "original")
                status = "FINISHED"
            finally:
                with contextlib.suppress(MlflowException):  # the run's status is no reason to fail, or to hide one
                    self._client.set_terminated(run, status)
            with contextlib.suppress(MlflowException):  # it exists: creation is how MLflow tells
                self._client.create_registered_model(model)
            with without_retries():
                made = self._client.create_model_version(
                    model,
                    logged.artifact_location,
                    run_id=run,
                    tags=marks,
                    model_id=logged.model_id,
                    description=summary(card) if card else None,
                )
            return self._only(model, content, int(made.version))

    def digest(self, model: str, version: int) -> str:
        """The digest of the bundle that `version` was registered with; empty when Perene did not log it."""
        with translated():
            return str(self._client.get_model_version(model, str(version)).tags.get(DIGEST_TAG, ""))

    def original(self, model: str, version: int, to: Path) -> Path | None:
        """Copy the original estimator's file of `version` into the folder `to`; None when none was kept.

        It may be a pickle: loading one runs code that its author chose.

        Raises:
            StoreUnavailable: MLflow does not answer, or has no such version.
        """
        with translated(), pointed(self._uri):
            run = self._client.get_model_version(model, str(version)).run_id
            found = self._client.list_artifacts(run, "original") if run else []
            if not found:
                return None
            to.mkdir(parents=True, exist_ok=True)
            return Path(self._client.download_artifacts(str(run), found[0].path, str(to)))

    def find(self, model: str, tag: str, value: str) -> int | None:
        """The newest version of `model` that carries `tag` with `value`."""
        with translated():
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
        with (
            translated(),
            pointed(self._uri),
            tempfile.TemporaryDirectory(dir=to.parent, prefix=".download-") as scratch,
        ):
            if not any(int(v.version) == version for v in self._versions(model)):
                raise VersionUnknown(f"model '{model}' has no version {version}", where="version")
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

    def fetch(self, model: str, version: int, to: Path) -> tuple[Path, dict[str, Any], pd.DataFrame | None]:
        """Copy whatever `version` holds into the folder `to`: where it lies, its flavours, its input example.

        Raises:
            VersionUnknown: there is no such version.
            StoreUnavailable: MLflow does not answer.
        """
        with translated(), pointed(self._uri):
            if not any(int(v.version) == version for v in self._versions(model)):
                raise VersionUnknown(f"model '{model}' has no version {version}", where="version")
            got = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{model}/{version}", dst_path=str(to))
            about = Model.load(got)
            example = about.load_input_example(got) if about.saved_input_example_info else None
        return Path(got), dict(about.flavors), example if isinstance(example, pd.DataFrame) else None

    def log_report(self, model: str, version: int, folder: Path, path: str) -> str:
        """Copy a folder to the artifacts of the run that made `version`; its URI, empty when no run did.

        The same path again is replaced.
        """
        with translated(), pointed(self._uri):
            run = self._client.get_model_version(model, str(version)).run_id
            if not run:
                return ""
            self._client.log_artifacts(run, str(folder), path)
            return f"runs:/{run}/{path}"

    def drop_report(self, uri: str) -> None:
        """Remove what `log_report` copied to `uri`; what is gone already is no error."""
        run, _, path = uri.removeprefix("runs:/").partition("/")
        with translated(), pointed(self._uri):
            try:
                root = str(self._client.get_run(run).info.artifact_uri)
                there = self._client.list_artifacts(run, path)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return
            if there:
                repository: Any = get_artifact_repository(root)
                repository.delete_artifacts(path)

    def set_alias(self, model: str, alias: str, version: int | None) -> None:
        """Point `alias` at `version`, or remove it when `version` is None."""
        with translated():
            if version is not None:
                self._client.set_registered_model_alias(model, alias, str(version))
            elif alias in self.aliases(model):
                self._client.delete_registered_model_alias(model, alias)

    def aliases(self, model: str) -> dict[str, int]:
        """Every alias of `model` with its version."""
        with translated():
            found = self._client.get_registered_model(model).aliases
        return {alias: int(version) for alias, version in found.items()}

    def champions(self) -> dict[str, int]:
        """Every registered model that has the alias `champion`, with its version."""
        found: dict[str, int] = {}
        token: str | None = None
        with translated():
            while token != "":
                page = self._client.search_registered_models(max_results=1_000, page_token=token)
                found |= {m.name: int(m.aliases["champion"]) for m in page if "champion" in m.aliases}
                token = page.token or ""
        return found

    def names(self) -> list[str]:
        """Every registered model that can be a model of ours, by name."""
        found: list[str] = []
        token: str | None = None
        with translated():
            while token != "":
                page = self._client.search_registered_models(max_results=1_000, page_token=token)
                found += [m.name for m in page if is_name(m.name)]
                token = page.token or ""
        return sorted(found)

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Version number, tags and creation time (ms) of every version, newest first."""
        with translated():
            found = sorted(self._versions(model), key=lambda v: -int(v.version))
        return [{"version": int(v.version), "tags": dict(v.tags), "created_ms": v.creation_timestamp} for v in found]

    def _versions(self, model: str) -> list[MlflowVersion]:
        return list(self._client.search_model_versions(f"name = '{check_name(model)}'", max_results=10_000))

    def _experiment(self, model: str) -> str:
        """The model's experiment. A server keeps artifacts where it likes; an embedded store beside itself."""
        found = self._client.get_experiment_by_name(model)
        if found is not None:
            return str(found.experiment_id)
        served = self._uri.startswith(("http://", "https://"))
        location = None if served else (self._artifacts / model).as_uri()
        return str(self._client.create_experiment(model, artifact_location=location))

    def _describe_run(
        self,
        run: str,
        bundle: Bundle,
        card: Mapping[str, Any],
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        metrics: Mapping[str, float | None],
    ) -> None:
        now = int(time.time() * 1000)
        figures = {**metrics_of(card), **metrics}
        self._client.log_batch(
            run,
            metrics=[Metric(name, value, now, 0) for name, value in figures.items() if value is not None],
            params=[Param(name, str(value)) for name, value in {**params_of(card, bundle), **params}.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        if card:
            training = card["training"]
            dataset = Dataset(
                name=f"{card['model']} training rows",
                digest=training["digest"][:36],
                source_type="code",
                source=json.dumps({"tags": {"mlflow.source.name": "perene.log_model", **card["lineage"]}}),
                schema=json.dumps({"mlflow_colspec": _signature(bundle.contract).inputs.to_dict()}),
                profile=json.dumps(
                    {"num_rows": training["rows"], "num_elements": training["rows"] * training["columns"]}
                ),
            )
            self._client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _log(self, experiment: str, run: str, bundle: Bundle, tags: Mapping[str, str]) -> LoggedModel:
        """The bundle as a logged model with flavours `python_function` and, of a graph, `onnx`."""
        logged = self._client.create_logged_model(
            experiment, name=bundle.contract.model, source_run_id=run, tags=dict(tags), model_type="perene"
        )
        described = Model(
            artifact_path=logged.artifact_location, run_id=run, model_uuid=logged.model_id, model_id=logged.model_id
        )
        with tempfile.TemporaryDirectory(prefix="perene-") as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it explains integers with nulls to people who wrote the schema by hand
            folder = Path(scratch) / "model"
            mlflow.pyfunc.save_model(
                path=str(folder),
                mlflow_model=described,
                loader_module="registry.pyfunc",
                data_path=str(bundle.path),
                signature=_signature(bundle.contract),
                input_example=example_of(bundle),
                # given, or MLflow spends 12-16 s on guessing them
                pip_requirements=["perene"],
            )
            if not bundle.native:
                data = Path(described.flavors["python_function"]["data"]) / ONNX
                described.add_flavor(
                    "onnx", onnx_version=package_version("onnx"), data=str(data), providers=None, code=None
                )
                described.save(str(folder / "MLmodel"))
            self._client.log_model_artifacts(logged.model_id, str(folder))
        self._client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
        return self._client.finalize_logged_model(logged.model_id, "READY")

    def _only(self, model: str, content: str, made: int) -> int:
        """The first version with this content: of two processes that register it at once, the later one withdraws."""
        first = min((int(v.version) for v in self._versions(model) if v.tags.get(CONTENT_TAG) == content), default=made)
        if first < made:
            self._client.delete_model_version(model, str(made))
        return min(first, made)


def _signature(contract: Contract) -> ModelSignature:
    inputs = Schema([ColSpec(_type(c), c.name, required=not c.nullable) for c in contract.columns])
    if contract.output.kind == "regression":
        names = contract.output.targets or ("prediction",)
        return ModelSignature(inputs, Schema([ColSpec(DataType.double, name) for name in names]))
    first = contract.output.classes[0]
    label = (
        DataType.boolean if isinstance(first, bool) else DataType.long if isinstance(first, int) else DataType.string
    )
    return ModelSignature(inputs, Schema([ColSpec(label, "label")]))


def _type(column: Column) -> DataType:
    # MLflow's integers and booleans know no null
    return DataType.double if column.nullable and column.dtype in ("int", "bool") else _TYPES[column.dtype]
