"""Explanations of a running server, asked by the command and by the client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import perene
from registry.errors import ConfigInvalid, NotExplained
from tests.acceptance.test_serving_process import ROOT, Server, until
from tests.integration.serving_toy import ROW, Cache, offset_bundle

UNKNOWN = "0198c0de-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def server(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers; a model of trees, and one that hides a column."""
    folder = tmp_path_factory.mktemp("explain")
    cache = Cache(folder / "home" / "cache")
    cache.add(1, toy_bundle)
    hidden = offset_bundle(toy_bundle, folder / "hidden", 5, model="hidden")
    contract = json.loads((hidden / "contract.json").read_text())
    contract["columns"][0]["policy"] = "drop"
    (hidden / "contract.json").write_text(json.dumps(contract))
    from registry.bundle import seal

    seal(hidden)
    cache.add(1, hidden, model="hidden")
    key = cache.key({"predict", "read"})
    cache.deploy(1, model="hidden")
    cache.deploy(1)
    settings: dict[str, Any] = {"default_model": "toy", "workers": 2, "explain": {"seconds": 60}}
    with Server(cache.folder.parent, key, **settings) as running:
        running.ready()
        yield running


def command(server: Server, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """`perene explain`, as it is typed."""
    url = f"http://127.0.0.1:{server.port}"
    asked = [sys.executable, "-m", "perene.cli", "explain", *arguments, "--url", url, "--key", server.key]
    asked += ["--home", str(server.home)]
    return subprocess.run(asked, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_says_which_columns_moved_a_prediction(server: Server, tmp_path: Path) -> None:
    """Of a row, a file, standard input and a recorded prediction; the weightiest first, or all of it as JSON."""
    said = command(server, "toy", "--row", json.dumps(ROW))
    assert said.returncode == 0, said.stderr
    lines = [line.split("\t") for line in said.stdout.splitlines()]
    assert {column for _, column, _ in lines} == set(ROW)
    weights = [abs(float(value)) for *_, value in lines]
    assert weights == sorted(weights, reverse=True)
    assert "row 1: prediction" in said.stderr
    assert "method tree" in said.stderr
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"rows": [ROW, {**ROW, "hour": 3}]}))
    found = json.loads(command(server, "toy", str(file), "--json").stdout)
    assert [one["method"] for one in found] == ["tree", "tree"]
    typed = command(server, "toy", "-", "--json", "--method", "permutation", typed=json.dumps(ROW))
    assert json.loads(typed.stdout)[0]["method"] == "exact"
    status, body = server.ask("POST", "/predict", {"rows": [ROW]})
    assert status == 200
    identifier = body["prediction_ids"][0]

    def recorded() -> bool:
        return command(server, "toy", "--id", identifier).returncode == 0

    until(recorded, "the prediction was not found")
    both = command(server, "toy", "--id", identifier, "--id", UNKNOWN, "--json")
    assert both.returncode == 1
    first, second = json.loads(both.stdout)
    assert first["attributions"] == found[0]["attributions"]
    assert second["error"]["code"] == "prediction_unknown"


def test_the_command_refuses_what_it_cannot_ask(server: Server) -> None:
    """Nothing, two things at once, no JSON, values that are not kept: a message with the fix, and no trace."""
    _, body = server.ask("POST", "/models/hidden/predict", {"rows": [ROW]})
    wrong = {
        ("toy", "--row", "{}", "--id", UNKNOWN): 2,
        ("toy", "no-such-file.json"): 2,
        ("nothing", "--row", json.dumps(ROW)): 1,
        ("hidden", "--id", body["prediction_ids"][0]): 1,
    }
    for arguments, status in wrong.items():
        said = command(server, *arguments)
        assert (said.returncode, said.stdout) == (status, ""), arguments
        assert said.stderr.startswith("error: ")
        assert "Traceback" not in said.stderr


def test_the_client_explains(server: Server) -> None:
    """Rows in every form that predictions take; refusals are those of the server."""
    with perene.Client(f"http://127.0.0.1:{server.port}", server.key, timeout_s=60, deadline_s=90) as client:
        (one,) = client.explain("toy", ROW)
        assert one["base"] + sum(one["attributions"].values()) == pytest.approx(one["value"], rel=1e-4)
        assert client.explain("toy", [ROW, ROW], version=1)[1]["attributions"] == one["attributions"]
        with pytest.raises(NotExplained):
            client.explain("hidden", prediction_ids=[UNKNOWN])
        for rows, ids in ((None, None), (ROW, [UNKNOWN])):
            with pytest.raises(ConfigInvalid):
                client.explain("toy", rows, prediction_ids=ids)


def test_nothing_is_left_when_the_server_is_killed(toy_bundle: Path, tmp_path: Path) -> None:
    """kill -9 of the server: the child that explains goes with it."""
    cache = Cache(tmp_path / "home" / "cache")
    cache.add(1, toy_bundle)
    key = cache.key({"predict"})
    cache.deploy(1)
    with Server(cache.folder.parent, key, explain={"seconds": 60}) as running:
        running.ready()
        assert running.ask("POST", "/models/toy/explain", {"rows": [ROW]})[0] == 200
        children = psutil.Process(running.process.pid).children(recursive=True)
        (child,) = [one for one in children if "serving.explanations.child" in one.cmdline()]
        running.process.kill()
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child outlives its server")
