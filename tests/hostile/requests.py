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


def attacks(key: str) -> list[Attack]:
    """The catalogue, for a server that `key` opens."""
    found: list[Attack] = []

    def add(name: str, statuses: set[int], *parts: bytes, answers: int = 1) -> None:
        found.append(Attack(name, frozenset(statuses), lambda: iter(parts), answers))

    def stream(name: str, statuses: set[int], parts: Callable[[], Iterator[bytes]]) -> None:
        found.append(Attack(name, frozenset(statuses), parts))

    def asks(*lines: str, start: str = "POST /predict HTTP/1.1", host: str = "localhost") -> bytes:
        return head("Content-Type: application/json", *lines, key=key, start=start, host=host)

    length = f"Content-Length: {len(GOOD)}"
    bad = {400, SILENCE}
    # lengths
    add("no length", {400, 411}, asks(), GOOD)
    add("no length, and close", {400, 411}, asks("Connection: close"), GOOD)
    add("negative length", bad, asks("Content-Length: -1"), GOOD)
    add("signed length", bad, asks(f"Content-Length: +{len(GOOD)}"), GOOD)
    add("hexadecimal length", bad, asks("Content-Length: 0x10"), GOOD)
    add("length of a word", bad, asks(f"Content-Length: {CANARY}"), GOOD)
    add("two lengths in one", bad, asks(f"Content-Length: {len(GOOD)}, {len(GOOD)}"), GOOD)
    add("length beyond 64 bits", bad | {413}, asks(f"Content-Length: {2**64 + len(GOOD)}"), GOOD)
    add("two lengths", bad, asks(length, "Content-Length: 5"), GOOD)
    add("the same length twice", bad | {200}, asks(length, length), GOOD)
    add("length too short", {400}, asks(f"Content-Length: {len(GOOD) - 3}", "Connection: close"), GOOD)
    add("length and chunks", bad, asks(length, "Transfer-Encoding: chunked"), chunks(GOOD))
    add("chunks and length", bad, asks("Transfer-Encoding: chunked", length), chunks(GOOD))
    add("chunked twice", bad | {200}, asks("Transfer-Encoding: chunked, chunked"), chunks(GOOD))
    add("chunked, then identity", bad, asks("Transfer-Encoding: chunked, identity"), chunks(GOOD))
    add("an unknown coding", bad | {415, 501}, asks(f"Transfer-Encoding: {CANARY}"), GOOD)
    add("a tab before chunked", bad | {200}, asks("Transfer-Encoding:\tchunked"), chunks(GOOD))
    add("a blank before the colon", bad, asks("Transfer-Encoding : chunked", length), chunks(GOOD))
    add("chunk of negative size", bad, asks("Transfer-Encoding: chunked"), b"-1\r\n" + GOOD)
    add("chunk of no size", bad, asks("Transfer-Encoding: chunked"), CANARY.encode() + b"\r\n" + GOOD)
    add("chunk beyond 64 bits", bad, asks("Transfer-Encoding: chunked"), b"f" * 17 + b"\r\n" + GOOD)
    add("chunk without an end", bad, asks("Transfer-Encoding: chunked"), b"2\r\n" + GOOD)
    stream("a million chunks of a byte", bad | {413}, lambda: small_chunks(asks("Transfer-Encoding: chunked")))
    stream("chunks with long extensions", bad | {413}, lambda: extensions(asks("Transfer-Encoding: chunked")))
    stream("endless trailers", bad, lambda: trailers(asks("Transfer-Encoding: chunked")))
    stream("one endless trailer", bad, lambda: trailer(asks("Transfer-Encoding: chunked")))
    # sizes
    over = f"Content-Length: {CAP + 1}"
    stream("a byte over the cap, by length", {413}, lambda: filled(asks(over), CAP + 1))
    stream("a byte over the cap, by chunks", {413}, lambda: in_chunks(asks("Transfer-Encoding: chunked"), CAP + 1))
    stream("ten times the cap", {413, SILENCE}, lambda: filled(asks(f"Content-Length: {10 * CAP}"), 10 * CAP))
    stream("a terabyte, promised", {413}, lambda: filled(asks(f"Content-Length: {10**12}"), 100))
    add("64 KB in a header", {431}, asks(length, f"X-Long: {CANARY * 6_000}"), GOOD)
    add("64 KB in a path", {431}, asks(length, start=f"POST /{CANARY * 6_000} HTTP/1.1"), GOOD)
    add("64 KB in a query", {431}, asks(length, start=f"POST /predict?{CANARY * 6_000} HTTP/1.1"), GOOD)
    add("64 KB in a header's name", {431}, asks(length, f"{CANARY * 6_000}: 1"), GOOD)
    add("1,000 headers", {431}, asks(length, *(f"X-{n}: {CANARY}" for n in range(1_000))), GOOD)
    add("101 headers", {431}, asks(length, *(f"X-{n}: {n}" for n in range(101))), GOOD)
    stream("an endless head", {431}, lambda: endless_head(asks()[:-2]))
    stream("an endless header", {431}, lambda: endless_header(asks()[:-2]))
    stream("an endless path", {431, 400}, lambda: endless_header(b"POST /"))
    stream("an endless method", bad | {431}, lambda: endless_header(b""))
    # names and paths
    add("two hosts", {400, 421}, asks(length, f"Host: {CANARY}.example"), GOOD)
    add("a foreign host", {421}, asks(length, host=f"{CANARY}.example"), GOOD)
    add("no host", {400, 421}, asks(length, host=""), GOOD)
    opened = asks(length, start="POST /models/toy%2Fpredict HTTP/1.1")
    add("an escaped slash", {200, 404}, opened, GOOD)
    add("an escaped slash without a key", {401, 404}, opened.replace(b"Authorization", b"X-Nothing"), GOOD)
    for path in ("//predict", "/%2fpredict", "/./predict", "/predict/", "/predict/.", "/PREDICT", "/x/../predict",
                 "/predict%00", "/predict;x=1", "/models/../predict"):  # fmt: skip
        add(f"path {path}", {400, 404, 405}, asks(length, start=f"POST {path} HTTP/1.1"), GOOD)
        keyless = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
        add(f"path {path} without a key", {400, 401, 404, 405}, keyless.encode(), GOOD)
    add("a whole address", {200, 400, 404, 421}, asks(length, start="POST http://localhost/predict HTTP/1.1"), GOOD)
    foreign = f"POST http://{CANARY}.example/predict HTTP/1.1"
    add("a whole foreign address", {200, 400, 404, 421}, asks(length, start=foreign), GOOD)
    add("bytes beyond ASCII in a path", {400, 404}, asks(length).replace(b"/predict", b"/pr\xc3\xa9dict"), GOOD)
    add("a blank in a path", bad, asks(length, start="POST /pre dict HTTP/1.1"), GOOD)
    add("an asterisk", {400, 404, 405}, asks(start="OPTIONS * HTTP/1.1"))
    add("a tunnel", {400, 404, 405}, asks(start=f"CONNECT {CANARY}.example:443 HTTP/1.1"))
    # methods
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        add(f"method {method}", {405, 404, 400}, asks(length, start=f"{method} /predict HTTP/1.1"), GOOD)
    add("a method of our own", bad | {405}, asks(length, start="CANARY /predict HTTP/1.1"), GOOD)
    add("a method in small letters", bad | {405}, asks(length, start="post /predict HTTP/1.1"), GOOD)
    # media types
    for media in ("text/plain", "", "application/x-www-form-urlencoded", "application/json; charset=utf-16",
                  "application/json; charset=latin-1", f"application/{CANARY}", "multipart/form-data; boundary=x"):  # fmt: skip
        add(f"type '{media}'", {415}, head(f"Content-Type: {media}", length, key=key), GOOD)
    add("no type", {415}, head(length, key=key), GOOD)
    add("two types", {200, 400, 415}, asks(length, "Content-Type: text/plain"), GOOD)
    packed = zlib.compress(b"[" * 50_000_000, 9)
    for coding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
        coded = asks(f"Content-Encoding: {coding}", f"Content-Length: {len(packed)}")
        add(f"a bomb in {coding}", {415}, coded, packed)
    # syntax
    add("bare line feeds", bad | {200}, asks(length).replace(b"\r\n", b"\n"), GOOD)
    add("bare carriage returns", bad, asks(length).replace(b"\r\n", b"\r"), GOOD)
    add("a folded header", bad, asks(length, f"X-Folded: a\r\n {CANARY}"), GOOD)
    add("a NUL in a header", bad, asks(length, f"X-Null: a\0{CANARY}"), GOOD)
    add("a NUL in a name", bad, asks(length, f"X-N\0ull: {CANARY}"), GOOD)
    add("a line feed in a header", bad | {200}, asks(length, f"X-Feed: a\n{CANARY}: b"), GOOD)
    add("a header without a name", bad, asks(length, f": {CANARY}"), GOOD)
    add("a header without a colon", bad, asks(length, CANARY), GOOD)
    add("bytes beyond ASCII in a header", {200}, asks(length, "Connection: close").replace(b"localhost\r\n", b"localhost\r\nX-\x41: \xff\xfe\r\n"), GOOD)
    add("a key of bytes beyond ASCII", {401}, asks(length).replace(key.encode(), b"\xff" * 40), GOOD)
    add("HTTP/0.9", bad | {200}, b"GET /livez\r\n\r\n")
    add("HTTP/1.0", {200}, asks(length, start="POST /predict HTTP/1.0"), GOOD)
    for version in ("HTTP/1.2", "HTTP/2.0", "HTTP/9.9", "HTTP/1.10", "http/1.1", "HTTPS/1.1", CANARY):
        add(f"version {version}", bad | {200, 505}, asks(length, start=f"POST /predict {version}"), GOOD)
    add("the preface of HTTP/2", bad, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40))
    add("a greeting of TLS", bad, struct.pack(">BHHB", 22, 0x301, 512, 1) + CANARY.encode() * 40)
    add("bytes of all kinds", bad, bytes(range(256)) * 16)
    add("nothing but line ends", {SILENCE}, b"\r\n" * 10_000)
    # manners
    add("a thousand in one breath", {200}, asks(length) * 0 + (asks(length) + GOOD) * 1_000, answers=1_000)
    add("a thousand bad ones in one breath", {400}, (asks("Content-Length: 1") + b"{") * 1_000, answers=1_000)
    add("a thousand without a key", {401}, (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n") * 1_000, answers=1_000)
    add("100-continue", {100}, asks(length, "Expect: 100-continue"), GOOD, answers=2)
    add("100-continue, over the cap", {413}, asks(over, "Expect: 100-continue"))
    add("an expectation of our own", {200, 417}, asks(length, f"Expect: {CANARY}"), GOOD)
    add("an upgrade to h2c", {200, 400}, asks(length, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"), GOOD)
    add("an upgrade to a web socket", {200, 400}, asks(length, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), GOOD)
    return found


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
