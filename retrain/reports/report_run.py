"""The report child: `python -m retrain.reports.report_run SPEC`. One report on one model, then it ends with its memory.

Steps that may be repeated: files under another name, the name, a copy in MLflow, a row in the ledger under the leader's
token. Killed between any two, the next attempt goes on after the last, and a report is never there twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from registry import process_log
from registry.child import die_with_parent
from registry.errors import LeaseLost, PereneError
from registry.ledger import Ledger
from registry.private import LEDGER, TRACKING, taken
from retrain.places import Places
from retrain.reports.report_spec import BUSY, EMPTY, EVIDENCE, FACTS, LEASE_LOST, LOGGED, Spec, lock_of

__all__ = ["main", "make"]


def make(spec: Spec, places: Places) -> dict[str, Any] | None:
    """Make the report, or what an earlier attempt left of it; its facts, or None when there is too little."""
    folder = Path(spec.out) if spec.out else places.report(spec.model, spec.key)
    if not (folder / FACTS).exists():
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            facts = _written(spec, places, draft)
            if facts is None:
                return None
            (draft / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True))
            os.replace(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    facts = json.loads((folder / FACTS).read_text())
    if not spec.out:
        facts["mlflow"] = _logged(spec, places, folder)
        _record(spec, places, facts)
    return {**facts, "folder": str(folder)}


def _written(spec: Spec, places: Places, draft: Path) -> dict[str, Any] | None:
    if spec.kind == "performance":
        from retrain.reports.performance import write_performance

        return write_performance(spec, places, draft)
    from retrain.reports.drift_report import write_drift_report

    return write_drift_report(spec, places, draft)


def _logged(spec: Spec, places: Places, folder: Path) -> str:
    """The URI of MLflow's copy; empty where there is none."""
    marker = folder / LOGGED
    if marker.exists():
        return str(json.loads(marker.read_text())["uri"])
    from registry.mlflow_store import Store

    try:
        store = Store(places.tracking_uri, places.artifacts)
        uri = store.log_report(spec.model, spec.version, folder, f"reports/{spec.key}")
    except PereneError:
        if not spec.last:
            raise
        return ""
    if uri:
        scratch = marker.with_suffix(".new")
        scratch.write_text(json.dumps({"uri": uri}))
        os.replace(scratch, marker)
    return uri


def _record(spec: Spec, places: Places, facts: dict[str, Any]) -> None:
    with closing(Ledger.open(places.ledger_url)) as ledger:
        for row in ledger.evidence(spec.model, EVIDENCE, limit=200):
            if row.body.get("key") == spec.key:
                return
        body = {"subject": EVIDENCE, "kind": spec.kind, "key": spec.key, "finding": spec.finding, **facts}
        ledger.record_evidence(spec.model, EVIDENCE, body, token=spec.token)


@contextmanager
def _alone(home: Path) -> Iterator[bool]:
    """Whether nobody else makes reports, or erases from them, meanwhile."""
    lock = lock_of(home)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def main(arguments: Sequence[str]) -> int:
    """Make what the file SPEC says; facts are printed as one line of JSON on standard output."""
    spec = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Spec)
    if spec.parent:
        die_with_parent(spec.parent, signal.SIGKILL)
    os.nice(10)
    os.environ["DO_NOT_TRACK"] = "true"
    process_log.configure()
    places = Places(Path(spec.home), taken(LEDGER), taken(TRACKING), lake_url=spec.lake_url)
    try:
        with _alone(places.home) as alone:
            if not alone:
                return BUSY
            facts = make(spec, places)
    except LeaseLost:
        return LEASE_LOST
    except PereneError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    if facts is None:
        return EMPTY
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
