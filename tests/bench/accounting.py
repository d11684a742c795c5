"""What a process has used: CPU and memory, by the kernel's own accounting.

Owns: reading them, for a process and all its descendants.
Does not know: what the processes do.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


def family(pid: int) -> list[int]:
    """``pid`` and every process that descends from it and is alive."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_us_each(pid: int) -> dict[int, float]:
    """Microseconds of CPU that ``pid`` and each of its living descendants have used, user and
    system, all threads. What one used that has ended is not in it."""
    # The kernel's name for the CPU clock of another process, as clock_getcpuclockid(3) makes it.
    return {one: time.clock_gettime_ns((~one << 3) | 2) / 1000 for one in family(pid)}


def cpu_us(pid: int) -> float:
    """All of those together."""
    return sum(cpu_us_each(pid).values())


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(f"/proc/{pid}/status has no {field}")


def resident_bytes(pid: int) -> int:
    """Resident memory of ``pid`` and its descendants, bytes."""
    return sum(_status_bytes(one, "VmRSS") for one in family(pid))


def peak_bytes(pid: int) -> int:
    """The most that was resident of ``pid`` alone since ``reset_peak``, bytes."""
    return _status_bytes(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Let ``peak_bytes`` begin anew at what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def processor() -> str:
    """The CPU's name as the kernel has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine
