"""The HTTP application: thin translation of requests onto the data plane. One function wires it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.spool import Spool
from registry import __version__
from registry.errors import PereneError
from serving import dialects, openapi
from serving.access.auth import ANYBODY, Caller
from serving.access.guard import page_headers
from serving.access.web import Guarded
from serving.answering import Asked, Reply, prediction, request_id_of
from serving.decode import Batch, Decoder
from serving.dialects import columns
from serving.dialects.dialect import PERENE, About, Dialect, about, of_path
from serving.errors import Limited, Malformed, Overloaded, status_of
from serving.experiments import routes as experiments
from serving.explanations import routes as explanations
from serving.fleet.numbers import Numbers
from serving.hooks import routes as hooks
from serving.jobs import later
from serving.jobs import routes as jobs
from serving.labels import read_items
from serving.loaded.models import Model
from serving.loaded.residents import resident_names
from serving.observed.seen import Observer, Seen, pattern_of
from serving.service import Service
from serving.settings import ServingSettings
from serving.wire import wording
from serving.wire.body import JSON, media_type, read_body
from serving.wire.refused import PROBLEM, refused

Handler = Callable[[Request, Caller, str], Awaitable[Response]]
Scope = str | Mapping[str, str] | None
"""What a key needs for a route, or for each of its methods; none: no key is asked for."""

_log = logging.getLogger("perene.serving")


def create_app(
    settings: ServingSettings,
    cache: Path,
    spool: Spool,
    metrics: ServeMetrics,
    observer: Observer | None = None,
    *,
    channel: socket.socket | None = None,
    lake_url: str = "",
    ledger_url: str = "",
) -> FastAPI:
    """The application over `cache`; starts cold from what was handed over last, whatever else is down.

    With a `channel`, this process is one of several workers, and the parent at its other end knows the numbers of all.
    """
    service = Service(settings, cache, spool, metrics, observer or Observer(), lake_url, ledger_url)
    service.numbers = Numbers(metrics.registry, service.settle, channel)
    predict = prediction(service, _own, (JSON, *columns.MEDIA))
    answerer = later.Answerer(service, predict)
    metrics.build_info.labels(version=__version__).set(1)
    metrics.workers.set(1)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.refresh()
        follower = asyncio.create_task(service.follow())
        async with service.numbers.told(), dialects.listening(service), answerer.at_work():
            yield
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower
        service.close()
        await service.limits.close()
        await asyncio.to_thread(service.observer.close)
        service.desk.close()
        await asyncio.to_thread(service.explanations.close)
        service.idempotency.close()
        service.ledger.close()

    # a redirect would send the caller to whatever host its own header names
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    _routes(app, service, predict)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _http_error)
    app.add_middleware(Guarded, guard=service.guard, refuse=partial(_turned_away, service))
    return app


def _routes(app: FastAPI, service: Service, now: Handler) -> None:
    def add(path: str, method: str, scope: Scope, handler: Handler, dialect: Dialect = PERENE) -> None:
        app.add_route(path, _endpoint(service, pattern_of(path), scope, handler, dialect), methods=method.split())

    predict, feedback = later.deferrable(service, now, _own), _feedback(service)
    add("/predict", "POST", "predict", predict)
    add("/models/{model}/predict", "POST", "predict", predict)
    add("/models/{model}/versions/{version}/predict", "POST", "predict", now)
    add("/models/{model}/batch", "POST", "predict", jobs.submit(service))
    add("/models/{model}/batch/{job}/result", "GET", "predict", jobs.result(service))
    add("/models/{model}/batch/{job}", "GET DELETE", "predict", jobs.one(service))
    add("/jobs/{job}", "GET DELETE", "predict", jobs.one(service))
    add("/jobs", "GET", "predict", jobs.listed(service))
    add("/models/{model}/explain", "POST", "predict", explanations.explain(service))
    add("/feedback", "POST", "feedback", feedback)
    add("/models/{model}/feedback", "POST", "feedback", feedback)
    experiments.mount(add, service)
    hooks.mount(add, service)
    add("/models", "GET", "read", _list(service))
    add("/models/{model}", "GET", "read", _describe(service))
    add("/models/{model}/schema", "GET", "read", _schema(service))
    add("/models/{model}/card", "GET", "read", _card(service))
    add("/livez", "GET", None, _live)
    add("/readyz", "GET", None, _ready(service))
    add("/healthz", "GET", None, _ready(service))
    add("/metrics", "GET", None, _metrics(service))
    add("/openapi.json", "GET", None, _openapi(service))
    add("/docs", "GET", None, _docs)
    dialects.mount(add, service)


def _endpoint(
    service: Service, route: str, scopes: Scope, handler: Handler, dialect: Dialect
) -> Callable[[Request], Awaitable[Response]]:
    """Authentication first, then the handler; errors of ours become answers here and nowhere else."""

    async def endpoint(request: Request) -> Response:
        request_id = _request_id(request)
        scope = scopes[request.method] if isinstance(scopes, Mapping) else scopes
        seen = request.state.seen = Seen(request_id, dialect.protocol, request.method, route)
        service.metrics.requests_in_progress.inc()
        caller, entered = ANYBODY, False
        try:
            caller = ANYBODY if scope is None else service.check(request, scope)
            seen.key = caller.id
            await service.limits.admit(caller)
            entered = True
            response = await handler(request, caller, request_id)
            if scope not in (None, "predict"):  # a prediction is counted with its version and arm
                service.count(_deployed(service, request), "", "", response.status_code, dialect.protocol)
        except PereneError as error:
            response = _refusal(service, request, error, request_id, dialect)
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:  # a defect of ours: the caller gets an answer, the log what failed
            _log.exception("serving.failed", extra={"request_id": request_id})
            response = _failure(service, request, error, request_id, dialect)
        finally:
            service.metrics.requests_in_progress.dec()
            if entered:
                service.limits.leave(caller)
        if caller.limits is not None:
            response.headers.update(dict(service.limits.headers(caller)))
        seen.model = seen.model or _deployed(service, request)
        service.observer.tell(seen, response.status_code, request.headers)
        return response

    return endpoint


def _own(data: bytes, media: str, request: Request) -> Asked:
    """Perene's own dialect, and tables of typed columns."""
    if media in columns.MEDIA:
        return columns.asked(data, media, request)

    def read(decoder: Decoder) -> Batch:
        """What the body does not say, the headers may: else a row that names nobody could never be erased."""
        batch, who = decoder.decode(data), about(request.headers)
        if who == About():
            return batch
        at = who.at if batch.at is None else batch.at
        return msgspec.structs.replace(batch, entity=batch.entity or who.entity, at=at)

    return Asked(read, lambda done: Reply(wording.body_of(done)))


def _feedback(service: Service) -> Handler:
    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        media_type(request, (JSON,))
        data = await read_body(request, service.settings.max_body_bytes)
        name = request.path_params.get("model")
        if name is not None:
            service.table.get(name)

        def allowed(wanted: str) -> Model:
            caller.may_use(wanted)
            return service.table.get(wanted)

        results = await service.plane.feedback(allowed, read_items(data, name, most=service.settings.max_rows))
        return _json({"results": results}, request_id)

    async def once(request: Request, caller: Caller, request_id: str) -> Response:
        # a repeat must not undo what somebody else said of the prediction meanwhile
        if "idempotency-key" in request.headers:
            return await service.idempotency.once(request, caller, request_id, handler)
        return await handler(request, caller, request_id)

    return once


def _list(service: Service) -> Handler:
    async def handler(_request: Request, caller: Caller, request_id: str) -> Response:
        shown = [m for name, m in sorted(service.table.models.items()) if not caller.models or name in caller.models]
        return _json({"models": [_facts(model) for model in shown]}, request_id)

    return handler


def _describe(service: Service) -> Handler:
    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        model = service.table.get(request.path_params["model"])
        return _json({**_facts(model), "certificate": dict(model.champion.certificate)}, request_id)

    return handler


def _schema(service: Service) -> Handler:
    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        return _json(service.table.get(request.path_params["model"]).champion.contract.json_schema(), request_id)

    return handler


def _card(service: Service) -> Handler:
    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        card = service.table.get(request.path_params["model"]).champion.card
        return Response(card, media_type="text/markdown; charset=utf-8", headers={"x-request-id": request_id})

    return handler


async def _live(_request: Request, _caller: Caller, request_id: str) -> Response:
    return _json({"status": "live"}, request_id)


def _ready(service: Service) -> Handler:
    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        ready = bool(service.table.models)
        body: dict[str, Any] = {"status": "ready" if ready else "not ready"}
        if "verbose" in request.query_params:
            body["revision"] = service.table.revision
            body["models"] = {m.name: sorted(m.versions) for m in service.table.models.values()}
            body["failures"] = [msgspec.to_builtins(f) for f in service.table.failures]
            body["fallbacks"] = service.fallbacks.told()
            body["resident"] = resident_names(service.table)
            if not ready:
                body["reason"] = "no deployed model is loaded and warm"
        return _json(body, request_id, status=200 if ready else 503)

    return handler


def _metrics(service: Service) -> Handler:
    async def handler(_request: Request, _caller: Caller, _request_id: str) -> Response:
        return Response(await service.numbers.page(), media_type=CONTENT_TYPE_LATEST)

    return handler


def _openapi(service: Service) -> Handler:
    async def handler(_request: Request, _caller: Caller, request_id: str) -> Response:
        return _json(openapi.document(service.table, __version__, service.settings.default_model), request_id)

    return handler


async def _docs(_request: Request, _caller: Caller, _request_id: str) -> Response:
    page = (Path(__file__).parent / "docs.html").read_text()
    return HTMLResponse(page, headers=page_headers(page))


def _facts(model: Model) -> dict[str, Any]:
    champion = model.champion
    return {
        "name": model.name,
        "revision": model.revision,
        "champion": model.route.champion,
        "candidate": model.route.candidate,
        "mode": model.route.mode,
        "weight": model.route.weight,
        "resident": model.resident,
        "provider": champion.engine.provider,
        "placement": dict(champion.engine.placement),
        "digest": champion.digest,
        "verdict": champion.certificate.get("verdict"),
        "output": champion.contract.output.kind,
        "classes": champion.contract.output.classes,
        "targets": champion.contract.output.targets,
        "scores": champion.contract.output.scores,
    }


def _refusal(service: Service, request: Request, error: PereneError, request_id: str, dialect: Dialect) -> Response:
    status = status_of(error)
    service.count(_deployed(service, request), "", "", status, dialect.protocol)
    if status in (400, 413, 415, 422):
        service.metrics.validation_errors_total.labels(kind=error.code).inc()
    elif isinstance(error, Limited):
        service.metrics.rejected_total.labels(reason=error.reason).inc()
    elif status >= 500 and not isinstance(error, Overloaded):  # a line for each would be load, too
        _log.error("serving.failed", extra={"code": error.code, "request_id": request_id})
    made = refused(error, request_id, dialect.envelope, problem=_wants_problem(request))
    return Response(made.body, made.status, made.headers, made.media)


def _turned_away(service: Service, request: Request, error: PereneError) -> Response:
    """The answer to a request that the guard did not let through: it has no route yet."""
    request_id, dialect = _request_id(request), of_path(request.url.path)
    response = _refusal(service, request, error, request_id, dialect)
    service.observer.tell(Seen(request_id, dialect.protocol, request.method), response.status_code, request.headers)
    return response


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    service: Service = request.app.state.service
    dialect, request_id = of_path(request.url.path), _request_id(request)
    response = _failure(service, request, error, request_id, dialect)
    service.observer.tell(Seen(request_id, dialect.protocol, request.method), response.status_code, request.headers)
    return response


def _failure(service: Service, request: Request, error: Exception, request_id: str, dialect: Dialect) -> Response:
    """What no route answers and what nobody foresaw, in the same envelope."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    service.count(_deployed(service, request), "", "", status, dialect.protocol)
    text = {404: "there is no such route", 405: "this route does not take this method"}.get(status, "refused")
    headers = dict(getattr(error, "headers", None) or {})
    facts = {"code": f"http_{status}", "message": text, "request_id": request_id, "hint": "GET /openapi.json"}
    problem = _wants_problem(request)
    head = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": text}
    body = msgspec.json.encode({**head, **facts} if problem else {"error": facts})
    if not problem and dialect is not PERENE:
        body = dialect.envelope(Malformed(text), request_id)
    return Response(body, status, {**headers, "x-request-id": request_id}, PROBLEM if problem else JSON)


def _wants_problem(request: Request) -> bool:
    return PROBLEM in request.headers.get("accept", "")


def _deployed(service: Service, request: Request) -> str:
    """The model of the path for a metric's label; empty unless it is deployed: labels stay bounded."""
    name = request.path_params.get("model", "")
    return name if name in service.table.models else ""


def _request_id(request: Request) -> str:
    return request_id_of(request.headers.get("x-request-id", ""))


def _json(value: Any, request_id: str, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, {"x-request-id": request_id}, JSON)
