"""A request in the fast lane: what is known of it, and who is to answer it."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec

from monitoring.intake.events import Arm
from monitoring.intake.ids import uuid7
from serving.answering import given_id
from serving.routing import choose

if TYPE_CHECKING:
    from serving.decode import Rows
    from serving.loaded.models import Model, Version


class _NoEvent:
    """Takes the place of a cycle's event: nothing waits for the parts of a fast request."""

    def set(self) -> None:
        """Nobody is waiting."""


_NOBODY: Final = _NoEvent()


class FastCycle:
    """A request in the fast lane, in the form in which the protocol keeps requests of an application."""

    __slots__ = (
        *("began", "body", "disconnected", "headers", "keep_alive", "key", "message_event", "model", "more_body"),
        *("pinned", "response_complete", "url"),
    )

    def __init__(
        self, model: Model, pinned: Version | None, url: bytes, headers: dict[bytes, bytes], *, keep_alive: bool
    ) -> None:
        self.model = model
        self.pinned = pinned
        self.url = url
        self.headers = headers
        self.keep_alive = keep_alive
        self.body: bytes | bytearray = b""
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY
        self.began = perf_counter()
        self.key = ""

    @property
    def route(self) -> str:
        """The pattern of the route, as the application has it."""
        if self.pinned is not None:
            return "/models/{model}/versions/{version}/predict"
        return "/predict" if self.url == b"/predict" else "/models/{model}/predict"


class _Answered:
    """Takes the place of an answered request: a connection that is kept, idle, keeps neither its model nor its body."""

    response_complete = True
    more_body = False
    message_event = _NOBODY
    __slots__ = ()


ANSWERED: Final = _Answered()


class Way(msgspec.Struct, frozen=True):
    """Who answers a request, by what name the request is known, and who is asked as well without being heard."""

    version: Version
    arm: Arm
    request_id: str
    """Nothing where it has no name yet."""
    shadow: Version | None = None
    assigned: int = 0


def way_of(cycle: FastCycle, reader: Version, rows: Rows) -> Way | None:
    """Who answers; nobody here when whoever should reads rows in another way than they were read."""
    given = cycle.headers.get(b"x-request-id")
    request_id = given_id(given.decode("latin-1")) if given else ""
    if cycle.pinned is not None:
        return Way(reader, "pinned", request_id)
    route, versions = cycle.model.route, cycle.model.versions
    if route.candidate is None:
        return Way(reader, "champion", request_id)
    if not request_id:  # the application, should it get the request after all, must draw the same arm
        request_id = uuid7()
        cycle.headers[b"x-request-id"] = request_id.encode()
    choice = choose(route, rows.entity or request_id)
    shadow = None if choice.shadow is None else versions[choice.shadow]
    if (shadow or versions[choice.version]).contract.layout != reader.contract.layout:
        return None
    return Way(versions[choice.version], choice.arm, request_id, shadow, choice.assigned)
