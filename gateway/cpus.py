"""How many CPUs this process may use.

Owns: the reading of its affinity and of the quota of its control group.
Does not know: what is done with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

#: A quota and the period that it is for, one file in version 2 of control groups, two in version 1.
_V2 = "cpu.max"
_V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def usable(root: Path = Path("/")) -> int:
    """Whole CPUs that this process may use, at least 1: those that it may run on, and no more than
    its control group, or one above that, has a quota for. Linux only.

    ``root`` is where ``/proc`` and ``/sys`` are looked up."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas that hold for this process, CPUs."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup/cpu"
        else:
            continue
        folder = mount / path.lstrip("/")
        # A container may see the names of the host's groups, and only its own at the mount.
        for place in (folder, *folder.parents):
            if place.is_relative_to(mount):
                yield from _quota(place)


def _quota(folder: Path) -> Iterator[float]:
    words = _text(folder / _V2).split() or [_text(folder / name).strip() for name in _V1]
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]) > 0:
        yield int(words[0]) / int(words[1])


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no such group, or none of this kind: nothing is limited there
        return ""
