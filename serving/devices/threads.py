"""How many threads one run of the engine may have: what was asked for, as far as this process is given cores."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

_ROOT: Final = "/sys/fs/cgroup"
Read = Callable[[str], str | None]
"""The text of a file, None where there is none."""


def threads_of(wanted: int, *, cores: int, quota: float | None, workers: int = 1) -> int:
    """Threads of each of `workers` processes that share `cores` and the quota, which is in cores.

    A thread more than there is time for is worse than none: the scheduler stops them all when the quota is used up.

    >>> threads_of(8, cores=16, quota=2.5), threads_of(8, cores=4, quota=None, workers=2)
    (2, 2)
    """
    given = cores if quota is None else min(cores, math.floor(quota))
    return max(1, min(wanted, given // workers))


def cpu_quota(read: Read) -> float | None:
    """Cores that control groups let this process use, None where they set no limit.

    Every group above ours may set a limit, and the tightest counts. Version 2 says quota and period in one file,
    version 1 in two.
    """
    found: list[float] = []
    for line in (read("/proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            limits = (_version_2(read(f"{folder}/cpu.max")) for folder in _upwards(_ROOT, path))
        elif "cpu" in controllers.split(","):
            limits = (
                _version_1(read(f"{folder}/cpu.cfs_quota_us"), read(f"{folder}/cpu.cfs_period_us"))
                for mounted in (f"{_ROOT}/cpu", f"{_ROOT}/{controllers}")
                for folder in _upwards(mounted, path)
            )
        else:
            continue
        found += [limit for limit in limits if limit is not None]
    return min(found, default=None)


def usable_threads(wanted: int, *, workers: int = 1) -> int:
    """`threads_of` on this machine, for this process."""
    return threads_of(wanted, cores=len(os.sched_getaffinity(0)), quota=cpu_quota(_read), workers=workers)


def _upwards(mounted: str, path: str) -> list[str]:
    """The folders of a group and of those above it; in a container, its own group is the one at the mount."""
    inner = PurePosixPath(path.lstrip("/"))
    return [mounted, *(f"{mounted}/{part}" for part in (inner, *inner.parents) if str(part) != ".")]


def _version_2(text: str | None) -> float | None:
    match (text or "").split():
        case [quota, period] if quota != "max":
            return _ratio(quota, period)
    return None


def _version_1(quota: str | None, period: str | None) -> float | None:
    return _ratio(quota, period) if quota and period and not quota.startswith("-") else None


def _ratio(quota: str, period: str) -> float | None:
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
