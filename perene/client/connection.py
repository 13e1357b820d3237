"""Where a client connects to, and with what: checked before the first request."""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from perene.client.wire import Lost, Patience, Reply
from registry import __version__
from registry.errors import ConfigInvalid

LOCAL: Final = "http://127.0.0.1:8000"


def options(url: str | None, key: str | None, patience: Patience, connections: int) -> dict[str, Any]:
    """What an HTTP client is made with.

    Args:
        url: the server, else `$PERENE_URL`, else this machine.
        key: the API key, else `$PERENE_KEY`; empty for none.
        patience: how long an attempt may take.
        connections: kept open at most; who waits for one waits no longer than the call's deadline.

    Raises:
        ConfigInvalid: the address or the key cannot be one.
    """
    secret = os.environ.get("PERENE_KEY", "") if key is None else key
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ConfigInvalid(
            "the API key is none", where="key", expected="prn_…", hint="has it a line break at its end?"
        )
    headers = {"user-agent": f"perene/{__version__}"}
    if secret:
        headers["authorization"] = f"Bearer {secret}"
    return {
        "base_url": checked_url(url or os.environ.get("PERENE_URL", "") or LOCAL),
        "headers": headers,
        "timeout": httpx.Timeout(patience.timeout_s, pool=patience.deadline_s),
        "limits": httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
    }


def checked_url(url: str) -> str:
    """The address of a server, without a slash at its end.

    Raises:
        ConfigInvalid: it is not `http(s)://host[:port][/prefix]`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    plain = parts.scheme in ("http", "https") and parts.hostname and port != 0
    if not plain or parts.username or parts.password or parts.query or parts.fragment or not url.isprintable():
        raise ConfigInvalid(
            "this is not the address of a server",
            where="url",
            expected="http(s)://host[:port], a prefix if a proxy needs one, and no password",
            hint=f"for example {LOCAL}",
        )
    return url.rstrip("/")


def timeout_of(seconds: float, patience: Patience) -> httpx.Timeout:
    """One attempt's, in the HTTP client's terms."""
    return httpx.Timeout(seconds, pool=patience.deadline_s)


def reply_of(response: httpx.Response) -> Reply:
    """A response as the core has it."""
    return Reply(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.content
    )


def lost_of(error: httpx.RequestError) -> Lost:
    """A failed connection as the core has it; the reason holds neither address nor key."""
    return Lost(type(error).__name__)
