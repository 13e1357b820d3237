"""What MLflow is told of a version: content, tags, parameters, metrics and example, from the bundle and its card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from registry.bundle import Bundle

if TYPE_CHECKING:
    from registry.signing import Signer

EXAMPLE_ROWS: Final = 3


def content_of(bundle: Bundle, signer: Signer | None) -> str:
    """sha256 over model, contract and the key that signs: two versions with the same are one."""
    parts = [bundle.manifest[bundle.model_file], bundle.manifest["contract.json"]]
    # whoever switches signing on logs the same model again to have it signed
    return hashlib.sha256("".join([*parts, signer.key_id if signer else ""]).encode()).hexdigest()


def read_card(folder: Path) -> dict[str, Any]:
    """The card's facts; nothing in bundles that are older than them."""
    path = folder / "card.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def tags_of(card: Mapping[str, Any]) -> dict[str, str]:
    """Algorithm and owner."""
    return {"perene.algorithm": card["algorithm"], "perene.owner": card["owner"]} if card else {}


def params_of(card: Mapping[str, Any], bundle: Bundle) -> dict[str, Any]:
    """How the version was made and is run."""
    found: dict[str, Any] = {
        "columns": len(bundle.contract.columns),
        "runtime": "native" if bundle.native else "onnx",
        "precision": bundle.contract.precision,
    }
    return found | ({"algorithm": card["algorithm"], "rows": card["training"]["rows"]} if card else {})


def metrics_of(card: Mapping[str, Any]) -> dict[str, float | None]:
    """Baseline metrics with the ends of their intervals as `_low` and `_high`, and the bounded loss."""
    if not card:
        return {}
    found = {"loss": card["quality"]["loss"]}
    for name, figure in card["baseline"]["metrics"].items():
        found |= {name: figure["value"], f"{name}_low": figure["low"], f"{name}_high": figure["high"]}
    return found


def example_of(bundle: Bundle) -> pd.DataFrame:
    """The first golden rows."""
    rows = pd.read_parquet(bundle.path / "golden.parquet", columns=bundle.contract.names)
    return rows.head(EXAMPLE_ROWS)
