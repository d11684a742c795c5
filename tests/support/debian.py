"""Programs that tests need and no Python package carries, from Debian's packages.

What is on PATH is taken; else the package is fetched and unpacked, without root and without a touch
of the system's own lists and packages: apt works in folders of its own. It checks signatures as
ever.

Owns: ``.venv/tools``: the unpacked packages, and the lists that they are found with.
Does not know: what any of the programs does.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOOLS = Path(__file__).parents[2] / ".venv" / "tools"
#: For one call of apt: tens of megabytes over a slow line, seconds.
_FETCH_S = 240
#: What dpkg knows of the system is not asked for: nothing is installed.
_EMPTY_STATUS = "status"


class NotThereError(RuntimeError):
    """A program that is neither on PATH nor to be had; the message says what to install."""


def binary(package: str, path: str, tools: Path = TOOLS) -> Path:
    """A program that can be run.

    The first call fetches it where it is not on PATH, which takes seconds and the network; of
    processes that call side by side one does.

    Args:
        package: Debian's name of what has it, as ``prometheus``.
        path: where it lies in the package, as ``usr/bin/promtool``.
        tools: where packages are unpacked.

    Raises:
        NotThereError: it can be had in neither way.
    """
    name = Path(path).name
    if found := shutil.which(name):
        return Path(found)
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise NotThereError(f"{name} is needed on PATH: there is no apt here to fetch it with")
    program = tools / package / path
    if not program.exists():
        tools.mkdir(parents=True, exist_ok=True)
        with _alone(tools / "lock"):
            if not program.exists():
                _fetch(package, tools)
    if not program.exists():
        raise NotThereError(f"{name} is needed on PATH: Debian's {package} has no {path}")
    return program


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the lock of one that has died is free."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _fetch(package: str, tools: Path) -> None:
    """Unpack ``package`` into the folder of its name, in one step."""
    state, scratch = tools / "apt", tools / f"{package}.new"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / _EMPTY_STATUS).touch()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    said = _apt(state, scratch, "download", package)
    if not list(scratch.glob("*.deb")):
        # No lists yet, or such as name a version that is gone. One source of several that does not
        # answer makes the update fail; whether the package is there is all that counts.
        said = _apt(state, scratch, "update") + _apt(state, scratch, "download", package)
    archives = list(scratch.glob("*.deb"))
    if not archives:
        raise NotThereError(
            f"{package} is needed: install it with apt, or give this machine a way to Debian's "
            f"mirror. apt said: {' '.join(said.split())[-600:]}"
        )
    unpacked = scratch / "unpacked"
    subprocess.run(["dpkg-deb", "-x", archives[0], unpacked], check=True, timeout=_FETCH_S)
    shutil.rmtree(tools / package, ignore_errors=True)
    unpacked.rename(tools / package)
    shutil.rmtree(scratch)


def _apt(state: Path, where: Path, *words: str) -> str:
    """What apt-get says; what it downloads lies in ``where``."""
    options = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / _EMPTY_STATUS,
        "Dir::Cache": state / "cache",
        "Dir::Log": state / "log",
        # As root, apt would become a user that cannot write here.
        "APT::Sandbox::User": "root",
        "Acquire::Retries": "3",
    }
    given = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    try:
        done = subprocess.run(
            ["apt-get", *given, "-q", *words],
            cwd=where,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_FETCH_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"nothing for {_FETCH_S} s\n"
    return done.stdout.decode(errors="replace")
