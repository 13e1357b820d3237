"""What a child gives up before it touches what others made: the network, core dumps, new rights, endless memory.

What it keeps: the files that its user can read and write. Run the platform as a user of its own where that matters.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
from pathlib import Path
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
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


def write_only_within(folder: Path) -> bool:
    """Give up writing, making and removing files outside of `folder`, for this process and all it starts (Landlock).

    Returns whether that worked: it needs Linux 5.13. Call it before threads start.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    to_a_file = 1 << 1 | (1 << 14 if version >= 3 else 0)  # write, truncate
    changes = to_a_file | sum(1 << bit for bit in range(4, 13)) | (1 << 13 if version >= 2 else 0)
    rights = struct.pack("=Q", changes)
    rules = libc.syscall(_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), 0)
    if rules < 0:
        return False
    try:
        for path, allowed in ((folder, changes), (Path(os.devnull), to_a_file)):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                libc.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", allowed, place), 0)
            finally:
                os.close(place)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


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
