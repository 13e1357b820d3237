"""Other people's clients, as they come from the registry, talk to a real server process in every dialect."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pandas as pd
import pytest

from tests.acceptance.test_serving_process import ROOT, Server
from tests.integration.dialect_models import CONTRACTS, make_bundles, rows_of
from tests.integration.serving_toy import Cache
from tests.ports import free_port

HERE = Path(__file__).parent / "clients"
ROWS = rows_of(CONTRACTS["words"], 23)
KEY_SCOPES = {"predict", "read"}


@pytest.fixture(scope="session")
def bundles(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_bundles(toy_bundle, tmp_path_factory.mktemp("kinds"))


@pytest.fixture
def cache(tmp_path: Path, bundles: dict[str, Path]) -> Cache:
    made = Cache(tmp_path / "home" / "cache")
    made.add(1, bundles["words"], model="words")
    return made


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has the clients; `PERENE_CLIENTS` names a folder that outlives the tests."""
    venv = Path(os.environ.get("PERENE_CLIENTS") or tmp_path_factory.mktemp("clients"))
    made = subprocess.run([ROOT / "scripts" / "clients", venv], capture_output=True, text=True, check=False)
    if made.returncode and "CI" not in os.environ:
        pytest.skip(f"the clients cannot be installed here: {made.stderr[-200:]}")
    assert made.returncode == 0, made.stderr
    return str(venv / "bin" / "python")


@pytest.fixture
def talks(cache: Cache, python: str) -> Iterator[Callable[[str], tuple[Any, Any]]]:
    """Runs a client's script against a server; returns Perene's own answer and what the script found."""
    key, loader = cache.key(KEY_SCOPES), cache.key({"admin"})
    assert loader
    cache.deploy(1, model="words")
    grpc_port = free_port()
    with Server(cache.folder.parent, key, grpc_port=grpc_port) as server:
        server.ready()

        def run(script: str) -> tuple[Any, Any]:
            command: list[str | Path] = [python, HERE / script, str(server.port), str(grpc_port), key]
            done = subprocess.run(
                command, input=json.dumps(ROWS), capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr[-3_000:]
            status, own = server.ask("POST", "/models/words/predict", {"rows": ROWS})
            assert status == 200
            return own, json.loads(done.stdout.splitlines()[-1])

        yield run


def test_tritons_client(talks: Callable[[str], tuple[Any, Any]]) -> None:
    """HTTP with JSON and with bytes in each direction, and gRPC: metadata, answers, refusals."""
    own, found = talks("triton.py")
    http, grpc = found["http"], found["grpc"]
    for part in (http, grpc):
        assert part["live"]
        assert part["ready"]
        assert part["server"] == "perene"
        assert part["metadata"]["name"] == "words"
        assert [i["name"] for i in part["metadata"]["inputs"]] == CONTRACTS["words"].names
        assert [(m["name"], m["state"]) for m in part["index"]] == [("words", "READY")]
        for name, value in part.items():
            if name.startswith("label"):
                assert value == own["predictions"], name
            if name.startswith("probabilities"):
                assert value == own["probabilities"], name
        assert "did you mean 'hour'?" in part["wrong column"][1]
        assert "did you mean 'words'?" in part["no model"][1]
        assert "API key" in part["no key"][1]
    assert len([name for name in http if name.startswith("label")]) == 7
    assert http["id"] == len(ROWS) - 1
    statuses = {name: http[name][0] for name in ("wrong column", "no model", "no key", "load")}
    assert statuses == {"wrong column": "422", "no model": "404", "no key": "401", "load": "403"}
    codes = {name: grpc[name][0].removeprefix("StatusCode.") for name in statuses}
    assert codes == {
        "wrong column": "INVALID_ARGUMENT",
        "no model": "NOT_FOUND",
        "no key": "UNAUTHENTICATED",
        "load": "PERMISSION_DENIED",
    }


def test_kserves_client(talks: Callable[[str], tuple[Any, Any]]) -> None:
    """Both protocols over HTTP, and the second over gRPC."""
    own, found = talks("kserve_client.py")
    flat = [number for row in own["probabilities"] for number in row]
    for part in (found["http"], found["grpc"]):
        assert part["ready"]
        assert part["live"]
        assert part["model"]
        assert part["v2"] == {"label": own["predictions"], "probabilities": flat}
    assert found["http"]["v1 model"]
    assert found["http"]["v1"] == own["predictions"]
    assert "missing feature" in found["http"]["refused"]


def test_mlflows_scoring_client(cache: Cache) -> None:
    """What MLflow's own client sends for a frame, with NaN in it, for rows and for arrays; and its health checks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own type hints
        from mlflow.pyfunc.scoring_server import client as mlflow_client

    cache.deploy(1, model="words")
    frame = pd.DataFrame(ROWS)
    assert frame["temp"].isna().any()
    with Server(cache.folder.parent, "", auth=False) as server:
        server.ready()
        own = server.ask("POST", "/models/words/predict", {"rows": ROWS})[1]["predictions"]
        client: Any = mlflow_client.ScoringServerClient("127.0.0.1", server.port)  # type: ignore[no-untyped-call]
        client.wait_server_ready(timeout=10)
        client.ping()
        assert client.get_version()
        assert client.invoke(frame)["predictions"] == own
        assert client.invoke(json.dumps({"instances": ROWS}))["predictions"] == own
        assert client.invoke(json.dumps({"dataframe_records": ROWS}))["predictions"] == own
        assert client.invoke([list(row.values()) for row in ROWS], params={"entity": "a-1"})["predictions"] == own
        with pytest.raises(Exception, match=r"error code 422.*hour: missing feature.*sent as 'hoor'"):
            client.invoke(frame.rename(columns={"hour": "hoor"}))


def test_sigterm_with_grpc_open(cache: Cache) -> None:
    """A call is answered, a watch is ended, and the process is gone in 10 s with exit code 0."""
    key = cache.key(KEY_SCOPES)
    cache.deploy(1, model="words")
    port = free_port()
    with (
        Server(cache.folder.parent, key, grpc_port=port) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        server.ready()
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert next(watch) == b"\x08\x01"  # SERVING
        os.kill(server.process.pid, signal.SIGTERM)
        assert list(watch) == []
        assert server.process.wait(timeout=10) == 0


def test_a_port_of_grpc_that_is_taken(cache: Cache) -> None:
    """Exit code 2 before anything is started, with the key to change."""
    cache.deploy(1, model="words")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with Server(cache.folder.parent, "", auth=False, grpc_port=holder.getsockname()[1]) as server:
            assert server.process.wait(timeout=30) == 2
        log = (cache.folder.parent / "serve.log").read_text()
    assert "serving.grpc_port" in log
    assert "Traceback" not in log


def test_grpc_is_imported_only_by_a_server_that_is_asked_for_it(cache: Cache) -> None:
    """It costs memory and time: without the setting no part of it is loaded."""
    script = "import sys, serving.fleet.process; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"grpc", "google", "pyarrow"} & set(done.stdout.split()) == set()
