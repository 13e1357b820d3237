"""The journal of a spool: what waits in memory for its commit, in files that outlive the process.

Two preallocated files are mapped into memory. A record is written by one assignment to the mapping: no system call, and
from then on it belongs to the kernel, so `kill -9` cannot take it back; only a loss of power can. While the spool
commits what one segment holds, the other takes new records; then the first is wiped with zeros and free again. A
record that finds no room is not written, and the spool counts it.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

__all__ = ["SUFFIXES", "Journal", "Kind", "Record", "read_segment"]

SUFFIXES = (".j0", ".j1")
SEGMENT_BYTES = 8 << 20
"""Size of one of the two files: a second of 25,000 predictions of 20 numbers."""

_HEAD = struct.Struct("<II")
"""Bytes behind this head, and their checksum; a length of zero ends the segment."""
_FACTS = struct.Struct("<QII")
"""First sequence number, how many, kind."""
_PAYLOAD = _HEAD.size + _FACTS.size
_LARGE = 16_384
_NOTE = struct.Struct("<Q")
"""At the very beginning: the next number when an event was counted without a record."""
_START = _NOTE.size
_MOST = 1 << 48
"""More events than one process ever has: a note beyond is a damaged one, and no number to count losses by."""
_WIPE_BYTES = 1 << 20

_log = logging.getLogger("perene.monitoring.journal")


class Kind(IntEnum):
    """What a record holds."""

    ANSWERED = 1
    """One answered request, policies applied."""
    BLOCK = 2
    """Many rows of one request as the spool keeps them."""
    EVENTS = 3
    """Single events."""
    DURABLE = 4
    """Nothing: these numbers were given to events whose caller has no answer before their commit."""
    CONTRACT = 5
    """A contract, which has no number."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: the sequence numbers first, first + 1, … of `count` events, and their bytes."""

    first: int
    count: int
    kind: Kind
    payload: bytes


class _Segment:
    """One of the two files, mapped; without a file it has no room, and that is all that is different."""

    def __init__(self, handle: int, size: int) -> None:
        self.handle = handle
        self.view: mmap.mmap | bytearray = mmap.mmap(handle, size) if handle >= 0 else bytearray(_START)
        self.size = len(self.view)
        self.used = _START
        self.last = -1
        """The number up to which all must be on disk before this segment can be wiped; -1 while it takes records."""

    def wipe(self) -> None:
        """Zeros from the front, by the file: unlike the mapping, that lets other threads run."""
        at = 0
        nothing = bytes(min(_WIPE_BYTES, self.used))
        while _START + at < self.used:
            at += os.pwrite(self.handle, nothing[: self.used - _START - at], _START + at)
        self.used, self.last = _START, -1

    def close(self) -> None:
        """Let go of the file."""
        if isinstance(self.view, mmap.mmap):
            self.view.close()
            os.close(self.handle)


class Journal:
    """Writes records; everything but `settle` and `close` is called by whoever holds the spool's mutex."""

    def __init__(self, paths: tuple[Path, ...], segments: tuple[_Segment, _Segment], crowded: Callable[[], None]):
        self._paths = paths
        self._active, self._other = segments
        self._crowded = crowded

    @classmethod
    def create(cls, spool: Path, *, size: int = SEGMENT_BYTES, crowded: Callable[[], None]) -> Journal:
        """The journal of a new spool; on a disk without room for it, one that takes nothing.

        Args:
            spool: path of the spool; the segments lie beside it.
            size: bytes of one segment; 0 takes nothing.
            crowded: called when a segment is half full: the time for a commit.
        """
        paths = tuple(spool.with_suffix(suffix) for suffix in SUFFIXES)
        segments: list[_Segment] = []
        try:
            segments.extend(_Segment(_allocated(path, size), size) for path in paths if size)
        except OSError as error:
            for segment in segments:
                segment.close()
            for path in paths:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            segments = []
            _log.warning("journal.absent", extra={"spool": spool.name, "cause": str(error)})
        if not segments:
            return cls((), (_Segment(-1, 0), _Segment(-1, 0)), crowded)
        return cls(paths, (segments[0], segments[1]), crowded)

    def write(self, kind: Kind, first: int, count: int, payload: bytes) -> bool:
        """Keep a record; false when there is no room for it."""
        segment = self._active
        at = segment.used
        end = at + _PAYLOAD + len(payload)
        if end > segment.size:
            self.note(first + count)
            return False
        facts = _FACTS.pack(first, count, kind)
        head = _HEAD.pack(end - at - _HEAD.size, zlib.crc32(payload, zlib.crc32(facts))) + facts
        if len(payload) < _LARGE:
            segment.view[at:end] = head + payload
        else:  # one copy less
            segment.view[at + _PAYLOAD : end] = payload
            segment.view[at : at + _PAYLOAD] = head
        segment.used = end
        half = segment.size >> 1
        if at < half <= end:
            self._crowded()
        return True

    @property
    def takes(self) -> bool:
        """Whether there is one at all."""
        return self._active.size > _START

    def note(self, following: int) -> None:
        """Remember that numbers below this one were given out: what has no record is missed exactly."""
        _NOTE.pack_into(self._active.view, 0, following)

    def turn(self, last: int) -> None:
        """Let new records go to the other segment, if it is free; this one can go when `last` is on disk."""
        if self._active.used > _START and self._other.last < 0:
            self._active.last = last
            self._active, self._other = self._other, self._active

    def settle(self, high: int) -> None:
        """Wipe the segment that waits, if every number up to `high` is on disk or counted; for the spool's thread."""
        waiting = self._other
        if 0 <= waiting.last <= high:
            with contextlib.suppress(OSError):  # it is tried again after the next commit
                waiting.wipe()

    def close(self, *, remove: bool) -> None:
        """Let go of the files; they stay for the shipper unless all of them is on disk elsewhere."""
        for segment in (self._active, self._other):
            segment.close()
        self._active = self._other = _Segment(-1, 0)
        for path in self._paths if remove else ():
            path.unlink(missing_ok=True)


def read_segment(path: Path) -> tuple[list[Record], int]:
    """The whole records of a segment, and the next number that it notes.

    After a loss of power one in the middle may be missing: those behind it are there, and their numbers tell of it.
    """
    data = path.read_bytes()
    noted = _NOTE.unpack_from(data)[0] if len(data) >= _START else 0
    return list(_records(data)), noted if noted < _MOST else 0


def _records(data: bytes) -> Iterator[Record]:
    at = _START
    while at + _HEAD.size + _FACTS.size <= len(data):
        length, check = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if length < _FACTS.size or len(body) < length:
            return
        if zlib.crc32(body) == check:
            first, count, kind = _FACTS.unpack_from(body)
            yield Record(first, count, Kind(kind), body[_FACTS.size :])
        at += _HEAD.size + length


def _allocated(path: Path, size: int) -> int:
    """A new file whose blocks are all its own: a mapping of a file with holes ends the process when the disk fills."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        # zeros are written all the same: the first touch of a block that never was takes a file system up to 10 ms,
        # which would be some request's; and macOS has no other way
        for at in range(0, size, _WIPE_BYTES):
            os.pwrite(handle, bytes(min(_WIPE_BYTES, size - at)), at)
    except OSError:
        os.close(handle)
        raise
    return handle
