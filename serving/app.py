"""The HTTP application: thin translation of requests onto the data plane. One function wires it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from monitoring.metrics import ServeMetrics
from monitoring.spool import Spool
from registry import __version__
from registry.errors import PereneError
from serving import dialects, openapi
from serving.answering import Asked, Reply, prediction, request_id_of
from serving.auth import ANYBODY, Caller, Keys, secret_of
from serving.body import JSON, media_type, read_body
from serving.dataplane import DataPlane
from serving.dialects import columns
from serving.dialects.dialect import PERENE, Dialect, of_path
from serving.errors import Malformed, Unauthenticated, body_of, status_of
from serving.labels import read_items
from serving.meters import Meters
from serving.models import Loader, Model, Table
from serving.native import Lanes, NativeEngine
from serving.settings import ServingSettings
from serving.state import parse_state, state_bytes

Handler = Callable[[Request, Caller, str], Awaitable[Response]]

_PROBLEM = "application/problem+json"
_log = logging.getLogger("perene.serving")


class Service:
    """State of one serving process: the table of models, the keys, the spool."""

    def __init__(self, settings: ServingSettings, cache: Path, spool: Spool, metrics: ServeMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.spool = spool
        self.plane = DataPlane(spool, metrics)
        self.meters = Meters(metrics)
        self.table = Table()
        self.lanes = Lanes()
        self._cache = cache
        self._loader = Loader(cache, settings, spool, metrics)
        self._keys = Keys(())
        self._taken = b""
        self._behind: dict[str, float] = {}

    async def follow(self) -> None:
        """Look for a new hand-over for ever; load it beside what serves, then swap the pointer."""
        while True:
            try:
                await self.refresh()
            except Exception:  # whatever one hand-over holds, the next one must still be looked at
                _log.exception("serving.refresh_failed")
            await asyncio.sleep(self.settings.poll_seconds)

    async def refresh(self) -> None:
        """Take in the newest hand-over, if there is one."""
        handed = state_bytes(self._cache)
        stats = self.spool.stats()
        self.metrics.spool_bytes.set(stats.bytes)
        for name, since in self._behind.items():
            self.metrics.alias_lag_seconds.labels(model=name).set(max(0.0, time.time() - since))
        if handed == self._taken:
            return
        state = parse_state(handed)
        if state is None:
            return
        self._keys = Keys(state.keys)
        self.table = await asyncio.to_thread(self._loader.build, state, self.table)
        self._taken = handed
        # the puller tries again and hands over again: the lag counts from the first time
        self._behind = {f.model: self._behind.get(f.model, time.time()) for f in self.table.failures}
        for name in self.table.models.keys() - self._behind.keys():
            self.metrics.alias_lag_seconds.labels(model=name).set(0.0)
        _log.info("serving.table", extra={"revision": state.revision, "models": sorted(self.table.models)})

    def close(self) -> None:
        """End the processes of native models; nothing is asked any more."""
        self.lanes.close()
        for version in [v for m in self.table.models.values() for v in m.versions.values()]:
            if isinstance(version.engine, NativeEngine):
                version.engine.close()

    def check(self, request: Request, scope: str) -> Caller:
        """The caller, if it may do `scope` on the model of the path."""
        return self.allow(secret_of(request.headers), scope, request.path_params.get("model"))

    def allow(self, secret: str, scope: str, model: str | None) -> Caller:
        """The caller behind `secret`, if it may do `scope` on `model`."""
        return self._keys.check(secret, scope, model) if self.settings.auth else ANYBODY

    def count(self, model: str, version: str, arm: str, code: int, protocol: str = "perene") -> None:
        """Count an answer. `model` is a deployed one or empty: labels stay bounded."""
        labels = {"model": model, "version": version, "arm": arm, "protocol": protocol, "code": str(code)}
        self.metrics.requests_total.labels(**labels).inc()


def create_app(settings: ServingSettings, cache: Path, spool: Spool, metrics: ServeMetrics) -> FastAPI:
    """The application over `cache`; starts cold from what was handed over last, whatever else is down."""
    service = Service(settings, cache, spool, metrics)
    metrics.build_info.labels(version=__version__).set(1)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.refresh()
        follower = asyncio.create_task(service.follow())
        async with dialects.listening(service):
            yield
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower
        service.close()

    # a redirect would send the caller to whatever host its own header names
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    _routes(app, service)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _http_error)
    return app


def _routes(app: FastAPI, service: Service) -> None:
    def add(path: str, method: str, scope: str | None, handler: Handler, dialect: Dialect = PERENE) -> None:
        app.add_route(path, _endpoint(service, scope, handler, dialect), methods=[method])

    predict, feedback = prediction(service, _own, (JSON, *columns.MEDIA)), _feedback(service)
    add("/predict", "POST", "predict", predict)
    add("/models/{model}/predict", "POST", "predict", predict)
    add("/models/{model}/versions/{version}/predict", "POST", "predict", predict)
    add("/feedback", "POST", "feedback", feedback)
    add("/models/{model}/feedback", "POST", "feedback", feedback)
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
    service: Service, scope: str | None, handler: Handler, dialect: Dialect
) -> Callable[[Request], Awaitable[Response]]:
    """Authentication first, then the handler; errors of ours become answers here and nowhere else."""

    async def endpoint(request: Request) -> Response:
        request_id = _request_id(request)
        service.metrics.requests_in_progress.inc()
        try:
            caller = ANYBODY if scope is None else service.check(request, scope)
            response = await handler(request, caller, request_id)
            if scope not in (None, "predict"):  # a prediction is counted with its version and arm
                service.count(_deployed(service, request), "", "", response.status_code, dialect.protocol)
            return response
        except PereneError as error:
            return _refusal(service, request, error, request_id, dialect)
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            service.metrics.requests_in_progress.dec()

    return endpoint


def _own(data: bytes, media: str, request: Request) -> Asked:
    """Perene's own dialect, and tables of typed columns."""
    if media in columns.MEDIA:
        return columns.asked(data, media, request)
    return Asked(lambda decoder: decoder.decode(data), lambda done: Reply(done.body()))


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

    return handler


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
            if not ready:
                body["reason"] = "no deployed model is loaded and warm"
        return _json(body, request_id, status=200 if ready else 503)

    return handler


def _metrics(service: Service) -> Handler:
    async def handler(_request: Request, _caller: Caller, _request_id: str) -> Response:
        for reason, lost in service.spool.stats().lost.items():
            child = service.metrics.events_lost_total.labels(reason=reason)
            child.inc(max(0.0, lost - child._value.get()))
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return handler


def _openapi(service: Service) -> Handler:
    async def handler(_request: Request, _caller: Caller, request_id: str) -> Response:
        return _json(openapi.document(service.table, __version__), request_id)

    return handler


async def _docs(_request: Request, _caller: Caller, _request_id: str) -> Response:
    return HTMLResponse((Path(__file__).parent / "docs.html").read_text())


def _facts(model: Model) -> dict[str, Any]:
    champion = model.champion
    return {
        "name": model.name,
        "revision": model.revision,
        "champion": model.route.champion,
        "candidate": model.route.candidate,
        "mode": model.route.mode,
        "weight": model.route.weight,
        "provider": champion.engine.provider,
        "digest": champion.digest,
        "verdict": champion.certificate.get("verdict"),
        "output": champion.contract.output.kind,
    }


def _refusal(service: Service, request: Request, error: PereneError, request_id: str, dialect: Dialect) -> Response:
    status = status_of(error)
    service.count(_deployed(service, request), "", "", status, dialect.protocol)
    if status in (400, 413, 415, 422):
        service.metrics.validation_errors_total.labels(kind=error.code).inc()
    elif status >= 500:
        _log.error("serving.failed", extra={"code": error.code, "request_id": request_id})
    problem = _wants_problem(request)
    headers = {"x-request-id": request_id}
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if status == 503:
        headers["retry-after"] = "1"
    body = body_of(error, request_id, problem=True) if problem else dialect.envelope(error, request_id)
    return Response(body, status, headers, _PROBLEM if problem else JSON)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, and what nobody foresaw, in the same envelope."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = {404: "there is no such route", 405: "this route does not take this method"}.get(status, "refused")
    dialect = of_path(request.url.path)
    headers = dict(getattr(error, "headers", None) or {})
    request_id = _request_id(request)
    facts = {"code": f"http_{status}", "message": text, "request_id": request_id, "hint": "GET /openapi.json"}
    problem = _wants_problem(request)
    head = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": text}
    body = msgspec.json.encode({**head, **facts} if problem else {"error": facts})
    if not problem and dialect is not PERENE:
        body = dialect.envelope(Malformed(text), request_id)
    return Response(body, status, {**headers, "x-request-id": request_id}, _PROBLEM if problem else JSON)


def _wants_problem(request: Request) -> bool:
    return _PROBLEM in request.headers.get("accept", "")


def _deployed(service: Service, request: Request) -> str:
    """The model of the path for a metric's label; empty unless it is deployed: labels stay bounded."""
    name = request.path_params.get("model", "")
    return name if name in service.table.models else ""


def _request_id(request: Request) -> str:
    return request_id_of(request.headers.get("x-request-id", ""))


def _json(value: Any, request_id: str, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, {"x-request-id": request_id}, JSON)
