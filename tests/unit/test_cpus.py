"""How many CPUs a process may use, by its affinity and its control group."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.cpus import usable

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, ALLOWED),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, ALLOWED),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "99900000 100000\n"}, ALLOWED),
        # The host's name for the group, in a container that sees only its own.
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        # One above it has the quota.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
            },
            1,
        ),
        # Version 1 of control groups, where -1 is no quota.
        (
            {
                "proc/self/cgroup": "3:memory:/x\n4:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            ALLOWED,
        ),
    ],
)
def test_it_is_what_affinity_and_quota_leave_and_at_least_one(
    files: dict[str, str], found: int, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable(tmp_path) == found


def test_this_machine_has_some() -> None:
    assert 1 <= usable() <= ALLOWED
