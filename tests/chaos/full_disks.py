"""Disks that are full: a small file system of its own where mounting is allowed, and files that may not grow.

The one says ENOSPC (SQLite: full), the other EFBIG (SQLite: an I/O error). The second needs no rights and works in any
container; the first is left out where the kernel does not let us mount.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.acceptance.test_serving_process import NO_LEDGER, ROOT, Server
from tests.integration.serving_toy import Cache

MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && echo ready && exec sleep 3600'


CHECK = """
import pathlib, sqlite3, sys
for path in pathlib.Path(sys.argv[1]).rglob("*"):
    if path.suffix in (".spool", ".db"):
        print(*(row[0] for row in sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("PRAGMA integrity_check")))
"""


class Disk(Protocol):
    """The disk of a server."""

    def start(self, cache: Cache, key: str, script: str | None) -> Started:
        """Begin to serve what the cache holds, by the module or by a script that changes it first."""

    def fill(self) -> None:
        """Leave no room."""

    def free(self) -> None:
        """Give it back."""


def mountable() -> bool:
    """Whether this process may make a file system of its own."""
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[tuple[int, Path]]:
    """A tmpfs on `folder`, seen by one process: its id, and a path by which others reach the inside."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["unshare", "-Urm", "sh", "-c", MOUNT, "sh", size, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            yield holder.pid, Path(f"/proc/{holder.pid}/root{folder}")
        finally:
            holder.kill()


class Started(Server):
    """A serve process begun by a command of the test's choice; `home` is how the test sees its folder."""

    def __init__(self, home: Path, key: str, *, within: str, prefix: list[str], script: str | None) -> None:
        self.within, self.prefix = within, prefix
        self.module = ["-m", "serving"]
        if script is not None:
            (home / "changed.py").write_text(script)
            self.module = [f"{within}/changed.py"]
        # the machine of the tests is slower than a server's: what it has no time for is another promise's matter
        super().__init__(home, key, queue={"seconds": 60})

    def start(self) -> None:
        command = [*self.prefix, sys.executable, *self.module, "--home", self.within, "--port", str(self.port)]
        command += ["--settings", f"{self.within}/serve.json", "--ledger-url", NO_LEDGER]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.home / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)

    def integrity(self) -> set[str]:
        """What SQLite says of its files; asked inside, since it takes no path through `/proc`."""
        command = [*self.prefix, sys.executable, "-c", CHECK, self.within]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return set(said.stdout.split())


class Small:
    """A home on a tmpfs of 64 MB, filled by another file; spool, lake, logs and all are on it."""

    def __init__(self, holder: int, folder: Path, seen: Path) -> None:
        self._holder, self._folder, self._seen = holder, folder, seen
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, cache: Cache, key: str, script: str | None) -> Started:
        """The home moves in first."""
        shutil.copytree(cache.folder.parent, self._seen, dirs_exist_ok=True)
        prefix = ["nsenter", "-t", str(self._holder), "-U", "-m", "--preserve-credentials"]
        return Started(self._seen, key, within=str(self._folder), prefix=prefix, script=script)

    def fill(self) -> None:
        """Take every byte, also those that others give back meanwhile."""
        taken = threading.Event()
        self._stop.clear()

        def fill() -> None:
            with (self._seen / "ballast").open("ab", buffering=0) as ballast:
                while not self._stop.is_set():
                    try:
                        for size in (1 << 20, 4096):
                            with contextlib.suppress(OSError):
                                while not self._stop.is_set():
                                    ballast.write(bytes(size))
                    finally:
                        taken.set()
                    self._stop.wait(0.01)

        self._thread = threading.Thread(target=fill, daemon=True)
        self._thread.start()
        assert taken.wait(30)

    def free(self) -> None:
        """Remove the file."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
        (self._seen / "ballast").unlink()


class Limited:
    """A disk like any; but serve process and shipper may let no file grow."""

    def __init__(self) -> None:
        self._server: Started | None = None

    def start(self, cache: Cache, key: str, script: str | None) -> Started:
        """In the home as it is."""
        home = cache.folder.parent
        self._server = Started(home, key, within=str(home), prefix=[], script=script)
        return self._server

    def fill(self) -> None:
        """No file beyond 4 KB."""
        self._limit(4096)

    def free(self) -> None:
        """As large as they like."""
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        assert self._server is not None
        for process in (psutil.Process(self._server.process.pid), *self._server.children().values()):
            process.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextlib.contextmanager
def disk(kind: str, folder: Path) -> Iterator[Disk]:
    """A disk of one of the `KINDS`."""
    if kind == "limited":
        yield Limited()
        return
    with mounted(folder, "64m") as (holder, seen):
        yield Small(holder, folder, seen)


KINDS = ["limited", *(["tmpfs"] if mountable() else [])]


def told(server: Server) -> dict[str, Any]:
    """Counts by name and label values, as anybody reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    connection = server.connect()
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    families = text_string_to_metric_families(text)
    return {json.dumps([s.name, *s.labels.values()]): s.value for f in families for s in f.samples}
