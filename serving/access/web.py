"""The guard before the application: every route is behind it, those that there are not too."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.errors import PereneError
from serving.access.guard import Asking, Guard, allow

Refuse = Callable[[Request, PereneError], Response]
"""Words a refusal in the dialect of the request's path."""


class Guarded:
    """An application to which only requests come that the guard lets through."""

    def __init__(self, app: ASGIApp, guard: Guard, refuse: Refuse) -> None:
        self._app = app
        self._guard = guard
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            origin = self._guard.check(Asking(scope["method"], scope["path"], scope["query_string"], scope["headers"]))
        except PereneError as error:
            await self._refuse(Request(scope), error)(scope, receive, send)
            return
        if origin is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and any(n == b"access-control-request-method" for n, _ in scope["headers"]):
            await Response(status_code=204, headers=self._guard.preflight(origin))(scope, receive, send)
        else:
            await self._app(scope, receive, _allowing(origin, send))


def _allowing(origin: str, send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(allow(origin))
        await send(message)

    return sending
