"""Prediction protocols beside Perene's own: each a thin translation onto the data plane."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from starlette.requests import Request
from starlette.responses import Response

from serving.access.auth import Caller
from serving.dialects import kserve, mlflow, oip
from serving.dialects.dialect import Dialect

if TYPE_CHECKING:
    from serving.service import Service

Handler = Callable[[Request, Caller, str], Awaitable[Response]]


class Add(Protocol):
    """How a dialect gets its routes."""

    def __call__(self, path: str, method: str, scope: str | None, handler: Handler, dialect: Dialect, /) -> None:
        """Add a route: the scope that a key needs (None: no key is asked for), who answers, and whose errors it has."""


def mount(add: Add, service: Service) -> None:
    """Add the routes of every dialect."""
    for dialect in (oip, kserve, mlflow):
        dialect.mount(add, service)


@contextlib.asynccontextmanager
async def listening(service: Service) -> AsyncIterator[None]:
    """Serve the dialects that have a port of their own while the block runs.

    Raises:
        ConfigInvalid: a port cannot be bound.
    """
    port = service.settings.grpc_port
    if port is None:
        yield
        return
    from serving.dialects import grpc_service

    async with grpc_service.listening(service, port):
        yield
