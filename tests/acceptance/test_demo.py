"""The demo as a person runs it, with its server and worker killed on the way, and what it leaves behind.

One run of the real command serves all tests. Tests compare with the ledger, so none depends on another's order.
"""

from __future__ import annotations

import copy
import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from examples.flights.data import features
from examples.flights.replay import legs
from examples.flights.source import flights
from monitoring.lake.lake import Lake
from perene.client import Client
from registry.ledger import Ledger
from retrain.evidence import replay
from tests.acceptance.demo_run import CONFIG, MODEL, DemoRun, Server, environment, perene, run_demo, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.timeout(1_200)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    return run_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def server(demo: DemoRun) -> Iterator[Server]:
    """The home served again. Events wait 60 s in the spool: what is in the lake before that came from recovery."""
    started = Server(demo.home, free_port(), {"PERENE__SERVING__SEAL_SECONDS": "60"})
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, (server.home / "keys" / "local").read_text().strip()) as connected:
        yield connected


def _flights(count: int) -> list[dict[str, Any]]:
    """Real departures of December, in the form of requests."""
    table = flights()
    chosen = table[table["_at"] >= datetime(2013, 12, 1, tzinfo=UTC)].iloc[::97].head(count)
    return [leg.features for leg in legs(chosen, features, "air_time")]


def _in_mlflow(home: Path, code: str, given: Any = None) -> Any:
    """Run `code` beside MLflow, in a process of its own; `given` is JSON on stdin, the answer JSON on stdout."""
    program = (
        "import json, sys\nimport mlflow\nimport pandas as pd\n"
        f"mlflow.set_tracking_uri('sqlite:///{home / 'mlflow.db'}')\n"
        f"given = json.load(sys.stdin)\n{code}\njson.dump(answer, sys.stdout)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(given),
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _champion(demo: DemoRun) -> int:
    with closing(demo.ledger()) as ledger:
        deployment = ledger.deployment(MODEL)
    assert deployment is not None
    return deployment.champion


def test_demo_promotes_although_server_and_worker_were_killed(demo: DemoRun) -> None:
    assert demo.status == 0, demo.stderr[-4000:]
    assert set(demo.killed) == set(demo.replaced_by) == {"serving", "retrain"}
    report = demo.json
    assert report["findings_confirmed"] >= 1
    assert report["runs"] >= 1
    assert report["gates"] >= 1
    assert report["promoted"] >= 1
    assert report["champion"] != 1
    assert "promoted" in report["trials"].values()


def test_stdout_is_json_alone_and_stderr_tells_the_story(demo: DemoRun) -> None:
    assert len(demo.stdout.splitlines()) == 1
    for told in ("certificate: exact", "confirmed", "gates: certificate pass", "trial: promote", "| month |"):
        assert told in demo.stderr


def test_findings_are_told_with_their_cause_and_what_to_do(demo: DemoRun) -> None:
    """In the story while it happens, and in the report: a loss with its numbers, a drift with its columns."""
    found = demo.json["findings"]
    assert [each for each in found if not each["told"] or "To do: " not in each["means"]] == []
    losses = [each for each in found if each["told"].startswith("performance: confirmed")]
    assert losses
    assert all(
        re.search(r": mae [\d.]+, [\d.]+ on the reference(, worst where .+)?, since 2013-", each["told"])
        for each in losses
    )
    assert all("retrain on" in each["means"] for each in losses)
    drifts = [each["told"] for each in found if each["told"].startswith("feature_drift: confirmed")]
    assert all(re.search(r": \w+ \(PSI [\d.]+, importance [\d.e-]+", told) for told in drifts)
    assert losses[0]["told"] in demo.stderr
    assert losses[0]["means"] in demo.stderr


def test_ledger_verifies_and_tampering_is_found(demo: DemoRun, tmp_path: Path) -> None:
    with closing(demo.ledger()) as ledger:
        assert ledger.verify() == []
    copied = tmp_path / "ledger.db"
    with closing(sqlite3.connect(demo.home / "ledger.db")) as source, closing(sqlite3.connect(copied)) as target:
        source.backup(target)
        target.execute("DROP TRIGGER perene_deployments_no_update")
        target.execute("UPDATE perene_deployments SET actor = 'somebody' WHERE revision = 1")
        target.commit()
    with closing(Ledger.open(f"sqlite:///{copied}")) as tampered:
        assert tampered.verify() != []


def test_every_decision_can_be_made_again_from_its_row(demo: DemoRun) -> None:
    with closing(demo.ledger()) as ledger:
        gates, decisions = (ledger.evidence(MODEL, kind, limit=1_000) for kind in ("gates", "decision"))
    assert gates
    assert decisions
    assert [row.id for row in (*gates, *decisions) if not replay(row.body)] == []
    forged = copy.deepcopy(gates[0].body)
    forged["passed"] = not forged["passed"]
    assert not replay(forged)
    forged = copy.deepcopy(decisions[0].body)
    forged["action"] = "reject" if forged["action"] != "reject" else "promote"
    assert not replay(forged)


def test_each_run_ended_once(demo: DemoRun) -> None:
    """The killed worker's run was taken up again: the same run, one set of gates, one end."""
    with closing(demo.ledger()) as ledger:
        done = [run.run_id for run in ledger.runs(MODEL, limit=1_000) if run.status == "done"]
        gates = Counter(row.body["run_id"] for row in ledger.evidence(MODEL, "gates", limit=1_000))
    assert done
    assert all(gates[run] == 1 for run in done)


def test_promotion_rests_on_its_evidence(demo: DemoRun) -> None:
    """The ledger row of the promotion points to the decision it follows from, and was written by the worker."""
    with closing(demo.ledger()) as ledger:
        moves = [row for row in ledger.history(MODEL) if row.actor == "worker" and row.reason.startswith("promote")]
        evidence = {row.id: row for row in ledger.evidence(MODEL, "decision", limit=1_000)}
    assert moves
    for move in moves:
        assert move.evidence_id is not None
        assert evidence[move.evidence_id].body["action"] == "promote"


def test_lake_holds_each_event_once(demo: DemoRun) -> None:
    """A killed server and its successors wrote to one lake: files repeat no event, no prediction has two answers."""
    lake = Lake(demo.home / "events")
    for kind in ("prediction", "label"):
        files = lake.files(MODEL, kind)
        rows = sum(lake.read(MODEL, kind, files=[file]).num_rows for file in files)
        assert rows == lake.read(MODEL, kind).num_rows > 1_000
    identifiers = lake.read(MODEL, "prediction", columns=["_id"]).column("_id").to_pylist()
    assert len(identifiers) == len(set(identifiers))


def test_report_has_months_and_a_picture(demo: DemoRun) -> None:
    picture = demo.home / "report" / "monthly.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert demo.json["plot"] == str(picture)
    months = demo.json["months"]
    assert months[0]["month"] == "2013-04"
    assert [month["month"] for month in months] == sorted({month["month"] for month in months})
    for month in months:
        assert month["n"] > 0
        assert month["loop_on"] > 0
        assert month["never_retrain"] > 0
        assert f"| {month['month']} | {month['n']:,} |" in demo.stderr


def test_status_models_and_doctor(demo: DemoRun, tmp_path: Path) -> None:
    home = ("--home", str(demo.home))
    status = perene("status", *home, "--json", cwd=tmp_path)
    assert status.returncode == 0, status.stderr
    [row] = json.loads(status.stdout)
    assert (row["model"], row["champion"]) == (MODEL, _champion(demo))

    history = perene("status", MODEL, "--history", *home, cwd=tmp_path)
    with closing(demo.ledger()) as ledger:
        moves = ledger.history(MODEL)
    lines = [line.split("\t") for line in history.stdout.splitlines()]
    assert [(int(line[0]), int(line[1])) for line in lines] == [(row.revision, row.champion) for row in moves]

    models = perene("models", *home, "--json", cwd=tmp_path)
    versions = {row["version"]: row for row in json.loads(models.stdout)}
    assert {row.champion for row in moves} <= set(versions)
    assert versions[1]["verdict"] == "exact"

    doctor = perene("doctor", "--json", *home, "--config", str(CONFIG), cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stdout
    checks = {check["name"]: check for check in json.loads(doctor.stdout)}
    assert all(check["ok"] for check in checks.values())
    assert checks["ledger chain"]["found"] == "holds"
    assert checks["ledger"]["found"] == "1 models deployed"


def test_mlflow_loads_the_champion_and_predicts_the_same(demo: DemoRun, client: Client) -> None:
    """Nothing is locked in: `mlflow.pyfunc` alone answers like the server."""
    rows = _flights(20)
    assert len(rows) == 20
    # the demo may have ended before its puller handed the last move over: a server starts with what it has
    wait_for(
        lambda: client.predict(MODEL, rows[0])["version"] == _champion(demo), seconds=90, why="the champion serves"
    )
    served = client.predict(MODEL, rows)
    assert served["version"] == _champion(demo)
    code = (
        f"model = mlflow.pyfunc.load_model('models:/{MODEL}@champion')\n"
        "answer = [float(v) for v in pd.DataFrame(model.predict(pd.DataFrame(given))).iloc[:, 0]]"
    )
    loaded = _in_mlflow(demo.home, code, rows)
    assert served["predictions"] == pytest.approx(loaded, rel=1e-6)
    assert len(set(loaded)) > 10


def test_acknowledged_feedback_survives_kill_9(demo: DemoRun, server: Server, client: Client) -> None:
    answer = client.predict(MODEL, _flights(20), at=datetime(2014, 2, 1, tzinfo=UTC))
    landed = datetime(2014, 2, 1, 3, tzinfo=UTC)
    labels = {name: 100.0 + number for number, name in enumerate(answer["prediction_ids"])}
    items = [{"prediction_id": name, "label": label, "at": landed.isoformat()} for name, label in labels.items()]
    results = client.feedback(MODEL, items)["results"]
    server.kill()
    assert {item["status"] for item in results} == {"accepted"}
    assert _labels_since(demo, landed) == {}, "in the lake already: the kill came too late to prove anything"
    server.start()
    wait_for(lambda: _labels_since(demo, landed), seconds=90, why="the labels are in the lake")
    assert _labels_since(demo, landed) == labels


def _labels_since(demo: DemoRun, at: datetime) -> dict[str, float]:
    table = Lake(demo.home / "events").read(MODEL, "label", since=at, until=at + timedelta(seconds=1))
    assert table.num_rows == len(set(table.column("_id").to_pylist()))
    return dict(zip(table.column("_id").to_pylist(), table.column("_label").to_pylist(), strict=True))


def test_rollback_reaches_server_and_mlflow(demo: DemoRun, client: Client, tmp_path: Path) -> None:
    before = _champion(demo)
    done = perene("rollback", MODEL, "--home", str(demo.home), "--reason", "a test", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["champion"] == 1 == _champion(demo)
    assert before != 1
    wait_for(
        lambda: client.predict(MODEL, _flights(1))["version"] == 1, seconds=90, why="the server answers with version 1"
    )
    code = f"answer = int(mlflow.MlflowClient().get_model_version_by_alias('{MODEL}', 'champion').version)"
    assert _in_mlflow(demo.home, code) == 1
    with closing(demo.ledger()) as ledger:
        assert ledger.verify() == []
        assert ledger.history(MODEL)[-1].reason.endswith("a test")
