"""Promise 20: the counters of two workers equal the ledger of their clients, and no caller can make them grow.

The control is a build whose workers show their own numbers only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import string
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from registry.keys import new_key
from tests.acceptance.test_serving_process import NO_LEDGER, ROOT, Server, cache, in_threads, offsets, until
from tests.integration.serving_toy import ROW, Cache

__all__ = ["cache", "offsets"]

FULL = os.environ.get("PERENE_CHAOS") == "full"
NAMES = 100_000 if FULL else 5_000
MOST_LABEL_SETS = 2_000
CLIENTS = 8

Series = tuple[str, frozenset[tuple[str, str]]]


def scrape(server: Server) -> dict[Series, float]:
    """Every series of /metrics."""
    with contextlib.closing(server.connect()) as connection:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    families = text_string_to_metric_families(page)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def total(seen: dict[Series, float], name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for (found, has), value in seen.items() if found == name and wanted <= has)


class Ledger:
    """What clients know: the status of each answer, and what they were told of its rows and labels."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.codes: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()

    def note(self, code: int, **more: int) -> None:
        with self._lock:
            self.codes[code] += 1
            self.counts.update(more)

    def differences(self, seen: dict[Series, float]) -> list[str]:
        """Where the server's numbers are not those of the clients."""
        said = Counter(
            {code: int(total(seen, "perene_requests_total", code=str(code))) for code in self.codes | {418: 0}}
        )
        pairs = {f"requests with {code}": (said[code], count) for code, count in self.codes.items()}
        pairs["requests"] = (int(total(seen, "perene_requests_total")), self.codes.total())
        for name, found in (
            ("rows", total(seen, "perene_rows_total", model="toy")),
            ("predictions", total(seen, "perene_request_duration_seconds_count", model="toy")),
            ("rows", total(seen, "perene_events_total", kind="prediction")),
            ("labels", total(seen, "perene_feedback_total", result="accepted")),
            ("labels", total(seen, "perene_events_total", kind="label")),
            ("bad", total(seen, "perene_validation_errors_total")),
        ):
            pairs[f"{name} {len(pairs)}"] = (int(found), self.counts[name])
        return [
            f"{name}: server {server}, clients {clients}"
            for name, (server, clients) in pairs.items()
            if server != clients
        ]


def ask(server: Server, connection: http.client.HTTPConnection, path: str, body: Any, key: str) -> tuple[int, Any]:
    """One request; its status and what it says."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body).encode(), headers)
    reply = connection.getresponse()
    content = reply.read()
    return reply.status, json.loads(content)


def work(server: Server, ledger: Ledger, n: int, *, count: int) -> None:
    """Ordinary requests with everything that is refused among them, on connections that change now and then."""
    generator = random.Random(n)
    connection = server.connect()
    for i in range(count):
        if i % 25 == 24:  # whichever worker it meets
            connection.close()
        kind = generator.randrange(8)
        rows = [{**ROW, "hour": generator.randrange(24)} for _ in range(generator.randint(1, 3))]
        path = generator.choice(["/predict", "/models/toy/predict", "/models/toy/versions/1/predict"])
        if kind < 4:
            status, body = ask(server, connection, path, {"rows": rows}, server.key)
            assert status == 200, body
            ledger.note(status, rows=len(rows), predictions=1)
        elif kind == 4:
            status, body = ask(server, connection, path, {"rows": [{**ROW, "hour": "seven"}]}, server.key)
            assert status == 422, body
            ledger.note(status, bad=1)
        elif kind == 5:
            ledger.note(ask(server, connection, f"/models/x{i}/predict", {"rows": rows}, server.key)[0])
        elif kind == 6:
            ledger.note(ask(server, connection, path, {"rows": rows}, "prn_nobody")[0])
        else:
            status, body = ask(server, connection, path, {"rows": rows[:1]}, server.key)
            ledger.note(status, rows=1, predictions=1)
            items = [{"prediction_id": body["prediction_ids"][0], "label": 1.0}]
            status, body = ask(server, connection, "/models/toy/feedback", items, server.key)
            assert body["results"][0]["status"] == "accepted"
            ledger.note(status, labels=1)
    connection.close()


@contextlib.contextmanager
def two_workers(cache: Cache, build: type[Server] = Server) -> Iterator[Server]:
    key = cache.key({"predict", "feedback"})
    cache.deploy(1)
    # on a busy machine some requests would be refused for the others' sake: right, but not what is looked at here
    with build(cache.folder.parent, key, workers=2, queue={"seconds": 30}) as server:
        server.ready()
        until(lambda: len(list((server.home / "spool").glob("*.spool"))) == 2, "a worker is missing")
        until(lambda: server.ask("GET", "/livez")[0] == 200, "nobody answers")
        yield server


def compared(server: Server, *, count: int, patience_s: float = 0.0) -> list[str]:
    """Work from all clients, then what the next scrapes say of it.

    A worker that is not scheduled for half a second is told of as it stood before: with patience that is asked again.
    """
    ledger = Ledger()
    for client in in_threads(CLIENTS, lambda n: work(server, ledger, n, count=count)):
        client.join()
    found: list[str] = []
    for _ in range(4):
        deadline = time.monotonic() + patience_s
        while (differences := ledger.differences(scrape(server))) and time.monotonic() < deadline:
            time.sleep(0.5)
        found += differences
    return found


def test_counters_equal_the_ledger_of_the_clients(cache: Cache) -> None:
    """Requests by status, rows, predictions, events, labels and refused bodies: not one more, not one less."""
    with two_workers(cache) as server:
        assert compared(server, count=2_000 if FULL else 150, patience_s=30.0) == []
        assert scrape(server)["perene_workers", frozenset()] == 2


OWN_NUMBERS_ONLY = """
import sys
from pathlib import Path

if "--channel" in sys.argv:
    from prometheus_client import generate_latest
    from registry.child import die_with_parent
    from serving.fleet import numbers
    import os
    die_with_parent(os.getppid())

    async def own(self):
        self._settle()
        return generate_latest(self._registry)

    numbers.Numbers.page = own
else:
    from registry import child
    command = child.command

    def broken(module, *arguments):
        made = command(module, *arguments)
        return [sys.executable, str(Path(__file__)), *arguments] if module == "serving" else made

    child.command = broken

from serving.main import main
sys.exit(main())
"""


class OwnNumbersOnly(Server):
    """A build with the fault: whichever worker is scraped tells of itself."""

    def start(self) -> None:
        script = self.home / "own.py"
        script.write_text(OWN_NUMBERS_ONLY)
        command = [sys.executable, str(script), "--home", str(self.home), "--port", str(self.port)]
        command += ["--settings", str(self.home / "serve.json"), "--ledger-url", NO_LEDGER]
        with (self.home / "serve.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)


def test_a_control_that_shows_one_worker_only_is_caught(cache: Cache) -> None:
    """The same comparison sees that most of it is missing."""
    with two_workers(cache, OwnNumbersOnly) as server:
        found = compared(server, count=40)
    assert len(found) > 4


def hostile(generator: random.Random) -> tuple[str, str, str, dict[str, str]]:
    """A request whose model, path, version, key and headers nobody has heard of."""
    letters = string.ascii_letters + string.digits + "-_.~%é"
    word = urllib.parse.quote("".join(generator.choices(letters, k=generator.randint(1, 40))), safe="")
    path = generator.choice(
        (
            f"/models/{word}/predict",
            f"/models/toy/versions/{generator.randrange(10**9)}/predict",
            f"/v2/models/{word}/infer",
            f"/v1/models/{word}:predict",
            f"/v1/models/toy/labels/{word}:predict",
            f"/v2/models/toy/versions/{generator.randrange(10**9)}/infer",
            f"/{word}",
            f"/models/toy/{word}",
            f"/predict?x={word}",
            "/predict",
        )
    )
    method = generator.choice(("POST", "POST", "POST", "GET", "PUT", word.encode("ascii").hex()[:10].upper()))
    secret = generator.choice((new_key(word[:8], {"predict"})[0], word))
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}
    headers |= {generator.choice(("X-Model-Version", "X-Request-ID", "Idempotency-Key", "Origin", "X-Entity")): word}
    return method, path, json.dumps({"rows": [ROW], "entity": word, word: 1}), headers


@pytest.mark.timeout(900)
def test_no_caller_can_make_label_sets(cache: Cache) -> None:
    """Thousands of names, paths, versions and keys, with a key that may and with keys nobody gave out."""
    refused: Counter[int] = Counter()

    def send(n: int) -> None:
        generator = random.Random(n)
        connection = server.connect()
        for _ in range(NAMES // CLIENTS):
            method, path, body, headers = hostile(generator)
            if generator.random() < 0.5:
                headers["Authorization"] = f"Bearer {server.key}"
            try:
                connection.request(method, path, body.encode(), headers)
                reply = connection.getresponse()
                reply.read()
                refused[reply.status] += 1
            except (http.client.HTTPException, OSError):
                connection.close()
        connection.close()

    with two_workers(cache) as server:
        compared(server, count=5)
        before = len(scrape(server))
        for client in in_threads(CLIENTS, send):
            client.join()
        seen = scrape(server)
    print(f"{refused.total()} requests {dict(refused)}: {before} series before, {len(seen)} after")
    assert refused.total() > 0.9 * NAMES
    assert len(seen) <= MOST_LABEL_SETS
    assert seen["perene_workers", frozenset()] == 2
