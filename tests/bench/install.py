"""Puts the peers in place that are no packages of the gateway's own environment.

Run as ``python -m tests.bench.install``. LiteLLM needs other versions of what the gateway needs, so
it gets an environment of its own; jsonata-js is Node's. Neither is indispensable: where one cannot
be installed that is said, and the benchmark goes on without it.

Owns: where they are put, and their versions.
Does not know: how they are run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers import LITELLM, NGINX, NODE_MODULES

LITELLM_VERSION = "1.106.2"
JSONATA_VERSION = "2.2.2"


def litellm() -> None:
    """LiteLLM's proxy, into an environment of its own.

    Raises:
        subprocess.CalledProcessError: it cannot be had.
    """
    if LITELLM.exists():
        return
    _run([sys.executable, "-m", "venv", LITELLM.parents[1]])
    python = LITELLM.with_name("python")
    _run([python, "-m", "pip", "install", "--quiet", f"litellm[proxy]=={LITELLM_VERSION}"])


def jsonata() -> None:
    """jsonata-js, beside which no other package is needed.

    Raises:
        OSError: there is no npm.
        subprocess.CalledProcessError: it cannot be had.
    """
    if (NODE_MODULES / "jsonata").exists():
        return
    NODE_MODULES.mkdir(parents=True, exist_ok=True)
    folder = NODE_MODULES.parent
    options: list[str | Path] = ["--no-audit", "--no-fund", "--silent", "--prefix", folder]
    _run([shutil.which("npm") or "npm", "install", *options, f"jsonata@{JSONATA_VERSION}"])


def _run(command: Sequence[str | Path]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def main() -> int:
    """Returns the exit code."""
    for name, install in {"LiteLLM": litellm, "jsonata-js": jsonata}.items():
        try:
            install()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} cannot be installed and is left out: {error}", file=sys.stderr)
    if not NGINX.there:
        print(f"{NGINX.missing}: it is left out.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
