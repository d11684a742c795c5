"""Memory that is free again goes back to the system.

Owns: the two settings of the C library's allocator that this takes.
Does not know: who needs memory, or what for.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
#: Left to itself, glibc raises both with the largest block that was ever let go of: such blocks
#: then share the heap with all that is small, which grows around their gaps. Set too low, the
#: blocks of every answer of middling size are asked of the system one by one, which costs more than
#: reading them.
_MMAP_BYTES: Final = 1024 * 1024
_TRIM_BYTES: Final = 4 * 1024 * 1024


def give_back() -> bool:
    """From now on, blocks of 1 MiB and more are given back as soon as they are let go of, and so is
    what is free at the heap's end, where that is more than 4 MiB.

    Returns whether the C library knows the settings: glibc does, others are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no C library by that name, or without this
        return False
    return all([mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES), mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)])
