"""`engine = "webhook"`: an external engine gets the rows and logs a version, which the gates judge like any other.

The engine gets the rows before the holdout only. It answers to `/hooks/retrain/{run}` when it is done, however long
that takes: no process of ours waits meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from registry.bundle import Bundle
from registry.errors import BundleCorrupt, ConfigInvalid, TrainingFailed
from registry.webhook import SIGNATURE, AddressRefused, Target, Undelivered, send, signature, target_of
from retrain.places import Places
from retrain.settings import RetrainSettings
from retrain.training.bundling import of_version
from retrain.training.kept import keep_file, kept_file
from retrain.training.snapshot import Snapshot
from retrain.training.spec import HandedOver, Spec, Step

__all__ = ["ATTEMPTS", "external", "hand_over"]

FILE: Final = "training.parquet"
ATTEMPTS: Final = 6
FIRST_PAUSE_S: Final = 1.0
Bring = Callable[[Target, bytes, dict[str, str]], None]


def hand_over(
    spec: Spec,
    settings: RetrainSettings,
    snapshot: Snapshot,
    folder: Path,
    step: Step,
    *,
    bring: Bring = send,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write the rows that may be learned from, and tell the engine where they are.

    Raises:
        HandedOver: the engine took it.
        ConfigInvalid: there is no secret to sign with, or the address may not be called.
        TrainingFailed: nobody took it; the file `handover.json` in the run's folder is what was not delivered.
    """
    if not spec.hook_secret:
        raise ConfigInvalid("a hand-over must be signed", where="serving.hooks.secret", hint="give both sides a secret")
    try:
        where = target_of(settings.webhook_url, settings.webhook_hosts, setting="webhook_hosts")
    except AddressRefused as error:
        raise ConfigInvalid(error.message, where="webhook_url", expected=error.expected) from error
    path = folder / FILE
    file = kept_file(path)
    learned = snapshot.frame[(snapshot.frame["_at"] < snapshot.laid.holdout.start).to_numpy()]
    if file is None:
        scratch = path.with_name(path.name + ".partial")
        learned.to_parquet(scratch, index=False)
        file = keep_file(scratch, path)
    told = _told(spec, settings, snapshot, path, file, len(learned))
    body = msgspec.json.encode(told)
    (folder / "handover.json").write_bytes(body)
    step("hand_over", {"rows": len(learned), "file": file})
    _deliver(where, body, spec, bring, sleep)
    raise HandedOver


def _told(
    spec: Spec, settings: RetrainSettings, snapshot: Snapshot, path: Path, digest: str, rows: int
) -> dict[str, Any]:
    return {
        "run": spec.run_id,
        "model": spec.model,
        "reason": spec.reason,
        "champion": spec.champion,
        "target": settings.target,
        "time": "_at",
        "seed": settings.seed,
        "rows": {"location": str(path), "format": "parquet", "sha256": digest, "count": rows},
        "windows": [
            {"name": w.name, "from": w.window.start.isoformat(), "to": w.window.end.isoformat()}
            for w in snapshot.laid.train
        ],
        "callback": f"{settings.callback_url.rstrip('/')}/hooks/retrain/{spec.run_id}",
    }


def _deliver(where: Target, body: bytes, spec: Spec, bring: Bring, sleep: Callable[[float], None]) -> None:
    dice = Random()  # noqa: S311 - it spreads out repeats
    for attempt in range(ATTEMPTS):
        headers = {SIGNATURE: signature(spec.hook_secret, body, int(time.time())), "Perene-Delivery": spec.run_id}
        try:
            bring(where, body, headers)
        except Undelivered as error:
            if error.final or attempt + 1 == ATTEMPTS:
                raise TrainingFailed(
                    f"the hand-over was not taken: {error.reason}", where="webhook_url", hint="see handover.json"
                ) from error
            sleep(FIRST_PAUSE_S * 2**attempt * dice.uniform(0.5, 1.5))
        else:
            return


def external(
    spec: Spec, settings: RetrainSettings, snapshot: Snapshot, places: Places, folder: Path, step: Step
) -> tuple[int, Bundle]:
    """The version that the engine logged, as a bundle: its own, or one made of a plain MLflow model.

    Raises:
        TrainingFailed: the engine reports a failure, or its version cannot be judged.
    """
    answer = spec.external or {}
    if "version" not in answer:
        raise TrainingFailed(f"the external engine failed: {str(answer.get('error', ''))[:200]}", where="engine")
    version = int(answer["version"])
    step("train", {"engine": "webhook", "version": version})
    try:
        return version, of_version(places, spec.model, version, folder)
    except BundleCorrupt:
        pass  # a model that was logged with plain MLflow
    from registry.adoption.adopt import adopt
    from registry.facts import Facts
    from registry.mlflow_store import Store

    rows = snapshot.frame[(snapshot.frame["_at"] < snapshot.laid.holdout.start).to_numpy()].tail(20_000)
    store = Store(places.tracking_uri, places.artifacts)
    made = adopt(
        f"models:/{spec.model}/{version}",
        rows.drop(columns=["_at", settings.target]).reset_index(drop=True),
        list(rows[settings.target]),
        store=store,
        facts=Facts(lineage={"parent version": str(spec.champion), "run": spec.run_id, "reason": spec.reason}),
    )
    return made.version, of_version(places, spec.model, made.version, folder)
