"""Run a module as a child that dies with its parent: `python -m registry.child MODULE ARG…`.

A parent killed with -9 cannot stop its children; on Linux the kernel can (PR_SET_PDEATHSIG). The signal is sent
when the *thread* that started the child ends, so start children from a thread that lives as long as the parent.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` as a child of this process."""
    return [sys.executable, "-m", "registry.child", str(os.getpid()), module, *arguments]


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent ends; leave at once if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
