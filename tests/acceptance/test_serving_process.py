"""`python -m serving` as a real process: cold start, kill -9 and SIGTERM under load."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest

from monitoring.intake.ids import uuid7
from monitoring.lake.lake import Lake
from tests.integration.serving_toy import ROW, Cache, answer, offset_bundle
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
NO_LEDGER = "postgresql+psycopg://nobody@127.0.0.1:1/none"
FORBIDDEN = ("mlflow", "evidently", "pandas", "sklearn", "apscheduler", "sqlalchemy", "pyarrow", "shap", "numba")
WAIT_S = 90.0
"""Longer than anything takes on a busy machine: only what never comes about waits for it."""


@pytest.fixture(scope="session")
def offsets(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("process")
    return {n: offset_bundle(toy_bundle, folder / str(n), 100.0 * n) for n in (1, 2)}


@pytest.fixture
def cache(tmp_path: Path, offsets: dict[int, Path]) -> Cache:
    """Handed over before the start: champion 1, with version 2 ready beside it."""
    made = Cache(tmp_path / "home" / "cache")
    for version, bundle in offsets.items():
        made.add(version, bundle)
    return made


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Server:
    """One serve process over `home`, with a ledger that nobody can reach."""

    ledger = NO_LEDGER

    def __init__(self, home: Path, key: str, **settings: Any) -> None:
        self.home = home
        self.key = key
        self.port = free_port()
        # a machine that stands still for a tenth of a second would have requests refused, which is a promise of its own
        patient = {"queue": {"seconds": 60}}
        chosen = {"poll_seconds": 0.02, "device": "cpu", "seal_seconds": 0.5, **patient, **settings}
        (home / "serve.json").write_text(json.dumps(chosen))
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "serving", "--home", str(self.home), "--port", str(self.port)]
        command += ["--settings", str(self.home / "serve.json"), "--ledger-url", self.ledger]
        with (self.home / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request on a connection of its own; status 0 when nobody listens."""
        connection = self.connect()
        try:
            return self.on(connection, method, path, body)
        except OSError:
            return 0, None
        finally:
            connection.close()

    def on(self, connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request on a kept connection."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.request(method, path, data, headers)
        reply = connection.getresponse()
        content = reply.read()
        return reply.status, json.loads(content)

    def ready(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, (self.home / "serve.log").read_text()
            return self.ask("GET", "/readyz")[0] == 200

        until(answers, "it did not become ready")

    def children(self) -> dict[str, psutil.Process]:
        """Puller and shipper by the last word of their module."""
        found: dict[str, psutil.Process] = {}
        for child in psutil.Process(self.process.pid).children():
            for name in ("serving.puller", "monitoring.intake.shipper"):
                if name in child.cmdline():
                    found[name.rpartition(".")[2]] = child
        return found


def in_threads(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def alive(process: psutil.Process) -> bool:
    """Whether it still runs: one that only waits for somebody to ask how it ended does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def libraries(pid: int) -> set[str]:
    """Top packages of the shared objects that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if "site-packages/" in line}
    return {path.partition("site-packages/")[2].partition("/")[0] for path in paths}


def test_it_starts_cold_with_every_store_away(cache: Cache) -> None:
    """Ready and answering from the cache alone, without a heavy library in the process; the control has one."""
    key = cache.key({"predict", "feedback"})
    cache.deploy(1)
    with Server(cache.folder.parent, key, explain={"seconds": 60}) as server:
        server.ready()
        status, body = server.ask("POST", "/predict", {"rows": [ROW], "entity": "e"})
        assert (status, body["predictions"], body["version"]) == (200, [answer(100, ROW)], 1)
        items = [{"prediction_id": body["prediction_ids"][0], "label": 1.0}]
        assert server.ask("POST", "/models/toy/feedback", items)[0] == 200
        status, body = server.ask("POST", "/models/toy/explain", {"prediction_ids": body["prediction_ids"]})
        assert (status, body["explanations"][0]["attributions"]["temp"]) == (200, 0.0)
        # both are in the lake: the shipper, which needs no ledger, is at work
        lake = Lake(server.home / "events")
        until(lambda: lake.read("toy", "label").num_rows == 1, "the label was not shipped")
        assert lake.joined("toy").column("_label").to_pylist() == [1.0]
        mapped = libraries(server.process.pid)
        assert "onnxruntime" in mapped
        assert mapped & set(FORBIDDEN) == set()
        assert "pyarrow" in libraries(server.children()["shipper"].pid)
        # the puller waits for its ledger instead of dying
        log = server.home / "logs" / "puller.log"
        until(lambda: log.exists() and "puller.waiting" in log.read_text(), "the puller does not wait")
        assert alive(server.children()["puller"])


SCRIPT = """
import asyncio, sys
from pathlib import Path
import httpx
import serving.main, serving.fleet.process, serving.fleet.workers
from prometheus_client import CollectorRegistry
from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.spool import Spool
from serving.app import create_app
from serving.settings import ServingSettings

async def main(home, row):
    spool = Spool.open(home / "spool")
    settings = ServingSettings(auth=False, device="cpu", explain={"seconds": 60})
    app = create_app(settings, home / "cache", spool, ServeMetrics(CollectorRegistry()))
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            reply = await client.post("/predict", content=row, headers={"content-type": "application/json"})
            label = [{"prediction_id": reply.json()["prediction_ids"][0], "label": 1.0}]
            codes = [reply.status_code, (await client.post("/models/toy/feedback", json=label)).status_code]
            explained = {"content": row, "headers": {"content-type": "application/json"}}
            codes.append((await client.post("/models/toy/explain", **explained)).status_code)
            for path in ("/metrics", "/openapi.json", "/docs", "/models", "/models/toy", "/readyz?verbose"):
                codes.append((await client.get(path)).status_code)
    spool.close()
    return codes

codes = asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
print(set(codes) == {200}, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_serve_process_imports_nothing_heavy(cache: Cache) -> None:
    """Whatever it is asked: modules without shared objects do not show in the maps of a process."""
    cache.deploy(1)
    command = [sys.executable, "-c", SCRIPT, str(cache.folder.parent), json.dumps(ROW)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=True)
    answered, *modules = done.stdout.split()
    assert answered == "True"
    assert {"onnxruntime", "fastapi", "numpy"} <= set(modules)
    assert set(modules) & set(FORBIDDEN) == set()


def test_acknowledged_labels_survive_kill_9(cache: Cache) -> None:
    """Eight writers, kill -9, restart at once: each label that was acknowledged is in the lake exactly once."""
    key = cache.key({"predict", "feedback"})
    cache.deploy(1)
    acknowledged: list[str] = []
    sent: list[str] = []

    def write(n: int) -> None:
        generator = random.Random(n)
        connection = server.connect()
        try:
            while True:
                identifiers = [uuid7() for _ in range(generator.randint(1, 4))]
                items = [{"prediction_id": i, "label": generator.random()} for i in identifiers]
                sent.extend(identifiers)
                status, body = server.on(connection, "POST", "/models/toy/feedback", items)
                assert status == 200
                assert [r["status"] for r in body["results"]] == ["accepted"] * len(items)
                acknowledged.extend(identifiers)
        except (OSError, http.client.HTTPException):
            pass  # killed
        finally:
            connection.close()

    with Server(cache.folder.parent, key) as server:
        server.ready()
        until(lambda: len(server.children()) == 2, "puller and shipper did not start")
        children = server.children()
        writers = in_threads(8, write)
        until(lambda: len(acknowledged) > 400, "too few labels were acknowledged")
        server.process.kill()
        server.process.wait()
        join(writers)
        server.start()
        until(lambda: not any(alive(child) for child in children.values()), "the children outlived their parent")
        server.ready()
        lake = Lake(server.home / "events")
        count: Counter[str] = Counter()

        def arrived() -> bool:
            count.clear()
            count.update(lake.read("toy", "label", columns=["_id"]).column("_id").to_pylist())
            return count.keys() >= set(acknowledged)

        until(arrived, "an acknowledged label is missing")
        assert set(count.values()) == {1}
        assert count.keys() <= set(sent)
        assert len(set(acknowledged)) == len(acknowledged)


def half_sent(server: Server) -> Iterator[bytes]:
    """A request on a connection of its own, up to the middle of its body; then the rest, and the whole reply."""
    body = json.dumps({"rows": [ROW]}).encode()
    head = (
        f"POST /models/toy/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as connection:
        connection.sendall(head.encode() + body[:20])
        yield b""
        connection.sendall(body[20:])
        reply = b""
        while part := connection.recv(65_536):
            reply += part
        yield reply


def test_sigterm_under_load_answers_what_is_in_flight(cache: Cache) -> None:
    """Complete answers, exit code 0 within 10 s, no child left, and every prediction in the lake."""
    key = cache.key({"predict"})
    cache.deploy(1)
    answered: list[str] = []
    broken: list[object] = []

    def load(_: int) -> None:
        connection = server.connect()
        try:
            while True:
                status, body = server.on(connection, "POST", "/predict", {"rows": [ROW]})
                if status != 200:
                    broken.append((status, body))
                answered.extend(body["prediction_ids"])
        except (ConnectionError, http.client.RemoteDisconnected):
            pass  # closed between two requests
        except (http.client.HTTPException, ValueError) as error:
            broken.append(error)  # in the middle of one
        finally:
            connection.close()

    with Server(cache.folder.parent, key) as server:
        server.ready()
        until(lambda: len(server.children()) == 2, "puller and shipper did not start")
        children = server.children()
        clients = in_threads(4, load)
        open_requests = [half_sent(server) for _ in range(8)]
        for request in open_requests:
            next(request)
        lake = Lake(server.home / "events")
        until(lambda: len(answered) > 100 and lake.files("toy", "prediction") != [], "there is no load, or no shipper")
        began = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        until(lambda: server.ask("GET", "/livez")[0] == 0, "it still accepts connections")
        for request in open_requests:
            head, _, body = next(request).partition(b"\r\n\r\n")
            request.close()  # type: ignore[attr-defined]
            assert head.startswith(b"HTTP/1.1 200 ")
            answered.extend(json.loads(body)["prediction_ids"])
        assert server.process.wait(timeout=10 - (time.monotonic() - began)) == 0
        join(clients)
        assert broken == []
        assert not any(alive(child) for child in children.values())
        stored = lake.read("toy", "prediction", columns=["_id"]).column("_id").to_pylist()
        assert len(set(stored)) == len(stored)
        assert set(stored) >= set(answered)
        assert list((server.home / "spool").glob("*.spool")) == []
