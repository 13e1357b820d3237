"""The lines of requests of a real server: kept when it ends or is killed, and never in the way of an answer."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_serving_process import NO_LEDGER, ROOT, WAIT_S, Server, until
from tests.integration.serving_toy import ROW, Cache, offset_bundle


@pytest.fixture
def cache(tmp_path: Path, toy_bundle: Path) -> Cache:
    made = Cache(tmp_path / "home" / "cache")
    made.add(1, offset_bundle(toy_bundle, tmp_path / "one", 100.0))
    return made


def answered(text: str) -> list[dict[str, Any]]:
    """The lines of predictions; what is not whole is no line."""
    events = [
        json.loads(line) for line in text.splitlines() if line.startswith('{"event":"request"') and line[-1] == "}"
    ]
    return [event for event in events if event["arm"]]


def test_lines_outlive_the_server(cache: Cache) -> None:
    """SIGTERM writes all of them; kill -9 costs at most those of the last moments."""
    key = cache.key({"predict"})
    cache.deploy(1)
    with Server(cache.folder.parent, key) as server:
        log = server.home / "serve.log"
        server.ready()
        for _ in range(25):
            assert server.ask("POST", "/predict", {"rows": [ROW]})[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT_S) == 0
        assert len(answered(log.read_text())) == 25
        server.start()
        server.ready()
        for _ in range(25):
            assert server.ask("POST", "/predict", {"rows": [ROW]})[0] == 200
        until(lambda: len(answered(log.read_text())) == 50, "lines are not written while the server runs")
        server.process.kill()


def test_a_reader_that_does_not_read_holds_up_nobody(cache: Cache) -> None:
    """Stderr is a full pipe: every request is answered, and its line comes once somebody reads."""
    key = cache.key({"predict"})
    cache.deploy(1)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    with Server(cache.folder.parent, key) as server:
        server.process.terminate()
        server.process.wait()
        command = [sys.executable, "-m", "serving", "--home", str(server.home), "--port", str(server.port)]
        command += ["--settings", str(server.home / "serve.json"), "--ledger-url", NO_LEDGER]
        server.process = subprocess.Popen(command, cwd=ROOT, stderr=writing)
        os.close(writing)
        server.ready()
        connection = server.connect()
        for _ in range(200):
            assert server.on(connection, "POST", "/predict", {"rows": [ROW]})[0] == 200
        connection.close()
        time.sleep(0.3)
        found = bytearray()

        def read() -> None:
            while part := os.read(reading, 65_536):
                found.extend(part)

        thread = threading.Thread(target=read)
        thread.start()
        until(lambda: len(answered(found.decode())) == 200, "lines are missing")
        server.process.terminate()
        server.process.wait(WAIT_S)
        thread.join(WAIT_S)
        os.close(reading)
