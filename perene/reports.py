"""Reports on demand: made as the worker makes them, by a child that ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from monitoring.reading.api import moment
from perene.batch import chosen, from_cache, from_store
from perene.config import Settings
from registry.errors import ConfigInvalid, PereneError, StoreUnavailable
from registry.private import addresses, write_private
from retrain.reports.report_spec import BUSY, EMPTY, Kind, Spec
from retrain.settings import WatchSettings

__all__ = ["ReportRefused", "make"]

WAIT_S: Final = 120.0
"""How long another report, or an erasure, may take before this one gives up."""


class ReportRefused(PereneError):
    """There is too little to report on."""

    code = "report_refused"


def make(
    settings: Settings, kind: Kind, model: str, *, since: str | None, until: str | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Make one report and say what is in it.

    Args:
        settings: where the stores are.
        kind: `asked` is Evidently's report, `performance` the other.
        model: name of a deployed model.
        since: age or time at which the span begins; else the newest rows, or all.
        until: the same of its end.
        out: a new folder for it; else it is kept with the worker's, logged to MLflow and told to the ledger.

    Raises:
        ConfigInvalid: a time is none, or `out` exists.
        ModelUnknown: it is not deployed.
        ReportRefused: there are too few rows.
        StoreUnavailable: the child failed.
    """
    now = datetime.now(UTC)
    low, high = moment(since, now), moment(until, now)
    if low is not None and low >= (high or now):
        raise ConfigInvalid("the span is empty", where="--since", hint="--since lies before --until, and before now")
    _check(out)
    name, version = chosen(settings, model)
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        bundle = from_cache(settings, name, version)
        path = bundle.path if bundle else from_store(settings, name, version, Path(scratch) / "bundle").path
        spec = Spec(
            kind=kind,
            key=f"asked-{'' if kind == 'asked' else f'{kind}-'}{now:%Y%m%dT%H%M%S%f}",
            model=name,
            version=version,
            home=str(settings.places.home),
            bundle=str(path.resolve()),
            lake_url=str(settings.lake_url),
            low=None if low is None else int(low.timestamp() * 1e6),
            high=None if high is None else int(high.timestamp() * 1e6),
            settings=settings.models.get(name, WatchSettings()).monitoring.model_dump(mode="json"),
            out=str(out.absolute()) if out else "",
        )
        return _run(spec, settings, Path(scratch))


def _check(out: Path | None) -> None:
    if out is None:
        return
    if os.path.lexists(out):
        raise ConfigInvalid(f"{out}: exists already", where="--out", hint="name a new folder")
    if not out.absolute().parent.is_dir():
        raise ConfigInvalid(f"{out.parent}: there is no such folder", where="--out", hint="make it first")


def _run(spec: Spec, settings: Settings, scratch: Path) -> dict[str, Any]:
    file = scratch / "spec.json"
    write_private(file, msgspec.json.encode(spec))
    environment = {**os.environ, **addresses(settings.ledger_url, settings.tracking_uri), "DO_NOT_TRACK": "true"}
    deadline = time.monotonic() + WAIT_S
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "retrain.reports.report_run", str(file)],
            env=environment,
            capture_output=True,
            check=False,
        )
        if done.returncode != BUSY or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if done.returncode == EMPTY:
        raise ReportRefused(
            "there is too little to report on",
            where="--since",
            expected="500 rows in the span and 500 before it" if spec.kind == "asked" else "an answered row",
            hint="another span, or wait for more traffic",
        )
    if done.returncode == BUSY:
        raise StoreUnavailable("another report or an erasure is under way", where="reports", hint="try again later")
    if done.returncode != 0:
        raise _told(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _told(said: bytes) -> StoreUnavailable:
    """What the child said: of ours the message, of anything else the exception's class, for its text may hold data."""
    lines = said.decode(errors="replace").strip().splitlines()
    ours = {kind.__name__ for kind in PereneError.__subclasses__()}
    last = next((line for line in reversed(lines) if line.partition(":")[0] in ours), "")
    return StoreUnavailable("the report failed", where="report", got=last[:300], hint="perene doctor looks for a cause")
