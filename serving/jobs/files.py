"""Where the files of jobs lie: one folder for each, with the file that came, the version that answers, the result."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.errors import Malformed
from serving.jobs.store import sync_folder

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.(parquet|csv)\Z")
BUNDLE: Final = "bundle"
SPARE_BYTES: Final = 64 << 20
"""Of the disk, so much is left to others."""


@dataclass(frozen=True, slots=True)
class Places:
    """The folder of one job, in that of all."""

    run: Path
    job: str

    @property
    def folder(self) -> Path:
        """Its own."""
        return self.run / "jobs" / self.job

    @property
    def bundle(self) -> Path:
        """The version that answers, as it was when the job was accepted."""
        return self.folder / BUNDLE

    def make(self) -> None:
        """Make the folder."""
        self.folder.mkdir(parents=True, mode=0o700)

    def keep_bundle(self, stored: Path) -> None:
        """Keep the files of a version, which may leave the server's cache before the job is done."""
        self.bundle.mkdir()
        for path in stored.iterdir():
            if path.is_file() and not path.is_symlink():
                try:
                    os.link(path, self.bundle / path.name)
                except OSError:  # another disk
                    shutil.copy2(path, self.bundle / path.name)

    def sync(self) -> None:
        """Names outlast a crash of the machine: the last step before the job is accepted."""
        for folder in (self.bundle, self.folder, self.folder.parent, self.run):
            if folder.is_dir():
                sync_folder(folder)

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_input(self) -> None:
        """The job is done: only its result is kept."""
        shutil.rmtree(self.bundle, ignore_errors=True)
        for path in self.folder.glob("input.*"):
            path.unlink(missing_ok=True)


def every(run: Path) -> Iterator[tuple[str, float]]:
    """The folders that there are: the job's id, and when something last changed."""
    with os.scandir(run / "jobs") as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                times = [path.stat(follow_symlinks=False).st_mtime for path in os.scandir(entry.path)]
                yield entry.name, max([entry.stat().st_mtime, *times])


def check_name(name: str, where: str) -> str:
    """The plain name of a file in the shared folder.

    Raises:
        Malformed: it leads elsewhere, or is no file of rows.
    """
    if not _NAME.match(name) or ".." in name:
        raise Malformed(
            "this is not the name of a file of rows",
            where=where,
            expected="a plain name that ends in .parquet or .csv, without a folder",
        )
    return name


def check_there(folder: Path, name: str) -> int:
    """The size of a plain file in the shared folder.

    Raises:
        Malformed: there is none, or it is a link or no plain file.
    """
    try:
        found = os.stat(folder / name, follow_symlinks=False)
    except OSError:
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        raise Malformed("there is no such plain file", where="input", hint="put it into serving.jobs.folder first")
    return found.st_size


def check_free(folder: Path, name: str) -> None:
    """Refuse a result's name that is taken.

    Raises:
        Malformed: something has it already.
    """
    if os.path.lexists(folder / name):
        raise Malformed("the output exists already", where="output", hint="choose another name")


def has_room(folder: Path, size: int) -> bool:
    """Whether so many bytes fit on the disk, and some beside them."""
    return shutil.disk_usage(folder).free >= size + SPARE_BYTES


def read_parts(path: Path, size: int = 1 << 20) -> tuple[int, Iterator[bytes]]:
    """Length and content of a plain file, which is read as it is asked for.

    Raises:
        OSError: there is none, or it is a link.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    length = os.fstat(descriptor).st_size

    def parts() -> Iterator[bytes]:
        with os.fdopen(descriptor, "rb") as file:
            left = length
            while left and (part := file.read(min(size, left))):
                left -= len(part)
                yield part

    return length, parts()
