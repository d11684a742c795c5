"""Child processes that do not outlive the process that started them.

Owns: the tie to the starter's life.
Does not know: what the children are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

# Asks the kernel to end this process when its starter dies, however that dies; then becomes the
# program proper. A program of its own, because code between fork and exec is not safe once the
# starter has threads, as gRPC's.
_TIED: Final = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
    "os.getppid() == int(sys.argv[1]) or sys.exit('the starter is gone')\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def tied(command: Sequence[str]) -> list[str]:
    """``command`` such that the kernel ends it (SIGTERM) when this process dies. Linux only.

    ``command[0]`` is the program's path.
    """
    return [sys.executable, "-c", _TIED, str(os.getpid()), *command]
