"""What the puller does about artifacts that only want to keep it busy, break it, or land elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from registry.bundle import seal
from registry.ledger import Ledger
from serving.puller import Puller
from serving.state import State
from tests.hostile import sound


@dataclass
class Store:
    """Copies one bundle for every version; counts what was fetched."""

    bundle: Path
    fetched: list[int] = field(default_factory=list)

    def __call__(self, model: str, version: int, to: Path) -> object:
        self.fetched.append(version)
        to.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copytree(self.bundle, to)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(sound.write_bundle(tmp_path / "bundle", sound.trees(), sound.contract()))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")) as opened:
        yield opened


def _deploy(ledger: Ledger, version: int, *, revision: int, model: str = "toy") -> None:
    ledger.move(model, expected_revision=revision, champion=version, actor="test", reason="test")


def _reasons(state: State) -> list[str]:
    return [failure.reason for failure in state.failures]


def _changed(bundle: Path) -> None:
    """After sealing: the copy may have been at fault."""
    (bundle / "card.md").write_text("changed")


def _cyclic(bundle: Path) -> None:
    """Sealed: it is the child that refuses it."""
    made = sound.trees(nodes_truenodeids=[1, 1, 0, 0, 0, 1, 2, 0, 0, 0])
    (bundle / "model.onnx").write_bytes(made.SerializeToString())
    seal(bundle)


@pytest.mark.parametrize(
    ("spoil", "looks", "reason"),
    [
        (_changed, ((0.0, 1), (5.0, 2), (10.0, 2), (15.0, 3), (30.0, 3), (35.0, 4)), "sha256 differs"),
        (_cyclic, ((0.0, 1), (5.0, 1), (10.0, 2), (25.0, 2), (30.0, 3)), "two parents"),
    ],
)
def test_a_refused_version_is_judged_ever_more_rarely(
    spoil: Callable[[Path], None],
    looks: tuple[tuple[float, int], ...],
    reason: str,
    ledger: Ledger,
    store: Store,
    tmp_path: Path,
) -> None:
    """After 10 s, 20 s, …, a damaged copy also at once; the reason stays published; a new deployment asks anew."""
    spoil(store.bundle)
    puller = Puller(tmp_path / "cache", store)
    _deploy(ledger, 1, revision=0)
    for now, fetches in looks:
        state = puller.state(ledger, State(), now)
        assert len(store.fetched) == fetches, now
        assert [reason in found for found in _reasons(state)] == [True]
    (store.bundle / "model.onnx").write_bytes(sound.trees().SerializeToString())
    seal(store.bundle)
    _deploy(ledger, 1, revision=1)
    assert puller.state(ledger, State(), 36.0).deployments["toy"].champion == 1


def _pipe(bundle: Path) -> None:
    (bundle / "card.md").unlink()
    os.mkfifo(bundle / "card.md")


def _other_model(bundle: Path) -> None:
    contract = json.loads((bundle / "contract.json").read_text())
    (bundle / "contract.json").write_text(json.dumps(contract | {"model": "other"}))
    seal(bundle)


@pytest.mark.parametrize(("spoil", "reason"), [(_pipe, "not copied"), (_other_model, "another model")])
def test_a_bundle_that_cannot_serve_is_refused_and_told(
    spoil: Callable[[Path], None], reason: str, ledger: Ledger, store: Store, tmp_path: Path
) -> None:
    """A pipe cannot be copied; a bundle of another model would be refused by the server after a restart."""
    spoil(store.bundle)
    _deploy(ledger, 1, revision=0)
    state = Puller(tmp_path / "cache", store).state(ledger, State(), 0.0)
    assert state.deployments == {}
    assert [reason in found for found in _reasons(state)] == [True]
