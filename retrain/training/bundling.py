"""The third step: the winner as a certified bundle; and the bundles of versions that exist."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from registry.bundle import Bundle, read_bundle
from registry.errors import BundleCorrupt
from retrain.places import Places
from retrain.settings import RetrainSettings
from retrain.training.kept import write
from retrain.training.spec import Spec, Step

__all__ = ["build", "note", "of_version"]

MADE = "bundle.json"


def build(
    spec: Spec,
    settings: RetrainSettings,
    champion: Bundle,
    winner: Any,
    holdout: Any,
    folder: Path,
    cap: float,
    step: Step,
) -> Bundle:
    """The winner's bundle in the run's folder; one that an earlier attempt finished is taken as it is.

    Raises:
        ConversionRefused: there is no graph of the estimator, or it answers otherwise.
    """
    from registry.archive import FOLDER, archive
    from registry.log import Facts, build_bundle
    from retrain.training.data import nulls_allowed

    done = _finished(folder, winner.name)
    if done is not None:
        step("certify", {"window": winner.name, "resumed": True})
        return done
    names = champion.contract.names
    rows = winner.train.tail(20_000)
    features = nulls_allowed(champion.contract, rows[names].reset_index(drop=True))
    labels = list(rows[settings.target]) + [rows[settings.target].iloc[-1]] * (len(features) - len(rows))
    window = (winner.train["_at"].iloc[0].isoformat(), winner.train["_at"].iloc[-1].isoformat())
    scratch = folder / "bundle.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    for half_done in ("bundle", FOLDER):
        shutil.rmtree(folder / half_done, ignore_errors=True)
    build_bundle(
        winner.estimator,
        features,
        labels,
        name=spec.model,
        to=scratch,
        holdout=(holdout[names], holdout[settings.target]),
        facts=Facts(
            window=window,
            training_rows=len(winner.train),
            cap=cap,
            at=holdout["_at"].tolist() if "_at" in holdout.columns else None,
            lineage={"parent version": str(spec.champion), "run": spec.run_id, "reason": spec.reason},
            **_said(champion),
        ),
        policies={c.name: c.policy for c in champion.contract.columns if c.policy != "store"},
        progress=_certifying(step, winner.name),
    )
    archive(winner.estimator, folder / FOLDER)
    os.replace(scratch, folder / "bundle")
    built = read_bundle(folder / "bundle")
    note(folder, winner.name, built)
    return built


def note(folder: Path, window: str, built: Bundle) -> None:
    """Remember which bundle was finished: the next attempt need not make it again."""
    write(folder / MADE, msgspec.json.encode({"window": window, "digest": built.digest}))


def _finished(folder: Path, window: str) -> Bundle | None:
    try:
        noted = msgspec.json.decode((folder / MADE).read_bytes())
        found = read_bundle(folder / "bundle")
    except (FileNotFoundError, msgspec.DecodeError, BundleCorrupt):
        return None
    return found if noted == {"window": window, "digest": found.digest} else None


def _certifying(step: Step, window: str) -> Callable[[str, str], None]:
    """Conversion and certificate follow the contract, the first thing that is told."""

    def told(what: str, _found: str) -> None:
        if what == "contract":
            step("certify", {"window": window})

    return told


def _said(champion: Bundle) -> dict[str, Any]:
    """What the champion's owner said of the model, which holds for the versions made after it too."""
    path = champion.path / "card.json"
    card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    slices = {part["column"]: None for part in card.get("baseline", {}).get("slices", ())}
    return {name: card.get(name, "") for name in ("purpose", "owner", "ethics")} | {"slices": list(slices)}


def of_version(places: Places, model: str, version: int, folder: Path) -> Bundle:
    """A version's bundle: of serving's cache, of an earlier attempt, or from MLflow."""
    for place in (places.bundle(model, version), folder / "versions" / str(version)):
        try:
            return read_bundle(place)
        except BundleCorrupt:
            continue
    from registry.mlflow_store import Store

    return read_bundle(
        Store(places.tracking_uri, places.artifacts).download(model, version, folder / "versions" / str(version))
    )
