"""`python -m serving` with several workers: one port, one server to whoever looks from outside."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest

from monitoring.lake.lake import Lake
from serving.dialects.proto import messages
from tests.acceptance.test_serving_process import ROOT, WAIT_S, Server, alive, cache, libraries, offsets, until
from tests.integration.serving_toy import ROW, Cache
from tests.ports import free_port

__all__ = ["cache", "offsets"]

_LINE = re.compile(r"(\w+)(\{.*\})? (\S+)")


class Fleet(Server):
    """A server of two workers, and what is asked of it from outside."""

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is closed with the server, at the latest."""
        made = super().connect()
        self.__dict__.setdefault("opened", []).append(made)
        return made

    def __exit__(self, *what: Any) -> None:
        """End it, also where the test has suspended a worker."""
        for connection in self.__dict__.get("opened", ()):
            connection.close()
        super().__exit__(*what)

    def workers(self) -> list[psutil.Process]:
        """Those that are alive, by process id."""
        children = psutil.Process(self.process.pid).children()
        return sorted((c for c in children if alive(c) and "--channel" in c.cmdline()), key=lambda c: c.pid)

    def all_ready(self) -> list[psutil.Process]:
        """Wait until as many as there should be answer."""
        self.ready()
        until(lambda: self.metrics()["perene_workers"] == 2, "a worker is missing")
        return self.workers()

    def metrics(self, connection: http.client.HTTPConnection | None = None) -> dict[str, float]:
        """What one scrape says, by name and labels."""
        with contextlib.closing(connection or self.connect()) as asked:
            asked.request("GET", "/metrics")
            reply = asked.getresponse()
            page = reply.read().decode()
        assert reply.status == 200, page
        return {m[1] + (m[2] or ""): float(m[3]) for line in page.splitlines() if (m := _LINE.fullmatch(line))}

    def answered(self, connection: http.client.HTTPConnection | None = None) -> float:
        """Predictions that the scraped numbers know."""
        return sum(
            value
            for name, value in self.metrics(connection).items()
            if name.startswith("perene_requests_total{") and 'model="toy"' in name and 'code="200"' in name
        )

    def counts(self, wanted: float, worker: psutil.Process | None = None) -> None:
        """Wait until a scrape, of this worker where one is named, knows of so many predictions, and no more.

        It is the first one, unless a worker is not scheduled for half a second: that is told of as it stood before.
        """
        known = 0.0

        def known_so_far() -> bool:
            nonlocal known
            known = self.answered(self.connected_to(worker) if worker else None)
            return known >= wanted

        until(known_so_far, f"{known} predictions are known, of {wanted}")
        assert known == wanted

    def connected_to(self, worker: psutil.Process) -> http.client.HTTPConnection:
        """A kept connection that this worker has accepted."""
        for _ in range(64):
            connection = self.connect()
            connection.connect()
            owner = self._owner(connection.sock.getsockname()[1])
            if owner == worker:
                return connection
            connection.close()
        raise AssertionError("the kernel gives it no connection")

    def _owner(self, port: int) -> psutil.Process:
        """The worker that has accepted what was connected from this port."""
        owners: list[psutil.Process] = []

        def accepted() -> bool:
            owners.extend(worker for worker in self.workers() if port in _remote_ports(worker))
            return owners != []

        until(accepted, "nobody accepts")
        return owners[0]


def _remote_ports(process: psutil.Process) -> set[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return {c.raddr.port for c in process.net_connections("tcp") if c.raddr}
    return set()


@pytest.fixture
def fleet(cache: Cache) -> Iterator[Fleet]:
    """Two workers that answer, without keys."""
    cache.deploy(1)
    with Fleet(cache.folder.parent, "", workers=2, auth=False) as server:
        server.all_ready()
        yield server


def predict(fleet: Fleet, connection: http.client.HTTPConnection) -> dict[str, object]:
    status, body = fleet.on(connection, "POST", "/predict", {"rows": [ROW]})
    assert status == 200, body
    found: dict[str, object] = body
    return found


def test_two_workers_are_one_server(fleet: Fleet, cache: Cache) -> None:
    """Both answer, a hand-over reaches both, events of both come to the lake, and any scrape knows all of it."""
    one, two = fleet.workers()
    connections = [fleet.connected_to(worker) for worker in (one, two)]
    for _ in range(5):
        for connection in connections:
            assert predict(fleet, connection)["version"] == 1
    for _ in range(3):
        for worker in (one, two):
            fleet.counts(10, worker)
    sent = 10

    def handed_over(connection: http.client.HTTPConnection) -> bool:
        nonlocal sent
        sent += 1
        return predict(fleet, connection)["version"] == 2

    cache.deploy(2)
    for connection in connections:
        until(lambda c=connection: handed_over(c), "the hand-over did not reach a worker")  # type: ignore[misc]
    fleet.counts(sent)
    assert len(list((fleet.home / "spool").glob("*.spool"))) == 2
    lake = Lake(fleet.home / "events")
    until(lambda: lake.read("toy", "prediction").num_rows == sent, "an event is missing")


def test_the_parent_is_small(fleet: Fleet) -> None:
    """It has neither the application nor the engine; the control is a worker."""
    assert "onnxruntime" in libraries(fleet.workers()[0].pid)
    assert {"onnxruntime", "numpy", "uvloop"} & libraries(fleet.process.pid) == set()
    script = (
        "import sys, serving.main, serving.fleet.workers; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"fastapi", "starlette", "uvicorn", "onnxruntime", "numpy", "prometheus_client"} & set(
        done.stdout.split()
    ) == set()


def test_a_killed_worker_is_replaced_and_its_numbers_stay(fleet: Fleet) -> None:
    """kill -9: what was scraped before is never taken back, a new worker answers, and the restart is counted."""
    one, two = fleet.workers()
    for worker in (one, two):
        with contextlib.closing(fleet.connected_to(worker)) as connection:
            for _ in range(20):
                predict(fleet, connection)
    fleet.counts(40)
    shown = fleet.metrics()
    one.kill()
    counted = [name for name in shown if re.match(r"\w+_(total|bucket|count|sum)\b", name)]
    assert len(counted) > 20

    def replaced() -> bool:
        nonlocal shown
        with contextlib.suppress(ConnectionError, http.client.HTTPException):  # asked of the killed one
            now = fleet.metrics()
            assert [name for name in counted if now.get(name, -1.0) < shown[name]] == []
            shown = now
        return shown["perene_workers"] == 2 and shown["perene_worker_restarts_total"] == 1

    until(replaced, "nobody took its place")
    fleet.counts(40)
    assert two in fleet.workers()
    (new,) = set(fleet.workers()) - {two}
    with contextlib.closing(fleet.connected_to(new)) as connection:
        predict(fleet, connection)
    fleet.counts(41)


def test_a_hanging_worker_does_not_hang_the_scrape(fleet: Fleet) -> None:
    """Stopped: it counts as it stood when it was last asked; once it goes on, it is believed again."""
    one, two = fleet.workers()
    with contextlib.closing(fleet.connected_to(one)) as connection:
        for _ in range(3):
            predict(fleet, connection)
    fleet.counts(3)
    # made before: the kernel goes on giving new connections to a process that is stopped
    kept = [fleet.connected_to(two) for _ in range(3)]
    one.suspend()
    try:
        # a scrape that waited for the worker would get no answer
        assert fleet.metrics(kept[0])["perene_workers"] == 2
        predict(fleet, kept[1])
        assert fleet.answered(kept[2]) == 4
    finally:
        one.resume()
    with contextlib.closing(fleet.connected_to(one)) as connection:
        predict(fleet, connection)
    until(lambda: fleet.answered(fleet.connected_to(two)) == 5, "it is not believed again")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_parent_ends_all(fleet: Fleet, number: signal.Signals) -> None:
    """Whatever ends it: no process is left; where it could see it coming it ends well, a second signal or not."""
    family = psutil.Process(fleet.process.pid).children(recursive=True)
    assert len(family) >= 4
    fleet.process.send_signal(number)
    if number != signal.SIGKILL:
        time.sleep(0.1)
        fleet.process.send_signal(number)
        assert fleet.process.wait(WAIT_S) == 0
        assert list((fleet.home / "run").glob("serving-*.json")) == []
    until(lambda: not any(alive(process) for process in family), "a process is left")


def test_grpc_is_answered_by_all_workers(cache: Cache) -> None:
    """Each worker listens on the port of gRPC too: one that is left alone answers."""
    cache.deploy(1)
    port = free_port()
    with Fleet(cache.folder.parent, "", workers=2, auth=False, grpc_port=port) as fleet:
        fleet.all_ready()
        listening = [
            worker.pid
            for worker in fleet.workers()
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in worker.net_connections("tcp"))
        ]
        assert len(listening) == 2
        one, _ = fleet.workers()
        one.kill()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerReady",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=messages()["ServerReadyResponse"].FromString,
            )
            assert call(messages()["ServerReadyRequest"](), timeout=10, wait_for_ready=True).ready


@pytest.mark.parametrize("workers", [1, 2])
def test_two_servers_never_share_a_port(cache: Cache, fleet: Fleet, workers: int) -> None:
    """The second one says which setting, which port and who has it, and starts nothing; one process or two."""
    home = cache.folder.parent / "other"
    home.mkdir()
    command = [
        sys.executable,
        "-m",
        "serving",
        "--home",
        str(home),
        "--port",
        str(fleet.port),
        "--workers",
        str(workers),
    ]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert f"serving.port = {fleet.port} cannot be bound" in done.stderr
    holder = re.search(r"by process (\d+) \(", done.stderr)
    assert holder is not None
    assert int(holder[1]) in {worker.pid for worker in fleet.workers()}
    assert list(home.iterdir()) == []


def test_of_two_servers_that_start_at_once_one_gets_the_port(cache: Cache) -> None:
    """Before anybody listens the port is held already."""
    port = free_port()
    command = [sys.executable, "-m", "serving", "--port", str(port), "--workers", "2", "--home"]
    homes = [cache.folder.parent / name for name in ("a", "b")]
    both = [
        subprocess.Popen([*command, str(home)], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for home in homes
    ]
    try:
        until(lambda: any(process.poll() is not None for process in both), "both think that the port is theirs")
        lost = next(process for process in both if process.poll() is not None)
        assert lost.returncode == 2
        assert lost.stderr is not None
        assert b"serving.port" in lost.stderr.read()
        (won,) = (process for process in both if process is not lost)
        assert won.poll() is None
    finally:
        for process in both:
            process.terminate()
        for process in both:
            process.communicate(timeout=30)


def test_workers_that_cannot_start_end_the_server(cache: Cache) -> None:
    """A spool that cannot be opened: the reason and exit code 2, not workers that are started for ever."""
    home = cache.folder.parent
    (home / "spool").write_text("no folder")
    command = [sys.executable, "-m", "serving", "--home", str(home), "--port", str(free_port()), "--workers", "2"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "the event spool cannot be opened" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(home / "run") == ["jobs.lock"]
