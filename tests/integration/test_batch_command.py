"""`perene predict --batch` as a process: which version answers, what it says, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perene import api
from perene.batch import predict_file
from perene.config import Settings
from registry.errors import BundleCorrupt, ConfigInvalid, ModelUnknown, NameInvalid, PereneError, VersionUnknown
from registry.signing import new_key
from registry.signing_settings import SigningSettings
from serving.batch.job import Asked
from tests.integration.batch_files import left, read, toy_rows, write
from tests.integration.registered_toy import MODEL, Shelf

ROOT = Path(__file__).parents[2]
SLOWLY = """
import time
from perene.cli import main
from serving.batch.parts import Parts

write = Parts.write

def slowly(*given):
    time.sleep(0.05)
    return write(*given)

Parts.write = slowly
main()
"""
"""The command on a disk so slow that a signal finds it half-way, however fast the machine is."""


@pytest.fixture
def shelf(home: Path, toy_bundle: Path, tmp_path: Path) -> Shelf:
    return Shelf(home, toy_bundle, tmp_path)


def command(shelf: Shelf, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "perene.cli", "predict", *map(str, arguments), "--home", str(shelf.home)]


def run(shelf: Shelf, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(shelf, *arguments, "--json"), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def cached(shelf: Shelf, version: int) -> None:
    """As the server's puller leaves a version whose golden rows it ran."""
    folder = shelf.home / "cache" / "bundles" / MODEL / str(version)
    shutil.copytree(shelf.files(version), folder)
    folder.with_name(f"{version}.golden.json").write_text("[]")


def test_the_champion_or_a_version_answers_without_a_server(shelf: Shelf, tmp_path: Path) -> None:
    """From the server's cache where its golden rows ran, else from MLflow; the summary says which one it was."""
    one, two = shelf.add(100), shelf.add(200)
    api.promote(MODEL, one, reason="first", settings=shelf.settings())
    cached(shelf, one)
    shutil.rmtree(shelf.files(one))
    work = tmp_path / "work"
    work.mkdir()
    file = write(work / "in.csv", toy_rows(300))
    done = run(shelf, "--batch", file, "--out", work / "a.parquet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert (said["model"], said["version"], said["rows"], said["written"]) == (MODEL, one, 300, 300)
    assert (said["rejected"], said["errors"], said["resumed"]) == (0, None, 0)
    assert said["provider"] == "CPUExecutionProvider"
    assert read(work / "a.parquet")[7] == {"row": 7, "prediction": 107.0}
    pinned = run(shelf, "--batch", file, "--out", work / "b.parquet", "--model", f"{MODEL}@{two}", "--keep", "id")
    assert json.loads(pinned.stdout)["version"] == two
    assert read(work / "b.parquet")[7] == {"row": 7, "id": "flight 7", "prediction": 207.0}
    assert not (shelf.home / "spool").exists()
    assert left(work) == {"in.csv", "a.parquet", "b.parquet"}


def test_wrong_use_and_refusals_have_their_exit_codes(shelf: Shelf, tmp_path: Path) -> None:
    """2 for wrong use, 1 for what is refused, JSON on stderr, and no output."""
    work = tmp_path / "work"
    work.mkdir()
    file, out = write(work / "in.csv", toy_rows(30)), work / "out.csv"
    usual = ("--batch", file, "--out", out)
    cases: list[tuple[tuple[object, ...], int, str, str]] = [
        (("--batch", file), 2, "config_invalid", "--out"),
        ((*usual, "--errors", "ignore"), 2, "config_invalid", "--errors ignore"),
        (usual, 1, "model_unknown", "0 models are deployed"),
        (("--batch", file, "--out", work / "none" / "out.csv"), 1, "batch_refused", "no such folder"),
    ]
    for arguments, code, kind, words in cases:
        done = run(shelf, *arguments)
        error = json.loads(done.stderr.splitlines()[-1])["error"]
        assert (done.returncode, done.stdout, error["code"]) == (code, "", kind), (arguments, error)
        assert words in error["message"] + error["where"], (arguments, error)
    assert left(work) == {"in.csv"}


def test_a_version_that_must_not_serve_does_not_answer_a_file(shelf: Shelf, tmp_path: Path) -> None:
    """Unknown, mistyped, lying in its golden rows, damaged, unsigned where keys are trusted: each by name."""
    good = shelf.add(100)
    api.promote(MODEL, good, reason="first", settings=shelf.settings())
    lying, damaged = shelf.add_lying(), shelf.add(300)
    with (shelf.files(damaged) / "model.onnx").open("ab") as file:
        file.write(b"x")
    asked = Asked(write(tmp_path / "in.csv", toy_rows(30)), tmp_path / "out.csv")
    settings = shelf.settings()
    trusting = settings.model_copy(update={"signing": SigningSettings(trusted=(new_key(tmp_path / "key").text,))})
    cases: list[tuple[str | None, Settings, type[PereneError], str]] = [
        ("toy@x", settings, ConfigInvalid, "'x' is no version"),
        ("toy@0", settings, ConfigInvalid, "no version"),
        ("../toy", settings, NameInvalid, "."),
        ("tory", settings, ModelUnknown, "did you mean 'toy'"),
        ("toy@99", settings, VersionUnknown, "no version 99"),
        (f"toy@{lying}", settings, BundleCorrupt, "refused"),
        (f"toy@{damaged}", settings, BundleCorrupt, "model.onnx"),
        (None, trusting, PereneError, "sign"),
    ]
    for model, where, kind, words in cases:
        with pytest.raises(kind, match=words):
            predict_file(asked, model, where, report=lambda reached, total, rows: None)
        assert not asked.out.exists()
    assert predict_file(asked, None, settings, report=lambda reached, total, rows: None)["version"] == good


def test_ctrl_c_keeps_what_is_answered_and_says_how_to_go_on(shelf: Shelf, tmp_path: Path) -> None:
    """Also SIGTERM: exit code 130, no output, and the same command goes on; a bar is shown on a terminal only."""
    version = shelf.add(100)
    api.promote(MODEL, version, reason="first", settings=shelf.settings())
    cached(shelf, version)
    work = tmp_path / "work"
    work.mkdir()
    rows = 60_000
    file, out = write(work / "in.parquet", toy_rows(rows)), work / "out.parquet"
    usual = ("--batch", file, "--out", out, "--rows-per-part", 100)
    journal = work / ".out.parquet.parts" / "journal"
    for sent in (signal.SIGINT, signal.SIGTERM):
        screen, terminal = pty.openpty()
        before = journal.stat().st_size if journal.exists() else 0
        slow = [sys.executable, "-c", SLOWLY, *command(shelf, *usual)[3:]]
        process = subprocess.Popen(slow, cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal)
        os.close(terminal)
        shown: list[bytes] = []
        reader = threading.Thread(target=_read_all, args=(screen, shown))
        reader.start()
        while not journal.exists() or journal.stat().st_size <= before + 2_000:
            assert process.poll() is None, b"".join(shown)
            threading.Event().wait(0.01)
        process.send_signal(sent)
        told, _ = process.communicate(timeout=60)
        reader.join()
        os.close(screen)
        seen = b"".join(shown).decode()
        assert (process.returncode, told) == (130, b""), seen
        assert "the same command goes on with it" in seen
        assert " rows" in seen, "no bar"
        assert "Traceback" not in seen
        assert not out.exists()
    done = run(shelf, *usual)
    said = json.loads(done.stdout)
    assert done.stderr == ""
    assert 0 < said["resumed"] < said["rows"] == said["written"] == rows
    assert [row["row"] for row in read(out)] == list(range(rows))
    assert left(work) == {"in.parquet", "out.parquet"}


def _read_all(screen: int, shown: list[bytes]) -> None:
    try:
        while part := os.read(screen, 4096):
            shown.append(part)
    except OSError:  # nobody holds the other end any more
        return
