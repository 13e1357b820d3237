"""The log of a process: whole lines of JSON, no secret and no value in them, and nobody waits for whoever reads."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ConfigInvalid
from registry.line_writer import MOST_WAITING, LineWriter
from registry.process_log import told
from registry.redaction import redacted

ROOT = Path(__file__).parents[2]
SCRIPT = """
import logging, sys, warnings
from registry import process_log
process_log.configure()
log = logging.getLogger("perene.test")
log.info("test.said", extra={"rows": 3, "name_": "ä"})
log.warning("reach postgresql://me:canary@db/x with prn_1a2b3c4d_canary and Bearer canary")
logging.getLogger("other").error("first line\\nsecond with canary")
try:
    int("canary")
except ValueError:
    log.exception("test.failed")
log.info("%d is no number", "canary")
warnings.warn("careful")
import structlog
structlog.get_logger("perene.test").info("test.structured", rows=4)
raise KeyError("canary")
"""


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def ended(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_every_record_is_a_line_of_json_without_a_value() -> None:
    """Ours, others', warnings, exceptions that were caught and that were not; the last word of a process is kept."""
    done = ended(SCRIPT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "canary" not in done.stderr
    events = lines_of(done.stderr)
    assert all({"event", "at", "level", "logger"} <= event.keys() for event in events if event["event"][:4] != "log.")
    said = {event["event"]: event for event in events}
    assert (said["test.said"]["rows"], said["test.said"]["name_"]) == (3, "ä")
    assert said["first line"]["logger"] == "other"
    assert said["test.failed"]["exception"]["type"] == "ValueError"
    assert said["test.structured"]["rows"] == 4
    assert said["process.failed"]["exception"]["type"] == "KeyError"
    assert {"log.unreadable"} <= said.keys()


def test_the_same_search_finds_a_value_that_is_logged() -> None:
    """The control: a log call that holds a value as its own word."""
    planted = SCRIPT.replace('"rows": 3', '"rows": "canary"')
    assert "canary" in ended(planted).stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pass@host/x?y=1", "https://***@host/x?y=1"),
        ("redis://:pass@host:1/0, redis://host", "redis://***@host:1/0, redis://host"),
        ("prn_1a2b3c4d_s-e_cret: no", "prn_***: no"),
        ('{"authorization":"Bearer abc.def"}', '{"authorization":"Bearer ***"}'),
        ("host=db password=pass dbname=x", "host=db password=*** dbname=x"),
        ("nothing to hide at a@b.c", "nothing to hide at a@b.c"),
    ],
)
def test_secrets_are_taken_out_of_texts(text: str, expected: str) -> None:
    """Accounts in addresses, keys, credentials of headers, passwords of connection strings."""
    assert redacted(text) == expected


def test_an_exception_is_told_by_its_text_only_where_it_is_ours() -> None:
    """Ours name no value; the texts of others may."""
    assert told(ConfigInvalid("port is taken"))["message"] == "port is taken"
    assert "message" not in told(ValueError("canary"))


def test_nobody_waits_for_a_reader_that_does_not_read() -> None:
    """The pipe fills, lines are dropped, and the first ones after that say how many."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    writer = LineWriter(writing, lost=lambda count: b"lost %d\n" % count)
    sent = MOST_WAITING + 2_000
    began = time.monotonic()
    for number in range(sent):
        writer.put(b"%d%s\n" % (number, b"." * 90))
    assert time.monotonic() - began < 60
    found = bytearray()

    def read() -> None:
        while part := os.read(reading, 65_536):
            found.extend(part)

    thread = threading.Thread(target=read)
    thread.start()
    deadline = time.monotonic() + 60
    while b"lost" not in found and time.monotonic() < deadline:
        writer.put(b"again\n")
        time.sleep(0.01)
    writer.close()
    os.close(writing)
    thread.join(60)
    os.close(reading)
    lines = bytes(found).decode().splitlines()
    kept = sum(line[0].isdigit() for line in lines)
    lost = sum(int(line.split()[1]) for line in lines if line.startswith("lost"))
    assert 0 < lost
    assert kept + lost >= sent
    assert [line for line in lines if not (line[0].isdigit() or line.startswith(("lost", "again")))] == []


SHARING = """
import sys
from registry import line_writer
if sys.argv[1] == "torn":
    line_writer.LineWriter._out = line_writer.LineWriter._written
writer = line_writer.LineWriter(2, lost=lambda count: b"")
batches = [b"".join(b"<%d%s>\\n" % (n, b"." * 300) for n in range(100)) for _ in range(40)]
print("ready", flush=True)
sys.stdin.readline()
writer.add(lambda: batches.pop() if batches else b"")
writer.close(30)
"""


@pytest.mark.parametrize(("how", "whole"), [("kept", True), ("torn", False)])
def test_processes_that_share_a_pipe_cut_no_line_of_each_other(how: str, whole: bool) -> None:
    """Three writers, a small pipe and a slow reader; the control writes without taking turns."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    command, pipe = [sys.executable, "-c", SHARING, how], subprocess.PIPE
    writers = [
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=writing, text=True) for _ in range(3)
    ]
    os.close(writing)
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.close()
    found = bytearray()
    while part := os.read(reading, 1_000):
        found.extend(part)
    os.close(reading)
    for writer in writers:
        assert writer.wait(30) == 0
        assert writer.stdout is not None
        writer.stdout.close()
    lines = bytes(found).splitlines()
    assert whole == (len(lines) == 12_000 and all(line[:1] == b"<" and line[-1:] == b">" for line in lines))


def test_a_reader_that_went_away_costs_lines_and_nothing_else() -> None:
    """Writing goes on; closing does not hang."""
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing, lost=lambda count: b"lost %d\n" % count)
    for _ in range(10):
        writer.put(b"x\n")
    writer.close()
    os.close(writing)
