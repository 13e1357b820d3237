"""The file that is read: a plain file, opened once, and how it is known again."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from serving.batch.refusals import BatchRefused

FORMATS: Final = (".parquet", ".csv")
_END: Final = 1024 * 1024


class Identity(msgspec.Struct, frozen=True):
    """What is written down of a file, to know later whether it is still the same."""

    size: int
    modified_ns: int
    ends_sha256: str
    """Of its first and last MiB: in Parquet the footer is among them."""
    schema: list[str] = []


class InputFile:
    """A plain file of rows, open for reading. Usable as a context manager.

    Raises:
        BatchRefused: there is none, it is empty, or it is a link, a pipe, a folder or a device.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.format = path.suffix.lower()
        if self.format not in FORMATS:
            raise BatchRefused(f"{path}: neither Parquet nor CSV", where="--batch", expected="a .parquet or .csv file")
        try:
            # a pipe must not make us wait for whoever writes to it
            self.fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _cannot_open(path, error) from None
        found = os.fstat(self.fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(self.fd)
            raise BatchRefused(
                f"{path}: not a plain file", where="--batch", expected="a .parquet or .csv file", got=_kind(found)
            )
        self.size = found.st_size
        if not self.size:
            os.close(self.fd)
            raise BatchRefused(f"{path}: the file is empty", where="--batch", hint="give a file with rows")
        self._modified = found.st_mtime_ns

    def __enter__(self) -> InputFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def identity(self, schema: list[str]) -> Identity:
        """How this file is known again."""
        ends = hashlib.sha256(os.pread(self.fd, _END, 0))
        ends.update(os.pread(self.fd, _END, max(0, self.size - _END)))
        return Identity(self.size, self._modified, ends.hexdigest(), schema)

    def check_unchanged(self) -> None:
        """Refuse to go on with a file that somebody wrote to meanwhile.

        Raises:
            BatchRefused: its size or time changed since it was opened.
        """
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self.size, self._modified):
            raise BatchRefused(
                f"{self.path}: the file changed while it was read", where="--batch", hint="run the command again"
            )


def _cannot_open(path: Path, error: OSError) -> BatchRefused:
    if path.is_symlink():
        return BatchRefused(f"{path}: a link", where="--batch", hint="give the file itself")
    if isinstance(error, FileNotFoundError):
        return BatchRefused(f"{path}: there is no such file", where="--batch", hint="name an existing file")
    return BatchRefused(f"{path}: cannot be read ({error.strerror})", where="--batch", hint="see its permissions")


def _kind(found: os.stat_result) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(found.st_mode)), "a device")
