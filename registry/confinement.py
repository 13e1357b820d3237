"""Take from a process what it does not need to judge a stranger's file: writing, programs, signals, memory, time.

Landlock needs Linux 5.13 and no privilege. Where the kernel lacks it, the limits that every Unix has still hold:
memory, time, no bytes into files.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import signal
import struct
import sys
import time
from typing import Final

from registry.isolation import limit

_PR_SET_NO_NEW_PRIVS: Final = 38
_CREATE_RULESET: Final = 444
_RESTRICT_SELF: Final = 446
_EXECUTE: Final = 1
_WRITE: Final = 1 << 1
_REMOVE_AND_MAKE: Final = sum(1 << bit for bit in range(4, 13))
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_TCP: Final = 0b11
_SIGNALS_AND_SOCKETS: Final = 0b11


def give_up_files(*, programs: bool = False) -> bool:
    """Give up writing and removing files, TCP, signalling others and (unless allowed) programs; whether that worked.

    To be called before a thread is started: the kernel restricts the calling thread and those that it starts.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    # what a kernel's version can name; as no rule allows any of it, all of it is denied
    files = _WRITE | _REMOVE_AND_MAKE | (0 if programs else _EXECUTE)
    files |= (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    fields = [files] + ([_TCP] if version >= 4 else []) + ([_SIGNALS_AND_SOCKETS] if version >= 6 else [])
    rules = struct.pack(f"={len(fields)}Q", *fields)
    descriptor = libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if descriptor < 0:
        return False
    try:
        return bool(libc.syscall(_RESTRICT_SELF, descriptor, 0) == 0)
    finally:
        os.close(descriptor)


def limit_run(*, seconds: float, memory_mb: int, programs: bool = False) -> None:
    """Bound memory and time from now on; forbid to write to files, to leave a core, and (unless allowed) programs.

    To be called after the imports, whose address space and time are not the stranger's.
    """
    limit(memory_mb)
    cpu = math.ceil(time.process_time()) + max(1, round(seconds)) + 1
    # the hard limit of time comes later: at it the kernel kills without saying why
    bounds = [(resource.RLIMIT_CPU, cpu, cpu + 5), (resource.RLIMIT_FSIZE, 0, 0)]
    if not programs:
        # does not bind root; threads count too
        bounds.append((resource.RLIMIT_NPROC, 0, 0))
    for name, soft, hard in bounds:
        # a container may have set a lower one, which stays
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(name, (soft, hard))
    signal.alarm(max(1, round(seconds)) + 1)
