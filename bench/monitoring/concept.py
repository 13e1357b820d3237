"""M8: concept drift in river's generators and bundled data; every river detector beside ours on the same losses.

    bench/monitoring/setup
    python -m bench.monitoring.concept --save

One champion, trained on 2,000 rows and accepted on 2,000 more, answers 5,000 rows of the concept it knows and 2,000 of
another one. River's detectors see its errors (0 or 1), those of the 2,000 accepted rows first; ours sees the same
errors, and in a second line the bounded loss that Perene gives it. An alarm before the change is false (a detector
then starts anew); the first one within 1,000 labels of an abrupt change, 2,000 of a gradual one, has found it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.monitoring.keep import keep
from monitoring.settings import MonitoringSettings
from monitoring.watching.quality import ESR, null_level, update
from registry.contract import Output
from registry.loss import bounded_loss

PYTHON = Path("build/bench/venvs/river_streams/bin/python")
SIDE = Path("bench/peers/river_streams/side.py")
TRAINED, ACCEPTED, STABLE = 2_000, 2_000, 5_000
WITHIN = {"abrupt": 1_000, "gradual": 2_000}
OURS, OURS_LOSS = "Perene, on errors", "Perene, on losses"
SETTINGS = MonitoringSettings()
Floats = npt.NDArray[np.float64]


@dataclass
class Score:
    """What a detector did on streams of one kind."""

    false: int = 0
    streams: int = 0
    delays: list[int] = field(default_factory=list)

    def add(self, alarms: list[int], within: int) -> None:
        """Count one stream's alarms; the change is at ACCEPTED + STABLE."""
        change = ACCEPTED + STABLE
        self.streams += 1
        self.false += sum(ACCEPTED <= alarm < change for alarm in alarms)
        late = [alarm - change + 1 for alarm in alarms if change <= alarm < change + within]
        self.delays += late[:1]

    def row(self) -> dict[str, Any]:
        """F1, false alarms in 1,000 labels, and the delay of those found."""
        found = len(self.delays)
        missed = self.streams - found
        return {
            "streams": self.streams,
            "found": found,
            "f1": 2 * found / (2 * found + self.false + missed),
            "false_per_1000": 1e3 * self.false / (self.streams * STABLE),
            "median_delay": float(np.median(self.delays)) if found else None,
        }


def answered(x: Floats, y: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Errors and bounded losses of a champion trained on the first rows, on all others."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=0)
    model.fit(x[:TRAINED], y[:TRAINED])
    p = model.predict_proba(x[TRAINED:])
    classes = tuple(str(name) for name in model.classes_)
    truth = y[TRAINED:].astype(object)
    losses = bounded_loss(Output("classification", classes), p, truth, 1.0)
    chosen = model.classes_[p.argmax(axis=1)]
    # a class that the champion has never seen has no probability: it is wrong by as much as can be
    return (chosen != y[TRAINED:]).astype(float), np.nan_to_num(losses, nan=1.0)


def alarms(losses: Floats) -> list[int]:
    """Positions of e-SR's alarms on losses whose first ACCEPTED are the reference; it starts anew after each."""
    old = losses[:ACCEPTED]
    known = {"n": len(old), "loss": float(old.mean()), "loss_sd": float(old.std(ddof=1))}
    level = null_level(known, SETTINGS.tolerance, SETTINGS.tolerance_relative)
    assert level is not None
    detector, found = ESR(level), []
    for position in range(ACCEPTED, len(losses)):
        update(detector, float(losses[position]), float(position))
        if detector.evalue >= SETTINGS.esr_run_length:
            found.append(position)
            detector = ESR(level)
    return found


def compared(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """A row for each detector, kind of change and stream, and for all streams together."""
    subprocess.run([str(PYTHON), str(SIDE), "streams", str(folder), str(seeds)], check=True)
    ours: dict[str, dict[str, list[int]]] = {}
    for file in sorted(folder.glob("*.npz")):
        drawn = np.load(file)
        errors, losses = answered(drawn["x"], drawn["y"])
        np.savez(folder / f"{file.stem}.losses.npz", errors=errors)
        ours[file.stem] = {OURS: alarms(errors), OURS_LOSS: alarms(losses)}
    subprocess.run([str(PYTHON), str(SIDE), "detect", str(folder)], check=True)
    theirs = json.loads((folder / "river.json").read_text())
    scores: dict[tuple[str, str, str], Score] = {}
    for name, by_detector in ours.items():
        stream, kind, _ = name.split("~")
        for detector, found in {**by_detector, **theirs[name]}.items():
            for title in (stream, "all"):
                scores.setdefault((detector, kind, title), Score()).add(found, WITHIN[kind])
    return [{"detector": d, "kind": k, "stream": s, **score.row()} for (d, k, s), score in scores.items()]


def main() -> None:
    """Print the rows of all streams, save everything if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = compared(Path(folder), arguments.seeds)
    for row in rows:
        if row["stream"] == "all":
            print(json.dumps(row))
    if arguments.save:
        keep("m8", rows)


if __name__ == "__main__":
    main()
