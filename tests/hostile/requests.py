"""Requests that no well-meaning client sends, as bytes, each with the statuses that it may get.

Every one carries `CANARY` somewhere; an answer must not repeat it. An empty set of statuses: the connection may only be
closed. `SILENCE` among them: closing without an answer is fine too.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

CANARY: Final = "c4n4ry-9f3e"
SILENCE: Final = 0
ROW: Final[dict[str, Any]] = {"temp": 1.5, "hour": 7, "late": True, "carrier": "AA"}
GOOD: Final = json.dumps({"rows": [ROW]}).encode()
LENGTH: Final = f"Content-Length: {len(GOOD)}"
BAD: Final = {400, SILENCE}
CAP: Final = 8 * 1024 * 1024
"""The default of `serving.max_body_bytes`."""


@dataclass(frozen=True)
class Attack:
    """One connection's worth of bytes; `parts` makes them when they are sent, so that a table costs no memory."""

    name: str
    statuses: frozenset[int]
    parts: Callable[[], Iterator[bytes]]
    answers: int = 1


def head(*lines: str, key: str, start: str = "POST /predict HTTP/1.1", host: str = "localhost") -> bytes:
    """The head of a request with a valid key."""
    given = [start, *([f"Host: {host}"] if host else []), f"Authorization: Bearer {key}", *lines]
    return "\r\n".join(given).encode() + b"\r\n\r\n"


class _Catalogue:
    """Collects attacks on a server that `key` opens."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.found: list[Attack] = []

    def add(self, name: str, statuses: set[int], *parts: bytes, answers: int = 1) -> None:
        """An attack of bytes at hand."""
        self.found.append(Attack(name, frozenset(statuses), lambda: iter(parts), answers))

    def stream(self, name: str, statuses: set[int], parts: Callable[[], Iterator[bytes]]) -> None:
        """An attack whose bytes are made on the way."""
        self.found.append(Attack(name, frozenset(statuses), parts))

    def asks(self, *lines: str, start: str = "POST /predict HTTP/1.1", host: str = "localhost") -> bytes:
        """The head of a request with JSON."""
        return head("Content-Type: application/json", *lines, key=self.key, start=start, host=host)


def attacks(key: str) -> list[Attack]:
    """The catalogue, for a server that `key` opens."""
    catalogue = _Catalogue(key)
    for part in (_lengths, _sizes, _names, _methods, _types, _syntax, _manners):
        part(catalogue)
    return catalogue.found


def _lengths(c: _Catalogue) -> None:
    """How long the body is, told wrongly or twice."""
    c.add("no length", {400, 411}, c.asks(), GOOD)
    c.add("no LENGTH, and close", {400, 411}, c.asks("Connection: close"), GOOD)
    c.add("negative length", BAD, c.asks("Content-Length: -1"), GOOD)
    c.add("signed length", BAD, c.asks(f"Content-Length: +{len(GOOD)}"), GOOD)
    c.add("hexadecimal length", BAD, c.asks("Content-Length: 0x10"), GOOD)
    c.add("length of a word", BAD, c.asks(f"Content-Length: {CANARY}"), GOOD)
    c.add("two lengths in one", BAD, c.asks(f"Content-Length: {len(GOOD)}, {len(GOOD)}"), GOOD)
    c.add("length beyond 64 bits", BAD | {413}, c.asks(f"Content-Length: {2**64 + len(GOOD)}"), GOOD)
    c.add("two lengths", BAD, c.asks(LENGTH, "Content-Length: 5"), GOOD)
    c.add("the same length twice", BAD | {200}, c.asks(LENGTH, LENGTH), GOOD)
    c.add("length too short", {400}, c.asks(f"Content-Length: {len(GOOD) - 3}", "Connection: close"), GOOD)
    c.add("length and chunks", BAD, c.asks(LENGTH, "Transfer-Encoding: chunked"), chunks(GOOD))
    c.add("chunks and length", BAD, c.asks("Transfer-Encoding: chunked", LENGTH), chunks(GOOD))
    c.add("chunked twice", BAD | {200}, c.asks("Transfer-Encoding: chunked, chunked"), chunks(GOOD))
    c.add("chunked, then identity", BAD, c.asks("Transfer-Encoding: chunked, identity"), chunks(GOOD))
    c.add("an unknown coding", BAD | {415, 501}, c.asks(f"Transfer-Encoding: {CANARY}"), GOOD)
    c.add("a tab before chunked", BAD | {200}, c.asks("Transfer-Encoding:\tchunked"), chunks(GOOD))
    c.add("a blank before the colon", BAD, c.asks("Transfer-Encoding : chunked", LENGTH), chunks(GOOD))
    c.add("chunk of negative size", BAD, c.asks("Transfer-Encoding: chunked"), b"-1\r\n" + GOOD)
    c.add("chunk of no size", BAD, c.asks("Transfer-Encoding: chunked"), CANARY.encode() + b"\r\n" + GOOD)
    c.add("chunk beyond 64 bits", BAD, c.asks("Transfer-Encoding: chunked"), b"f" * 17 + b"\r\n" + GOOD)
    c.add("chunk without an end", BAD, c.asks("Transfer-Encoding: chunked"), b"2\r\n" + GOOD)
    c.stream("a million chunks of a byte", BAD | {413}, lambda: small_chunks(c.asks("Transfer-Encoding: chunked")))
    c.stream("chunks with long extensions", BAD | {413}, lambda: extensions(c.asks("Transfer-Encoding: chunked")))
    c.stream("endless trailers", BAD, lambda: trailers(c.asks("Transfer-Encoding: chunked")))
    c.stream("one endless trailer", BAD, lambda: trailer(c.asks("Transfer-Encoding: chunked")))


def _sizes(c: _Catalogue) -> None:
    """Too much of something."""
    over = f"Content-Length: {CAP + 1}"
    c.stream("a byte over the cap, by length", {413}, lambda: filled(c.asks(over), CAP + 1))
    c.stream("a byte over the cap, by chunks", {413}, lambda: in_chunks(c.asks("Transfer-Encoding: chunked"), CAP + 1))
    c.stream("ten times the cap", {413, SILENCE}, lambda: filled(c.asks(f"Content-Length: {10 * CAP}"), 10 * CAP))
    c.stream("a terabyte, promised", {413}, lambda: filled(c.asks(f"Content-Length: {10**12}"), 100))
    c.add("64 KB in a header", {431}, c.asks(LENGTH, f"X-Long: {CANARY * 6_000}"), GOOD)
    c.add("64 KB in a path", {431}, c.asks(LENGTH, start=f"POST /{CANARY * 6_000} HTTP/1.1"), GOOD)
    c.add("64 KB in a query", {431}, c.asks(LENGTH, start=f"POST /predict?{CANARY * 6_000} HTTP/1.1"), GOOD)
    c.add("64 KB in a header's name", {431}, c.asks(LENGTH, f"{CANARY * 6_000}: 1"), GOOD)
    c.add("1,000 headers", {431}, c.asks(LENGTH, *(f"X-{n}: {CANARY}" for n in range(1_000))), GOOD)
    c.add("101 headers", {431}, c.asks(LENGTH, *(f"X-{n}: {n}" for n in range(101))), GOOD)
    c.stream("an endless head", {431}, lambda: endless_head(c.asks()[:-2]))
    c.stream("an endless header", {431}, lambda: endless_header(c.asks()[:-2]))
    c.stream("an endless path", {431, 400}, lambda: endless_header(b"POST /"))
    c.stream("an endless method", BAD | {431}, lambda: endless_header(b""))


def _names(c: _Catalogue) -> None:
    """Other names and paths of what there is."""
    c.add("two hosts", {400, 421}, c.asks(LENGTH, f"Host: {CANARY}.example"), GOOD)
    c.add("a foreign host", {421}, c.asks(LENGTH, host=f"{CANARY}.example"), GOOD)
    c.add("no host", {400, 421}, c.asks(LENGTH, host=""), GOOD)
    opened = c.asks(LENGTH, start="POST /models/toy%2Fpredict HTTP/1.1")
    c.add("an escaped slash", {200, 404}, opened, GOOD)
    c.add("an escaped slash without a key", {401, 404}, opened.replace(b"Authorization", b"X-Nothing"), GOOD)
    for path in (
        "//predict",
        "/%2fpredict",
        "/./predict",
        "/predict/",
        "/predict/.",
        "/PREDICT",
        "/x/../predict",
        "/predict%00",
        "/predict;x=1",
        "/models/../predict",
    ):
        c.add(f"path {path}", {400, 404, 405}, c.asks(LENGTH, start=f"POST {path} HTTP/1.1"), GOOD)
        keyless = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{LENGTH}\r\n\r\n"
        c.add(f"path {path} without a key", {400, 401, 404, 405}, keyless.encode(), GOOD)
    c.add("a whole address", {200, 400, 404, 421}, c.asks(LENGTH, start="POST http://localhost/predict HTTP/1.1"), GOOD)
    foreign = f"POST http://{CANARY}.example/predict HTTP/1.1"
    c.add("a whole foreign address", {200, 400, 404, 421}, c.asks(LENGTH, start=foreign), GOOD)
    c.add("bytes beyond ASCII in a path", {400, 404}, c.asks(LENGTH).replace(b"/predict", b"/pr\xc3\xa9dict"), GOOD)
    c.add("a blank in a path", BAD, c.asks(LENGTH, start="POST /pre dict HTTP/1.1"), GOOD)
    c.add("an asterisk", {400, 404, 405}, c.asks(start="OPTIONS * HTTP/1.1"))
    c.add("a tunnel", {400, 404, 405}, c.asks(start=f"CONNECT {CANARY}.example:443 HTTP/1.1"))


def _methods(c: _Catalogue) -> None:
    """Methods that no route has."""
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        c.add(f"method {method}", {405, 404, 400}, c.asks(LENGTH, start=f"{method} /predict HTTP/1.1"), GOOD)
    c.add("a method of our own", BAD | {405}, c.asks(LENGTH, start="CANARY /predict HTTP/1.1"), GOOD)
    c.add("a method in small letters", BAD | {405}, c.asks(LENGTH, start="post /predict HTTP/1.1"), GOOD)


def _types(c: _Catalogue) -> None:
    """Media types and codings that are not read."""
    for media in (
        "text/plain",
        "",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json; charset=latin-1",
        f"application/{CANARY}",
        "multipart/form-data; boundary=x",
    ):
        c.add(f"type '{media}'", {415}, head(f"Content-Type: {media}", LENGTH, key=c.key), GOOD)
    c.add("no type", {415}, head(LENGTH, key=c.key), GOOD)
    c.add("two types", {200, 400, 415}, c.asks(LENGTH, "Content-Type: text/plain"), GOOD)
    packed = zlib.compress(b"[" * 50_000_000, 9)
    for coding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
        coded = c.asks(f"Content-Encoding: {coding}", f"Content-Length: {len(packed)}")
        c.add(f"a bomb in {coding}", {415}, coded, packed)


def _syntax(c: _Catalogue) -> None:
    """What is HTTP only nearly."""
    c.add("bare line feeds", BAD | {200}, c.asks(LENGTH).replace(b"\r\n", b"\n"), GOOD)
    c.add("bare carriage returns", BAD, c.asks(LENGTH).replace(b"\r\n", b"\r"), GOOD)
    c.add("a folded header", BAD, c.asks(LENGTH, f"X-Folded: a\r\n {CANARY}"), GOOD)
    c.add("a NUL in a header", BAD, c.asks(LENGTH, f"X-Null: a\0{CANARY}"), GOOD)
    c.add("a NUL in a name", BAD, c.asks(LENGTH, f"X-N\0ull: {CANARY}"), GOOD)
    c.add("a line feed in a header", BAD | {200}, c.asks(LENGTH, f"X-Feed: a\n{CANARY}: b"), GOOD)
    c.add("a header without a name", BAD, c.asks(LENGTH, f": {CANARY}"), GOOD)
    c.add("a header without a colon", BAD, c.asks(LENGTH, CANARY), GOOD)
    c.add(
        "bytes beyond ASCII in a header",
        {200},
        c.asks(LENGTH, "Connection: close").replace(b"localhost\r\n", b"localhost\r\nX-\x41: \xff\xfe\r\n"),
        GOOD,
    )
    c.add("a key of bytes beyond ASCII", {401}, c.asks(LENGTH).replace(c.key.encode(), b"\xff" * 40), GOOD)
    c.add("HTTP/0.9", BAD | {200}, b"GET /livez\r\n\r\n")
    c.add("HTTP/1.0", {200}, c.asks(LENGTH, start="POST /predict HTTP/1.0"), GOOD)
    for version in ("HTTP/1.2", "HTTP/2.0", "HTTP/9.9", "HTTP/1.10", "http/1.1", "HTTPS/1.1", CANARY):
        c.add(f"version {version}", BAD | {200, 505}, c.asks(LENGTH, start=f"POST /predict {version}"), GOOD)
    c.add("the preface of HTTP/2", BAD, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40))
    c.add("a greeting of TLS", BAD, struct.pack(">BHHB", 22, 0x301, 512, 1) + CANARY.encode() * 40)
    c.add("bytes of all kinds", BAD, bytes(range(256)) * 16)
    c.add("nothing but line ends", {SILENCE}, b"\r\n" * 10_000)


def _manners(c: _Catalogue) -> None:
    """Too many at once, and other protocols."""
    c.add("a thousand in one breath", {200}, c.asks(LENGTH) * 0 + (c.asks(LENGTH) + GOOD) * 1_000, answers=1_000)
    c.add("a thousand bad ones in one breath", {400}, (c.asks("Content-Length: 1") + b"{") * 1_000, answers=1_000)
    c.add(
        "a thousand without a key",
        {401},
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n") * 1_000,
        answers=1_000,
    )
    c.add("100-continue", {100}, c.asks(LENGTH, "Expect: 100-continue"), GOOD, answers=2)
    c.add("100-continue, over the cap", {413}, c.asks(f"Content-Length: {CAP + 1}", "Expect: 100-continue"))
    c.add("an expectation of our own", {200, 417}, c.asks(LENGTH, f"Expect: {CANARY}"), GOOD)
    c.add(
        "an upgrade to h2c",
        {200},
        c.asks(LENGTH, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"),
        GOOD,
    )
    c.add(
        "an upgrade to a web socket",
        {200},
        c.asks(
            LENGTH,
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ),
        GOOD,
    )


def chunks(body: bytes) -> bytes:
    """A body as one chunk."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def small_chunks(start: bytes) -> Iterator[bytes]:
    """A million chunks of one byte."""
    yield start
    for _ in range(1_000):
        yield b"1\r\n \r\n" * 1_000
    yield b"0\r\n\r\n"


def extensions(start: bytes) -> Iterator[bytes]:
    """Chunks that are all extension."""
    yield start
    for _ in range(1_000):
        yield b"1;a=" + b"b" * 16_000 + b"\r\n \r\n"
    yield b"0\r\n\r\n"


def trailers(start: bytes) -> Iterator[bytes]:
    """Trailers without an end."""
    yield start + b"0\r\n"
    for n in range(1_000):
        yield b"".join(b"x-%d-%d: %b\r\n" % (n, k, CANARY.encode()) for k in range(500))


def trailer(start: bytes) -> Iterator[bytes]:
    """One trailer without an end."""
    yield start + b"0\r\nx-long: "
    for _ in range(1_000):
        yield b"a" * 16_384


def filled(start: bytes, size: int) -> Iterator[bytes]:
    """A body of blanks."""
    yield start
    for left in range(size, 0, -65_536):
        yield b" " * min(left, 65_536)


def in_chunks(start: bytes, size: int) -> Iterator[bytes]:
    """A body of blanks in chunks of 64 KiB."""
    yield start
    for left in range(size, 0, -65_536):
        yield b"%x\r\n%b\r\n" % (min(left, 65_536), b" " * min(left, 65_536))
    yield b"0\r\n\r\n"


def endless_head(start: bytes) -> Iterator[bytes]:
    """Headers without an end."""
    yield start
    for n in range(1_000):
        yield b"".join(b"x-%d-%d: %b\r\n" % (n, k, CANARY.encode()) for k in range(500))


def endless_header(start: bytes) -> Iterator[bytes]:
    """A header, or whatever `start` begins, without an end."""
    yield start + (b"x-long: " if start.endswith(b"\r\n") else b"")
    for _ in range(1_000):
        yield b"a" * 16_384
