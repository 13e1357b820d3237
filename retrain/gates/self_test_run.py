"""The child that tests the gates: `python -m retrain.gates.self_test_run spec.json`; its answer is `result.json`."""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from registry.child import die_with_parent
from registry.errors import TrainingFailed
from retrain.places import Places
from retrain.process import limit_memory
from retrain.settings import RetrainSettings

__all__ = ["Result", "Spec", "main"]


class Spec(msgspec.Struct, frozen=True):
    """What is tested: the gates as this model's table has them, on its newest holdout."""

    model: str
    version: int
    home: str
    lake_url: str
    now: datetime
    settings: dict[str, Any]
    seed: int = 0
    parent: int = 0


class Result(msgspec.Struct, frozen=True):
    """What became of the planted challengers, by name; none where the holdout is too small."""

    result: Literal["right", "blind", "not told"]
    why: str
    rows: int = 0
    cases: dict[str, dict[str, Any]] = {}


def execute(spec: Spec) -> Result:
    """Load the champion and its newest holdout, and judge what is planted."""
    from registry.bundle import read_bundle
    from retrain.gates.planted import self_test
    from retrain.gates.side import opened_side
    from retrain.training import data
    from retrain.training.windows import plan

    settings = RetrainSettings(**spec.settings)
    places = Places(Path(spec.home), lake_url=spec.lake_url)
    champion = read_bundle(places.bundle(spec.model, spec.version))
    window = plan(settings.windows[:1], spec.now, holdout=settings.holdout, maturity=settings.maturity).holdout
    try:
        holdout = data.load(settings, spec.model, champion.contract, window, places)
    except TrainingFailed as error:  # no labels yet, or a loader that fails: it says nothing of the gates
        return Result("not told", error.message)
    if len(holdout) < settings.min_labels:
        return Result("not told", f"the holdout has {len(holdout)} of {settings.min_labels} rows", len(holdout))
    cap = float(champion.reference["quality"]["cap"])
    with opened_side(champion) as side:
        tested = self_test(side, settings, holdout, cap=cap, now=spec.now, seed=spec.seed)
    cases = {t.case: {"found": t.found, "why": t.why, "verdicts": t.verdicts} for t in tested}
    blind = [t for t in tested if t.found == "blind"]
    if blind:
        return Result("blind", "; ".join(f"{t.case}: {t.why}" for t in blind), len(holdout), cases)
    untold = [f"{t.case}: {t.why}" for t in tested if t.found == "not told"]
    return Result("right", "; ".join(untold), len(holdout), cases)


def main(arguments: list[str]) -> int:
    """Run the specification in the file named; `result.json` beside it appears whole."""
    path = Path(arguments[0])
    spec = msgspec.json.decode(path.read_bytes(), type=Spec)
    if spec.parent:
        die_with_parent(spec.parent, signal.SIGKILL)
    os.nice(19)  # nobody waits for it
    limit_memory(RetrainSettings(**spec.settings).training_memory_mb)  # the loader is the user's code here too
    scratch = path.with_name("result.partial")
    scratch.write_bytes(msgspec.json.encode(execute(spec)))
    os.replace(scratch, path.with_name("result.json"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
