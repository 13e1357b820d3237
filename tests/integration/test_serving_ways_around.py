"""No spelling of a request is more permissive than the route it means: every route, over a socket, in both lanes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from serving.settings import WebSettings
from tests.integration.serving_app import SCOPES
from tests.integration.serving_toy import ROW, Cache, offset_bundle
from tests.integration.test_serving_access import BODIES, ROUTES, methods_of, scope_of
from tests.integration.two_lanes import Lanes, lanes

BODYLESS = ("GET", "HEAD", "OPTIONS", "TRACE", "DELETE")
METHODS = (*BODYLESS, "POST", "PUT", "PATCH", "BREW", "get", "post")
HEADERS = (
    "X-HTTP-Method-Override: GET",
    "X-Method-Override: GET",
    "X-Original-URL: /livez",
    "X-Rewrite-URL: /livez",
    "X-Forwarded-Host: localhost",
    "X-Forwarded-Prefix: /livez",
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-User: admin",
    "X-Forwarded-Proto: https",
    "Forwarded: for=127.0.0.1;host=localhost",
    "X-Real-IP: 127.0.0.1",
    "Authorization: Basic YWRtaW46YWRtaW4=",
    "Authorization: Bearer",
    "X-API-Key: prn_",
    "Cookie: key=admin",
    "Host: evil.example",
)


def spellings(path: str) -> Iterator[str]:
    """Other targets by which somebody may hope to reach `path`."""
    yield path
    yield f"/{path}"
    yield f"/.{path}"
    yield f"/x/..{path}"
    yield f"/%2e{path}"
    yield f"{path}/"
    yield f"{path}//"
    yield f"{path}/."
    yield f"{path};a=b"
    yield f"{path}%00"
    yield f"{path}%20"
    yield f"{path}%0d%0aX-API-Key:%20x"
    yield f"{path}\\"
    yield f"{path}.json"
    yield f"{path}?scope=admin&key=x"
    yield f"{path}#x"
    yield path.upper()
    yield "/" + quote(path[1:], safe="").replace("%2F", "%2f")
    yield "/" + "".join(f"%{ord(letter):02x}" for letter in path[1:])
    yield path.replace("/", "/%2f", 1)
    yield path.replace("/", "%252f")
    yield f"http://localhost{path}"
    yield f"http://evil.example{path}"
    yield f"//evil.example{path}"


def message(target: str, *headers: str, method: str = "POST", body: bytes = b"", key: str = "") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def ask(port: int, data: bytes) -> bytes:
    """The whole answer; the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    found = b""
    with contextlib.suppress(asyncio.TimeoutError, ConnectionResetError):
        found = await asyncio.wait_for(reader.read(), timeout=60)
    writer.close()
    return found


async def ways_around(at: Lanes, app: FastAPI, keys: dict[str, tuple[str, set[str]]]) -> list[str]:
    """Each request that got more than its route gives to its key, and each route that nobody listed."""
    shown = methods_of(app)
    found = [f"unlisted: {path}" for path in shown.keys() - ROUTES.keys()]
    limit = asyncio.Semaphore(16)

    async def tried(what: str, data: bytes, *, may: bool) -> None:
        for lane, port in (("fast", at.fast), ("slow", at.slow)):
            async with limit:
                answer = await ask(port, data)
            status = answer[9:10]
            if status not in (b"2", b"4") or (status == b"2" and not may) or b"evil" in answer:
                found.append(f"{lane}: {what}: {answer[:40]!r}")
            secrets = [secret for secret, _ in keys.values() if secret]
            if any(secret.encode() in answer for secret in secrets) or b"location:" in answer.lower():
                found.append(f"{lane}: {what}: tells")

    asked = []
    for path, methods in shown.items():
        filled = path.format(model="toy", version=1, alias="champion", job="0", id="0", run="0")
        sent = next((body for end, body in BODIES.items() if path.endswith(end)), ROW)
        for method in sorted(methods - {"HEAD"}) or ["GET"]:
            scope = scope_of(path, method) if path in ROUTES else None
            body = json.dumps(sent).encode() if method == "POST" else b""
            for name, (key, scopes) in keys.items():
                may = (path in ROUTES and scope is None) or scope in scopes
                asked += [
                    tried(f"{method} {target!r} by {name}", message(target, method=method, body=body, key=key), may=may)
                    for target in spellings(filled)
                ]
                if name == "nobody":
                    for header in HEADERS:
                        data = message(filled, header, method=method, body=body)
                        asked.append(tried(f"{method} {filled} with {header}", data, may=may))
                    for other in METHODS:
                        data = message(filled, method=other, body=b"" if other in BODYLESS else body or b"{}")
                        asked.append(tried(f"{other} {filled}", data, may=may))
    await asyncio.gather(*asked)
    return found


@pytest.fixture
def keys(cache: Cache, offsets: dict[int, Path], toy_bundle: Path) -> dict[str, tuple[str, set[str]]]:
    """Keys that may do something each, and what they may do to the model asked for."""
    cache.add(1, offsets[1])
    cache.add(1, offset_bundle(toy_bundle, cache.folder.parent / "other", 5, model="other"), model="other")
    found = {
        "nobody": ("", set[str]()),
        "the others": (cache.key({"register", "promote", "erase"}), set[str]()),
        "feedback": (cache.key({"feedback"}), {"feedback"}),
    }
    cache.deploy(1, model="other")
    cache.deploy(1)
    return found


def tried(cache: Cache, keys: dict[str, tuple[str, set[str]]], change: Any = None) -> list[str]:
    async def scenario() -> list[str]:
        async with lanes(cache, default_model="toy", web=WebSettings()) as at:
            if change is not None:
                change(at.app)
            return await ways_around(at, at.app, keys)

    return asyncio.run(scenario())


def test_no_spelling_is_a_way_around(cache: Cache, keys: dict[str, tuple[str, set[str]]]) -> None:
    """Paths, hosts, methods and headers that mislead others: refused, with no redirect and no defect."""
    assert tried(cache, keys) == []


def test_a_route_without_a_scope_is_found(cache: Cache, keys: dict[str, tuple[str, set[str]]]) -> None:
    """The control: a route that somebody forgot to guard, and another spelling that answers."""

    async def peek(_request: Request) -> Response:
        return Response("rows")

    def forget(app: FastAPI) -> None:
        app.add_route("/models/{model}/peek", peek, methods=["GET"])
        app.add_route("/models/{model}/predict/", peek, methods=["POST"])

    found = tried(cache, {"nobody": keys["nobody"]}, forget)
    assert "unlisted: /models/{model}/peek" in found
    assert "unlisted: /models/{model}/predict/" in found
    assert [told for told in found if "'/models/toy/predict/' by nobody" in told]
    assert [told for told in found if "'/models/toy/peek' by nobody" in told]


def test_the_keys_of_the_matrix_can_do_what_they_may(cache: Cache, keys: dict[str, tuple[str, set[str]]]) -> None:
    """Refusals are not the only thing the server knows: with the scopes every route answers."""
    key = cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with lanes(cache, default_model="toy", web=WebSettings()) as at:
            for path in ("/predict", "/models/toy/predict", "http://localhost/predict", "/%70redict"):
                body = json.dumps(ROW).encode()
                for port in (at.fast, at.slow):
                    assert (await ask(port, message(path, body=body, key=key))).startswith(b"HTTP/1.1 200"), path

    asyncio.run(scenario())
