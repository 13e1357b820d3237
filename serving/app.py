"""The HTTP application: thin translation of requests onto the data plane. One function wires it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, Counter
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from monitoring.metrics import ServeMetrics
from monitoring.spool import Spool
from registry import __version__
from registry.errors import PereneError
from serving import dialects, openapi, wording
from serving.answering import Asked, Reply, prediction, request_id_of
from serving.auth import ANYBODY, Caller, Keys, secret_of
from serving.body import JSON, media_type, read_body
from serving.dataplane import DataPlane
from serving.dialects import columns
from serving.dialects.dialect import PERENE, Dialect, of_path
from serving.errors import Limited, Malformed, Overloaded, status_of
from serving.fallbacks import Fallbacks
from serving.gpus import Gpus
from serving.guard import Guard, page_headers
from serving.idempotency import Idempotency
from serving.labels import read_items
from serving.limits import Limits
from serving.meters import Meters
from serving.models import Loader, Model, Table
from serving.native import NativeEngine
from serving.numbers import Numbers
from serving.refused import PROBLEM, refused
from serving.residents import Residents, resident_names
from serving.seen import Observer, Seen, pattern_of
from serving.settings import ServingSettings
from serving.state import parse_state, state_bytes
from serving.usage import Usages
from serving.web import Guarded

Handler = Callable[[Request, Caller, str], Awaitable[Response]]

_log = logging.getLogger("perene.serving")


class Service:
    """State of one serving process: the table of models, the keys, the spool."""

    def __init__(
        self, settings: ServingSettings, cache: Path, spool: Spool, metrics: ServeMetrics, observer: Observer
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.observer = observer
        self.spool = spool
        self.fallbacks = Fallbacks(metrics)
        self.gpus = Gpus()
        self.plane = DataPlane(spool, metrics, self.fallbacks)
        self.meters = Meters(metrics)
        self.table = Table()
        self._cache = cache
        self._loader = Loader(cache, settings, spool, metrics, self.fallbacks, self.gpus)
        self.residents = Residents(self, self._loader, settings.max_models)
        self.limits = Limits(
            settings.limits, cache.parent / "run", largest=settings.max_rows, away=partial(_count_away, metrics)
        )
        self.idempotency = Idempotency(cache.parent / "run", settings.max_body_bytes)
        self.usage = Usages(metrics)
        self.numbers = Numbers(metrics.registry, self.settle)
        self.guard = Guard(settings.web, settings.host)
        self._keys = Keys((), self.limits)
        self._taken = b""
        self._behind: dict[str, float] = {}
        self.ends_at = math.inf
        """When what is in flight must be answered, on the clock of `time.monotonic`, once the process has to end."""

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
        self.usage.flush()
        self.limits.sweep()
        for name, model in self.table.models.items():
            waiting = sum(version.batcher.waiting for version in model.versions.values())
            self.metrics.queue_depth.labels(model=name).set(waiting)
        for name, since in self._behind.items():
            self.metrics.alias_lag_seconds.labels(model=name).set(max(0.0, time.time() - since))
        if handed == self._taken:
            return
        state = parse_state(handed)
        if state is None:
            return
        self._keys = Keys(state.keys, self.limits)
        async with self.residents.swapping:
            self.table = await asyncio.to_thread(self._loader.build, state, self.table)
        self._taken = handed
        # the puller tries again and hands over again: the lag counts from the first time
        self._behind = {f.model: self._behind.get(f.model, time.time()) for f in self.table.failures}
        for name in self.table.models.keys() - self._behind.keys():
            self.metrics.alias_lag_seconds.labels(model=name).set(0.0)
        _log.info("serving.table", extra={"revision": state.revision, "models": sorted(self.table.models)})

    def close(self) -> None:
        """End the threads of batchers and the processes of native models; nothing is asked any more."""
        for version in [v for m in self.table.models.values() for v in m.versions.values()]:
            version.batcher.close()
            if isinstance(version.engine, NativeEngine):
                version.engine.close()

    def settle(self) -> None:
        """Put what is counted elsewhere, because that is cheaper there, into the metrics: before anybody reads them."""
        self.usage.flush()
        self.meters.count()
        self.plane.count()
        self.gpus.observe(self.metrics)
        for reason, lost in self.spool.stats().lost.items():
            child = self.metrics.events_lost_total.labels(reason=reason)
            child.inc(max(0.0, lost - child._value.get()))

    def check(self, request: Request, scope: str) -> Caller:
        """The caller, if it may do `scope` on the model of the path."""
        return self.allow(secret_of(request.headers), scope, request.path_params.get("model"))

    def allow(self, secret: str, scope: str, model: str | None) -> Caller:
        """The caller behind `secret`, if it may do `scope` on `model`."""
        return self._keys.check(secret, scope, model) if self.settings.auth else self._keys.anybody

    def predicts(self, headers: Mapping[bytes, bytes], model: str) -> Caller:
        """The caller of a request with these raw headers, if it may predict with `model`: for the fast lane."""
        given = headers.get(b"authorization", b"")
        if self.settings.auth and given[:7].lower() == b"bearer ":
            return self._keys.bearer(given, "predict", model)
        return self.allow(headers.get(b"x-api-key", b"").decode("latin-1").strip(), "predict", model)

    def counter(self, model: str, code: int) -> Counter:
        """What refusals of the fast lane are counted in, with the labels that `count` would give them."""
        return self.metrics.requests_total.labels(model=model, version="", arm="", protocol="perene", code=str(code))

    def count(self, model: str, version: str, arm: str, code: int, protocol: str = "perene") -> None:
        """Count an answer. `model` is a deployed one or empty: labels stay bounded."""
        labels = {"model": model, "version": version, "arm": arm, "protocol": protocol, "code": str(code)}
        self.metrics.requests_total.labels(**labels).inc()


def create_app(
    settings: ServingSettings,
    cache: Path,
    spool: Spool,
    metrics: ServeMetrics,
    observer: Observer | None = None,
    *,
    channel: socket.socket | None = None,
) -> FastAPI:
    """The application over `cache`; starts cold from what was handed over last, whatever else is down.

    With a `channel`, this process is one of several workers, and the parent at its other end knows the numbers of all.
    """
    service = Service(settings, cache, spool, metrics, observer or Observer())
    service.numbers = Numbers(metrics.registry, service.settle, channel)
    metrics.build_info.labels(version=__version__).set(1)
    metrics.workers.set(1)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.refresh()
        follower = asyncio.create_task(service.follow())
        async with service.numbers.told(), dialects.listening(service):
            yield
        follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await follower
        service.close()
        await service.limits.close()
        await asyncio.to_thread(service.observer.close)
        service.idempotency.close()

    # a redirect would send the caller to whatever host its own header names
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    _routes(app, service)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _http_error)
    app.add_middleware(Guarded, guard=service.guard, refuse=partial(_turned_away, service))
    return app


def _routes(app: FastAPI, service: Service) -> None:
    def add(path: str, method: str, scope: str | None, handler: Handler, dialect: Dialect = PERENE) -> None:
        app.add_route(path, _endpoint(service, pattern_of(path), scope, handler, dialect), methods=[method])

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
    service: Service, route: str, scope: str | None, handler: Handler, dialect: Dialect
) -> Callable[[Request], Awaitable[Response]]:
    """Authentication first, then the handler; errors of ours become answers here and nowhere else."""

    async def endpoint(request: Request) -> Response:
        request_id = _request_id(request)
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
    return Asked(lambda decoder: decoder.decode(data), lambda done: Reply(wording.body_of(done)))


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


def _count_away(metrics: ServeMetrics) -> None:
    metrics.fallbacks_total.labels(model="", kind="limits").inc()


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
