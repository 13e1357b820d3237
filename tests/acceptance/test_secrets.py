"""No secret and no caller's value leaves a server: canaries in every place where one can be, then a search.

What is meant to hold them is left out: stored features and labels in spool and lake, digests of keys in the ledger, and
the settings that a child reads, which only their owner can. Names that callers choose (ids of requests and of
predictions, columns) are echoed, so they hold no canary.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from perene.config import load
from perene.output import fail
from registry.errors import ConfigInvalid
from registry.ledger import Ledger
from registry.signing import new_key
from serving.dialects.proto import messages
from tests.integration.serving_toy import ROW, Cache, offset_bundle, pole_bundle
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
WAIT_S = 90.0
KINDS = ("dsn", "mlflow", "redis", "key", "header", "basic", "query", "value", "entity", "label", "path")
CANARY: Mapping[str, str] = {kind: f"cnry{kind}q7" for kind in KINDS}
PLANTED = """
import sys
from serving import dataplane, main
log = dataplane._log
before = dataplane.DataPlane.log
def telling(self, version, record, *more):
    log.warning("planted", extra={"rows": [list(row) for row in record.rows]})
    before(self, version, record, *more)
dataplane.DataPlane.log = telling
raise SystemExit(main.main())
"""


@dataclass
class Seen:
    """Every text that left the processes, by where it was found."""

    texts: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, text: str) -> None:
        self.texts[name] = self.texts.get(name, "") + text

    def hits(self, canaries: Mapping[str, str]) -> list[tuple[str, str]]:
        return [(name, kind) for name, text in self.texts.items() for kind, word in canaries.items() if word in text]


@contextlib.contextmanager
def running(command: list[str], home: Path, seen: Seen, port: int, key: str) -> Iterator[httpx.Client]:
    """The command until the block ends, its output and the arguments of it and its children kept."""
    log = home.parent / f"out-{port}.txt"
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=environment)
    try:
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=WAIT_S) as client:
            deadline = time.monotonic() + WAIT_S
            while not _ready(client):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield client
            whole = psutil.Process(process.pid)
            for each in [whole, *whole.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    seen.add("ps", " ".join(each.cmdline()))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        seen.add("output", log.read_text())
        for file in (home / "logs").glob("*"):
            seen.add(f"logs/{file.name}", file.read_text())


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def told(seen: Seen, name: str, reply: httpx.Response) -> None:
    seen.add(f"answer {name}", "\n".join([reply.text, *(f"{k}: {v}" for k, v in reply.headers.items())]))


def send_everything(client: httpx.Client, grpc_port: int, key: str, seen: Seen) -> set[int]:
    """Canaries by every way in; returns the statuses that came back."""
    row = {**ROW, "carrier": CANARY["value"]}
    wrong = {**ROW, "hour": CANARY["value"]}
    cells = {"temp": ("FP32", [1.5]), "hour": ("INT64", [7]), "late": ("BOOL", [True])}
    inputs = [{"name": n, "datatype": d, "shape": [1], "data": v} for n, (d, v) in cells.items()]
    text = {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": [CANARY["value"]]}
    bodies: list[tuple[str, Any]] = [
        ("/models/toy/predict", {"rows": [row], "entity": CANARY["entity"]}),
        ("/models/toy/predict", {"rows": [wrong]}),
        ("/models/toy/predict", {"rows": [row], "entity": [CANARY["entity"]]}),
        ("/models/toy/predict", {"rows": [row], "at": CANARY["value"]}),
        ("/models/toy/predict", {"rows": CANARY["value"]}),
        ("/models/pole/predict", {"rows": [{**row, "hour": 13}]}),
        ("/v2/models/toy/infer", {"inputs": [*inputs, text]}),
        ("/v2/models/toy/infer", {"inputs": [*inputs, {**text, "datatype": CANARY["value"]}]}),
        ("/v2/models/pole/infer", {"inputs": [{**inputs[1], "data": [13]}, inputs[0], inputs[2], text]}),
        ("/v1/models/toy:predict", {"instances": [row]}),
        ("/v1/models/toy:predict", {"instances": [wrong]}),
        ("/invocations", {"dataframe_records": [row]}),
        ("/invocations", {"dataframe_records": [wrong]}),
        (f"/models/{CANARY['path']}/predict", {"rows": [row]}),
        (f"/{CANARY['path']}", {"rows": [row]}),
    ]
    statuses: set[int] = set()
    for number, (path, body) in enumerate(bodies):
        data = json.dumps(body).encode()
        for sent in (data, data[:-1] + CANARY["value"].encode()):
            # the second way has a header that the fast lane does not take
            for more in ({}, {"x-entity": CANARY["entity"], "expect-nothing": CANARY["header"], "tracestate": "a=b"}):
                reply = client.post(path, content=sent, headers={"content-type": "application/json", **more})
                told(seen, f"{number} {path}", reply)
                statuses.add(reply.status_code)
    csv = f"temp,hour,late,carrier\n1.5,{CANARY['value']},true,AA\n"
    told(seen, "csv", client.post("/invocations", content=csv.encode(), headers={"content-type": "text/csv"}))
    junk = CANARY["value"].encode() * 3
    for media in ("application/vnd.apache.arrow.stream", "application/vnd.apache.parquet", f"text/{CANARY['header']}"):
        told(seen, media[:40], client.post("/models/toy/predict", content=junk, headers={"content-type": media}))
    for name, headers in {
        "bare": {"authorization": CANARY["header"]},
        "bearer": {"authorization": f"Bearer prn_1a2b3c4d_{CANARY['header']}"},
        "basic": {"authorization": f"Basic {CANARY['basic']}"},
        "x-api-key": {"authorization": "", "x-api-key": f"prn_1a2b3c4d_{CANARY['header']}"},
        "hostile id": {"x-request-id": f"{CANARY['header']} <b>", "traceparent": CANARY["header"]},
        "problem": {"authorization": CANARY["header"], "accept": "application/problem+json"},
        "host": {"host": f"{CANARY['header']}.example"},
        "origin": {"origin": f"https://{CANARY['header']}.example"},
    }.items():
        reply = client.post("/models/toy/predict", json={"rows": [row]}, headers=headers)
        told(seen, f"headers {name}", reply)
        statuses.add(reply.status_code)
    told(seen, "query", client.get("/models", params={"key": CANARY["query"]}))
    given = client.post("/models/toy/predict", json={"rows": [row]}).json()["prediction_ids"][0]
    for label in (CANARY["label"], {"x": CANARY["label"]}, 1.5):
        items = [{"prediction_id": given, "label": label, "at": None if label == 1.5 else CANARY["label"]}]
        told(seen, "feedback", client.post("/models/toy/feedback", json=items))
    told(seen, "feedback", client.post("/models/toy/feedback", content=CANARY["label"].encode()))
    call_grpc(grpc_port, key, seen)
    for path in ("/metrics", "/readyz?verbose", "/openapi.json", "/docs", "/models", "/models/toy", "/v2/models/toy"):
        told(seen, path, client.get(path))
    return statuses


def call_grpc(port: int, key: str, seen: Seen) -> None:
    request = messages()["ModelInferRequest"](model_name="toy")
    request.inputs.add(name="carrier", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        CANARY["value"].encode()
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for sent in (request.SerializeToString(), CANARY["value"].encode()):
            for secret in (key, CANARY["header"]):
                try:
                    infer(sent, metadata=(("authorization", f"Bearer {secret}"),), timeout=WAIT_S)
                except grpc.RpcError as error:
                    seen.add("answer grpc", f"{error.code()} {error.details()} {error.trailing_metadata()}")


def configuration(home: Path, port: int, grpc_port: int, **more: str) -> str:
    stores = {
        "ledger_url": f"postgresql+psycopg://me:{CANARY['dsn']}@127.0.0.1:1/none",
        "tracking_uri": f"http://me:{CANARY['mlflow']}@127.0.0.1:1",
        **more,
    }
    lines = [f'home = "{home}"', *(f'{name} = "{value}"' for name, value in stores.items())]
    lines += ["[serving]", f"port = {port}", f"grpc_port = {grpc_port}", 'device = "cpu"', 'default_model = "toy"']
    lines += ["[serving.limits]", f'redis = "redis://:{CANARY["redis"]}@127.0.0.1:1/0"', "requests_per_second = 1000"]
    return "\n".join([*lines, "[signing]", f'key = "{home.parent / "signing.pem"}"', ""])


@pytest.fixture
def home(tmp_path: Path, toy_bundle: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    new_key(tmp_path / "signing.pem")
    cache = Cache(made / "cache")
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "toy", 100.0))
    cache.add(1, pole_bundle(toy_bundle, tmp_path / "pole", model="pole"), model="pole")
    (tmp_path / "key").write_text(cache.key({"predict", "feedback", "read"}))
    for name in ("toy", "pole"):
        cache.deploy(1, model=name)
    return made


def canaries(home: Path) -> dict[str, str]:
    """Those above, and the secrets that are made."""
    secret = (home.parent / "key").read_text()
    signing = (home.parent / "signing.pem").read_text().splitlines()[1]
    return {**CANARY, "real key": secret.rpartition("_")[2], "signing": signing[20:50]}


def test_no_secret_and_no_value_leaves_the_server(home: Path) -> None:
    """Requests by every dialect, good, bad and failing; stores that are away; then logs, answers and arguments."""
    port, grpc_port, seen = free_port(), free_port(), Seen()
    config = home.parent / "perene.toml"
    config.write_text(configuration(home, port, grpc_port))
    key = (home.parent / "key").read_text()
    serve = [sys.executable, "-m", "perene.cli", "serve", "--config", str(config)]
    with running(serve, home, seen, port, key) as client:
        assert {200, 400, 401, 404, 422, 500} <= send_everything(client, grpc_port, key, seen)
        for command in (["doctor"], ["status", "--json"], ["models"]):
            seen.add(f"perene {command[0]}", perene(*command, "--config", str(config)))
        # another one cannot start: the port is taken
        seen.add("perene serve", perene("serve", "--config", str(config)))
        time.sleep(0.3)
    assert seen.hits(canaries(home)) == []
    assert seen.texts["output"].count('"event":"request"') > 60
    assert "puller.waiting" in seen.texts["logs/puller.log"]
    assert stat.S_IMODE((home / "serve.json").stat().st_mode) == 0o600
    # the control: the canaries came in
    assert any(CANARY["value"].encode() in file.read_bytes() for file in stored(home))


def stored(home: Path) -> list[Path]:
    return [file for folder in ("spool", "events") for file in (home / folder).rglob("*") if file.is_file()]


def perene(*arguments: str) -> str:
    """What a command says."""
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "NO_COLOR": "1", "COLUMNS": "1000"}
    command = [sys.executable, "-m", "perene.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=environment)
    return done.stdout + done.stderr


def test_a_version_that_cannot_be_fetched_tells_no_address(home: Path) -> None:
    """The ledger answers and MLflow does not: what the puller says, hands over and the server shows."""
    port, grpc_port, seen = free_port(), free_port(), Seen()
    ledger_url = f"sqlite:///{home / 'ledger.db'}"
    with closing(Ledger.open(ledger_url)) as ledger:
        for name in ("toy", "other"):  # one of them is in the cache
            ledger.move(name, expected_revision=0, champion=1, actor="test", reason="first")
    config = home.parent / "perene.toml"
    config.write_text(configuration(home, port, grpc_port, ledger_url=ledger_url))
    command = [sys.executable, "-m", "perene.cli", "serve", "--config", str(config)]
    with running(command, home, seen, port, "none") as client:
        deadline = time.monotonic() + WAIT_S
        while not client.get("/readyz?verbose").json().get("failures") and time.monotonic() < deadline:
            time.sleep(0.1)
        shown = client.get("/readyz?verbose")
        assert "MLflow" in shown.text
        told(seen, "readyz", shown)
    seen.add("state.json", (home / "cache" / "state.json").read_text())
    assert "puller.refused" in seen.texts["logs/puller.log"]
    assert seen.hits(canaries(home)) == []


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ('redis = "', f'redis = 5 # "{CANARY["redis"]}'),
        ('redis = "', f'redis = ["{CANARY["redis"]}"] # "'),
        ('ledger_url = "', f'ledger_ulr = "{CANARY["dsn"]}'),
        ('tracking_uri = "', f'tracking_uri = ["{CANARY["mlflow"]}"] # "'),
        ("port = ", 'port = "x'),
        ("[signing]", f'"{CANARY["dsn"]}'),
    ],
)
def test_a_broken_configuration_is_told_without_what_it_holds(
    home: Path, capsys: pytest.CaptureFixture[str], line: str, instead: str
) -> None:
    """Of the wrong type, misspelt, no TOML: whatever is said about it."""
    config = home.parent / "perene.toml"
    config.write_text(configuration(home, 1, 2).replace(line, instead, 1))
    with pytest.raises(ConfigInvalid) as caught:
        load(config)
    for as_json in (False, True):
        fail(caught.value, as_json=as_json)
    said = capsys.readouterr()
    seen = Seen({"stdout": said.out, "stderr": said.err})
    assert str(config) in said.err.replace("\n", "")
    assert seen.hits(canaries(home)) == []


def test_an_address_that_is_none_is_told_without_it(home: Path) -> None:
    """By the command that would use it."""
    config = home.parent / "perene.toml"
    config.write_text(configuration(home, 1, 2, ledger_url=CANARY["dsn"]))
    said = perene("doctor", "--config", str(config))
    assert "cannot be understood" in said
    assert Seen({"doctor": said}).hits(canaries(home)) == []


def test_the_search_finds_a_log_call_that_tells_a_value(home: Path) -> None:
    """The control: the same server with one line more, which logs the rows."""
    port, seen = free_port(), Seen()
    key = (home.parent / "key").read_text()
    settings = home.parent / "settings.json"
    settings.write_text(json.dumps({"port": port, "device": "cpu"}))
    command = [sys.executable, "-c", PLANTED, "--home", str(home), "--settings", str(settings)]
    with running(command, home, seen, port, key) as client:
        row = {**ROW, "carrier": CANARY["value"]}
        assert client.post("/models/toy/predict", json={"rows": [row]}).status_code == 200
    assert seen.hits(canaries(home)) == [("output", "value")]
