"""The OpenAPI document against the server that it describes: Schemathesis asks every operation, in all its phases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry import approvals
from registry.experiment_requests import abort, start
from registry.keys import KeyRecord
from registry.ledger import Ledger
from tests.acceptance.test_serving_process import Server
from tests.integration.dialect_models import CONTRACTS, make_bundle
from tests.integration.serving_toy import Cache

HERE = Path(__file__).parent
FULL = os.environ.get("PERENE_CHAOS") == "full"
EXAMPLES = 200 if FULL else 10
KINDS = ("words", "several")


@pytest.fixture(scope="module")
def server(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models of several kinds, one of them the default; the ledger knows them too, and two trials of one."""
    folder = tmp_path_factory.mktemp("schemathesis")
    cache = Cache(folder / "home" / "cache")
    for kind in KINDS:
        cache.add(1, make_bundle(toy_bundle, folder / kind, CONTRACTS[kind]), model=kind)
    key = cache.key({"predict", "feedback", "read", "promote"})
    for kind in KINDS:
        cache.deploy(1, model=kind)
    home = cache.folder.parent
    _write_ledger(f"sqlite:///{home / 'ledger.db'}", cache)
    with Recorded(home, key, default_model=KINDS[0], explain={"seconds": 60}) as running:
        running.ready()
        yield running


class Recorded(Server):
    """One whose ledger is in its home."""

    ledger = ""


def _write_ledger(url: str, cache: Cache) -> None:
    with closing(Ledger.open(url)) as ledger:
        for known in cache.keys:
            ledger.add_key(KeyRecord(known.id, known.sha256, frozenset(known.scopes), frozenset(), "test"))
        for kind in KINDS:
            ledger.move(kind, expected_revision=0, champion=1, actor="ann", reason="first")
        for version in (1, 2):
            approvals.record(ledger, KINDS[0], version, kind="registered", actor="ann", digest=str(version))
        made = start(ledger, KINDS[0], 2, actor="ann", reason="better")
        abort(ledger, KINDS[0], made["experiment_id"], actor="ann", reason="worse")
        start(ledger, KINDS[0], 2, actor="ann", reason="better")


def schemathesis(server: Server, folder: Path, document: dict[str, Any] | None = None, *more: str) -> dict[str, Any]:
    """The report of a run: of the server's own document, or of another one."""
    url, where = f"http://127.0.0.1:{server.port}", f"http://127.0.0.1:{server.port}/openapi.json"
    if document is not None:
        (folder / "openapi.json").write_text(json.dumps(document))
        where = str(folder / "openapi.json")
    report = folder / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run", where]
    command += ["--url", url, "--header", f"Authorization: Bearer {server.key}", "--max-examples", str(EXAMPLES)]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--report", "json", "--report-json-path", str(report)]
    command += ["--seed", "7", "--generation-database", "none", "--no-color", *more]
    hooks = {"SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")}
    # it leaves a folder where it runs
    done = subprocess.run(command, cwd=folder, env={**os.environ, **hooks}, capture_output=True, text=True, check=False)
    (folder / "schemathesis.txt").write_text(done.stdout + done.stderr)
    found: dict[str, Any] = json.loads(report.read_text())
    return {**found, "exit": done.returncode, "said": done.stdout}


@pytest.mark.timeout(7_200 if FULL else 300)
def test_the_server_is_what_its_document_says(server: Server, tmp_path: Path) -> None:
    """No failure of any check: statuses, media types, headers and schemas, what is taken and what is refused."""
    report = schemathesis(server, tmp_path)
    assert report["exit"] == 0, report["said"][-20_000:]
    operations = report["operations"]
    assert operations["tested"] == operations["selected"] == operations["total"]
    assert operations["total"] > 50
    assert report["test_cases"]["generated"] > 20 * operations["total"]
    assert (report["failures"], report["errors"]) == ([], [])


def test_an_undocumented_status_is_found(server: Server, tmp_path: Path) -> None:
    """The control: a document that says nothing of 422 does not pass."""
    document = httpx.get(f"http://127.0.0.1:{server.port}/openapi.json").json()
    path = f"/models/{KINDS[0]}/predict"
    del document["paths"][path]["post"]["responses"]["422"]
    report = schemathesis(server, tmp_path, document, "--include-path", path, "--phases", "coverage")
    assert report["exit"] == 1
    assert "Undocumented status code" in report["said"]
