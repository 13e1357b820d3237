"""What a child gives up before it touches what others made: the network, core dumps, new rights, endless memory.

What it keeps: the files that its user can read and write. Run the platform as a user of its own where that matters.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import resource
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_SYSTEM_CALLS: Final = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Architecture to its number in audit records and that of socket(2); io_uring_setup(2) is 425 on both."""
KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH")
"""Environment variables that a child gets: no address of a store, no key."""


def environment() -> dict[str, str]:
    """The environment of a child: what Python needs to start, one thread a library, nothing secret."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    # a checkout that is not installed is found by where this package lies
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), kept.get("PYTHONPATH"))))
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), "1")
    # what lies in the folder in which it runs must not pass for a module
    return {**kept, **single, "PYTHONSAFEPATH": "1", "DO_NOT_TRACK": "true", "PYTHONWARNINGS": "ignore"}


def cut_network() -> bool:
    """Give up the network for this process and all it starts; whether that worked.

    No socket can be opened any more (seccomp); where the kernel lets us, the process also moves to a network
    namespace of its own, which has no interface. Sockets that are open already stay. Call it before threads start.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    apart = libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0
    return _refuse_sockets(libc) or apart


def limit(memory_mb: int) -> None:
    """Bound the address space to what is used now and `memory_mb` more; leave no core dump; be nice."""
    statm = Path("/proc/self/statm")
    used = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    most = used + memory_mb * 1024 * 1024
    for kind, wanted in ((resource.RLIMIT_AS, most), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
    with contextlib.suppress(OSError):
        os.nice(5)


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


def _refuse_sockets(libc: ctypes.CDLL) -> bool:
    """A seccomp filter under which socket(2) and io_uring_setup(2) answer EACCES."""
    known = _SYSTEM_CALLS.get(platform.machine())
    if known is None:
        return False
    architecture, socket_call = known
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | 13
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, architecture),
        (answer, 0, 0, kill),  # 32-bit calls have other numbers
        (load, 0, 0, 0),  # the call's number
        (at_least, 3, 0, 0x40000000),  # the x32 calls, likewise
        (equal, 2, 0, socket_call),
        (equal, 1, 0, 425),
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    wanted = Program(len(program), ctypes.addressof(code))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(wanted), 0, 0) == 0)
