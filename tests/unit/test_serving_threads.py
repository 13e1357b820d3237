"""Threads: what was asked for, as far as the control groups give cores."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from serving.devices.threads import cpu_quota, threads_of, usable_threads

V2 = "/sys/fs/cgroup"
V1 = "/sys/fs/cgroup/cpu,cpuacct"
FILES: dict[str, tuple[Mapping[str, str], float | None]] = {
    "no limit": ({"/proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, None),
    "a container's own group": ({"/proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 1.5),
    "the tightest above": (
        {
            "/proc/self/cgroup": "0::/a/b\n",
            f"{V2}/a/b/cpu.max": "400000 100000\n",
            f"{V2}/a/cpu.max": "200000 100000\n",
        },
        2.0,
    ),
    "version 1": (
        {
            "/proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n",
            f"{V1}/x/cpu.cfs_quota_us": "50000\n",
            f"{V1}/x/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "version 1 in a container": (
        {
            "/proc/self/cgroup": "3:cpu,cpuacct:/docker/0f\n",
            f"{V1}/cpu.cfs_quota_us": "300000\n",
            f"{V1}/cpu.cfs_period_us": "100000\n",
        },
        3.0,
    ),
    "version 1 without a limit": (
        {"/proc/self/cgroup": "1:cpu:/\n", f"{V2}/cpu/cpu.cfs_quota_us": "-1\n", f"{V2}/cpu/cpu.cfs_period_us": "1"},
        None,
    ),
    "nothing to read": ({}, None),
    "nonsense": ({"/proc/self/cgroup": "what\n0::/\n", f"{V2}/cpu.max": "many 0\n"}, None),
}


@pytest.mark.parametrize("case", FILES)
def test_the_quota_is_read_from_what_control_groups_say(case: str) -> None:
    """Both versions, in a container and out of it, and every group above ours."""
    files, expected = FILES[case]
    assert cpu_quota(files.get) == expected


@pytest.mark.parametrize(
    ("wanted", "cores", "quota", "workers", "expected"),
    [(1, 64, None, 1, 1), (8, 4, None, 1, 4), (8, 64, 2.9, 1, 2), (4, 8, None, 4, 2), (4, 1, 0.2, 8, 1)],
)
def test_no_more_threads_than_there_is_time_for(
    wanted: int, cores: int, quota: float | None, workers: int, expected: int
) -> None:
    """Cores, quota and the other workers bound what was asked for; one thread there always is."""
    assert threads_of(wanted, cores=cores, quota=quota, workers=workers) == expected


def test_this_process_has_a_thread() -> None:
    """The real files of this machine, whatever they say."""
    assert usable_threads(1) == 1
    assert 1 <= usable_threads(1_000) < 1_000
