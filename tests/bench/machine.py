"""What the benchmark runs on: the machine, and the versions of all that takes part.

Owns: finding them out.
Does not know: what is done with them.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gateway
from tests.bench import peers
from tests.bench.accounting import processor
from tests.bench.processes import Cores

_PACKAGES = ("aiohttp", "httptools", "uvloop", "jsonatapy", "msgspec", "grpcio", "tritonclient")


def describe(cores: Cores) -> dict[str, str]:
    """What the report says that the figures were measured on."""
    used = f"{len(cores.all)}: what is measured on core {cores.proxy}, the load on {cores.load}"
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": f"{used}, the upstream on {cores.upstream}",
        "system": f"{platform.system()} {platform.release()}",
        "gateway": gateway.__version__,
        "Python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    return {**facts, **_peers()}


def _peers() -> dict[str, str]:
    found = {
        "Envoy": _printed([peers.ENVOY.needs(), "--version"], r"/(\d[\d.]+)/"),
        "nginx": _printed([peers.NGINX.needs(), "-v"], r"nginx/([\d.]+)"),
        "Node": _printed(["node", "--version"], r"v([\d.]+)"),
        "LiteLLM": _printed(
            [peers.LITELLM.with_name("python"), "-c", _VERSION.format("litellm")], r"([\d.]+)"
        ),
    }
    package = peers.NODE_MODULES / "jsonata" / "package.json"
    if package.exists():
        found["jsonata-js"] = json.loads(package.read_text())["version"]
    return {name: said for name, said in found.items() if said}


_VERSION = "from importlib.metadata import version; print(version('{}'))"


def _printed(command: list[str | Path], pattern: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""  # it is not here; the notes of its scenarios say so
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else ""
