"""Registration over a network that fails: at every request, before it or after, nothing is half-registered."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.bundle import read_bundle, seal
from registry.errors import StoreUnavailable
from registry.mlflow_store import Store
from tests.integration.mlflow_server import Lost, Proxy, mlflow_server


@pytest.fixture(scope="module")
def server(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with mlflow_server(mlflow_template, tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
def proxy(server: int) -> Iterator[Proxy]:
    made = Proxy(server)
    yield made
    made.close()


def named(bundle: Path, name: str, to: Path) -> Path:
    """A copy of a bundle under another model's name."""
    shutil.copytree(bundle, to)
    contract = json.loads((to / "contract.json").read_text())
    (to / "contract.json").write_text(json.dumps({**contract, "model": name}))
    seal(to)
    return to


def worth_cutting(requests: list[str], lost: Lost) -> list[int]:
    """Numbers of the requests, from 1; of several uploads in a row the first and the last; no lost answers of reads."""
    kinds = [request if "mlflow-artifacts" not in request else "upload" for request in requests]
    return [
        k
        for k, kind in enumerate(kinds, start=1)
        if (kind != "upload" or kinds[k - 2] != kind or kinds[k : k + 1] != [kind])
        and (lost == "request" or not kind.startswith("GET"))
    ]


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_registration_cut_at_any_request_can_be_repeated(
    lost: Lost, toy_bundle: Path, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow is gone from the k-th request on: no version is half-made, and the next call gives exactly one."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    original = tmp_path / "original"
    original.mkdir()
    (original / "model.joblib").write_bytes(b"inert")
    store = Store(f"http://127.0.0.1:{proxy.port}", tmp_path / "artifacts")
    store.register(named(toy_bundle, f"whole-{lost}", tmp_path / "whole"), f"whole-{lost}", original=original)
    cuts = worth_cutting(proxy.seen, lost)
    assert len(cuts) > 10
    refused = 0
    for k in cuts:
        name = f"cut-{lost}-{k}"
        bundle = named(toy_bundle, name, tmp_path / name)
        proxy.die_at(k, lost)
        try:
            store.register(bundle, name, original=original)
        except StoreUnavailable:
            refused += 1
        proxy.revive()
        complete = [v["version"] for v in store.versions(name)]
        version = store.register(bundle, name, original=original)
        assert [v["version"] for v in store.versions(name)] == [version]
        assert complete in ([], [version])
        if k in (cuts[len(cuts) // 2], cuts[-1]):
            assert read_bundle(store.download(name, version, tmp_path / f"got-{k}")).contract.model == name
            kept = store.original(name, version, tmp_path / f"original-{k}")
            assert kept is not None
            assert kept.read_bytes() == b"inert"
    assert refused >= len(cuts) - 3  # the run's status, its name taken, and a look afterwards are no reason to fail


def test_two_processes_that_register_the_same_at_once_make_one_version(
    toy_bundle: Path, home: Path, tmp_path: Path
) -> None:
    """The later one finds the earlier one's version and withdraws its own."""
    from registry.mlflow_store import CONTENT_TAG

    uri = f"sqlite:///{home / 'mlflow.db'}"
    store = Store(uri, home / "artifacts")
    first = store.register(toy_bundle, "toy")
    content = store.versions("toy")[0]["tags"][CONTENT_TAG]
    source = store._client.get_model_version("toy", str(first)).source
    made = store._client.create_model_version("toy", str(source), tags={CONTENT_TAG: content})
    assert store._only("toy", content, int(made.version)) == first
    assert [v["version"] for v in store.versions("toy")] == [first]


def test_a_server_that_is_gone_is_said_so(toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads end, with the fix, instead of trying for minutes."""
    from tests.integration.mlflow_server import free_port

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    store = Store(f"http://127.0.0.1:{free_port()}", tmp_path)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.versions("toy")
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.register(toy_bundle, "toy")


def test_a_server_that_never_answers_is_given_up(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and stays silent."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = Store(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.register(toy_bundle, "toy")


def test_a_store_that_may_not_be_written_registers_nothing(toy_bundle: Path, home: Path) -> None:
    """An SQLite store that turned read-only between two calls; writable again, the call completes."""
    from sqlalchemy import create_engine, text

    store = Store(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")
    assert store.versions("toy") == []
    engine = create_engine(f"sqlite:///{home / 'mlflow.db'}")
    with engine.begin() as connection:  # root ignores permissions; a trigger does not
        connection.execute(
            text("CREATE TRIGGER full BEFORE INSERT ON model_versions BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        )
    with pytest.raises(StoreUnavailable):
        store.register(toy_bundle, "toy")
    assert store.versions("toy") == []
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER full"))
    engine.dispose()
    assert store.register(toy_bundle, "toy") == 1
