"""Start a server, wait for its first answer, and compare its answers with the original pipeline's."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.target import Target
from bench.serving.process import Server
from bench.serving.subject import CHECKED_ROWS, ROOT, Subject

START_S = 120.0
TOLERANCE = 1e-5


class NotStarted(Exception):
    """A server did not answer."""


class Wrong(Exception):
    """A server answered something else than the original pipeline."""


def free_port() -> int:
    """A port nobody listens on now; the two after it are free as well."""
    for _ in range(100):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = int(found.getsockname()[1])
        if all(_free(port + step) for step in (1, 2)):
            return port
    raise NotStarted("no three free ports in a row")


def _free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def running(target: Target, *, cores: str = "0") -> Iterator[tuple[Server, int]]:
    """The server and its port; ended on exit."""
    port = free_port()
    log = ROOT / "logs" / f"{target.name}-{os.getpid()}.log"
    with Server(target.command(port), log=log, env=target.env(port), cores=cores) as server:
        yield server, port


def prepare(target: Target) -> None:
    """What must be done once before a first start.

    Raises:
        NotStarted: it failed.
    """
    if target.prepare:
        done = subprocess.run(list(target.prepare), capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotStarted(done.stderr.strip().splitlines()[-1])


def post(target: Target, port: int, body: bytes) -> bytes:
    """One request on a connection of its own."""
    headers = {"Content-Type": "application/json", **target.headers}
    request = urllib.request.Request(target.url(port), body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        data: bytes = answer.read()
        return data


def first_answer(target: Target, server: Server, port: int, body: bytes) -> float:
    """Seconds from the start of the process to its first prediction.

    Raises:
        NotStarted: it ended, or nothing came in time.
    """
    said = "nothing listened"
    while time.perf_counter() - server.began < START_S:
        try:
            post(target, port, body)
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.read()[:300].decode(errors='replace')}"
        except OSError:
            pass
        else:
            return time.perf_counter() - server.began
        if server.ended():
            raise NotStarted(f"it ended at once: {server.last_words(1)}")
        time.sleep(0.02)
    raise NotStarted(f"no prediction within {START_S:.0f} s: {said}")


def largest_difference(target: Target, port: int, subject: Subject) -> float:
    """The largest relative difference over 50 single rows and over all rows in one request.

    Raises:
        Wrong: it is more than 1e-5.
    """
    bodies = target.bodies(subject, 1)[:CHECKED_ROWS]
    given = [target.answers(json.loads(post(target, port, body)))[0] for body in bodies]
    pairs = [*zip(given, subject.answers[:CHECKED_ROWS], strict=True)]
    (bulk,) = target.bodies(subject, len(subject.rows))
    pairs += zip(target.answers(json.loads(post(target, port, bulk))), subject.answers, strict=True)
    worst = max(abs(answer - wanted) / max(1.0, abs(wanted)) for answer, wanted in pairs)
    if not worst <= TOLERANCE or math.isnan(worst):
        raise Wrong(f"its answers differ from the pipeline's by up to {worst:.2g}")
    return worst


def relative(command: list[str]) -> str:
    """A command line as one would type it in the repository."""
    here = f"{Path.cwd()}/"
    return " ".join(command).replace(here, "")
