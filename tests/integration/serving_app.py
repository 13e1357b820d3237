"""Shared by the tests of the HTTP application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.serving_toy import (
    ROW,
    Served,
)

SECRET = "s3cr3t-canary"
SCOPES = {"predict", "feedback", "read"}
MAX_BODY = 64 * 1024
MAX_ROWS = 20
ID = "0198c0de-0000-7000-8000-000000000000"


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def body_of_rows(*rows: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"rows": list(rows) or [ROW], **more}).encode()


async def refused(served: Served, path: str, content: bytes, status: int, **headers: str) -> dict[str, Any]:
    """The error of a reply that keeps every promise about errors."""
    sent = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    reply = await served.client.post(path, content=content, headers=sent)
    assert reply.status_code == status, reply.text[:500]
    assert len(reply.content) <= 16 * 1024
    assert SECRET not in reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert error["request_id"] == reply.headers["x-request-id"]
    assert {"code", "message", "where", "expected", "got", "hint", "request_id", "docs"} <= set(error)
    assert len(error.get("errors", ())) <= 20
    return error


def label(identifier: str, value: float) -> bytes:
    return json.dumps([{"prediction_id": identifier, "label": value}]).encode()


async def metrics(served: Served) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by name and label values, in the order the catalogue has them."""
    text = (await served.client.get("/metrics")).text
    first = ("model", "version", "arm", "alias", "protocol", "code")
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            ranked = sorted(sample.labels, key=lambda n: (first.index(n) if n in first else len(first), n))
            found[sample.name, tuple(sample.labels[n] for n in ranked)] = sample.value
    return found


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"} if secret else {}
