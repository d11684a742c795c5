"""A process from which replicas of the gateway are forked, everything imported, so that one costs
little.

Run as ``python -m tests.support.zygote``. Each line on standard input, ``CONFIG<tab>LOG``, starts
one that serves the file ``CONFIG`` and writes to the file ``LOG``; its process ID is the answer.
At the end of the input all of them are killed.

Owns: the forking, and that none of them outlives this process.
Does not know: what they serve, who ends them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from gateway import app
from gateway.config import load
from gateway.loaded import Loaded

#: See prctl(2).
_SET_PARENT_DEATH_SIGNAL = 1


def _replica(config: str, log: str) -> None:
    """What the forked process does; it does not return."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (lines, 1), (lines, 2)):
        os.dup2(descriptor, standard)
    os.close(nothing)
    os.close(lines)
    code = 1
    try:
        path = Path(config)
        code = app.serve(Loaded(load(path, {})), lambda files: load(path, {}, files=files))
    except BaseException as error:  # noqa: BLE001  nothing of the forking process is to run here
        print(repr(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Fork as asked until nobody asks any more."""
    # The system forgets those that end, so that none of them stays as a name only.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        config, log = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            _replica(config, log)
        print(pid, flush=True)
    os._exit(0)  # which ends all that were forked


if __name__ == "__main__":
    main()
