"""Memory that is free again goes back to the system.

Owns: the one setting of the C library's allocator that this takes.
Does not know: who needs memory, or what for.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
#: What glibc begins with. Left to itself, it raises this with the largest block that was ever let
#: go of, and then keeps up to twice as much: memory that grows with every stream, for long.
_TRIM_BYTES: Final = 128 * 1024


def give_back() -> bool:
    """From now on, free memory at the heap's end goes back as soon as it is 128 KiB.

    Returns whether the C library knows the setting: glibc does, others are left as they are.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES))
    except (OSError, AttributeError):  # no C library by that name, or without this
        return False
