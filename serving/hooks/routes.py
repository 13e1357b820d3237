"""`/hooks/…`: other programs tell, and the worker reads it in the ledger. None of them moves anything by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from serving.access.auth import Caller
from serving.errors import Malformed
from serving.hooks import alerts, answers
from serving.hooks.sender import Seen, sender
from serving.wire.body import JSON, media_type, read_body

if TYPE_CHECKING:
    from registry.ledger import Ledger
    from serving.service import Service

Handler = Callable[[Request, Caller, str], Awaitable[Response]]
MOST_BYTES = 1 << 20
_ANSWER = '{"version": 3} or {"error": "…"}'


def mount(add: Callable[[str, str, str | None, Handler], None], service: Service) -> None:
    """Add the routes; they look at who calls themselves, for a signature is over the body."""
    seen = Seen()
    add("/hooks/alertmanager", "POST", None, alertmanager(service, seen))
    add("/hooks/retrain/{run}", "POST", None, answer(service, seen))


def alertmanager(service: Service, seen: Seen) -> Handler:
    """POST: alerts that may ask for a run or for a rollback, by their labels."""

    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        media_type(request, (JSON,))
        body = await read_body(request, min(MOST_BYTES, service.settings.max_body_bytes))
        with sender(service, request, body, seen, keys=True) as caller:
            try:
                told = msgspec.json.decode(body, type=alerts.Notification)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise Malformed(
                    "this is no notification of an Alertmanager", expected="its webhook, version 4"
                ) from None

            def write(ledger: Ledger) -> dict[str, Any]:
                return dict(alerts.write(ledger, told, caller.models, caller.id or "anybody"))

            counts = await service.ledger.do(write)
        return Response(msgspec.json.encode(counts), 200, {"x-request-id": request_id}, JSON)

    return handler


def answer(service: Service, seen: Seen) -> Handler:
    """POST: an external engine's answer about a run; signed, and taken once."""

    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        media_type(request, (JSON,))
        body = await read_body(request, min(MOST_BYTES, service.settings.max_body_bytes))
        with sender(service, request, body, seen, keys=False):
            try:
                told = msgspec.json.decode(body, type=answers.Answer)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise Malformed("this is no answer about a run", expected=_ANSWER) from None
            if (told.version is None) == (told.error == ""):
                raise Malformed("an answer has a version or an error", expected=_ANSWER)
            run = request.path_params["run"]
            if told.run not in ("", run):
                raise Malformed("the answer is about another run than the path", where="run", expected=_ANSWER)
            written = await service.ledger.do(lambda ledger: answers.write(ledger, run, told))
        return Response(msgspec.json.encode(written), 202, {"x-request-id": request_id}, JSON)

    return handler
