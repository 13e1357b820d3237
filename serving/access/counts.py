"""What keys have used, in a small file that the processes of a machine share and that outlives all of them.

One record for each caller that has limits. A change is made under a lock of the file; a process that was stopped while
it held the lock is not waited for, so that no answer hangs on another process: two requests may then count as one.
Requests that are being answered are counted in a column of each process: the column of one that was killed is emptied
by the next one that looks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from registry.errors import ConfigInvalid

COLUMNS: Final = 64
_MAGIC: Final = b"prnuse01"
_RECORD: Final = struct.Struct("<16sddqq")
_USED: Final = struct.Struct("<ddqq")
_COLUMNS: Final = struct.Struct(f"<{COLUMNS}I")
_COLUMN: Final = struct.Struct("<I")
_STRIDE: Final = _RECORD.size + _COLUMNS.size
_NAME: Final = 16
_TRIES: Final = 300
_YIELDS: Final = 100
_PAUSE_S: Final = 1e-4


class Used(NamedTuple):
    """What one caller has used: when its requests and its rows are even, and the rows of a day of UTC."""

    requests: float
    rows: float
    day: int
    rows_of_day: int


class Counts:
    """The file, opened by one process. It is not for several threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._path = folder / "limits.bin"
        self._file = self._opened()
        self._map = mmap.mmap(self._file, 0)
        self._patient = True
        self._column, self._lock = self._own_column()

    def slots(self, callers: Collection[str]) -> dict[str, int]:
        """Where the records of these callers lie; new ones are made.

        Raises:
            OSError: the disk has no room for them.
        """
        names = {hashlib.sha256(caller.encode()).digest()[:_NAME]: caller for caller in callers}
        known = self._known()
        if not names.keys() <= known.keys():
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                known = self._known()
                new = [name for name in names if name not in known]
                rest = bytes(_STRIDE - _NAME)
                records, end = b"".join(name + rest for name in new), os.fstat(self._file).st_size
                if os.pwrite(self._file, records, end) < len(records):
                    os.ftruncate(self._file, end)  # nobody has mapped it yet
                    raise OSError(errno.ENOSPC, "no room for another record")
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            known = self._known()
        return {caller: known[name] for name, caller in names.items()}

    def known(self, callers: Collection[str]) -> dict[str, int]:
        """Where the records lie of those that have one."""
        known = self._known()
        names = {caller: hashlib.sha256(caller.encode()).digest()[:_NAME] for caller in callers}
        return {caller: known[name] for caller, name in names.items() if name in known}

    def lock(self) -> bool:
        """Begin a change; whether the lock was got is what `unlock` must be told.

        The other process has it for microseconds, unless it was put aside by the scheduler, for milliseconds, or was
        stopped: then it is waited for once, and not again until the lock is free.
        """
        for tries in range(_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not self._patient:
                    return False
                time.sleep(0 if tries < _YIELDS else _PAUSE_S)
                continue
            except OSError:  # a file system without locks
                return False
            self._patient = True
            return True
        self._patient = False
        return False

    def unlock(self, *, held: bool) -> None:
        """End a change."""
        if held:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def read(self, slot: int) -> Used:
        """What the caller of this record has used."""
        return Used(*_USED.unpack_from(self._map, slot + _NAME))

    def write(self, slot: int, used: Used) -> None:
        """Keep what the caller of this record has used."""
        _USED.pack_into(self._map, slot + _NAME, *used)

    def busy(self, slot: int) -> int:
        """Requests of the caller that are being answered, in all processes."""
        return sum(_COLUMNS.unpack_from(self._map, slot + _RECORD.size))

    def count(self, slot: int, by: int) -> None:
        """So many requests more are being answered by this process."""
        at = slot + _RECORD.size + self._column * _COLUMN.size
        _COLUMN.pack_into(self._map, at, max(0, _COLUMN.unpack_from(self._map, at)[0] + by))

    def sweep(self) -> None:
        """Empty the columns of processes that have ended."""
        for path in self._folder.glob("limits.*.lock"):
            column = int(path.name.split(".")[1])
            lock = None if column == self._column else self._take(column)
            if lock is not None:
                os.close(lock)

    def close(self) -> None:
        """Leave the file, with this process's column empty."""
        self._empty(self._column)
        os.close(self._lock)
        self._map.close()
        os.close(self._file)

    def _known(self) -> dict[bytes, int]:
        """Where each record begins. A map made before stays true for its part, so it is only ever replaced."""
        if os.fstat(self._file).st_size != len(self._map):
            self._map = mmap.mmap(self._file, 0)
        return {self._map[at : at + _NAME]: at for at in range(_STRIDE, len(self._map), _STRIDE)}

    def _opened(self) -> int:
        """The file; a new one where it is none of ours. Others keep the one they have: its bytes are never cut."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if _sound(file):
                return file
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_size == 0:
                os.pwrite(file, _MAGIC + bytes(_STRIDE - len(_MAGIC)), 0)
            elif not _sound(file):
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(self._path), os.fstat(file)):
                        self._path.unlink()
            os.close(file)  # which lets the lock go

    def _own_column(self) -> tuple[int, int]:
        """A column of this process alone, and its lock, which ends with the process."""
        for column in range(COLUMNS):
            lock = self._take(column)
            if lock is not None:
                return column, lock
        raise ConfigInvalid("too many servers count in one folder", where=str(self._folder), expected=f"{COLUMNS}")

    def _take(self, column: int) -> int | None:
        """The lock of a column that is nobody's, which is empty from now on."""
        lock = os.open(self._folder / f"limits.{column}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        self._empty(column)
        return lock

    def _empty(self, column: int) -> None:
        for at in self._known().values():
            _COLUMN.pack_into(self._map, at + _RECORD.size + column * _COLUMN.size, 0)


def _sound(file: int) -> bool:
    size = os.fstat(file).st_size
    return size > 0 and size % _STRIDE == 0 and os.pread(file, len(_MAGIC), 0) == _MAGIC
