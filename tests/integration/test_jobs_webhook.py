"""Callbacks: only to public addresses or named hosts, signed, never by a redirect, tried again, and then given up."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.errors import Malformed
from serving.jobs.deliveries import Deliveries
from serving.jobs.job import Job
from serving.jobs.queue import Queue
from serving.jobs.store import Store
from serving.jobs.webhook import Target, Undelivered, resolve, send, target_of
from serving.settings import JobSettings
from tests.integration.batch_files import toy_rows, write_parquet
from tests.integration.jobs_server import jobs
from tests.integration.serving_app import run
from tests.integration.serving_toy import Cache

SECRET = "whsec-of-the-test"


class Receiver(http.server.ThreadingHTTPServer):
    """Answers with the statuses that it was given, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://localhost:{self.server_port}/hook?a=b"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append((dict(self.headers), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", self.server.url)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Clock:
    """Time that a test lets pass."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Desk:
    """A queue with a job that is over, and its callback."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        chosen = JobSettings(webhook_secret=SECRET, **{"webhook_hosts": ("localhost",), **settings})
        self.clock = Clock()
        self.queue = Queue(Store(folder), chosen, self.clock)
        self.deliveries = Deliveries(self.queue.store, chosen, self.clock)
        self.queue.add(Job(id="j", kind="batch", model="toy", version=1, key="k", callback=url))
        self.queue.cancel("j")

    def settle(self) -> list[dict[str, Any]]:
        """Try as often as it wants to; returns what became of it."""
        for _ in range(50):
            self.clock.now += 400
            if not self.deliveries.one():
                break
        return self.queue.callbacks("j")


def verified(headers: dict[str, str], body: bytes, secret: str, now: float) -> bool:
    """As docs/how-to/batch-over-http.md has it."""
    parts = dict(part.split("=", 1) for part in headers["Perene-Signature"].split(","))
    expected = hmac.new(secret.encode(), parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, parts["v1"]) and abs(now - int(parts["t"])) < 300


def test_the_end_of_a_job_is_told_signed_and_once(cache: Cache, offsets: dict[int, Path], receiver: Receiver) -> None:
    """From the upload to the receiver; with another body, secret or time the signature does not hold."""
    cache.add(1, offsets[1])
    key = cache.key({"predict"})
    cache.deploy(1)
    file = write_parquet(cache.folder.parent / "in.parquet", toy_rows(20))
    settings = {"webhook_secret": SECRET, "webhook_hosts": ("localhost",)}

    async def scenario() -> None:
        async with jobs(cache, key, **settings) as at:
            reply = await at.post(file, f"?callback={receiver.url.replace('?', '%3F')}")
            assert reply.status_code == 202, reply.text
            assert (await at.post(file, "?callback=https://10.0.0.1/x")).status_code == 400
            assert await at.work()
            deliveries = Deliveries(at.queue.store, JobSettings(**settings))
            assert deliveries.one()
            assert not deliveries.one()
            [(headers, body)] = receiver.heard
            told = json.loads(body)
            assert (told["job"], told["state"], told["model"], told["rows"]) == (reply.json()["job"], "done", "toy", 20)
            assert verified(headers, body, SECRET, time.time())
            assert not verified(headers, body + b" ", SECRET, time.time())
            assert not verified(headers, body, "another", time.time())
            assert not verified(headers, body, SECRET, time.time() + 3_600)
            assert at.queue.callbacks(told["job"]) == [{"state": "done", "attempts": 1, "error": ""}]

    run(scenario)


def test_a_failing_receiver_is_tried_again_under_the_same_delivery(tmp_path: Path, receiver: Receiver) -> None:
    """It can tell a repeat by `Perene-Delivery`."""
    receiver.statuses = [500, 503, 404]
    assert Desk(tmp_path, receiver.url).settle() == [{"state": "done", "attempts": 4, "error": ""}]
    assert len({headers["Perene-Delivery"] for headers, _ in receiver.heard}) == 1


def test_a_receiver_that_never_takes_it_leaves_a_dead_letter(tmp_path: Path, receiver: Receiver) -> None:
    """After so many attempts; by `retry` it is brought once more."""
    receiver.statuses = [500] * 3
    at = Desk(tmp_path, receiver.url, webhook_attempts=3)
    assert at.settle() == [{"state": "dead", "attempts": 3, "error": "it answered 500"}]
    assert at.queue.retry("j").state == "cancelled"
    assert at.settle()[0]["state"] == "done"
    found = {(what, label): n for what, label, n in at.queue.take_counts()}
    assert found["callbacks", "dead"] == found["callbacks", "delivered"] == 1
    assert at.queue.take_counts() == []


def test_redirects_are_not_followed(tmp_path: Path, receiver: Receiver) -> None:
    """Dead at once."""
    receiver.statuses = [302]
    assert Desk(tmp_path, receiver.url).settle() == [{"state": "dead", "attempts": 1, "error": "it redirects (302)"}]
    assert len(receiver.heard) == 1


def test_a_name_is_resolved_once_and_never_to_a_private_address(receiver: Receiver) -> None:
    """A name that leads elsewhere the second time gains nothing; one private address among public ones is enough."""
    asked: list[str] = []
    port = receiver.server_port

    def answering(*addresses: str) -> Callable[[str, int], list[str]]:
        def resolver(host: str, _port: int) -> list[str]:
            asked.append(host)
            return list(addresses)

        return resolver

    for private in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1", "fd00::1", "224.0.0.1", "0.0.0.0",
                    "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "100.64.0.1", "::7f00:1"):  # fmt: skip
        for addresses in ((private,), ("93.184.215.14", private)):
            with pytest.raises(Undelivered, match="not public") as caught:
                send(Target("hooks.example", port, "/", True, False), b"{}", {}, resolver=answering(*addresses))
            assert caught.value.final
    assert receiver.heard == []
    asked.clear()
    # a host that the operator named: the connection goes to the address that was looked at, by no second look
    send(Target("never.resolves.invalid", port, "/", False, True), b"{}", {}, resolver=answering("127.0.0.1"))
    assert asked == ["never.resolves.invalid"]
    assert len(receiver.heard) == 1
    assert receiver.heard[0][0]["Host"] == f"never.resolves.invalid:{port}"


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[fec0::1]/",
        "https://a..b/",
        f"https://{'a' * 64}.example/",
        "https://user:secret@hooks.example/",
        "https://hooks.example/#x",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nHost: x",
        "https://hooks.example:99999/",
        "https:///x",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "//hooks.example/",
        "https://hööks.example/",
        "https://hooks.example/" + "a" * 3_000,
        "https://[::1%25eth0]/",
    ],
)
def test_addresses_that_are_not_called_are_refused_when_the_job_comes(url: str) -> None:
    """Before anything is accepted."""
    with pytest.raises(Malformed):
        target_of(url, ("named.example",))


def test_a_host_of_the_operator_may_be_private_and_plain() -> None:
    """By its name alone."""
    assert target_of("http://named.example/x", ("Named.example",)) == Target("named.example", 80, "/x", False, True)
    assert target_of("https://hooks.example", ()) == Target("hooks.example", 443, "/", True, False)
    for other in ("http://named.example.evil/", "http://x.named.example/"):
        with pytest.raises(Malformed):
            target_of(other, ("named.example",))


@pytest.mark.parametrize("says", [b"", b"not HTTP at all, but long enough\r\n", b"HTTP/1.1 99 \r\n........"])
def test_a_receiver_that_is_no_server_is_tried_again(says: bytes) -> None:
    """Whatever it says, little of it is read."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            coming, _ = listening.accept()
            with coming:
                coming.recv(65_536)
                coming.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Undelivered) as caught:
            send(Target("localhost", listening.getsockname()[1], "/", False, True), b"{}", {}, resolver=_loopback)
        assert not caught.value.final
        thread.join()


def test_a_receiver_that_says_nothing_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte now and then does not hold it either."""
    monkeypatch.setattr("registry.webhook.SECONDS", 0.5)
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            coming, _ = listening.accept()
            with coming:
                for byte in b"HTTP/1.1 200":
                    if done.wait(0.2):
                        return
                    coming.sendall(bytes([byte]))

        thread = threading.Thread(target=trickle)
        thread.start()
        with pytest.raises(Undelivered, match="in time"):
            send(Target("localhost", listening.getsockname()[1], "/", False, True), b"{}", {}, resolver=_loopback)
        done.set()
        thread.join()


def test_tls_of_somebody_else_is_refused(receiver: Receiver) -> None:
    """What does not speak TLS, or has no certificate of the name, hears nothing of the body."""
    with pytest.raises(Undelivered, match=r"TLS|reached"):
        send(Target("localhost", receiver.server_port, "/", True, True), b"{}", {}, resolver=_loopback)
    assert receiver.heard == []


def test_a_name_that_cannot_be_one_is_a_failed_attempt() -> None:
    """The resolver says so in another way than that there is no address; it must not be tried for ever."""
    with pytest.raises(Undelivered, match="no address"):
        send(Target("a..b", 443, "/", True, False), b"{}", {})


def test_real_names_are_resolved() -> None:
    """By the system."""
    assert "127.0.0.1" in resolve("localhost", 80)


def test_a_body_holds_no_values(tmp_path: Path, receiver: Receiver) -> None:
    """Not even of a prediction's answer: only what the job is and how it ended."""
    at = Desk(tmp_path, receiver.url)
    at.settle()
    facts = msgspec.json.decode(receiver.heard[0][1])
    assert facts.keys() == {
        *("job", "kind", "model", "version", "state", "attempts", "created", "started", "ended"),
        *("rows", "rejected", "progress", "eta_seconds"),
    }


def _loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]
