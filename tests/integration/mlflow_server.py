"""A real `mlflow server`, and a proxy in front of it that dies at a chosen request."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import httpx

Lost = Literal["request", "answer"]


@contextmanager
def mlflow_server(template: Path, folder: Path) -> Iterator[int]:
    """Start a server over a copy of a migrated store; its port."""
    shutil.copy(template, folder / "mlflow.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not _healthy(port):
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < until, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


class Proxy:
    """Passes requests on until one is to be lost; from then on nobody answers, until `revive`."""

    def __init__(self, target: int) -> None:
        self.seen: list[str] = []
        self._dies_at: int | None = None
        self._lost: Lost = "request"
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                forward, answer = proxy.admit(f"{self.command} {self.path.partition('?')[0]}")
                if forward:
                    connection = http.client.HTTPConnection("127.0.0.1", target, timeout=60)
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "host")}
                    connection.request(self.command, self.path, body, headers)
                    got = connection.getresponse()
                    data = got.read()
                    connection.close()
                if not answer:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(got.status)
                for name in ("Content-Type", "X-Content-Type-Options"):
                    if got.headers.get(name):
                        self.send_header(name, str(got.headers[name]))
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 - names of http.server

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the test says what it saw."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def admit(self, request: str) -> tuple[bool, bool]:
        """Whether the request goes on, and whether its answer comes back."""
        with self._lock:
            self.seen.append(request)
            if self._dies_at is None or len(self.seen) < self._dies_at:
                return True, True
            return len(self.seen) == self._dies_at and self._lost == "answer", False

    def die_at(self, number: int, lost: Lost) -> None:
        """Lose the request (or only its answer) with this number, counted from 1, and all that follow."""
        self.seen, self._dies_at, self._lost = [], number, lost

    def revive(self) -> None:
        """Answer again."""
        self.seen, self._dies_at = [], None

    def close(self) -> None:
        """End the proxy."""
        self._server.shutdown()
        self._server.server_close()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
