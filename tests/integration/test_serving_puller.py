"""The puller over a real ledger: what it hands over, what it refuses, and what stays in place meanwhile."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from registry.bundle import read_bundle, seal
from registry.errors import StoreUnavailable
from registry.keys import KeyLimits, new_key
from registry.ledger import Ledger
from serving.puller import Follower, Puller
from serving.state import Deployed, Key, State, Stored, read_state
from tests.integration.serving_toy import offset_bundle


@dataclass
class Store:
    """Bundles by version, copied on request; counts what was fetched."""

    bundles: dict[int, Path]
    fetched: list[int] = field(default_factory=list)

    def __call__(self, model: str, version: int, to: Path) -> object:
        self.fetched.append(version)
        if version not in self.bundles:
            raise StoreUnavailable("MLflow does not answer")
        to.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copytree(self.bundles[version], to)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


@pytest.fixture
def store(toy_bundle: Path, tmp_path: Path) -> Store:
    return Store({n: offset_bundle(toy_bundle, tmp_path / f"v{n}", 100.0 * n) for n in (1, 2)})


@dataclass(frozen=True)
class First:
    """A first hand-over of champion 1 and candidate 2, as one puller made it."""

    cache: Path
    state: State
    revision: int
    fetched: list[int]
    secret: str
    key: Key


@pytest.fixture(scope="session")
def first(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    """Made once: each new version is run in a child, which takes seconds."""
    folder = tmp_path_factory.mktemp("puller")
    store = Store({n: offset_bundle(toy_bundle, folder / f"v{n}", 100.0 * n) for n in (1, 2)})
    secret, record = new_key("test", {"predict"}, {"toy"})
    with closing(Ledger.open(f"sqlite:///{folder / 'ledger.db'}")) as ledger:
        ledger.add_key(record)
        deploy(ledger, 1, 2, revision=0)
        puller = Puller(folder / "cache", store)
        state = puller.state(ledger, State(), 5.0)
        # a second look finds everything in place
        assert puller.state(ledger, state, 5.0) == state
        key = Key(record.id, record.sha256, ["predict"], ["toy"])
        return First(puller.cache, state, ledger.revision(), store.fetched, secret, key)


@pytest.fixture
def puller(tmp_path: Path, store: Store, first: First) -> Puller:
    """A puller that has checked version 1 already."""
    cache = tmp_path / "cache"
    shutil.copytree(first.cache / "bundles/toy/1", cache / "bundles/toy/1")
    shutil.copy(first.cache / "bundles/toy/1.golden.json", cache / "bundles/toy")
    return Puller(cache, store)


def deploy(ledger: Ledger, champion: int, candidate: int | None = None, *, revision: int) -> None:
    ledger.move(
        "toy",
        expected_revision=revision,
        champion=champion,
        candidate=candidate,
        mode="ab" if candidate else None,
        weight=0.25 if candidate else 0.0,
        salt="s" if candidate else "",
        actor="test",
        reason="test",
    )


def damage(bundle: Path) -> None:
    """One bit of the graph, after sealing."""
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(bytes(data))


def lie(bundle: Path) -> None:
    """Sealed, but the golden rows expect other answers: only a run in the child finds that."""
    import pandas as pd

    golden = pd.read_parquet(bundle / "golden.parquet")
    golden["_expected"] += 1
    golden.to_parquet(bundle / "golden.parquet", index=False)
    seal(bundle)


def test_the_first_hand_over(first: First) -> None:
    """Both bundles lie in the cache, verified, with warm-up rows beside them, and were fetched once."""
    state = first.state
    assert state.deployments == {"toy": Deployed(1, 1, 2, "ab", 0.25, "s")}
    assert state.keys == [first.key]
    assert (state.revision, state.written, state.failures) == (first.revision, 5.0, [])
    for version in ("1", "2"):
        stored = state.bundles["toy"][version]
        assert stored == Stored(f"bundles/toy/{version}", read_bundle(first.cache / stored.dir).digest)
        golden = (first.cache / f"{stored.dir}.golden.json").read_text()
        assert golden.count('"hour"') == 32
        assert "_expected" not in golden
    assert first.fetched == [1, 2]
    assert first.secret not in repr(state)


@pytest.mark.parametrize(("spoil", "reason"), [(damage, "model.onnx"), (lie, "other answers")])
def test_a_corrupt_candidate_is_dropped_and_told(
    spoil: Callable[[Path], None], reason: str, ledger: Ledger, puller: Puller, store: Store
) -> None:
    """It is handed over as the ledger has it, without that bundle: the server leaves it out, and counts that."""
    spoil(store.bundles[2])
    deploy(ledger, 1, 2, revision=0)
    state = puller.state(ledger, State(), 0.0)
    assert state.deployments == {"toy": Deployed(1, 1, 2, "ab", 0.25, "s")}
    assert set(state.bundles["toy"]) == {"1"}
    (failure,) = state.failures
    assert (failure.model, failure.version) == ("toy", 2)
    assert reason in failure.reason
    assert not (puller.cache / "bundles/toy/2").exists()


def test_a_corrupt_champion_keeps_the_deployment_before_it(ledger: Ledger, puller: Puller, store: Store) -> None:
    """And so does one that cannot be fetched at all."""
    deploy(ledger, 1, revision=0)
    before = puller.state(ledger, State(), 0.0)
    damage(store.bundles[2])
    deploy(ledger, 2, revision=1)
    after = puller.state(ledger, before, 1.0)
    assert after.deployments == before.deployments == {"toy": Deployed(1, 1)}
    assert after.bundles == before.bundles
    assert [(f.model, f.version) for f in after.failures] == [("toy", 2)]
    deploy(ledger, 3, revision=2)
    missing = puller.state(ledger, after, 2.0)
    assert missing.deployments == before.deployments
    assert [(f.version, f.reason) for f in missing.failures] == [(3, "MLflow does not answer")]
    assert missing.revision == ledger.revision() > before.revision


def test_without_one_before_it_a_corrupt_champion_is_not_handed_over(
    ledger: Ledger, puller: Puller, store: Store
) -> None:
    """Nothing serves, and the reason is told."""
    damage(store.bundles[2])
    deploy(ledger, 2, revision=0)
    state = puller.state(ledger, State(), 0.0)
    assert (state.deployments, state.bundles) == ({}, {})
    assert [f.version for f in state.failures] == [2]


def test_a_bundle_that_rots_in_the_cache_is_fetched_again(ledger: Ledger, puller: Puller, store: Store) -> None:
    """At the try after the one that found it."""
    deploy(ledger, 1, revision=0)
    before = puller.state(ledger, State(), 0.0)
    damage(puller.cache / before.bundles["toy"]["1"].dir)
    found = puller.state(ledger, before, 1.0)
    assert [f.version for f in found.failures] == [1]
    assert found.deployments == before.deployments
    mended = puller.state(ledger, found, 2.0)
    assert (mended.failures, mended.bundles) == ([], before.bundles)
    assert store.fetched == [1]


def test_a_revoked_key_disappears(ledger: Ledger, puller: Puller) -> None:
    """The others stay, with their limits, and the ledger's revision moves so that the puller looks."""
    records = [new_key(name, {"predict"}, limits=KeyLimits(rows_per_day=3))[1] for name in ("a", "b")]
    for record in records:
        ledger.add_key(record)
    before = puller.state(ledger, State(), 0.0)
    assert {k.id for k in before.keys} == {r.id for r in records}
    ledger.revoke_key(records[0].id)
    after = puller.state(ledger, before, 1.0)
    assert [(k.id, k.limits) for k in after.keys] == [(records[1].id, KeyLimits(rows_per_day=3))]
    assert after.revision > before.revision


def test_a_rollback_does_not_wait_for_another_model_s_new_version(
    ledger: Ledger, toy_bundle: Path, tmp_path: Path
) -> None:
    """A store that takes its time over one version; what it brings is handed over once it is there and judged."""
    bundles = {
        (model, n): offset_bundle(toy_bundle, tmp_path / f"{model}-{n}", 100.0 * n, model=model)
        for model in ("toy", "other")
        for n in (1, 2)
    }
    asked, goes_on = threading.Event(), threading.Event()

    def fetch(model: str, version: int, to: Path) -> object:
        if (model, version) == ("other", 2):
            asked.set()
            assert goes_on.wait(60)
        to.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copytree(bundles[model, version], to)

    follower = Follower(Puller(tmp_path / "cache", fetch))

    def step() -> dict[str, int]:
        """What is handed over after a look: each model's champion."""
        follower.step(ledger, 5.0)
        state = read_state(follower.puller.cache)
        assert state is not None
        return {name: deployed.champion for name, deployed in state.deployments.items()}

    def move(model: str, champion: int, revision: int) -> None:
        ledger.move(model, expected_revision=revision, champion=champion, actor="ann", reason="r")

    def until(expected: dict[str, int]) -> None:
        deadline = time.monotonic() + 60
        while step() != expected:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    move("toy", 1, 0)
    move("other", 1, 0)
    assert step() == {"toy": 1, "other": 1}  # a first hand-over is whole
    move("toy", 2, 1)
    until({"toy": 2, "other": 1})
    move("other", 2, 1)
    assert step() == {"toy": 2, "other": 1}
    assert asked.wait(60)
    move("toy", 1, 2)
    assert step() == {"toy": 1, "other": 1}  # while the other one's version is on its way
    goes_on.set()
    until({"toy": 1, "other": 2})


def test_what_could_not_be_fetched_aside_is_told_and_tried_again(ledger: Ledger, puller: Puller, store: Store) -> None:
    """The store is away while a new version is wanted: the old one stays, and the reason is handed over."""
    version_2 = store.bundles.pop(2)
    follower = Follower(puller)
    told: list[bool] = []
    deploy(ledger, 1, revision=0)
    follower.step(ledger, 5.0)
    deploy(ledger, 2, revision=1)

    def until(now: float, holds: Callable[[State], bool]) -> State:
        deadline = time.monotonic() + 60
        while True:
            follower.step(ledger, now)
            state = read_state(puller.cache)
            assert state is not None
            told.append(bool(state.failures))
            if holds(state):
                return state
            assert time.monotonic() < deadline
            time.sleep(0.02)

    state = until(6.0, lambda state: bool(state.failures))
    assert (state.deployments["toy"].champion, state.failures[0].version) == (1, 2)
    asked = len(store.fetched)
    for _ in range(5):
        follower.step(ledger, 6.1)
    assert len(store.fetched) == asked  # not before its time
    until(20.0, lambda state: bool(state.failures) and len(store.fetched) > asked)  # told all the time
    store.bundles[2] = version_2
    state = until(60.0, lambda state: state.deployments["toy"].champion == 2)
    assert state.failures == []
    assert all(told[told.index(True) : -1])  # while it is tried again, too: an alert counts from the first time
