"""The training child: `python -m retrain.child spec.json`. Snapshot, train, select, bundle, gate, register.

Everything heavy (pandas, scikit-learn, the user's code, MLflow) happens here and leaves with the process. Each step
is recorded in the ledger under the worker's token: once another worker leads, the next step ends this child. What is
finished stays in the run's folder, so a second attempt goes on from the selection instead of training again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from registry.bundle import Bundle, read_bundle
from registry.child import die_with_parent
from registry.errors import BundleCorrupt, ConversionRefused, LeaseLost, PereneError, TrainingFailed
from registry.ledger import Ledger
from retrain.gates import Gate, PairedSample, certificate_gate, contract_gate, non_inferiority_gate, passed
from retrain.places import Places
from retrain.process import limit_memory
from retrain.settings import RetrainSettings
from retrain.windows import plan

__all__ = ["Result", "Spec", "main"]

LEASE_LOST = 75
"""Exit status of a child whose leader was replaced (EX_TEMPFAIL)."""


class Spec(msgspec.Struct, frozen=True):
    """What the worker asks for; the same for every attempt but for token, attempt and parent."""

    run_id: str
    model: str
    home: str
    ledger_url: str
    tracking_uri: str
    reason: str
    now: datetime
    champion: int
    former: list[int]
    settings: dict[str, Any]
    drift_at: datetime | None = None
    signing_key: str = ""
    lake_url: str = ""
    token: int = 0
    attempt: int = 1
    parent: int = 0


def recorded(spec: Spec) -> Spec:
    """As the ledger keeps it: the addresses of stores may hold passwords, and are those of whoever begins a run."""
    return msgspec.structs.replace(spec, ledger_url="", tracking_uri="", lake_url="")


class Result(msgspec.Struct, frozen=True):
    """What came out. `version` is the candidate's; gates and context become evidence."""

    run_id: str
    outcome: str
    gates: list[dict[str, Any]]
    context: dict[str, Any]
    version: int | None = None
    cap: float = 1.0
    loss_sd: float = 0.5


Step = Callable[[str, dict[str, Any]], None]


def execute(spec: Spec, step: Step) -> Result:
    """Do the run, or what an earlier attempt left of it."""
    places = Places(Path(spec.home), spec.ledger_url, spec.tracking_uri, spec.signing_key, spec.lake_url)
    folder = places.run(spec.run_id)
    chosen = folder / "selection.json"
    if not chosen.exists():
        result = _select(spec, places, folder, step)
        _write(chosen, msgspec.json.encode(result))
    result = msgspec.json.decode(chosen.read_bytes(), type=Result)
    if result.outcome != "candidate" or result.version is not None:
        return result
    step("register", {})
    return msgspec.structs.replace(result, version=_register(spec, places, folder / "bundle"))


def _select(spec: Spec, places: Places, folder: Path, step: Step) -> Result:
    from retrain import data, select

    settings = RetrainSettings(**spec.settings)
    champion = _bundle(places, spec.model, spec.champion, folder)
    cap = float(champion.reference["quality"]["cap"])
    laid = plan(
        settings.windows,
        spec.now,
        holdout=settings.holdout,
        maturity=settings.maturity,
        drift_at=spec.drift_at,
    )
    frame = data.load(settings, spec.model, champion.contract, laid.span, places)
    holdout = data.part(frame, laid.holdout)
    step("snapshot", {"rows": len(frame), "holdout_rows": len(holdout), "digest": data.digest(frame)})
    if len(holdout) < settings.min_labels:
        facts = {"holdout_rows": len(holdout), "needed": settings.min_labels}
        return Result(spec.run_id, "refused", [_too_few(facts)], {"why": "the holdout is too small", **facts})
    train = data.function(settings.trainer)
    base = select.bundle_losses(champion, holdout, settings.target, cap)
    contenders: dict[str, select.Contender] = {}
    for named in laid.train:
        rows = data.part(frame, named.window)
        if len(rows) > settings.max_rows:
            rows = rows.sample(settings.max_rows, random_state=settings.seed).sort_values("_at", kind="stable")
        if len(rows) < settings.min_labels:
            continue
        step("train", {"window": named.name, "rows": len(rows)})
        estimator = train(rows.drop(columns="_at"))
        losses = select.estimator_losses(estimator, champion, holdout, settings.target, cap)
        contenders[named.name] = select.Contender(named.name, losses, len(rows), estimator, train=rows)
    for version in spec.former:
        # a former champion that cannot be read any more is no reason not to retrain
        try:
            former = _bundle(places, spec.model, version, folder)
        except PereneError:
            continue
        if contract_gate(champion.contract, former.contract).verdict == "pass":
            losses = select.bundle_losses(former, holdout, settings.target, cap)
            contenders[f"version {version}"] = select.Contender(f"version {version}", losses, version=version)
    if not contenders:
        facts = {"holdout_rows": len(holdout), "needed": settings.min_labels}
        return Result(spec.run_id, "refused", [_too_few(facts)], {"why": "no window has enough rows", **facts})
    return _judge(spec, settings, champion, holdout, base, contenders, folder, step)


def _judge(
    spec: Spec,
    settings: RetrainSettings,
    champion: Bundle,
    holdout: Any,
    base: Any,
    contenders: Any,
    folder: Path,
    step: Step,
) -> Result:
    import numpy as np

    from retrain import select

    cap = float(champion.reference["quality"]["cap"])
    winner = select.best(contenders)
    table = [c.line(base) for c in contenders.values()]
    context = {
        "best": winner.name,
        "contenders": table,
        "champion": spec.champion,
        "champion_loss": float(np.nanmean(base)),
    }
    gates: list[Gate] = []
    losses = winner.losses
    if winner.version is None:
        step("bundle", {"window": winner.name})
        try:
            built = _build(spec, settings, champion, winner, holdout, folder, cap)
        except ConversionRefused as error:
            refusal = certificate_gate({"verdict": "refused"})
            return Result(spec.run_id, "refused", [refusal.to_dict()], {**context, "why": error.message}, cap=cap)
        gates += [certificate_gate(built.certificate), contract_gate(champion.contract, built.contract)]
        losses = select.bundle_losses(built, holdout, settings.target, cap) if passed(gates) else losses
    step("gate", {"best": winner.name, "contenders": len(contenders)})
    ok = np.isfinite(base) & np.isfinite(losses)
    days = (holdout["_at"].astype("int64") // 86_400_000_000_000).to_numpy()
    gates.append(
        non_inferiority_gate(
            PairedSample.of(base[ok], losses[ok], days[ok]),
            margin=settings.margin,
            alpha=settings.alpha,
            k=len(contenders),
            reason="freshness" if settings.freshness and spec.reason == "schedule" else spec.reason,
            min_rows=settings.min_labels,
        )
    )
    outcome = "candidate" if passed(gates) else "refused"
    spread = float(np.std(losses[ok]))
    return Result(spec.run_id, outcome, [g.to_dict() for g in gates], context, winner.version, cap, spread)


def _build(
    spec: Spec,
    settings: RetrainSettings,
    champion: Bundle,
    winner: Any,
    holdout: Any,
    folder: Path,
    cap: float,
) -> Bundle:
    from registry.archive import FOLDER, archive
    from registry.log import Facts, build_bundle
    from retrain.data import nulls_allowed

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
    )
    archive(winner.estimator, folder / FOLDER)
    os.replace(scratch, folder / "bundle")
    return read_bundle(folder / "bundle")


def _said(champion: Bundle) -> dict[str, Any]:
    """What the champion's owner said of the model, which holds for the versions made after it too."""
    path = champion.path / "card.json"
    card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    slices = {part["column"]: None for part in card.get("baseline", {}).get("slices", ())}
    return {name: card.get(name, "") for name in ("purpose", "owner", "ethics")} | {"slices": list(slices)}


def _register(spec: Spec, places: Places, bundle: Path) -> int:
    from registry.archive import FOLDER
    from registry.mlflow_store import Store
    from registry.signing import load_signer

    signer = load_signer(Path(places.signing_key)) if places.signing_key else None
    store = Store(places.tracking_uri, places.artifacts, signer=signer)
    found = store.find(spec.model, "perene.run_key", spec.run_id)
    if found is not None:
        return found
    tags = {"perene.run_key": spec.run_id, "perene.parent": str(spec.champion), "perene.reason": spec.reason}
    original = bundle.with_name(FOLDER)
    return store.register(
        bundle,
        spec.model,
        tags=tags,
        params={"reason": spec.reason, "seed": spec.settings.get("seed", 0), "event_time": spec.now.isoformat()},
        original=original if original.is_dir() else None,
    )


def _bundle(places: Places, model: str, version: int, folder: Path) -> Bundle:
    for place in (places.bundle(model, version), folder / "versions" / str(version)):
        try:
            return read_bundle(place)
        except BundleCorrupt:
            continue
    from registry.mlflow_store import Store

    return read_bundle(
        Store(places.tracking_uri, places.artifacts).download(model, version, folder / "versions" / str(version))
    )


def _too_few(facts: dict[str, Any]) -> dict[str, Any]:
    empty = PairedSample(((facts["holdout_rows"], 0.0, 0.0),))
    return non_inferiority_gate(
        empty, margin=0.01, alpha=0.05, k=1, reason="", min_rows=max(facts["needed"], facts["holdout_rows"] + 1)
    ).to_dict()


def _write(path: Path, body: bytes) -> None:
    scratch = path.with_suffix(".partial")
    with scratch.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def main(arguments: list[str]) -> int:
    """Run the specification in the file named; the answer is `result.json` beside it."""
    path = Path(arguments[0])
    spec = msgspec.json.decode(path.read_bytes(), type=Spec)
    if spec.parent:
        die_with_parent(spec.parent, signal.SIGKILL)
    settings = RetrainSettings(**spec.settings)
    limit_memory(settings.training_memory_mb)
    folder = path.parent
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a stalled leader's child may still be at work on the same run
        ledger = Ledger.open(Places(Path(spec.home), spec.ledger_url, spec.tracking_uri).ledger_url)

        def step(name: str, facts: dict[str, Any]) -> None:
            body = {"spec": msgspec.to_builtins(recorded(spec)), "facts": facts}
            ledger.record_run(spec.run_id, spec.model, status="running", step=name, body=body, token=spec.token)
            sys.stdout.write(json.dumps({"event": "retrain.step", "step": name, **facts}) + "\n")
            sys.stdout.flush()

        try:
            _write(folder / "result.json", msgspec.json.encode(execute(spec, step)))
        except LeaseLost:
            return LEASE_LOST
        except MemoryError as error:
            raise TrainingFailed("training ran out of its memory limit", where="training_memory_mb") from error
        finally:
            ledger.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
