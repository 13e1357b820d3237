"""Linux's Landlock (5.13 and later): what a process and all that it starts give up for good, without a privilege."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_EXECUTE: Final = 1
_WRITE: Final = 1 << 1
_REMOVE_AND_MAKE: Final = sum(1 << bit for bit in range(4, 13))
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_TCP: Final = 0b11
_SIGNALS_AND_SOCKETS: Final = 0b11


def give_up(*, programs: bool = False, others: bool = False, within: Path | None = None) -> bool:
    """Give up writing, making and removing files; whether that worked.

    To be called before a thread is started: the kernel restricts the calling thread and those that it starts.

    Args:
        programs: give up starting programs as well.
        others: give up TCP, and signals and abstract sockets of other processes, as far as the kernel knows them.
        within: a folder in which files may still be changed; bytes may then also go to nowhere (/dev/null).
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    # what a kernel's version can name; what no rule allows is denied
    to_a_file = _WRITE | (_TRUNCATE if version >= 3 else 0)
    changes = to_a_file | _REMOVE_AND_MAKE | (_REFER if version >= 2 else 0)
    fields = [changes | (_EXECUTE if programs else 0)]
    if others:
        fields += ([_TCP] if version >= 4 else []) + ([_SIGNALS_AND_SOCKETS] if version >= 6 else [])
    rights = struct.pack(f"={len(fields)}Q", *fields)
    rules = libc.syscall(_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), 0)
    if rules < 0:
        return False
    try:
        if within is not None:
            _allow(libc, rules, within, changes)
            _allow(libc, rules, Path(os.devnull), to_a_file)
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        libc.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)
