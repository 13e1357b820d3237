"""Versions of the toy in a real MLflow store whose answers and contracts are known by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perene.config import Settings
from registry.bundle import seal
from registry.mlflow_store import Store
from tests.integration.serving_toy import offset_bundle, pole_bundle

MODEL = "toy"


class Shelf:
    """Registers versions of one model over `home`."""

    def __init__(self, home: Path, toy_bundle: Path, scratch: Path) -> None:
        self.home = home
        self.base = toy_bundle
        self.scratch = scratch
        self.store = Store(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")
        self._made = 0

    def settings(self, **policy: Any) -> Settings:
        """Settings of this home; a policy where one is given."""
        return Settings.model_validate({"home": self.home, "policy": policy})

    def add(self, offset: float, *, model: str = MODEL, **tags: str) -> int:
        """A sound version: it predicts `hour + offset`."""
        return self.store.register(self._bundle(offset, model), model, tags={f"perene.{k}": v for k, v in tags.items()})

    def add_lenient(self, offset: float) -> int:
        """A version whose callers may leave `carrier` null, which others do not accept."""
        folder = self._bundle(offset, MODEL)
        contract = json.loads((folder / "contract.json").read_text())
        for column in contract["columns"]:
            if column["name"] == "carrier":
                column["nullable"] = True
        (folder / "contract.json").write_text(json.dumps(contract))
        seal(folder)
        return self.store.register(folder, MODEL)

    def add_lying(self) -> int:
        """A version whose graph does not answer what its golden rows promise."""
        self._made += 1
        return self.store.register(pole_bundle(self.base, self.scratch / f"lying-{self._made}"), MODEL)

    def add_plain(self, model: str = MODEL) -> int:
        """A version that somebody made with plain MLflow: no bundle, no certificate."""
        client = self.store._client
        if model not in {m.name for m in client.search_registered_models()}:
            client.create_registered_model(model)
        return int(client.create_model_version(model, str(self.scratch)).version)

    def files(self, version: int) -> Path:
        """Where MLflow keeps the bundle of a version."""
        uri = self.store._client.get_model_version_download_uri(MODEL, str(version))
        [manifest] = Path(uri.removeprefix("file://")).rglob("manifest.json")
        return manifest.parent

    def _bundle(self, offset: float, model: str) -> Path:
        self._made += 1
        return offset_bundle(self.base, self.scratch / f"{model}-{self._made}", offset, model=model)
