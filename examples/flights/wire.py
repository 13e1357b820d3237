"""One keep-alive connection that does not give up while a server is killed and started again."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

FOR_GOOD: Final = frozenset({400, 401, 403, 405, 413, 415, 422})
"""Answers that a second try cannot change. All others may pass: 404 too, right after a cold start."""


class Refused(Exception):
    """The server answered, and will not answer otherwise."""

    def __init__(self, status: int, path: str, code: str) -> None:
        super().__init__(f"{path} answered {status} {code}".rstrip())
        self.status = status


class Stopped(Exception):
    """The caller asked to stop while the server was away."""


class Wire:
    """POST JSON over one connection, with retries.

    Args:
        patience_s: how long, in seconds, one request may fail in a row before its last error is raised.
    """

    def __init__(self, url: str, key: str, *, stop: Callable[[], bool], patience_s: float = 120.0) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=10.0)
        self._base = parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._stop = stop
        self._patience_s = patience_s
        self.retries = 0

    def post(self, path: str, body: Any) -> Any:
        """The decoded answer to `body`, asked again until there is one.

        Raises:
            Refused: the request itself is wrong.
            Stopped: `stop()` became true between two tries.
            ConnectionError: no answer within `patience_s`.
        """
        payload = json.dumps(body, separators=(",", ":")).encode()
        deadline = time.monotonic() + self._patience_s
        pause_s = 0.02
        while True:
            try:
                return self._once(path, payload)
            # a killed server shows as any of these, in the middle of an answer too
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._connection.close()
                if time.monotonic() > deadline:
                    raise ConnectionError(f"{path} did not answer for {self._patience_s:.0f} s: {error}") from error
            if self._stop():
                raise Stopped
            self.retries += 1
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)

    def _once(self, path: str, payload: bytes) -> Any:
        self._connection.request("POST", self._base + path, payload, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status in FOR_GOOD:
            raise Refused(response.status, path, _code(content))
        if response.status >= 300:
            raise ConnectionError(f"status {response.status} {_code(content)}".rstrip())
        return json.loads(content)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _code(content: bytes) -> str:
    """The error's code, where the body has one; never the body itself, which may echo data."""
    try:
        error = json.loads(content)["error"]
        return str(error["code"])
    except (ValueError, KeyError, TypeError):
        return ""
