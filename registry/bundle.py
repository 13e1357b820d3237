"""The bundle: the directory that is served, sealed by a manifest of sha256 digests."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.contract import Contract
from registry.errors import BundleCorrupt

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
            raise _corrupt(self.model_file, "its bytes changed after the bundle was read")
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
            raise _corrupt(name, "the file is missing")
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
    try:
        manifest: dict[str, str] = json.loads(raw)["files"]
        listed = set(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(MANIFEST, "it is not a manifest") from error
    _require_listed(listed)
    contents = {name: _read(folder, name) for name in sorted(listed)}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != manifest[name]:
            raise _corrupt(name, "its sha256 differs from the manifest")
    try:
        contract = Contract.from_dict(json.loads(contents["contract.json"]))
        certificate = json.loads(contents["certificate.json"])
        reference = json.loads(contents["reference.json"])
    except ValueError as error:
        raise _corrupt("contract.json", "it is not JSON") from error
    return Bundle(folder, contract, certificate, reference, manifest, hashlib.sha256(raw).hexdigest())


def _require_listed(names: set[str]) -> None:
    models = names & {ONNX, *NATIVE_FILES}
    if len(models) != 1 or names - models - set(OPTIONAL_FILES) != set(FILES):
        raise _corrupt(MANIFEST, "it does not list exactly the bundle's files")


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise _corrupt(name, "the file is missing or is not a plain file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise _corrupt(name, f"the file is larger than {MAX_FILE_BYTES} bytes")
    return path.read_bytes()


def _corrupt(name: str, reason: str) -> BundleCorrupt:
    return BundleCorrupt(
        f"bundle file {name}: {reason}", where=name, hint="log the model again; the old version keeps serving"
    )
