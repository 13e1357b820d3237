"""The `perene` command as a process: exit codes, what goes to stdout and what to stderr, refusals with the fix."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from perene import __version__
from perene.cli import app, main
from registry.errors import PereneError
from registry.ledger import Ledger

PERENE = Path(sys.executable).with_name("perene")
COMMANDS = ("up", "demo", "serve", "worker", "log", "models", "promote", "rollback", "predict", "feedback", "status")


def _environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PERENE") and k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "DO_NOT_TRACK": "true", "COLUMNS": "200", **more}


def _run(folder: Path, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PERENE), *arguments],
        cwd=folder,
        env=_environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    """A home whose ledger has two moves of one model."""
    home = tmp_path / "deployed"
    home.mkdir()
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as ledger:
        first = ledger.move("toy", expected_revision=0, champion=1, actor="ann", reason="first version")
        ledger.move("toy", expected_revision=first.revision, champion=2, actor="ann", reason="better")
    return home


def test_help_names_the_commands_and_version_is_one_line(tmp_path: Path) -> None:
    shown = _run(tmp_path, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    for command in (*COMMANDS, "doctor", "grafana"):
        assert f" {command} " in shown.stdout
    version = _run(tmp_path, "--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("command", [*COMMANDS, "doctor"])
def test_help_of_each_command_begins_with_examples(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert f"perene {command}" in shown.output.split("Examples")[1]
    assert shown.output.index("Examples") < shown.output.index("Options ─")


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("status", "--bogus"),
        ("rollback",),
        ("demo", "nope"),
        ("doctor", "--config", "absent.toml"),
        ("status", "--as-of", "rubbish"),
        ("predict", "toy", "{not json"),
        ("log", "toy", "--from", "2013-01-01", "--to", "2013-02-01"),
    ],
)
def test_wrong_use_exits_with_2_and_says_nothing_on_stdout(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["perene", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (2, "")
    assert shown.err


def test_error_of_a_process(tmp_path: Path) -> None:
    """The same through a real process: no traceback, code and message as above."""
    done = _run(tmp_path, "demo", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no demo 'nope'\n  where: demo\n  expected: flights\n"


@pytest.mark.parametrize(
    "arguments", [("status", "absent"), ("rollback", "absent"), ("predict", "toy", "{}", "--url", "http://127.0.0.1:1")]
)
def test_refusal_exits_with_1(deployed: Path, arguments: tuple[str, ...]) -> None:
    """Not wrong use, but no: exit code 1."""
    done = _run(deployed.parent, *arguments, "--home", str(deployed))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_refusal_as_json_goes_to_stderr(deployed: Path) -> None:
    done = _run(deployed.parent, "status", "absent", "--home", str(deployed), "--json")
    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "model_unknown"
    assert set(error) == {"code", "message", "where", "hint"}


def test_configuration_error_names_file_line_and_fix(tmp_path: Path) -> None:
    (tmp_path / "perene.toml").write_text("[serving]\nprot = 1\n")
    for command in ("status", "serve", "up"):
        done = _run(tmp_path, command)
        assert (done.returncode, done.stdout) == (2, "")
        assert "perene.toml:2: unknown key 'serving.prot'" in done.stderr
        assert "did you mean 'port'?" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["perene.toml"], "something was half started"


def test_json_of_status_and_history(deployed: Path) -> None:
    home = ("--home", str(deployed))
    status = _run(deployed.parent, "status", "--json", *home)
    assert (status.returncode, status.stderr) == (0, "")
    [row] = json.loads(status.stdout)
    assert (row["model"], row["champion"], row["revision"], row["candidate"]) == ("toy", 2, 2, None)
    history = _run(deployed.parent, "status", "toy", "--history", "--json", *home)
    assert [(r["revision"], r["champion"], r["reason"]) for r in json.loads(history.stdout)] == [
        (1, 1, "first version"),
        (2, 2, "better"),
    ]
    lines = _run(deployed.parent, "status", "toy", "--history", *home).stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["1", "1"], ["2", "2"]]


def test_dry_run_changes_nothing(deployed: Path) -> None:
    done = _run(deployed.parent, "promote", "toy", "1", "--dry-run", "--home", str(deployed))
    assert (done.returncode, done.stdout) == (0, "")
    assert "version 1 of toy" in done.stderr
    with closing(Ledger.open(f"sqlite:///{deployed / 'ledger.db'}")) as ledger:
        assert len(ledger.history("toy")) == 2


def test_key_is_shown_once_and_can_be_ended(deployed: Path) -> None:
    """Through the commands: the secret goes to stdout once, neither ledger nor list hold it."""
    runner = CliRunner()
    home = ["--home", str(deployed)]
    limits = ["--requests-per-second", "0.5", "--rows-per-day", "100000", "--concurrent", "0"]
    made = runner.invoke(app, ["keys", "new", "shop", "--scope", "predict", "--model", "toy", *limits, "--json", *home])
    key = json.loads(made.stdout)
    secret = key["key"].rsplit("_", 1)[1]
    listed = runner.invoke(app, ["keys", "list", "--json", *home])
    [row] = json.loads(listed.stdout)
    assert (row["id"], row["label"], row["scopes"], row["revoked"]) == (key["id"], "shop", "predict", False)
    assert (row["models"], row["limits"]) == ("toy", "requests_per_second 0.5, concurrent 0, rows_per_day 100000")
    assert secret.encode() not in listed.stdout.encode() + (deployed / "ledger.db").read_bytes()
    assert runner.invoke(app, ["keys", "revoke", key["id"], *home]).exit_code == 0
    assert json.loads(runner.invoke(app, ["keys", "list", "--json", *home]).stdout)[0]["revoked"]
    negative = ["--scope", "predict", "--rows-per-day", "-1"]
    for wrong in (["--scope", "bogus"], ["--scope", "predict", "--model", "../x"], negative):
        refused = runner.invoke(app, ["keys", "new", "shop", *wrong, *home])
        assert isinstance(refused.exception, PereneError)
        assert refused.stdout == ""
    assert len(json.loads(runner.invoke(app, ["keys", "list", "--json", *home]).stdout)) == 1


def test_doctor_finds_a_broken_chain(deployed: Path) -> None:
    home = ("--home", str(deployed))
    assert _run(deployed.parent, "doctor", "--json", *home).returncode == 0
    with closing(sqlite3.connect(deployed / "ledger.db")) as database:
        database.execute("DROP TRIGGER perene_deployments_no_update")
        database.execute("UPDATE perene_deployments SET champion = 7 WHERE revision = 1")
        database.commit()
    done = _run(deployed.parent, "doctor", "--json", *home)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1
    assert [name for name, check in checks.items() if not check["ok"]] == ["ledger chain"]
    assert checks["ledger chain"]["fix"]


def test_doctor_tries_detectors_and_metrics_of_ones_own(deployed: Path, tmp_path: Path) -> None:
    """One that is there, one that is not, one that cannot be imported: each under its key."""
    (tmp_path / "mine_for_doctor.py").write_text("def fine(truth, answers): return 1.0\nvalue = 3\n")
    (tmp_path / "torn_for_doctor.py").write_text("def (\n")
    (tmp_path / "perene.toml").write_text(
        '[models.toy.monitoring]\ndetector = "torn_for_doctor:moved"\n'
        'metrics = ["mine_for_doctor:fine", "mine_for_doctor:gone", "mine_for_doctor:value"]\n'
    )
    done = _run(tmp_path, "doctor", "--json", "--home", str(deployed))
    checks = [(c["name"], c["ok"], c["found"]) for c in json.loads(done.stdout) if c["name"].startswith("models.")]
    assert done.returncode == 1
    assert checks == [
        ("models.toy.monitoring.detector", False, "torn_for_doctor:moved: SyntaxError"),
        ("models.toy.monitoring.metrics", True, "mine_for_doctor:fine"),
        ("models.toy.monitoring.metrics", False, "mine_for_doctor:gone: AttributeError"),
        ("models.toy.monitoring.metrics", False, "mine_for_doctor:value cannot be called"),
    ]


@contextmanager
def _taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("variable", ["PERENE__SERVING__PORT", "PERENE__WORKER_PORT"])
@pytest.mark.parametrize("command", [("up",), ("demo", "flights")])
def test_port_in_use_names_the_setting(tmp_path: Path, variable: str, command: tuple[str, ...]) -> None:
    ports = {"PERENE__SERVING__PORT": str(_free_port()), "PERENE__WORKER_PORT": str(_free_port())}
    with _taken_port() as taken:
        done = _run(tmp_path, *command, "--home", str(tmp_path / "home"), **{**ports, variable: str(taken)})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"port {taken} is in use by process {os.getpid()} (" in done.stderr
    assert variable in done.stderr
    assert not (tmp_path / "home" / "ledger.db").exists(), "something was half started"


def test_up_runs_alone_on_a_home_and_stops_what_it_started(tmp_path: Path) -> None:
    home, port = tmp_path / "home", _free_port()
    ports = {"PERENE__SERVING__PORT": str(port), "PERENE__WORKER_PORT": str(_free_port())}
    with (tmp_path / "err").open("wb") as err:
        first = subprocess.Popen(
            [str(PERENE), "up", "--home", str(home)],
            cwd=tmp_path,
            env=_environment(**ports),
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
    try:
        _wait_for_text(tmp_path / "err", "serving until Ctrl-C", first)
        assert httpx.get(f"http://127.0.0.1:{port}/livez", timeout=60).status_code == 200
        second = _run(tmp_path, "up", "--home", str(home), **ports)
        assert (second.returncode, second.stdout) == (2, "")
        assert "another perene up already runs on" in second.stderr
        assert httpx.get(f"http://127.0.0.1:{port}/livez", timeout=60).status_code == 200
        family = psutil.Process(first.pid).children(recursive=True)
        assert len(family) >= 4, "server, puller, shipper, worker"
        first.send_signal(signal.SIGINT)
        assert first.wait(timeout=120) == 0
        gone, left = psutil.wait_procs(family, timeout=60)
        assert left == []
        assert len(gone) == len(family)
    finally:
        if first.poll() is None:
            first.kill()
            first.wait()
    assert "stopping" in (tmp_path / "err").read_text()
    assert {path.name for path in (home / "keys").iterdir()} == {"app", "local", "subjects"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home / "keys").iterdir())


def _wait_for_text(path: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while text not in path.read_text():
        assert process.poll() is None, path.read_text()
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.05)
