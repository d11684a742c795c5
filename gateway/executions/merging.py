"""Adding to observations without holding up the loop.

Whatever thread it is done in, tens of megabytes are copied in one go, and nothing else of the
process goes on meanwhile. So from some length on it is done in a process of its own.

Owns: from which length on; that process.
Does not know: what an observation is (``observation``), where it is kept.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import Final

from gateway.errors import RequestRejected
from gateway.observation import append

#: Together; up to here it takes less than starting a process, and under 100 ms.
APART_BYTES: Final = 4 * 1024 * 1024
_HEAD: Final = struct.Struct("!Q?")
_REJECTED: Final = 3
# The parent's module search path stands in for its environment and its site configuration.
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[1:]; from gateway.executions.merging import main; main()"
)


def appended(first: bytes, second: bytes, *, replace: bool) -> bytes:
    """``observation.append``, for a thread that may wait. Raises RequestRejected."""
    if len(first) + len(second) <= APART_BYTES:
        return append(first, second, replace=replace)
    answer = _apart(first, second, replace)
    return append(first, second, replace=replace) if answer is None else answer


def _apart(first: bytes, second: bytes, replace: bool) -> bytes | None:
    """The same from a process of its own; ``None``: it has ended without an answer."""
    search_path = [os.path.abspath(entry) for entry in sys.path]
    try:
        with subprocess.Popen(  # noqa: S603 -- no shell, and nothing of a caller's
            [sys.executable, "-I", "-S", "-B", "-c", _BOOT, *search_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
            cwd="/",
            start_new_session=True,  # the terminal's Ctrl-C is the gateway's to handle
        ) as child:
            if child.stdin is None or child.stdout is None:
                return None
            for piece in (_HEAD.pack(len(first), replace), first, second):
                child.stdin.write(piece)
            child.stdin.close()
            answer = child.stdout.read()
    except OSError:  # it has ended before it had read all, or could not be started
        return None
    if child.returncode == _REJECTED:
        raise RequestRejected(answer.decode())
    return None if child.returncode else answer


def main() -> None:
    """What the process does: read both observations, write the one that they come to."""
    first_bytes, replace = _HEAD.unpack(sys.stdin.buffer.read(_HEAD.size))
    first = sys.stdin.buffer.read(first_bytes)
    try:
        sys.stdout.buffer.write(append(first, sys.stdin.buffer.read(), replace=replace))
    except RequestRejected as error:
        sys.stdout.buffer.write(error.message.encode())
        sys.stdout.buffer.flush()
        sys.exit(_REJECTED)
