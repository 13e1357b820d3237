"""A key's life at a real server with its real puller: made, limited, lasting over kill -9, revoked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.ledger import Ledger
from tests.acceptance.test_serving_process import ROOT, Server
from tests.integration.serving_toy import ROW, Cache, offset_bundle

WAIT_S = 90.0


class Live(Server):
    """A serve process that follows the ledger in its home."""

    def start(self) -> None:
        command = [sys.executable, "-m", "serving", "--home", str(self.home), "--port", str(self.port)]
        command += ["--settings", str(self.home / "serve.json")]
        with (self.home / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def asked(self, key: str, path: str = "/models") -> httpx.Response:
        headers = {"x-api-key": key}
        if path == "/models":
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=WAIT_S)
        body = {"rows": [ROW] * 4}
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", headers=headers, json=body, timeout=WAIT_S)


def keys(home: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "perene.cli", "keys", *arguments, "--home", str(home)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        check=True,
        text=True,
    )
    return json.loads(done.stdout) if done.stdout else None


def until(holds: Callable[[], bool], what: str) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < WAIT_S, what
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture
def home(tmp_path: Path, toy_bundle: Path) -> Path:
    """The ledger deploys a version whose bundle lies in the cache already: nothing is fetched."""
    home = tmp_path / "home"
    Cache(home / "cache").add(1, offset_bundle(toy_bundle, tmp_path / "bundle", 100.0))
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as ledger:
        ledger.move("toy", expected_revision=0, champion=1, actor="me", reason="first")
    return home


def test_a_key_lives_as_its_commands_say(home: Path) -> None:
    """The day's rows outlast a killed server, and a revoked key stops while the server runs."""
    key = keys(home, "new", "shop", "--scope", "read", "--scope", "predict", "--rows-per-day", "10", "--json")
    other = keys(home, "new", "till", "--scope", "read", "--requests-per-second", "0.001", "--json")
    with Live(home, "") as server:
        until(lambda: server.ask("GET", "/readyz")[0] == 200, "it is ready")
        until(lambda: server.asked(key["key"]).status_code == 200, "the key arrives")
        assert server.asked(other["key"]).status_code == 200
        refused = server.asked(other["key"])
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 1_000
        for status in (200, 200, 429):
            assert server.asked(key["key"], "/models/toy/predict").status_code == status
        server.process.kill()
        server.process.wait()
        server.start()
        until(lambda: server.ask("GET", "/livez")[0] == 200, "it lives again")
        again = server.asked(key["key"], "/models/toy/predict")
        assert (again.status_code, again.headers["ratelimit"].split(";")[1]) == (429, "r=2")
        assert server.asked(other["key"]).status_code == 429
        keys(home, "revoke", key["id"])
        took = until(lambda: server.asked(key["key"]).status_code == 401, "the key is revoked")
        print(f"revoked after {took:.2f} s")
        assert server.asked(other["key"]).status_code == 429


def test_workers_share_what_a_key_may_ask_for(home: Path) -> None:
    """Requests that two workers answer are counted as one, to the row."""
    key = keys(home, "new", "shop", "--scope", "predict", "--rows-per-day", "160", "--json")["key"]
    with Live(home, "", workers=2) as server:
        until(lambda: server.ask("GET", "/readyz")[0] == 200, "it is ready")
        until(lambda: {server.asked(key).status_code for _ in range(20)} == {403}, "the key arrives everywhere")
        answers = [server.asked(key, "/models/toy/predict").status_code for _ in range(60)]
        assert answers == [200] * 40 + [429] * 20
        assert len(list((home / "run").glob("limits.*.lock"))) == 2
        server.process.terminate()
        assert server.process.wait(WAIT_S) == 0
