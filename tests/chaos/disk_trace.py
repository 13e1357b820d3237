"""What a process really told its disk, in order, by strace; and what a loss of power could have left of it.

Until its file is synced a write may have reached the disk or not, each by itself, whole or torn; a name is there for
certain when its folder has been synced. That is what is left to chance here, and nothing else.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

__all__ = ["Operation", "left_over", "traced"]

_SECTOR = 512
_CALLS = "pwrite64,write,fsync,fdatasync,ftruncate,openat,unlink,rename"
_CALL = re.compile(r"(\d+) +([\d.]+) (\w+)\((.*)$")
_RESUMED = re.compile(r"(\d+) +([\d.]+) <\.\.\. \w+ resumed>")
_FD = re.compile(r"\d+<([^>]*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: `sync` and `synced` are its begin and its end, since only what was written before it began is safe.

    `when` is in unix seconds.
    """

    what: Literal["write", "append", "truncate", "sync", "synced", "create", "unlink", "rename"]
    path: str
    data: bytes = b""
    at: int = 0
    when: float = 0.0


def traced(command: Sequence[str], log: Path) -> list[Operation]:
    """Run a command to its end and read what it told its disks."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.fail("strace is missing: run scripts/apt")
    options = ["-f", "-ttt", "-y", "-xx", "-s", "1000000", "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(log)]
    subprocess.run([strace, *options, *command], check=True, timeout=120)
    begun: dict[str, tuple[str, str]] = {}
    found: list[Operation] = []
    for line in log.read_text().splitlines():
        if resumed := _RESUMED.match(line):
            name, given = begun.pop(resumed[1])
            if name in ("fsync", "fdatasync"):
                found += _ended(given, float(resumed[2]))
            continue
        called = _CALL.match(line)
        if called is None:
            continue
        name, given, when = called[3], called[4], float(called[2])
        begun[called[1]] = (name, given)
        found += [replace(operation, when=when) for operation in _begun(name, given)]
        if name in ("fsync", "fdatasync") and "unfinished" not in given:
            found += _ended(given, when)
    return found


def _begun(name: str, given: str) -> list[Operation]:
    texts = [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(given)]
    owner = _FD.match(given)
    path = _plain(owner[1]) if owner else ""
    if name == "pwrite64":
        numbers = given.rpartition('"')[2].replace(")", "").split(",")
        return [Operation("write", path, texts[0], int(numbers[2].split("=")[0].split("<")[0]))]
    if name == "write":
        return [Operation("append", path, texts[0])] if texts else []
    if name == "ftruncate":
        return [Operation("truncate", path, at=int(re.findall(r", (\d+)", given)[0]))]
    if name in ("fsync", "fdatasync"):
        return [Operation("sync", path)]
    if name == "openat":
        return [Operation("create", texts[0].decode())] if "O_CREAT" in given and texts else []
    if name == "unlink":
        return [Operation("unlink", texts[0].decode())]
    return [Operation("rename", texts[0].decode(), texts[1])]


def _ended(given: str, when: float) -> list[Operation]:
    owner = _FD.match(given)
    return [Operation("synced", _plain(owner[1]), when=when)] if owner else []


def _plain(shown: str) -> str:
    """A path as strace shows it beside a descriptor."""
    if "\\x" in shown:
        return bytes.fromhex(shown.replace("\\x", "")).decode()
    return shown


@dataclass(slots=True)
class _File:
    safe: bytearray = field(default_factory=bytearray)
    waiting: list[Operation] = field(default_factory=list)
    covered: int = 0
    named: bool = False


def left_over(operations: Sequence[Operation], folder: Path, to: Path, dice: random.Random) -> None:
    """Write to `to` what a loss of power after these operations could have left of `folder`."""
    files: dict[str, _File] = {}
    for operation in operations:
        if Path(operation.path) == folder:
            if operation.what == "synced":
                for file in files.values():
                    file.named = True
            continue
        if Path(operation.path).parent != folder:
            continue
        if operation.what == "rename":
            files[operation.data.decode()] = files.pop(operation.path)
        elif operation.what == "unlink":
            files.pop(operation.path, None)
        else:
            _take(files.setdefault(operation.path, _File()), operation)
    for path, file in files.items():
        if file.named or dice.random() < 0.5:
            (to / Path(path).name).write_bytes(_by_chance(file, dice))


def _take(file: _File, operation: Operation) -> None:
    if operation.what in ("write", "truncate", "append"):
        file.waiting.append(operation)
    elif operation.what == "sync":
        file.covered = len(file.waiting)
    elif operation.what == "synced":
        for waiting in file.waiting[: file.covered]:
            _apply(file.safe, waiting)
        file.waiting, file.covered = file.waiting[file.covered :], 0


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.what == "truncate":
        del content[operation.at :]
        return
    at = len(content) if operation.what == "append" else operation.at
    content.extend(bytes(max(0, at - len(content))))
    content[at : at + len(operation.data)] = operation.data


def _by_chance(file: _File, dice: random.Random) -> bytes:
    """What is safe, and of the rest nothing, a beginning, or anything."""
    content, waiting = bytearray(file.safe), list(file.waiting)
    manner = dice.choice(("nothing", "beginning", "anything"))
    if manner == "nothing":
        return bytes(content)
    if manner == "beginning":
        waiting = waiting[: dice.randint(0, len(waiting))]
    for n, operation in enumerate(waiting):
        if manner == "anything" and dice.random() < 0.5:
            continue
        torn = operation.what == "write" and (n == len(waiting) - 1 or dice.random() < 0.1)
        kept = operation.data[: _SECTOR * dice.randint(0, len(operation.data) // _SECTOR)] if torn else operation.data
        _apply(content, Operation(operation.what, operation.path, kept, operation.at))
    return bytes(content)
