"""Mutated models never serve, and never hurt who judges them (promise 7, short form).

Each is checked as a downloaded bundle is: statically, then, what passes, in a fork with the sandbox's limits. What is
accepted after all must answer the golden rows as the original does, and withstand rows that nobody promised. The
control runs known killers without the checks, and must see them kill. `PERENE_CHAOS=full` judges 10,000 instead of 300.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry.bundle import seal
from registry.contract import Contract
from registry.errors import BundleCorrupt
from registry.graphs.check import check_graph
from tests.hostile import shared_models, sound
from tests.hostile.forks import Forks
from tests.hostile.mutate import mutate

COUNT = 10_000 if os.environ.get("PERENE_CHAOS") == "full" else 300
BOUND_S = 15.0


@dataclass(frozen=True)
class Seed:
    """A bundle of a sound model, its bytes and its contract."""

    name: str
    folder: Path
    data: bytes
    contract: Contract


def _estimators() -> dict[str, Any]:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return {
        "boosting": GradientBoostingRegressor(n_estimators=4, max_depth=3),
        "boosting of classes": GradientBoostingClassifier(n_estimators=3, max_depth=2),
        "linear": make_pipeline(StandardScaler(), LogisticRegression()),
        "svc": SVC(),
        "mlp": make_pipeline(StandardScaler(), MLPClassifier((6,), solver="lbfgs", max_iter=2_000, random_state=0)),
    }


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    """Real exports of each kind of operator with lists, and by hand those that scikit-learn does not give."""
    from registry.export import to_onnx
    from registry.infer import infer_contract

    folder = tmp_path_factory.mktemp("seeds")
    made: list[Seed] = []
    numbers = sound.contract()
    frame = sound.rows(numbers, 200)
    total = frame.sum(axis=1)
    for name, estimator in _estimators().items():
        labels = total if name == "boosting" else (total > 0).astype(int) + (total > 1)
        estimator.fit(frame, labels)
        contract = infer_contract(estimator, frame, "toy")
        data = to_onnx(estimator, contract)
        made.append(_seed(folder / name, data, contract))
    by_hand = {"trees": sound.trees(), "forest": sound.forest(), "svm": sound.svm(), "text": sound.text()}
    for name, model in by_hand.items():
        contract = sound.contract(classes=(0, 1) if name == "svm" else (), texts=int(name == "text"))
        made.append(_seed(folder / name, model.SerializeToString(), contract))
    return made


def _seed(folder: Path, data: bytes, contract: Contract) -> Seed:
    import onnx

    sound.write_bundle(folder / "bundle", onnx.load_model_from_string(data), contract)
    (folder / "original.onnx").write_bytes(data)
    return Seed(folder.name, folder / "bundle", data, contract)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


def test_without_the_checks_a_known_model_kills_who_runs_it(forks: Forks, tmp_path: Path) -> None:
    """The control: this harness sees a crash and an endless run."""
    crash, hang = shared_models.MODELS[0], shared_models.MODELS[-1]
    assert forks.ask("bypass", shared_models.write(crash, tmp_path / crash.stem), seconds=60.0).how == "crashed"
    assert forks.ask("bypass", shared_models.write(hang, tmp_path / hang.stem), seconds=1.0).how == "late"


@pytest.mark.timeout(1_800)
def test_mutated_models_neither_serve_nor_hurt(seeds: list[Seed], forks: Forks) -> None:
    """No verdict kills its judge or takes longer than promised, and what is accepted answers as before."""
    for seed in seeds:
        check_graph(seed.data, seed.contract)
        assert forks.ask("judge", seed.folder).how == "sound", seed.name
    found: Counter[str] = Counter()
    slowest = 0.0
    for number in range(COUNT):
        seed = seeds[number % len(seeds)]
        data = mutate(seed.data, random.Random(number))
        if data == seed.data:
            found["unchanged"] += 1
            continue
        try:
            check_graph(data, seed.contract)
        except BundleCorrupt as error:
            assert error.message.startswith("the bundle is refused: ")
            found["refused statically"] += 1
            continue
        (seed.folder / "model.onnx").write_bytes(data)
        seal(seed.folder)
        outcome = forks.ask("judge", seed.folder, seconds=10.0)
        found[f"{outcome.how} by the run"] += 1
        slowest = max(slowest, outcome.seconds)
        if outcome.how == "sound":
            probe = forks.ask("probe", seed.folder, seconds=10.0)
            found[f"then probed: {probe.how}"] += 1
            assert probe.how in ("sound", "refused"), (number, seed.name, probe)
            assert probe.reason != "otherwise", (number, seed.name)
    print(f"\n{COUNT} mutations: {dict(sorted(found.items()))}; slowest run {slowest:.1f} s")
    assert slowest <= BOUND_S
    # the mutations are of both kinds: neither all broken nor all harmless
    assert min(found["refused statically"], found["refused by the run"], found["sound by the run"]) > 0
