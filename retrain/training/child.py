"""The training child: `python -m retrain.training.child spec.json`. Snapshot, train, select, bundle, gate, register.

Everything heavy (pandas, scikit-learn, the user's code, MLflow) happens here and leaves with the process. Each step
is recorded in the ledger under the worker's token: once another worker leads, the next step ends this child. What a
step made stays in the run's folder, so that a second attempt goes on from the last finished one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, Final

import msgspec

from registry.bundle import Bundle
from registry.child import die_with_parent
from registry.errors import ConversionRefused, LeaseLost, PereneError, StoreUnavailable
from registry.ledger import Ledger
from retrain.gates import spending
from retrain.gates.carded import carded
from retrain.gates.gates import PairedSample, certificate_gate, contract_gate, held, non_inferiority_gate, passed
from retrain.gates.judge import Case, judge_bundles
from retrain.places import Places
from retrain.process import limit_memory
from retrain.settings import RetrainSettings
from retrain.training.bundling import build as _build
from retrain.training.bundling import note, of_version
from retrain.training.kept import keep, kept, write
from retrain.training.registering import register
from retrain.training.spec import HANDED_OVER, LEASE_LOST, STORE_AWAY, Failure, HandedOver, Result, Spec, recorded

__all__ = ["main"]

RESULT: Final = "result.json"
FAILURE: Final = "failure.json"


class Journal:
    """Writes every step to the ledger, under the worker's token, and to the log."""

    def __init__(self, ledger: Ledger, spec: Spec) -> None:
        self._ledger = ledger
        self._spec = spec
        self.at = "begin"

    def __call__(self, name: str, facts: dict[str, Any]) -> None:
        """A step begins, or has come to these facts."""
        self.at = name
        body = {"spec": msgspec.to_builtins(recorded(self._spec)), "facts": facts}
        run = self._spec.run_id, self._spec.model
        self._ledger.record_run(*run, status="running", step=name, body=body, token=self._spec.token)
        sys.stdout.write(json.dumps({"event": "retrain.step", "step": name, **facts}) + "\n")
        sys.stdout.flush()

    def twin(self, key: str) -> tuple[str, int | None] | None:
        """A finished run with the same key, and its version."""
        for run in self._ledger.runs(self._spec.model, limit=50):
            if run.run_id != self._spec.run_id and run.status == "done":
                same = run.body.get("context", {}).get("lineage", {}).get("key") == key
                if same:
                    return run.run_id, run.body.get("version")
        return None

    def claims(self, year: int) -> int:
        """Claims to be better that the model's other runs made in this year of its clock."""
        rows = self._ledger.evidence(self._spec.model, "gates", limit=2_000)
        return spending.attempts((row.body for row in rows), year, self._spec.run_id, self._spec.champion)


def execute(spec: Spec, journal: Journal) -> Result:
    """Do the run, or what an earlier attempt left of it."""
    places = _places(spec)
    folder = places.run(spec.run_id)
    chosen = kept(folder / "selection.json")
    result = msgspec.json.decode(chosen, type=Result) if chosen is not None else _select(spec, places, folder, journal)
    keep(folder / "selection.json", msgspec.json.encode(result))
    if result.outcome not in ("candidate", "held") or result.version is not None:
        return result
    from retrain.training.validation import validated

    figures = validated(spec, places, folder, result, journal)
    result = msgspec.structs.replace(result, context={**result.context, "validation": figures})
    journal("register", {})
    version = register(spec, places, folder / "bundle", result.context)
    return msgspec.structs.replace(result, version=version)


def _select(spec: Spec, places: Places, folder: Path, journal: Journal) -> Result:
    from retrain.training import data, select
    from retrain.training.fitting import fitted
    from retrain.training.handover import external, hand_over
    from retrain.training.search import Found, searched
    from retrain.training.snapshot import take

    settings = RetrainSettings(**spec.settings)
    champion = of_version(places, spec.model, spec.champion, folder)
    cap = float(champion.reference["quality"]["cap"])
    snapshot = take(spec, settings, champion.contract, places, folder, journal)
    lineage = {"key": snapshot.key, "snapshot": snapshot.digest, "trainer": snapshot.code}
    twin = journal.twin(snapshot.key)
    if twin is not None:
        context = {"why": f"the same rows, windows and code as run {twin[0]}", "same_as": twin[0], "lineage": lineage}
        return Result(spec.run_id, "repeat", [], context, twin[1])
    holdout = data.part(snapshot.frame, snapshot.laid.holdout)
    facts: dict[str, Any] = {"holdout_rows": len(holdout), "needed": settings.min_labels}
    if len(holdout) < settings.min_labels:
        context = {"why": "the holdout is too small", "lineage": lineage, **facts}
        return Result(spec.run_id, "refused", [_too_few(facts)], context)
    base = select.bundle_losses(champion, holdout, settings.target, cap)
    contenders: dict[str, select.Contender] = {}
    search, here = Found(), settings.engine != "webhook"
    if here:
        search = searched(settings, snapshot, champion, cap, folder, journal)
        for made in fitted(settings, snapshot, folder, journal, search.params):
            losses = select.checked_losses(made.estimator, champion, holdout, settings, cap)
            contenders[made.name] = select.Contender(made.name, losses, len(made.rows), made.estimator, train=made.rows)
    else:
        if spec.external is None:
            hand_over(spec, settings, snapshot, folder, journal)
        version, bundle = external(spec, settings, snapshot, places, folder, journal)
        fits = contract_gate(champion.contract, bundle.contract)
        if fits.verdict != "pass":
            context = {"why": f"version {version} of the external engine: {fits.reason}", "lineage": lineage}
            return Result(spec.run_id, "refused", [fits.to_dict()], context)
        losses = select.bundle_losses(bundle, holdout, settings.target, cap)
        contenders["external"] = select.Contender("external", losses, version=version)
    for version in spec.former:
        # a former champion that cannot be read any more is no reason not to retrain
        try:
            former = of_version(places, spec.model, version, folder)
        except PereneError:
            continue
        if contract_gate(champion.contract, former.contract).verdict == "pass":
            losses = select.bundle_losses(former, holdout, settings.target, cap)
            contenders[f"version {version}"] = select.Contender(f"version {version}", losses, version=version)
    if not contenders:
        context = {"why": "no window has enough rows", "lineage": lineage, **facts}
        return Result(spec.run_id, "refused", [_too_few(facts)], context)
    judged = _judge(spec, settings, champion, holdout, base, contenders, folder, journal)
    found = {"search": msgspec.to_builtins(search)} if settings.search else {}
    return msgspec.structs.replace(judged, context={**judged.context, "lineage": lineage, **found})


def _judge(
    spec: Spec,
    settings: RetrainSettings,
    champion: Bundle,
    holdout: Any,
    base: Any,
    contenders: Any,
    folder: Path,
    step: Journal,
) -> Result:
    import numpy as np

    from retrain.training import select

    cap = float(champion.reference["quality"]["cap"])
    winner = select.best(contenders)
    table = [c.line(base) for c in contenders.values()]
    context = {
        "best": winner.name,
        "contenders": table,
        "champion": spec.champion,
        "champion_loss": float(np.nanmean(base)),
    }
    if winner.version is None:
        step("bundle", {"window": winner.name})
        try:
            built = _build(spec, settings, champion, winner, holdout, folder, cap, step)
        except ConversionRefused as error:
            refusal = certificate_gate({"verdict": "refused"})
            return Result(spec.run_id, "refused", [refusal.to_dict()], {**context, "why": error.message}, cap=cap)
    else:
        built = of_version(_places(spec), spec.model, winner.version, folder)
    step("gate", {"best": winner.name, "contenders": len(contenders)})
    case = Case(settings, holdout, cap, spec.reason, spec.now, len(contenders), step.claims(spec.now.year))
    gates, losses = judge_bundles(champion, built, case, winner.losses)
    if winner.version is None:
        note(folder, winner.name, carded(built, gates))
    outcome = "candidate" if passed(gates) else "held" if held(gates) else "refused"
    spread = float(np.nanstd(losses))
    return Result(spec.run_id, outcome, [g.to_dict() for g in gates], context, winner.version, cap, spread)


def _places(spec: Spec) -> Places:
    return Places(Path(spec.home), spec.ledger_url, spec.tracking_uri, spec.signing_key, spec.lake_url)


def _too_few(facts: dict[str, Any]) -> dict[str, Any]:
    empty = PairedSample(((facts["holdout_rows"], 0.0, 0.0),))
    return non_inferiority_gate(
        empty, margin=0.01, alpha=0.05, k=1, reason="", min_rows=max(facts["needed"], facts["holdout_rows"] + 1)
    ).to_dict()


def main(arguments: list[str]) -> int:
    """Run the specification in the file named; the answer is `result.json` beside it, or `failure.json`."""
    path = Path(arguments[0])
    spec = msgspec.json.decode(path.read_bytes(), type=Spec)
    if spec.parent:
        die_with_parent(spec.parent, signal.SIGKILL)
    settings = RetrainSettings(**spec.settings)
    limit_memory(settings.training_memory_mb)
    folder = path.parent
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a stalled leader's child may still be at work on the same run
        (folder / FAILURE).unlink(missing_ok=True)
        journal: Journal | None = None
        try:
            ledger = Ledger.open(Places(Path(spec.home), spec.ledger_url, spec.tracking_uri).ledger_url)
            with contextlib.closing(ledger):
                journal = Journal(ledger, spec)
                write(folder / RESULT, msgspec.json.encode(execute(spec, journal)))
        except LeaseLost:
            return LEASE_LOST
        except HandedOver:
            return HANDED_OVER
        # whatever it was, the worker must learn why: of what is not ours the class alone, for its text may hold values
        except Exception as error:
            traceback.print_exc()
            failure = msgspec.structs.replace(_failure(error), step=journal.at if journal else "begin")
            with contextlib.suppress(OSError):  # the disk may be what failed
                write(folder / FAILURE, msgspec.json.encode(failure))
            return STORE_AWAY if isinstance(error, StoreUnavailable) else 1
    return 0


def _failure(error: Exception) -> Failure:
    if isinstance(error, MemoryError):
        return Failure("out_of_memory", "training ran out of its memory limit (training_memory_mb)", "")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("disk_full", "the disk of the runs' folder is full", "")
    if isinstance(error, PereneError):
        where = f" ({error.where})" if error.where else ""
        return Failure(error.code, f"{error.message}{where}", "")
    return Failure("broke", f"it broke with {type(error).__name__}", "")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
