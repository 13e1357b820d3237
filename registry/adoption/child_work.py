"""Work with estimators that others made, in a child: no network, no writing but to its folder, an end in time.

`run_child` is the parent's side; the child is `python -m registry.adoption.worker FOLDER`. They share a folder:
`job.json` in, a bundle or `certificate.json` out. The child tells its progress in lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from registry.bundle import MAX_FILE_BYTES
from registry.errors import BundleCorrupt, ContractViolation, ConversionRefused, NotAllowed, PereneError
from registry.isolation import environment

MOST_SAID: Final = 256 * 1024
_ERRORS: Final[dict[str, type[PereneError]]] = {
    kind.code: kind for kind in (ContractViolation, ConversionRefused, NotAllowed, BundleCorrupt)
}


def run_child(
    folder: Path, *, seconds: float, progress: Callable[[str, str], None], need_isolation: bool, memory_mb: int = 8192
) -> None:
    """Do the work that lies in `folder`; what it made lies there afterwards.

    Args:
        need_isolation: refuse where the network cannot be taken away.

    Raises:
        PereneError: what the child refused, as it said it.
        ConversionRefused: the child crashed or ran out of time.
    """
    (folder / "tmp").mkdir()
    arguments = [str(folder), str(os.getpid()), str(memory_mb), str(int(need_isolation))]
    child = subprocess.Popen(
        [sys.executable, "-m", "registry.adoption.worker", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={**environment(), "TMPDIR": str(folder / "tmp")},
        start_new_session=True,
    )
    assert child.stdout is not None  # noqa: S101
    try:
        finished = _follow(child.stdout.fileno(), time.monotonic() + seconds, progress)
    finally:
        # with all that it may have started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.stdout.close()
        ended = child.wait()
    if not finished:
        how = f"crashed ({signal.Signals(-ended).name})" if ended < 0 else f"ended with exit code {ended}"
        raise ConversionRefused(f"the process that loads the model {how}", hint="is the library it needs installed?")


def require_plain(path: Path) -> None:
    """Refuse links and devices in what a child left at `path`: they would make us read what it may not write.

    Raises:
        BundleCorrupt: there is one, or a file is larger than 512 MiB.
    """
    for found in (path, *path.rglob("*")):
        about = found.lstat() if os.path.lexists(found) else None
        if about is None or stat.S_ISDIR(about.st_mode):
            continue
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_FILE_BYTES:
            raise BundleCorrupt("the process that loads the model left something else than files", where=path.name)


def _follow(pipe: int, deadline: float, progress: Callable[[str, str], None]) -> bool:
    """Hand on what the child says; whether it said that it is done."""
    said, rest = 0, b""
    while said < MOST_SAID:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise ConversionRefused("the process that loads the model did not end in time and was stopped")
        part = os.read(pipe, 8192)
        if not part:
            return False
        said += len(part)
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if _hear(line, progress):
                return True
    return False


def _hear(line: bytes, progress: Callable[[str, str], None]) -> bool:
    try:
        message = {str(k): _readable(v) for k, v in json.loads(line).items()}
    except (ValueError, AttributeError):
        return False
    if "error" in message:
        kind = _ERRORS.get(message["error"], ConversionRefused)
        about = {key: message.get(key, "") for key in ("where", "expected", "got", "hint")}
        raise kind(message.get("message", ""), **about)
    if "step" in message:
        progress(message["step"], message.get("found", ""))
    return "done" in message


def _readable(value: object) -> str:
    return "".join(c if c.isprintable() else " " for c in str(value)[:2_000])
