"""River's part of M8, run by the Python of its own environment: draw streams, run its detectors on losses.

    python side.py streams FOLDER SEEDS     # FOLDER/<stream>-<kind>-<seed>.npz with X and y
    python side.py detect FOLDER            # reads "errors" of FOLDER/*.losses.npz, writes FOLDER/river.json

A stream is 4,000 rows to learn from, 5,000 rows of the same concept, then another concept: at once, or (gradual)
mixed in over 1,000 rows. Bundled data is drawn with replacement; from the change on, the classes of those rows whose
first column is above its median are rotated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from river import datasets, drift
from river.datasets import synth
from river.drift import binary

LEARN, STABLE, MIXED, AFTER = 4_000, 5_000, 1_000, 2_000
Rows = Iterator[tuple[dict[str, Any], Any]]

CONCEPTS: dict[str, Callable[[int, int], Any]] = {
    "SEA": lambda concept, seed: synth.SEA(variant=2 * concept, noise=0.1, seed=seed),
    "Sine": lambda concept, seed: synth.Sine(classification_function=concept, seed=seed),
    "Sine, other pair": lambda concept, seed: synth.Sine(classification_function=2 * concept, seed=seed),
    "Agrawal 0 to 2": lambda concept, seed: synth.Agrawal(2 * concept, seed=seed, perturbation=0.05),
    "Agrawal 3 to 4": lambda concept, seed: synth.Agrawal(3 + concept, seed=seed, perturbation=0.05),
    "STAGGER": lambda concept, seed: synth.STAGGER(classification_function=concept, seed=seed),
    "Mixed": lambda concept, seed: synth.Mixed(classification_function=concept, seed=seed),
    "LED, 3 of 7 swapped": lambda concept, seed: synth.LEDDrift(
        seed=seed, noise_percentage=0.1, irrelevant_features=True, n_drift_features=3 * concept
    ),
    "RandomRBF": lambda concept, seed: synth.RandomRBF(seed_model=1 + concept, seed_sample=seed, n_centroids=20),
    "RandomTree": lambda concept, seed: synth.RandomTree(seed_tree=1 + concept, seed_sample=seed),
    "Hyperplane": lambda concept, seed: synth.Hyperplane(seed=100 * (1 + concept) + seed, noise_percentage=0.05),
}
BUNDLED = {"Bananas": datasets.Bananas, "Phishing": datasets.Phishing, "ImageSegments": datasets.ImageSegments}

DETECTORS: dict[str, Callable[[int], Any]] = {
    "ADWIN": lambda seed: drift.ADWIN(),
    "KSWIN": lambda seed: drift.KSWIN(seed=seed),
    "PageHinkley": lambda seed: drift.PageHinkley(),
    "DDM": lambda seed: binary.DDM(),
    "EDDM": lambda seed: binary.EDDM(),
    "FHDDM": lambda seed: binary.FHDDM(),
    "HDDM_A": lambda seed: binary.HDDMA(),
    "HDDM_W": lambda seed: binary.HDDMW(),
}
"""All that this version has, with their defaults, but those that look at no data (NoDrift and the like)."""


def arrays(rows: Rows, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The next rows as numbers and class names."""
    taken = list(islice(rows, count))
    return np.array([[float(v) for v in x.values()] for x, _ in taken]), np.array([str(y) for _, y in taken])


def mixed(old: Any, new: Any, weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `old` and `new`; of the new one with the chance `weight`."""
    chosen = rng.random(len(weight)) < weight
    x = np.where(chosen[:, None], new[0], old[0])
    return x, np.where(chosen, new[1], old[1])


def weights(kind: str) -> np.ndarray:
    """Chance by row that it is of the new concept."""
    ramp = np.ones(MIXED) if kind == "abrupt" else (np.arange(MIXED) + 0.5) / MIXED
    return np.concatenate([np.zeros(LEARN + STABLE), ramp, np.ones(AFTER - MIXED)])


def bundled(name: str, rng: np.random.Generator, size: int) -> tuple[Any, Any]:
    """Rows drawn with replacement, with their own classes and with rotated ones."""
    x, y = arrays(iter(BUNDLED[name]()), 10_000)
    rows = rng.integers(0, len(y), size)
    names = np.unique(y)
    turned = names[(np.searchsorted(names, y) + (x[:, 0] > np.median(x[:, 0]))) % len(names)]
    return (x[rows], y[rows]), (x[rows], turned[rows])


def streams(folder: Path, seeds: int) -> None:
    """Draw every stream."""
    size = LEARN + STABLE + AFTER
    for seed in range(seeds):
        for name in [*CONCEPTS, *BUNDLED]:
            rng = np.random.default_rng(seed)
            if name in BUNDLED:
                old, new = bundled(name, rng, size)
            else:
                old, new = (arrays(iter(CONCEPTS[name](concept, seed + 1)), size) for concept in (0, 1))
            for kind in ("abrupt", "gradual"):
                x, y = mixed(old, new, weights(kind), rng)
                np.savez_compressed(folder / f"{name}~{kind}~{seed}.npz", x=x, y=y)


def detect(folder: Path) -> None:
    """Positions of every detector's alarms; it goes on (they start anew by themselves) until the stream ends."""
    found: dict[str, dict[str, list[int]]] = {}
    for file in sorted(folder.glob("*.losses.npz")):
        errors = np.load(file)["errors"].tolist()
        seed = int(file.name.split("~")[2].split(".")[0])
        found[file.name.removesuffix(".losses.npz")] = {
            name: alarms(make(seed), errors) for name, make in DETECTORS.items()
        }
    (folder / "river.json").write_text(json.dumps(found))


def alarms(detector: Any, errors: list[float]) -> list[int]:
    """Positions at which the detector says drift."""
    found = []
    for position, error in enumerate(errors):
        detector.update(error)
        if detector.drift_detected:
            found.append(position)
    return found


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    if what == "streams":
        streams(where, int(sys.argv[3]))
    else:
        detect(where)
