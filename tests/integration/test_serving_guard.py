"""By which names and from which pages the server may be called: in both lanes, on every path."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.errors import ConfigInvalid
from serving.main import check_bind
from serving.settings import ServingSettings, WebSettings
from tests.integration.serving_app import SCOPES, run
from tests.integration.serving_toy import ROW, Cache, serving
from tests.integration.two_lanes import BODY, alike, lanes, request, send

OWN = WebSettings(allowed_hosts=("Models.example.com", "*.inner.example"), allowed_origins=("https://shop.example",))


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> Cache:
    cache.add(1, offsets[1])
    return cache


def raw(*headers: str, target: str = "/predict", method: str = "POST", body: bytes = BODY) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *headers, "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


HOSTS: dict[str, int] = {
    "Host: models.example.com": 200,
    "Host: MODELS.example.com:8000": 200,
    "Host: models.example.com.": 200,
    "Host: a.inner.example": 200,
    "Host: localhost:8000": 200,
    "Host: 127.0.0.1": 200,
    "Host: [::1]:8000": 200,
    "Host: inner.example": 421,
    "Host: evil.example": 421,
    "Host: evil.example:8000": 421,
    "Host: models.example.com.evil.example": 421,
    "Host: evilinner.example": 421,
    "Host: models.example.com@evil.example": 421,
    "Host: models.example.com/..": 421,
    "Host: models.example.com, evil.example": 421,
    "Host: localhost:8000:8000": 421,
    "Host: localhost:port": 421,
    "Host: \xff": 421,
    "Host:": 421,
    "X-Forwarded-Host: models.example.com": 400,
    "Host: evil.example\r\nX-Forwarded-Host: localhost": 421,
    "Host: evil.example\r\nForwarded: host=localhost": 421,
    "Host: localhost\r\nHost: evil.example": 400,
    "Host: localhost\r\nHost: localhost": 400,
}


def test_only_names_of_this_server_are_answered(deployed: Cache) -> None:
    """Foreign, doubled, missing and malformed hosts are refused, alike in both lanes, on every path."""
    deployed.deploy(1)

    async def compare() -> None:
        async with lanes(deployed, auth=False, web=OWN) as at:

            async def asked(header: str, status: int) -> None:
                for target in ("/predict", "/nowhere", "/metrics"):
                    answer = await send(at.fast, raw(header, target=target))
                    expected = status if status != 200 or target == "/predict" else {"/nowhere": 404}.get(target, 405)
                    assert answer.startswith(b"HTTP/1.1 %d " % expected), (header, target, answer[:100])
                    assert b"evil" not in answer
                assert await alike(at, raw(header)), header

            await asyncio.gather(*(asked(header, status) for header, status in HOSTS.items()))
            found = re.findall(rb'requests_total\{[^}]*code="421"[^}]*\} [0-9]', await send(at.fast, metrics_request()))
            assert found

    asyncio.run(compare())


def metrics_request() -> bytes:
    return b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_probe_needs_no_name(deployed: Cache) -> None:
    """Kubernetes asks by the address of the pod; it is told whether, and with a query nothing."""
    deployed.deploy(1)

    async def scenario() -> None:
        async with serving(deployed, web=OWN) as served:
            head = {"host": "10.1.2.3:8000"}
            for path in ("/livez", "/readyz", "/healthz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"):
                assert (await served.client.get(path, headers=head)).status_code == 200
                assert (await served.client.get(f"{path}?verbose", headers=head)).status_code == 421
            for path in ("/metrics", "/docs", "/openapi.json", "/version"):
                assert (await served.client.get(path, headers=head)).status_code == 421

    run(scenario)


PAGES: dict[str, int] = {
    "": 200,
    "Origin: http://localhost:8000": 200,
    "Origin: https://localhost:8000": 200,
    "Origin: https://shop.example": 200,
    "Origin: https://shop.example.evil.example": 403,
    "Origin: http://shop.example": 403,
    "Origin: http://localhost:3000": 403,
    "Origin: null": 403,
    "Origin: https://shop.example\r\nSec-Fetch-Site: cross-site": 200,
    "Sec-Fetch-Site: same-origin": 200,
    "Sec-Fetch-Site: none": 200,
    "Sec-Fetch-Site: same-site": 403,
    "Sec-Fetch-Site: cross-site": 403,
    "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate": 403,
    "Sec-Fetch-Site: anything": 403,
}


def test_pages_of_other_sites_may_not_call(deployed: Cache) -> None:
    """Unless their origin is allowed; a form that a stranger's page sends is refused before it is a prediction."""
    deployed.deploy(1)

    async def compare() -> None:
        async with lanes(deployed, auth=False, web=OWN) as at:

            async def asked(header: str, status: int) -> None:
                data = raw("Host: localhost:8000", *([header] if header else []))
                answer = await send(at.fast, data)
                assert answer.startswith(b"HTTP/1.1 %d " % status), (header, answer[:100])
                allowed = b"access-control-allow-origin: https://shop.example" in answer
                assert allowed == ("Origin: https://shop.example" in header and status == 200), header
                assert await alike(at, data), header

            await asyncio.gather(*(asked(header, status) for header, status in PAGES.items()))
            link = b"GET /docs HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n"
            link += b"Sec-Fetch-Mode: navigate\r\n\r\n"
            assert (await send(at.fast, link)).startswith(b"HTTP/1.1 200")

    asyncio.run(compare())


@pytest.mark.parametrize("configured", [True, False])
def test_a_preflight_is_answered_only_where_pages_may_call(deployed: Cache, configured: bool) -> None:
    """It asks for no key, tells nothing but what may be sent, and an origin that may not call is refused."""
    deployed.deploy(1)
    web = OWN if configured else WebSettings()

    async def scenario() -> None:
        async with serving(deployed, web=web) as served:
            head = {"host": "localhost", "access-control-request-method": "POST"}
            good = await served.client.options("/predict", headers={**head, "origin": "https://shop.example"})
            bad = await served.client.options("/predict", headers={**head, "origin": "https://evil.example"})
            assert (good.status_code, bad.status_code) == (204 if configured else 403, 403)
            assert ("access-control-allow-origin" in good.headers) == configured
            assert "access-control-allow-credentials" not in good.headers
            assert "access-control-allow-origin" not in bad.headers
            own = await served.client.options("/predict", headers={"host": "localhost"})
            assert own.status_code == 405
            asked = await served.client.post(
                "/predict", json=ROW, headers={"host": "localhost", "origin": "https://shop.example"}
            )
            assert asked.status_code == (401 if configured else 403)

    run(scenario)


def test_the_page_of_documents_runs_its_own_scripts_only(deployed: Cache) -> None:
    """Its policy names each of its scripts and styles, and nothing is fetched from elsewhere."""
    deployed.deploy(1)

    async def scenario() -> None:
        async with serving(deployed) as served:
            reply = await served.client.get("/docs")
            policy = reply.headers["content-security-policy"]
            assert "'unsafe-inline'" not in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            scripts = re.findall(r"<script[^>]*>(.+?)</script>", reply.text, re.DOTALL)
            styles = re.findall(r"<style[^>]*>(.+?)</style>", reply.text, re.DOTALL)
            assert policy.count("'sha256-") == len(scripts) + len(styles)
            assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", reply.text)
            assert not re.search(r"\son[a-z]+\s*=", reply.text)
            assert not re.search(r"\sstyle\s*=", reply.text)

    run(scenario)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"host": "0.0.0.0"}, "serving.web.allowed_hosts"),
        ({"host": "::"}, "serving.web.allowed_hosts"),
        ({"host": "models.example.com"}, "serving.web.allowed_hosts"),
        ({"host": "0.0.0.0", "auth": False, "web": OWN}, "serving.auth"),
        ({"host": "0.0.0.0", "web": OWN}, None),
        ({"host": "127.0.0.9", "auth": False}, None),
        ({"host": "::1", "auth": False}, None),
        ({"host": "localhost", "auth": False}, None),
    ],
)
def test_beyond_loopback_keys_and_names_are_needed(given: dict[str, Any], where: str | None) -> None:
    """The server does not start without; the message names the setting."""
    if where is None:
        check_bind(ServingSettings(**given))
        return
    with pytest.raises(ConfigInvalid) as found:
        check_bind(ServingSettings(**given))
    assert found.value.where == where


def test_a_header_pins_a_version_as_the_path_does(deployed: Cache, offsets: dict[int, Path]) -> None:
    """For keys that may read which there are; another one than the path's is refused."""
    deployed.add(2, offsets[2])
    reader, only = deployed.key(SCOPES), deployed.key({"predict"})
    deployed.deploy(1, 2, "shadow")

    async def scenario() -> None:
        async with serving(deployed, reader) as served:

            async def asked(path: str, wanted: str, key: str = reader) -> httpx.Response:
                head = {"x-model-version": wanted, "x-api-key": key}
                return await served.client.post(path, json={"instances": [ROW]} if "v1" in path else ROW, headers=head)

            for path in ("/predict", "/models/toy/predict", "/models/toy/versions/2/predict", "/v1/models/toy:predict"):
                reply = await asked(path, "2")
                assert (reply.status_code, reply.headers["x-model-version"]) == (200, "2"), reply.text
                assert reply.json()["predictions"] == [207.0]
            pinned = (await asked("/models/toy/predict", "2")).json()
            by_path = (await served.client.post("/models/toy/versions/2/predict", json=ROW)).json()
            assert {**pinned, "prediction_ids": 0} == {**by_path, "prediction_ids": 0}
            assert pinned["arm"] == "pinned"
            assert (await asked("/predict", "2", only)).status_code == 403
            assert (await asked("/predict", "9")).status_code == 404
            assert (await asked("/predict", "two")).status_code == 404
            assert (await asked("/predict", "")).status_code == 404
            assert (await asked("/models/toy/versions/1/predict", "2")).status_code == 400

    run(scenario)


def test_a_header_pins_in_both_lanes(deployed: Cache) -> None:
    """The fast lane leaves it to the application."""
    deployed.deploy(1)

    async def compare() -> None:
        async with lanes(deployed, auth=False) as at:
            for wanted in ("1", "7", "x"):
                assert await alike(at, request("/predict", BODY, f"X-Model-Version: {wanted}"))
            answer = await send(at.fast, request("/predict", BODY, "X-Model-Version: 1"))
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["arm"] == "pinned"

    asyncio.run(compare())
