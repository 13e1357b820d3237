"""`/models/{model}/experiments`: trials as the ledger has them, and what people ask of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from registry.errors import ModelUnknown
from registry.names import is_name
from serving.access.auth import Caller
from serving.errors import Malformed
from serving.json_text import LEAST_ROWS, read_json
from serving.wire.body import JSON, media_type, read_body

if TYPE_CHECKING:
    from registry.ledger import Ledger
    from serving.service import Service

Handler = Callable[[Request, Caller, str], Awaitable[Response]]
T = TypeVar("T", bound=msgspec.Struct)
_LISTED = 100


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a trial is asked for with."""

    candidate: int
    reason: str
    options: dict[str, Any] = {}


class Approve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An approval, and why."""

    reason: str = ""


class Abort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An end, and why."""

    reason: str


def mount(add: Callable[[str, str, Any, Handler], None], service: Service) -> None:
    """Add the routes; what decides needs the scope promote."""
    root = "/models/{model}/experiments"
    by_method = {"GET": several(service), "HEAD": several(service), "POST": start(service)}

    async def listed_or_started(request: Request, caller: Caller, request_id: str) -> Response:
        return await by_method[request.method](request, caller, request_id)

    add(root, "GET POST", {"GET": "read", "HEAD": "read", "POST": "promote"}, listed_or_started)
    add(root + "/{id}", "GET", "read", one(service))
    add(root + "/{id}/approve", "POST", "promote", approve(service))
    add(root + "/{id}/abort", "POST", "promote", abort(service))


def several(service: Service) -> Handler:
    """GET: the trials of a model, newest first."""

    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        model = request.path_params["model"]

        def listed(ledger: Ledger) -> list[dict[str, Any]]:
            from registry.experiment_facts import facts, listed

            _deployed(ledger, model)
            return [facts(trial) for trial in listed(ledger, model, limit=_LISTED)]

        return _json({"experiments": await service.ledger.do(listed)}, request_id)

    return handler


def one(service: Service) -> Handler:
    """GET: a trial, what was decided about it, and how its tests stood at the last look."""

    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        model, identifier = request.path_params["model"], request.path_params["id"]

        def shown(ledger: Ledger) -> dict[str, Any]:
            from registry.experiment_facts import asked, decisions, facts, find, looks

            _deployed(ledger, model)
            trial = find(ledger, model, identifier)
            last = looks(ledger, identifier)[-1:]
            more = {"asked": asked(ledger, trial), "look": last[0] if last else None}
            return {**facts(trial), **more, "decisions": decisions(ledger, trial)}

        return _json(await service.ledger.do(shown), request_id)

    return handler


def start(service: Service) -> Handler:
    """POST: ask for a trial; the worker begins it in its next turn."""

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        wanted = await _body(service, request, caller, Start, '{"candidate": 3, "reason": "…", "options": {}}')

        def asked(ledger: Ledger) -> dict[str, Any]:
            from registry.experiment_requests import start

            _deployed(ledger, request.path_params["model"])
            return start(
                ledger,
                request.path_params["model"],
                wanted.candidate,
                actor=_actor(caller),
                reason=wanted.reason,
                options=wanted.options,
            )

        return _json(await service.ledger.do(asked), request_id, status=202)

    return handler


def approve(service: Service) -> Handler:
    """POST: approve the candidate of a trial."""

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        wanted = await _body(service, request, caller, Approve, '{"reason": "…"}')
        return _json(await service.ledger.do(partial(_approved, request, caller, wanted.reason)), request_id)

    return handler


def abort(service: Service) -> Handler:
    """POST: end a trial at once."""

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        wanted = await _body(service, request, caller, Abort, '{"reason": "…"}')
        return _json(await service.ledger.do(partial(_aborted, request, caller, wanted.reason)), request_id)

    return handler


def _approved(request: Request, caller: Caller, reason: str, ledger: Ledger) -> dict[str, Any]:
    from registry.experiment_requests import approve

    where = request.path_params
    _deployed(ledger, where["model"])
    return approve(ledger, where["model"], where["id"], actor=_actor(caller), reason=reason)


def _aborted(request: Request, caller: Caller, reason: str, ledger: Ledger) -> dict[str, Any]:
    from registry.experiment_requests import abort

    where = request.path_params
    _deployed(ledger, where["model"])
    return abort(ledger, where["model"], where["id"], actor=_actor(caller), reason=reason)


def _actor(caller: Caller) -> str:
    """Who writes to the ledger: never the secret."""
    return f"key {caller.id}"


def _deployed(ledger: Ledger, model: str) -> None:
    from registry.experiment_facts import did_you_mean

    if not is_name(model) or ledger.deployment(model) is None:
        raise ModelUnknown(
            "no model of this name is deployed", where="model", hint=did_you_mean(model, ledger.deployments())
        )


async def _body(service: Service, request: Request, caller: Caller, kind: type[T], wanted: str) -> T:
    # a server without keys answers anybody: that is enough to predict, and not to decide
    caller.may("promote")
    media_type(request, (JSON,))
    data = await read_body(request, service.settings.max_body_bytes)
    try:
        return msgspec.convert(read_json(data, most_rows=LEAST_ROWS), type=kind)
    except msgspec.ValidationError:
        raise Malformed("the body is not that of this request", where="body", expected=wanted) from None


def _json(facts: object, request_id: str, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(facts), status, {"x-request-id": request_id}, JSON)
