"""Bytes that this process has allocated and not freed: of the C library's heap, where graphs and their weights are."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def allocated_bytes() -> int:
    """In use now. What was freed and will be used again does not count, unlike in the resident size of the process."""
    return _reader()()


@functools.cache
def _reader() -> Callable[[], int]:
    asked = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if asked is None:  # another C library than glibc
        return _resident
    asked.restype = _Mallinfo2
    return lambda: int((found := asked()).uordblks + found.hblkhd)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
