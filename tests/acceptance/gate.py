"""A way to a real server that can be trusted to fail: each request meets the next fate of a plan."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence

PASS = "pass"
CUT = "cut"
"""The server answers, and nobody hears it: the connection ends before the answer has come through."""
Fate = str | bytes


def refusal(status: str, *headers: str) -> bytes:
    """An answer that somebody on the way gives."""
    return "\r\n".join([f"HTTP/1.1 {status}", "content-length: 0", "connection: close", *headers, "", ""]).encode()


class Gate:
    """Listens in front of `port`; a fate is PASS, CUT, or the bytes of an answer. What comes after the plan passes."""

    def __init__(self, port: int, plan: Sequence[Fate]) -> None:
        self._behind = port
        self._plan = iter(plan)
        self.heads: list[bytes] = []
        self.times: list[float] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def serve(self) -> None:
        """Until it is closed; one connection at a time, one request each."""
        with contextlib.suppress(OSError):
            while True:
                coming, _ = self._listening.accept()
                with coming:
                    self._meet(coming)

    def _meet(self, coming: socket.socket) -> None:
        head, request = _whole(coming)
        if not request:
            return
        self.heads.append(head)
        self.times.append(time.monotonic())
        fate = next(self._plan, PASS)
        if isinstance(fate, bytes):
            coming.sendall(fate)
            return
        with socket.create_connection(("127.0.0.1", self._behind)) as server:
            server.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            answer = b"".join(iter(lambda: server.recv(65_536), b""))
        if fate == PASS:
            coming.sendall(answer)

    def header(self, name: str) -> list[str]:
        """Of each request that came by."""
        pairs = [dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line) for head in self.heads]
        return [{k.lower(): v for k, v in pair.items()}.get(name.encode(), b"").decode() for pair in pairs]

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def _whole(coming: socket.socket) -> tuple[bytes, bytes]:
    """A request's head, and all of it."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = coming.recv(65_536)
        if not more:
            return b"", b""
        got += more
    head, _, body = got.partition(b"\r\n\r\n")
    length = next((int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0)
    while len(body) < length:
        more = coming.recv(65_536)
        body += more
        got += more
    # the client's own wish to keep the connection is not passed on
    kept = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:"))
    return head, kept + b"\r\n\r\n" + body


@contextlib.contextmanager
def gate(port: int, *plan: Fate) -> Iterator[Gate]:
    """A gate in front of a server, in a thread."""
    opened = Gate(port, plan)
    thread = threading.Thread(target=opened.serve, daemon=True)
    thread.start()
    try:
        yield opened
    finally:
        opened.close()
        thread.join(10)
