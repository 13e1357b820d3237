"""A bad artifact never serves (promise 7): a real server on a real store and ledger, pointed at hostile versions.

Version 1 answers throughout; each hostile version becomes champion in the ledger, is fetched from MLflow, judged and
refused with its reason, and in the end a sound one takes over.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from registry.bundle import MANIFEST, seal
from registry.keys import new_key
from registry.ledger import Ledger
from registry.mlflow_store import Store
from tests.hostile import shared_models, sound
from tests.hostile.files import FILES, canary_of
from tests.hostile.forks import ROOT
from tests.hostile.graphs import GRAPHS, RUNS
from tests.ports import free_port

WAIT_S = 60.0
ROW = {"a": 0.0, "b": 0.0, "c": 0.0}


def _graph(name: str) -> Callable[[Path], object]:
    """Put a hostile graph of the corpus into a bundle, and seal it again."""
    case = next(case for case in (*GRAPHS, *RUNS) if case.name == name)

    def plant(folder: Path) -> None:
        made = case.make()
        (folder / "model.onnx").write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
        seal(folder)

    return plant


def _file(name: str) -> Callable[[Path], object]:
    return next(case.spoil for case in FILES if case.name == name)


def _shared(name: str) -> Callable[[Path], object]:
    """One of the files that crash or hang ONNX Runtime, as the whole bundle."""

    def plant(folder: Path) -> None:
        shutil.rmtree(folder)
        shared_models.write(next(p for p in shared_models.MODELS if p.name.startswith(name)), folder)

    return plant


def _other_model(folder: Path) -> None:
    contract = json.loads((folder / "contract.json").read_text())
    (folder / "contract.json").write_text(json.dumps(contract | {"model": "other"}))
    seal(folder)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "crash": (_shared("crash_struct_11_10561"), "input 1 is missing"),
    "hang": (_shared("hang_struct_11_21387"), "child does not exist"),
    "endless": (_graph("an endless product"), "did not end in time"),
    "expand": (_graph("40 GB by Expand"), "would make more"),
    "flipped bit": (_file("a flipped bit"), "sha256 differs"),
    "pickle": (_file("a pickle named .onnx"), "not an ONNX graph"),
    "golden rows": (_file("truncated golden rows"), "cannot be read"),
    "pipe": (_file("a pipe"), ""),
    "other model": (_other_model, "another model"),
}


@pytest.fixture
def versions(home: Path, tmp_path: Path) -> tuple[dict[str, int], list[Path]]:
    """Registered while sound, then spoilt where the store keeps them: names to versions, and canaries."""
    store = Store(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")
    found: dict[str, int] = {}
    canaries: list[Path] = []
    for number, name in enumerate(("first", *HOSTILE, "last")):
        weights = [float(number + 1)] * 6
        folder = sound.write_bundle(tmp_path / name, sound.trees(target_weights=weights), sound.contract())
        found[name] = store.register(folder, "toy")
        if name in HOSTILE:
            digests = (folder / MANIFEST).read_text()
            kept = next(path for path in (home / "artifacts").rglob(MANIFEST) if path.read_text() == digests).parent
            HOSTILE[name][0](kept)
            canaries.append(canary_of(kept))
    assert sorted(found.values()) == list(range(1, len(found) + 1))
    return found, canaries


class Client:
    """Asks all the time, and keeps what was not version 1 with its answer."""

    def __init__(self, port: int, key: str) -> None:
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=WAIT_S
        )
        self._stop = threading.Event()
        self.answered = 0
        self.wrong: list[object] = []
        self._thread = threading.Thread(target=self._run)

    def predict(self) -> httpx.Response:
        return self._client.post("/models/toy/predict", json={"rows": [ROW]})

    def failures(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = self._client.get("/readyz?verbose").json().get("failures", [])
        return found

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(WAIT_S)

    def close(self) -> None:
        self.stop()
        self._client.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            reply = self.predict()
            if reply.status_code != 200 or reply.json()["version"] != 1 or reply.json()["predictions"] != [2.0]:
                self.wrong.append(reply.text)
            self.answered += 1
            time.sleep(0.005)


@pytest.fixture
def client(home: Path, versions: tuple[dict[str, int], list[Path]]) -> Iterator[Client]:
    """A real server process whose ledger says version 1."""
    secret, record = new_key("test", {"predict"}, {"toy"})
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as ledger:
        ledger.add_key(record)
    _deploy(home, versions[0]["first"])
    port = free_port()
    # while hostile versions are judged the machine is busy; who is refused for that is another promise's matter
    patient = {"queue": {"seconds": 60}}
    (home / "serve.json").write_text(json.dumps({"poll_seconds": 0.05, "device": "cpu", **patient}))
    command = [sys.executable, "-m", "serving", "--home", str(home), "--port", str(port)]
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen([*command, "--settings", str(home / "serve.json")], cwd=ROOT, stdout=log, stderr=log)
    asking = Client(port, secret)
    try:
        _until(lambda: _serves(asking, 1), "version 1 does not serve")
        yield asking
        assert process.poll() is None
    finally:
        asking.close()
        process.terminate()
        process.wait(WAIT_S)


def _serves(client: Client, version: int) -> bool:
    try:
        reply = client.predict()
    except httpx.TransportError:
        return False
    return reply.status_code == 200 and reply.json()["version"] == version


def _deploy(home: Path, champion: int) -> None:
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as ledger:
        row = ledger.deployment("toy")
        revision = row.revision if row is not None else 0
        ledger.move("toy", expected_revision=revision, champion=champion, actor="test", reason="test")


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_hostile_versions_are_refused_while_the_old_one_answers(
    client: Client, home: Path, versions: tuple[dict[str, int], list[Path]]
) -> None:
    """Every answer is 2xx and of version 1; each reason is published; nothing hostile is executed."""
    numbers, canaries = versions
    client.start()
    took: dict[str, float] = {}
    for name, (_, reason) in HOSTILE.items():
        began = time.monotonic()
        _deploy(home, numbers[name])

        def told(version: int = numbers[name], reason: str = reason) -> bool:
            return any(f["version"] == version and reason in str(f["reason"]) for f in client.failures())

        _until(told, f"{name} was not refused: {client.failures()}")
        took[name] = round(time.monotonic() - began, 1)
    client.stop()
    print(f"\nseconds from ledger to verdict: {took}; {client.answered} answers meanwhile")
    assert client.wrong == []
    assert client.answered > 100
    assert not any(canary.exists() for canary in canaries)
    # the control: the same way leads a sound version to serve
    _deploy(home, numbers["last"])
    _until(lambda: _serves(client, numbers["last"]), "the sound version does not serve")
    assert client.failures() == []
