"""Memory that is free again goes back to the system.

Owns: the two settings of the C library's allocator that this takes.
Does not know: who needs memory, or what for.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: What glibc begins with. Left to itself, it raises both with the largest block that was ever let
#: go of: such blocks then share the heap with all that is small, which grows around their gaps.
_BYTES: Final = 128 * 1024


def give_back() -> bool:
    """From now on, blocks of 128 KiB and more are given back as soon as they are let go of, and so
    is what is free at the heap's end.

    Returns whether the C library knows the settings: glibc does, others are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no C library by that name, or without this
        return False
    return all([mallopt(_M_TRIM_THRESHOLD, _BYTES), mallopt(_M_MMAP_THRESHOLD, _BYTES)])
