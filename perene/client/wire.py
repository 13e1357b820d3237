"""Requests and replies as values, and one call as steps: who sends them, and how, is not known here.

A call yields what is to be sent and is given what came back, so the same code runs below the client that waits and
below the one that does not.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

from perene.client.errors import Unreachable, error_of

PASSING: Final = frozenset((429, 502, 503, 504))
"""Statuses that say: not now."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Each that this client makes may be sent twice: it reads, or says by a key that it is the same."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came; `reason` is the name of what the connection died of."""

    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """A step: wait `after_s`, then send, and give up after `timeout_s` without a sign of the server."""

    request: Request
    after_s: float
    timeout_s: float


T = TypeVar("T")
Steps = Generator[Send, Reply | Lost, T]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take: one attempt `timeout_s`, all of them with their pauses `deadline_s`."""

    timeout_s: float = 10.0
    deadline_s: float = 30.0
    retries: int = 4
    first_s: float = 0.1
    longest_s: float = 5.0


def pause(attempt: int, got: Reply | Lost, patience: Patience, *, left_s: float, draw: float) -> float | None:
    """Seconds until the next attempt, or None when there is none.

    Exponential backoff with full jitter, after what the server asked for: callers who were sent away together do not
    come back together. A pause that would end after the deadline is not begun.

    Args:
        attempt: how many went before this one.
        got: what came of it.
        patience: the limits.
        left_s: seconds until the deadline.
        draw: a random number in [0, 1).
    """
    asked = asked_s(got.headers.get("retry-after", "")) if isinstance(got, Reply) else 0.0
    # the first attempt of a prediction may still be under way: 409, and a time after which to ask for its answer
    if isinstance(got, Reply) and got.status not in PASSING and not (got.status == 409 and asked):
        return None
    if attempt >= patience.retries:
        return None
    seconds = asked + draw * min(patience.longest_s, patience.first_s * 2.0**attempt)
    return seconds if seconds < left_s else None


def asked_s(retry_after: str, now: datetime | None = None) -> float:
    """Seconds that a `Retry-After` asks for, given as a number or as a date; 0 when it says neither."""
    text = retry_after.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    moment = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def call(
    request: Request,
    patience: Patience,
    *,
    clock: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = random.random,
) -> Steps[Reply]:
    """Send a request until it is answered, refused for good, or the time is over.

    Raises:
        PereneError: the refusal, as the class that its code names; Unreachable when nobody answers.
    """
    ends, wait, attempt = clock() + patience.deadline_s, 0.0, 0
    while True:
        left = max(0.001, ends - clock() - wait)
        got = yield Send(request, wait, min(patience.timeout_s, left))
        again = pause(attempt, got, patience, left_s=ends - clock(), draw=draw())
        attempt += 1
        if again is not None:
            wait = again
        elif isinstance(got, Lost):
            tries = "1 attempt" if attempt == 1 else f"{attempt} attempts"
            raise Unreachable(
                f"the server does not answer ({tries}, {got.reason})", hint="is the address right, and is it running?"
            )
        elif 200 <= got.status < 300:
            return got
        else:
            raise error_of(got.status, got.body, retry_after_s=asked_s(got.headers.get("retry-after", "")))


def get(path: str) -> Request:
    """A request that reads."""
    return Request("GET", path)


def post(path: str, body: Any) -> Request:
    """A request with a body of JSON."""
    data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    return Request("POST", path, data, {"content-type": "application/json"})


def with_headers(request: Request, headers: Mapping[str, str]) -> Request:
    """The same request with more headers."""
    return replace(request, headers={**request.headers, **headers})


def answer(reply: Reply) -> dict[str, Any]:
    """The object that a reply holds.

    Raises:
        PereneError: it holds none, so who answered is not a Perene server.
    """
    try:
        found = json.loads(reply.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise error_of(reply.status, b"")
    return found
