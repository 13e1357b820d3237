"""`apply` through the real grafana-client against a server in this process that refuses wrong requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.request import Request, urlopen

import jsonschema  # it ships neither annotations nor stubs
import pytest

from grafana.apply import apply
from registry.errors import ConfigInvalid, StoreUnavailable

TOKEN = "glsa_stub"
_TEXT = {"type": "string", "minLength": 1}


def _object(required: list[str], properties: dict[str, Any], *, closed: bool = True) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": not closed}


_REF = _object(["type", "uid"], {"type": {"const": "prometheus"}, "uid": _TEXT})
_TARGET = _object(
    ["refId", "expr", "datasource"],
    {"refId": {"pattern": "^[A-Z]$"}, "expr": _TEXT, "legendFormat": _TEXT, "datasource": _REF,
     "instant": {"type": "boolean"}, "range": {"type": "boolean"}},
)  # fmt: skip
_SPAN = {"type": "integer", "minimum": 0, "maximum": 24}
_GRID = {"w": _SPAN, "h": _SPAN, "x": _SPAN, "y": {"type": "integer"}}
_PANEL = _object(
    ["id", "type", "title", "gridPos"],
    {"id": {"type": "integer"}, "title": _TEXT, "description": {"type": "string"}, "datasource": _REF,
     "type": {"enum": ["row", "timeseries", "stat", "state-timeline", "bargauge", "table"]},
     "gridPos": _object(["h", "w", "x", "y"], _GRID),
     "fieldConfig": _object(["defaults", "overrides"],
                            {"defaults": {"type": "object"}, "overrides": {"type": "array"}}),
     "options": {"type": "object"}, "targets": {"type": "array", "minItems": 1, "items": _TARGET},
     "collapsed": {"type": "boolean"}, "panels": {"type": "array"}},
)  # fmt: skip
_DASHBOARD = _object(
    ["uid", "title", "schemaVersion", "panels", "templating"],
    {"uid": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,40}$"}, "title": _TEXT,
     "schemaVersion": {"type": "integer"},
     "panels": {"type": "array", "minItems": 1, "items": _PANEL}, "id": {"type": "null"}},
    closed=False,
)  # fmt: skip
_SOURCE = _object(
    ["name", "type", "access", "url", "uid"],
    {"name": _TEXT, "type": {"const": "prometheus"}, "access": {"enum": ["proxy", "direct"]}, "uid": _TEXT,
     "url": {"type": "string", "pattern": "^https?://"}, "isDefault": {"type": "boolean"},
     "jsonData": {"type": "object"}},
)  # fmt: skip
SCHEMAS: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/api/folders"): _object(["title"], {"title": _TEXT, "uid": _TEXT}),
    ("POST", "/api/datasources"): _SOURCE,
    ("PUT", "/api/datasources/uid/perene-prometheus"): _SOURCE,
    ("POST", "/api/dashboards/db"): _object(
        ["dashboard", "folderUid", "overwrite"],
        {"dashboard": _DASHBOARD, "folderUid": {"const": "perene"}, "overwrite": {"const": True}, "message": _TEXT}),
}  # fmt: skip


class _Stub(BaseHTTPRequestHandler):
    """As much of Grafana's HTTP API as `apply` may use; anything else is 404, a wrong body is 400."""

    seen: ClassVar[list[tuple[str, str]]]
    stored: ClassVar[dict[str, dict[str, Any]]]
    failing: ClassVar[bool]

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _handle(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path))
        if self.failing:
            self._answer(500, {"message": "database is locked"})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"message": "Invalid API key"})
        elif self.command == "GET":
            body = self.stored.get(self.path)
            self._answer(200, body) if body is not None else self._answer(404, {"message": "not found"})
        else:
            self._write(raw)

    def _write(self, raw: bytes) -> None:
        schema = SCHEMAS.get((self.command, self.path))
        if schema is None:
            self._answer(404, {"message": "no such route"})
            return
        try:
            body = json.loads(raw)
            jsonschema.validate(body, schema)
        except (ValueError, jsonschema.ValidationError) as error:
            self._answer(400, {"message": str(error)[:200]})
            return
        if self.path == "/api/folders":
            there = "/api/folders/perene" in self.stored
            self.stored["/api/folders/perene"] = body
            self._answer(412 if there else 200, {"uid": "perene", "message": "there"} if there else body)
        elif self.path.startswith("/api/datasources"):
            self.stored[f"/api/datasources/uid/{body['uid']}"] = body
            self._answer(200, {"id": 1, "datasource": body})
        else:
            version = self.stored.get("/dashboard", {"version": 0})["version"] + 1
            self.stored["/dashboard"] = {"version": version, "body": body}
            uid = body["dashboard"]["uid"]
            self._answer(200, {"uid": uid, "url": f"/d/{uid}/loop", "version": version, "status": "success"})

    do_GET = do_POST = do_PUT = _handle  # noqa: N815 - the base class looks for these names

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: pytest's output is read by people."""


@pytest.fixture
def server() -> Iterator[str]:
    _Stub.seen, _Stub.stored, _Stub.failing = [], {}, False
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Stub)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}"
    http.shutdown()
    thread.join()
    http.server_close()


def test_an_empty_server_gets_folder_source_and_dashboard(server: str) -> None:
    """In that order, and the answer says where the dashboard is."""
    done = apply(server, TOKEN)
    writes = [request for request in _Stub.seen if request[0] != "GET"]
    assert writes == [("POST", "/api/folders"), ("POST", "/api/datasources"), ("POST", "/api/dashboards/db")]
    assert (done.url, done.version) == (f"{server}/d/perene-loop/loop", 1)


def test_repeating_it_updates_what_is_there(server: str) -> None:
    """The second time creates no second data source."""
    apply(server, TOKEN)
    _Stub.seen.clear()
    assert apply(server, TOKEN, prometheus_url="https://metrics.example").version == 2
    assert ("PUT", "/api/datasources/uid/perene-prometheus") in _Stub.seen
    assert ("POST", "/api/datasources") not in _Stub.seen
    assert _Stub.stored["/api/datasources/uid/perene-prometheus"]["url"] == "https://metrics.example"


def test_a_refused_token_is_named_and_not_echoed(server: str) -> None:
    """401 is a configuration error that says what to create."""
    with pytest.raises(ConfigInvalid, match="refused the token") as caught:
        apply(server, "glsa_wrong")
    assert "glsa_wrong" not in repr(vars(caught.value))


def test_a_body_the_server_refuses_is_an_error(server: str) -> None:
    """The stub does refuse: a data source without a web address gives 400."""
    with pytest.raises(ConfigInvalid, match="refused what was sent"):
        apply(server, TOKEN, prometheus_url="prometheus:9090")


def test_a_failing_server_is_unavailable(server: str) -> None:
    """500 is not the caller's fault."""
    _Stub.failing = True
    with pytest.raises(StoreUnavailable, match="failed"):
        apply(server, TOKEN)


def test_no_server_is_unavailable(server: str) -> None:
    """Nothing listens on the discard port."""
    with pytest.raises(StoreUnavailable, match="no Grafana answers"):
        apply("http://127.0.0.1:9", TOKEN)


@pytest.mark.parametrize(("url", "token"), [("grafana:3000", TOKEN), ("", TOKEN), ("http://grafana:3000", "")])
def test_unusable_arguments_are_refused_before_any_request(url: str, token: str) -> None:
    """With the name of the argument."""
    with pytest.raises(ConfigInvalid):
        apply(url, token)


def test_the_stub_is_reached_over_http(server: str) -> None:
    """Positive control of the stub: an unknown route is 404 for any client, so paths are checked."""
    request = Request(f"{server}/api/nothing", headers={"Authorization": f"Bearer {TOKEN}"})
    with pytest.raises(OSError, match="404") as caught:
        urlopen(request)
    caught.value.close()  # type: ignore[attr-defined]
