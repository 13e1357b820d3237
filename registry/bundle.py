"""The bundle: the directory that is served, sealed by a manifest of sha256 digests."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.bundle_json import check_contract, check_reference, corrupt, read_object
from registry.contract import Contract

FILES: Final = ("contract.json", "certificate.json", "golden.parquet", "reference.json", "card.md")
"""In every bundle."""
OPTIONAL_FILES: Final = ("card.json",)
"""In bundles since they exist."""
ONNX: Final = "model.onnx"
NATIVE_FILES: Final = ("model.skops", "model.ubj", "model.txt", "model.cbm", "model.joblib")
"""scikit-learn, XGBoost, LightGBM, CatBoost, and a pickle where the operator allows them."""
MANIFEST: Final = "manifest.json"
MAX_FILE_BYTES: Final = 512 * 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file matches its manifest. `digest` is the sha256 of the manifest itself."""

    path: Path
    contract: Contract
    certificate: dict[str, Any]
    reference: dict[str, Any]
    manifest: dict[str, str]
    digest: str

    @property
    def model_file(self) -> str:
        """Name of the one file that predicts: an ONNX graph, or the original for a process of its own."""
        return next(name for name in self.manifest if name == ONNX or name in NATIVE_FILES)

    @property
    def native(self) -> bool:
        """Whether the original itself answers, in a process of its own."""
        return self.model_file != ONNX

    def model_bytes(self) -> bytes:
        """The model's bytes, checked again: what is run is what was signed, whatever the disk did since."""
        data = (self.path / self.model_file).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.manifest[self.model_file]:
            raise corrupt(self.model_file, "its bytes changed after the bundle was read")
        return data


def seal(folder: Path) -> str:
    """Write `manifest.json` over the bundle's files, flushed to disk, and return the bundle's digest.

    Raises:
        BundleCorrupt: a file of the bundle is missing.
    """
    digests: dict[str, str] = {}
    extra = [name for name in (ONNX, *NATIVE_FILES, *OPTIONAL_FILES) if (folder / name).is_file()]
    for name in (*FILES, *extra):
        path = folder / name
        if not path.is_file():
            raise corrupt(name, "the file is missing")
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    _require_listed(set(digests))
    data = json.dumps({"format": 2, "files": digests}, indent=1, sort_keys=True).encode()
    with (folder / MANIFEST).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and verify the sha256 of every file in it.

    Raises:
        BundleCorrupt: a file is missing, unexpected, a link, too large, or differs from the manifest.
    """
    raw = _read(folder, MANIFEST)
    manifest = read_object(raw, MANIFEST).get("files")
    if not isinstance(manifest, dict):
        raise corrupt(MANIFEST, "it is not a manifest")
    _require_listed(set(manifest))
    contents = {name: _read(folder, name) for name in sorted(manifest)}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != manifest[name]:
            raise corrupt(name, "its sha256 differs from the manifest")
    contract = check_contract(Contract.from_dict(read_object(contents["contract.json"], "contract.json")))
    certificate = read_object(contents["certificate.json"], "certificate.json")
    reference = read_object(contents["reference.json"], "reference.json")
    check_reference(reference, certificate, contract)
    try:
        contents["card.md"].decode()
    except UnicodeDecodeError as error:
        raise corrupt("card.md", "it is not text in UTF-8") from error
    return Bundle(folder, contract, certificate, reference, manifest, hashlib.sha256(raw).hexdigest())


def _require_listed(names: set[str]) -> None:
    models = names & {ONNX, *NATIVE_FILES}
    if len(models) != 1 or names - models - set(OPTIONAL_FILES) != set(FILES):
        raise corrupt(MANIFEST, "it does not list exactly the bundle's files")


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise corrupt(name, "the file is missing or is not a plain file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise corrupt(name, f"the file is larger than {MAX_FILE_BYTES} bytes")
    return path.read_bytes()
