"""Who works on something is not taken for dead because nobody can look."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.access.alive import alive, lives


def test_a_process_is_known_until_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        holder = alive(process.pid)
        assert lives(holder)
        assert lives(alive(os.getpid()))
        assert not lives(f"{process.pid}.1")  # another one had its number before
        process.communicate(b"\n")
    assert not lives(holder)
    assert not lives("")
    assert alive(process.pid) == ""


def test_without_a_descriptor_nobody_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a process would take its own running jobs back, time and again."""
    holder = alive(os.getpid())

    def refuse(_path: Path) -> str:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert lives(holder)
