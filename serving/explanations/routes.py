"""`POST /models/{model}/explain`: which columns moved predictions, of rows or of recorded ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response

from registry.errors import BundleCorrupt, NotAllowed, NotExplained, StoreUnavailable, VersionUnknown
from serving.access.auth import Caller
from serving.answering import INLINE_BYTES, target
from serving.errors import InferenceFailed
from serving.explanations.asked import check_kept, method_of, read
from serving.explanations.messages import Ask, Item, Method, Where
from serving.loaded.models import Model, Version
from serving.wire.body import JSON, media_type, read_body

if TYPE_CHECKING:
    from serving.service import Service

Handler = Callable[[Request, Caller, str], Awaitable[Response]]
_KINDS: Final = {
    kind.code: kind for kind in (BundleCorrupt, NotAllowed, NotExplained, StoreUnavailable, VersionUnknown)
}
"""What the child may find wrong with a whole request; whatever else it meets is the model's failure."""


def explain(service: Service) -> Handler:
    """The route's handler."""
    desk = service.explanations

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        model, pinned = target(service, request, caller)
        method = method_of(request.query_params)
        media_type(request, (JSON,))
        data = await read_body(request, service.settings.max_body_bytes)
        decoder = (pinned or model.champion).decoder
        most = desk.settings.max_rows
        heavy = len(data) >= INLINE_BYTES
        asked = await asyncio.to_thread(read, data, decoder, most) if heavy else read(data, decoder, most)
        await service.limits.charge(caller, len(asked))
        if asked.ids:
            items = await _of_ids(service, model, pinned, asked.ids, method)
        else:
            number = (pinned or model.champion).version
            ask = Ask(model.name, _places(service, model), number, rows=asked.rows, method=method)
            items = await _ask(service, ask)
        service.count(model.name, str((pinned or model.champion).version), "", 200)
        body = b'{"model":"%b","explanations":[%b]}' % (model.name.encode(), b",".join(item.shown for item in items))
        return Response(body, 200, {"x-request-id": request_id}, JSON)

    return handler


async def _of_ids(service: Service, model: Model, pinned: Version | None, ids: list[str], method: Method) -> list[Item]:
    """Those that are known, and then the others."""
    check_kept((pinned or model.champion).contract)
    desk, digest = service.explanations, pinned.digest if pinned is not None else ""
    found = {one: desk.known((model.name, digest, method, one), model.versions) for one in ids}
    left = [one for one in dict.fromkeys(ids) if found[one] is None]
    if left:
        number = None if pinned is None else pinned.version
        for made in await _ask(service, Ask(model.name, _places(service, model), number, ids=left, method=method)):
            found[made.prediction_id] = made
            if made.version:
                desk.keep((model.name, digest, method, made.prediction_id), made)
    return [item for one in ids if (item := found[one]) is not None]


async def _ask(service: Service, ask: Ask) -> list[Item]:
    told = await service.explanations.ask(ask)
    if told.error is not None:
        kind = _KINDS.get(told.error["code"], InferenceFailed)
        raise kind(told.error["message"], where=told.error["where"], hint=told.error["hint"])
    return told.items


def _places(service: Service, model: Model) -> dict[int, Where]:
    return {number: Where(str(service.stored(v).absolute()), v.digest) for number, v in model.versions.items()}
