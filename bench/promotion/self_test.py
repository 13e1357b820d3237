"""The test of the gates, many times over: `python -m bench.promotion.self_test [--seeds N] [--write]`.

Three models are logged as users log theirs: a regression, two classes, three classes. For each seed a fresh holdout of
14 days is drawn, and the four planted challengers are judged on it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.promotion.gates import RESULTS, write_section
from registry.bundle import Bundle
from registry.log import build_bundle
from retrain.gates.latency import latency_gate
from retrain.gates.planted import CASES, self_test
from retrain.gates.side import opened_side
from retrain.settings import RetrainSettings

__all__ = ["drawn", "repeated", "toys"]

FEATURES = ["x", "z", "g"]
TARGETS = {"regression": "y", "two classes": "k", "three classes": "m"}


def drawn(rows: int, seed: int) -> pd.DataFrame:
    """Labelled rows of 14 days."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, rows)
    frame = pd.DataFrame({"x": x, "z": rng.normal(size=rows)}).astype(np.float32)
    frame["g"] = rng.choice(["a", "b", "c"], rows)
    frame["y"] = 2 * x + 5 + rng.normal(0, 1, rows)
    frame["k"] = np.where(rng.random(rows) < 1 / (1 + np.exp(5 - x)), "yes", "no")
    frame["m"] = np.array(["low", "mid", "high"])[np.clip((x + rng.normal(0, 1.5, rows)) // 3.4, 0, 2).astype(int)]
    frame["_at"] = pd.date_range("2013-06-01", "2013-06-15", periods=rows, tz="UTC")
    return frame


def toys(folder: Path) -> dict[str, Bundle]:
    """The three models."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame = drawn(1_500, 10_000_019)
    made = {}
    for name, target in TARGETS.items():
        columns = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["g"]), remainder="passthrough", verbose_feature_names_out=False
        )
        estimator = make_pipeline(columns, LinearRegression() if target == "y" else LogisticRegression())
        estimator.fit(frame[FEATURES], frame[target])
        to = folder / name.replace(" ", "-")
        made[name] = build_bundle(estimator, frame[FEATURES], frame[target], name=to.name, to=to)
    return made


def repeated(seeds: int, *, rows: int = 1_000) -> dict[str, dict[str, int]]:
    """How often each planted challenger got the right verdict, by model and case; `wrong` lists what was not."""
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        for name, bundle in toys(Path(scratch)).items():
            target = TARGETS[name]
            settings = RetrainSettings(trainer="a:b", target=target, min_labels=200)
            cap = float(bundle.reference["quality"]["cap"])
            with opened_side(bundle) as side:
                for seed in range(seeds):
                    holdout = drawn(rows, seed)[[*FEATURES, target, "_at"]]
                    now = datetime(2013, 6, 16, tzinfo=UTC)
                    for one in self_test(side, settings, holdout, cap=cap, now=now, seed=seed):
                        found.setdefault(f"{name}, {one.case}", Counter())[one.found] += 1
                        if one.found != "right":
                            print(name, seed, one)
    return {name: dict(counts) for name, counts in found.items()}


def timed_beside_itself(times: int) -> float:
    """Share of comparisons in which a model passes the latency gate against itself, nothing being free."""
    passes = 0
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        bundle = toys(Path(scratch))["two classes"]
        frame = drawn(200, 1)[FEATURES]
        with opened_side(bundle) as side:
            for _ in range(times):
                passes += latency_gate(side, side, frame, ratio=1.2, free_ms=0.0, size_ratio=2.0).verdict == "pass"
    return passes / times


def main() -> None:
    """Print the counts, and keep them beside the other figures of the gates with --write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    found = repeated(asked.seeds)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        counts = [counts for name, counts in found.items() if name.endswith(case)]
        share = sum(c.get("right", 0) for c in counts) / sum(sum(c.values()) for c in counts)
        told = f"self-test, {case}: right verdict, {asked.seeds} seeds x {len(counts)} models"
        rows.append({"id": "A9", "case": told, "value": share, "bar": "100 %", "met": share == 1.0})
        print(told, share)
    timed = timed_beside_itself(asked.seeds * 10)
    told = f"latency: a real model timed beside itself passes, {asked.seeds * 10:,} times"
    rows.append({"id": "A9", "case": told, "value": timed, "bar": "≥ 99.9 %", "met": timed >= 0.999})
    print(told, timed)
    if asked.write and RESULTS.is_file():
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))
        kept["rows"] = [row for row in kept["rows"] if row["id"] != "A9"] + rows
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        write_section(kept)


if __name__ == "__main__":
    main()
