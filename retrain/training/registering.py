"""The last step of the child: the bundle becomes a version in MLflow, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrain.places import Places
from retrain.training.code import environment_digest
from retrain.training.spec import Spec

__all__ = ["register"]

RUN_KEY = "perene.run_key"


def register(spec: Spec, places: Places, bundle: Path, context: dict[str, Any] | None = None) -> int:
    """Register `bundle` with the run's lineage; a version that an earlier attempt registered is found again.

    Raises:
        StoreUnavailable: MLflow does not answer.
    """
    from registry.archive import FOLDER
    from registry.mlflow_store import Store
    from registry.signing import load_signer

    signer = load_signer(Path(places.signing_key)) if places.signing_key else None
    store = Store(places.tracking_uri, places.artifacts, signer=signer)
    found = store.find(spec.model, RUN_KEY, spec.run_id)
    if found is not None:
        return found
    made_of = (context or {}).get("lineage", {})
    tags = {
        RUN_KEY: spec.run_id,
        "perene.parent": str(spec.champion),
        "perene.reason": spec.reason,
        **{f"perene.{name}": str(value) for name, value in made_of.items()},
        "perene.environment": environment_digest(),
    }
    chosen = (context or {}).get("search", {}).get("params", {})
    original = bundle.with_name(FOLDER)
    return store.register(
        bundle,
        spec.model,
        tags=tags,
        params={"reason": spec.reason, "seed": spec.settings.get("seed", 0), "event_time": spec.now.isoformat()}
        | {f"search.{name}": value for name, value in chosen.items()},
        metrics=(context or {}).get("validation"),
        original=original if original.is_dir() else None,
    )
