"""Runs that an external engine trains: signed out, answered, judged like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from registry.errors import ConfigInvalid, TrainingFailed
from registry.ledger import Ledger
from registry.webhook import SIGNATURE, Undelivered, verified
from retrain.places import Places
from retrain.settings import RetrainSettings, WorkerSettings
from retrain.training.handover import ATTEMPTS, hand_over
from retrain.training.snapshot import Snapshot
from retrain.training.spec import HandedOver, Spec
from retrain.training.windows import plan
from serving.hooks.answers import Answer, write
from tests.integration import retrain_home as at
from tests.integration import retrain_toy as toy

SECRET = "both know it"
ENGINE = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from sklearn.linear_model import LinearRegression
from registry.log import Facts, build_bundle
from registry.mlflow_store import Store
from retrain.places import Places
home, rows, model = Path(sys.argv[1]), pd.read_parquet(sys.argv[2]), sys.argv[3]
frame = rows[["x", "z"]].astype(np.float32)
estimator = LinearRegression().fit(frame.tail(2_000), rows["y"].tail(2_000))
to = home / "engine" / "bundle"
build_bundle(estimator, frame.tail(2_000).reset_index(drop=True), rows["y"].tail(2_000), name=model, to=to,
             facts=Facts(cap=8.0))
places = Places(home)
print("version", Store(places.tracking_uri, places.artifacts).register(to, model))
"""


@pytest.fixture
def engine() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A server that takes calls; its address and what came."""
    calls: list[tuple[dict[str, str], bytes]] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/train", calls
    server.shutdown()
    thread.join()
    server.server_close()


def settings(url: str, **more: Any) -> WorkerSettings:
    asked = {
        "engine": "webhook",
        "webhook_url": url,
        "webhook_hosts": ["127.0.0.1"],
        "callback_url": "https://perene.example.org/",
    }
    return toy.settings(**{**asked, **more}).model_copy(update={"hook_secret": SECRET})


def test_an_external_version_goes_through_the_gates_to_its_trial(
    tmp_path: Path, engine: tuple[str, list[tuple[dict[str, str], bytes]]]
) -> None:
    """The engine gets signed word of rows without the holdout; no child waits; its version is judged and tried."""
    url, calls = engine
    home = tmp_path / "home"
    at.make(home)
    with at.working(home, settings(url)) as worker:
        ledger = worker.ledger

        def handed() -> Any:
            run = at.the_run(ledger, "running")
            return run if run is not None and run.step == "handed_over" else None

        run = toy.until(handed, worker.tick)
        assert not worker.runs.busy
        headers, body = calls[0]
        verified(SECRET, body, {k.lower(): v for k, v in headers.items()}[SIGNATURE.lower()], time.time())
        told = json.loads(body)
        assert (told["run"], told["model"], told["target"]) == (run.run_id, toy.MODEL, "y")
        assert told["callback"] == f"https://perene.example.org/hooks/retrain/{run.run_id}"
        rows = pd.read_parquet(told["rows"]["location"])
        assert len(rows) == told["rows"]["count"]
        assert rows["_at"].max() < max(pd.Timestamp(w["to"]) for w in told["windows"])
        assert SECRET not in json.dumps(run.body)
        worker.tick()  # nothing happens until it answers
        assert len(ledger.runs(toy.MODEL)) == 1

        environment = {**os.environ, "DO_NOT_TRACK": "true"}
        done = subprocess.run(
            [sys.executable, "-c", ENGINE, str(home), told["rows"]["location"], toy.MODEL],
            env=environment, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        version = int(done.stdout.split()[-1])
        with closing(Ledger.open(Places(home).ledger_url)) as other:
            write(other, run.run_id, Answer(version=version))
        ended = at.ticked(worker)
        assert (ended.run_id, ended.status, ended.body["outcome"]) == (run.run_id, "done", "candidate")
        assert ended.body["version"] == version
        gates = ledger.evidence(toy.MODEL, "gates")[0].body
        assert gates["passed"]
        assert {g["gate"] for g in gates["gates"]} >= {"certificate", "contract"}
        assert ledger.experiments(toy.MODEL)[0].body["trial"]["candidate"] == version


def test_an_engine_that_fails_or_is_silent_fails_the_run(
    tmp_path: Path, engine: tuple[str, list[tuple[dict[str, str], bytes]]]
) -> None:
    """Its word is in the row; silence ends with the time that was agreed on; the champion stays."""
    url, _ = engine
    home = tmp_path / "home"
    at.make(home)
    with at.working(home, settings(url, cooldown="1s", webhook_timeout="3s")) as worker:
        toy.until(lambda: (r := at.the_run(worker.ledger, "running")) and r.step == "handed_over", worker.tick)
        ended = at.ticked(worker)
        assert (ended.status, ended.body["code"]) == ("failed", "timeout")
        assert "did not answer in time" in ended.body["error"]
        toy.World(home, day=30, boot="boot2").play(4, shift=15.0)
        run = toy.until(
            lambda: (r := at.the_run(worker.ledger, "running")) and r.step in ("hand_over", "handed_over") and r,
            worker.tick,
        )
        write(worker.ledger, run.run_id, Answer(error="no quota"))
        failed = toy.until(
            lambda: (r := worker.ledger.runs(toy.MODEL)[0]).run_id == run.run_id and r.status == "failed" and r,
            worker.tick,
        )
        assert "no quota" in failed.body["error"]
        assert worker.ledger.deployments()[toy.MODEL].champion == 1


def snapshot(folder: Path) -> tuple[Spec, RetrainSettings, Snapshot]:
    """Thirty days of rows, and who asks for a version of them."""
    days = pd.date_range("2013-01-01", periods=30, tz="UTC")
    frame = pd.DataFrame({"x": range(30), "y": range(30), "_at": days})
    now = days[-1].to_pydatetime()
    table = settings("http://127.0.0.1:9/").models[toy.MODEL].retrain
    assert table is not None
    laid = plan(["20d"], now, holdout=table.holdout, maturity=table.maturity)
    spec = Spec("run-1", "toy", str(folder), "", "", "manual", now, 1, [], {}, hook_secret=SECRET)
    return spec, table, Snapshot(frame, laid, "d", "c", "k", None)


def test_what_is_not_taken_is_tried_again_and_kept(tmp_path: Path) -> None:
    """With growing pauses that dice move; then the run fails, and what was not delivered lies in its folder."""
    spec, table, taken = snapshot(tmp_path)
    tries, pauses = [0], list[float]()

    def refuse(*_: object) -> None:
        tries[0] += 1
        raise Undelivered("it answered 500")

    with pytest.raises(TrainingFailed, match="it answered 500"):
        hand_over(spec, table, taken, tmp_path, lambda _s, _f: None, bring=refuse, sleep=pauses.append)
    assert (tries[0], len(pauses)) == (ATTEMPTS, ATTEMPTS - 1)
    assert all(0.5 * 2**n <= pause <= 1.5 * 2**n for n, pause in enumerate(pauses))
    assert json.loads((tmp_path / "handover.json").read_text())["run"] == "run-1"


def test_a_final_refusal_is_not_tried_again(tmp_path: Path) -> None:
    """A redirect, or a name that leads to a private address."""
    spec, table, taken = snapshot(tmp_path)
    tries = [0]

    def redirect(*_: object) -> None:
        tries[0] += 1
        raise Undelivered("it redirects (302)", final=True)

    with pytest.raises(TrainingFailed, match="redirects"):
        hand_over(spec, table, taken, tmp_path, lambda _s, _f: None, bring=redirect, sleep=lambda _: None)
    assert tries == [1]


@pytest.mark.parametrize(
    "url",
    ["http://engine.example.org/", "https://10.0.0.1/", "https://169.254.169.254/latest", "ftp://x/", "https://a:b@x/"],
)
def test_addresses_that_may_not_be_called_are_refused(tmp_path: Path, url: str) -> None:
    """Plain HTTP and private addresses only where the operator names the host; without a secret nothing is sent."""
    spec, table, taken = snapshot(tmp_path)
    with pytest.raises(ConfigInvalid):
        hand_over(spec, table.model_copy(update={"webhook_url": url}), taken, tmp_path, lambda _s, _f: None)
    unsigned = Spec("r", "toy", "", "", "", "manual", spec.now, 1, [], {})
    with pytest.raises(ConfigInvalid, match="signed"):
        hand_over(unsigned, table, taken, tmp_path, lambda _s, _f: None)


def test_a_hand_over_that_is_taken_ends_the_child_s_part(tmp_path: Path) -> None:
    """Only rows before the holdout are written, and they are kept with their digest."""
    spec, table, taken = snapshot(tmp_path)
    sent: list[bytes] = []
    with pytest.raises(HandedOver):
        hand_over(
            spec, table, taken, tmp_path, lambda _s, _f: None, bring=lambda _t, body, _h: sent.append(body)
        )  # fmt: skip
    told = json.loads(sent[0])
    written = pd.read_parquet(told["rows"]["location"])
    assert written["_at"].max() < taken.laid.holdout.start
    assert told["rows"]["count"] == len(written)
