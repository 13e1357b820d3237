"""A refusal as it is sent: one function makes what both lanes say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

from prometheus_client import Counter

from registry.errors import PereneError
from serving.dialects.dialect import Envelope
from serving.errors import Limited, Overloaded, Unauthenticated, body_of, status_of
from serving.wire.body import JSON

PROBLEM: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Refused:
    """Status, headers beside those of the body, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    media: str


def refused(error: PereneError, request_id: str, envelope: Envelope = body_of, *, problem: bool = False) -> Refused:
    """The words of `error` in a dialect's envelope, or as RFC 9457 where the caller asks for `problem`s."""
    status = status_of(error)
    headers = {"x-request-id": request_id}
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None:
        headers["retry-after"] = str(max(1, ceil(wait_s)))
    elif status == 503:
        headers["retry-after"] = "1"
    body = body_of(error, request_id, problem=True) if problem else envelope(error, request_id)
    return Refused(status, headers, body, PROBLEM if problem else JSON)


@dataclass(frozen=True, slots=True)
class _Form:
    """A refusal that has been made once; only the request's id and the length differ from one to the next."""

    status: int
    before: bytes
    between: bytes
    body: tuple[bytes, bytes]
    count: Counter


class Forms:
    """Refusals as the fast lane sends them: headers and body, each wording made by `refused` once."""

    def __init__(self, counter: Callable[[str, int], Counter]) -> None:
        self._counter = counter
        self._known: dict[tuple[object, ...], _Form] = {}

    def of(
        self, error: Overloaded | Limited, request_id: str, model: str, *, problem: bool
    ) -> tuple[int, bytes, bytes]:
        """Status, headers and body of `error`; it is counted for `model`, a deployed one or empty."""
        wait = ceil(error.retry_after_s)
        key = (error.code, error.message, error.where, error.expected, error.got, error.hint, wait, model, problem)
        form = self._known.get(key)
        if form is None:
            if len(self._known) >= _MOST_FORMS:
                self._known.clear()
            form = self._known[key] = self._made(error, model, problem=problem)
        form.count.inc()
        identity = request_id.encode()
        body = identity.join(form.body)
        return form.status, b"%b%b%b%d\r\n" % (form.before, identity, form.between, len(body)), body

    def _made(self, error: Overloaded | Limited, model: str, *, problem: bool) -> _Form:
        made = refused(error, _MARK, problem=problem)
        lines = [f"{name}: {value}\r\n" for name, value in made.headers.items()]
        head = f"{''.join(lines)}content-type: {made.media}\r\ncontent-length: "
        (before, between), (start, end) = head.encode().split(_MARK.encode()), made.body.split(_MARK.encode())
        return _Form(made.status, before, between, (start, end), self._counter(model, made.status))


_MARK: Final = "@request-id@"
"""Stands for the id of a request, and is none."""
_MOST_FORMS: Final = 256
