"""A real Alertmanager for tests: the repository's configuration, filled in and faster, and somebody who listens."""

from __future__ import annotations

import email
import json
import os
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml

from monitoring.alerting.alert_rules import rules
from tests.ports import free_port

SOURCE = Path(__file__).parents[1] / "deploy/alertmanager"


def fill(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run `configure` on the repository's file, with nothing in its environment but this."""
    command = ["/bin/sh", str(SOURCE / "configure")]
    path = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, env=path | environment, capture_output=True, text=True, timeout=30, check=False)


def faster(text: str) -> str:
    """The same configuration with waits of a second at most between notifications."""
    config = yaml.safe_load(text)
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "500ms", "group_interval": "1s"}
    return yaml.safe_dump(config)


@dataclass(frozen=True)
class Notification:
    """One call: its path, its headers in lower case and its body."""

    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def alerts(self) -> list[tuple[str, str, str]]:
        """Name, model and status of each alert in it."""
        found = ((a["labels"]["alertname"], a["labels"].get("model", ""), a["status"]) for a in self.body["alerts"])
        return sorted(found)


@dataclass
class Webhook:
    """An HTTP server that keeps what it is told."""

    url: str = ""
    heard: list[Notification] = field(default_factory=list)

    def alerts(self) -> list[tuple[str, str, str]]:
        """Every alert of every notification so far, in the order in which they came."""
        return [alert for notification in list(self.heard) for alert in notification.alerts]

    def until(self, done: Callable[[Webhook], bool], seconds: float = 30.0) -> bool:
        """Whether it came true in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if done(self):
                return True
            time.sleep(0.05)
        return False


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Listen on loopback."""
    found = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.heard.append(Notification(self.path, headers, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is written."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as it takes to be sent one letter."""

    def handle(self) -> None:
        self._say("220 ready")
        while line := self.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "DATA":
                self._say("354 go on")
                letter = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.letters.append(email.message_from_bytes(letter, policy=policy.default))  # type: ignore[attr-defined]
            self._say("221 bye" if word == "QUIT" else "250 done")
            if word == "QUIT":
                return

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def mailbox() -> Iterator[tuple[str, list[EmailMessage]]]:
    """A mail server on loopback, without TLS: its address and the letters that came."""
    letters: list[EmailMessage] = []
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mail)
    server.letters = letters  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", letters
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def alertmanager(folder: Path, text: str) -> Iterator[str]:
    """Run it with this configuration; yields its address once it answers."""
    binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if binary is None:
        pytest.fail("the Alertmanager is missing: run scripts/apt")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "alertmanager.yml"
    config.write_text(text)
    address = f"127.0.0.1:{free_port()}"
    arguments = [f"--config.file={config}", f"--storage.path={folder / 'data'}", f"--web.listen-address={address}",
                 "--cluster.listen-address="]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, *arguments], stdout=log, stderr=log)
        try:
            _until_ready(f"http://{address}", process, folder / "log")
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def _until_ready(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{base}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"the Alertmanager did not start: {log.read_text()[-2000:]}")


def post(base: str, *labels: Mapping[str, str]) -> None:
    """Tell it of alerts that fire now."""
    page = {rule.name: f"docs/runbooks/{rule.page}" for rule in rules()}
    body = [
        {"labels": dict(each), "annotations": {"summary": "text", "runbook_url": page[each["alertname"]]}}
        for each in labels
    ]
    request = Request(f"{base}/api/v2/alerts", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=5) as answer:
        assert answer.status == 200


def muted(base: str) -> set[tuple[str, str]]:
    """Name and model of the alerts that another one inhibits now."""
    with urlopen(f"{base}/api/v2/alerts?inhibited=true", timeout=5) as answer:
        alerts = json.load(answer)
    found = (alert["labels"] for alert in alerts if alert["status"]["inhibitedBy"])
    return {(labels["alertname"], labels.get("model", "")) for labels in found}
