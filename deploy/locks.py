"""What the image installs, pinned and hashed: ``python -m deploy.locks`` writes it anew.

``deploy/requirements.txt`` has what the gateway needs, ``requirements-EXTRA.txt`` what an extra
needs on top of that, ``requirements-build.txt`` what builds the image. Versions are those of
``constraints.txt``; the hashes are of all files that the index has of them, so that one lock serves
x86_64 and aarch64.

Owns: which locks there are, and how they are resolved.
Does not know: where the index is (uv's own settings say so), what constraints.txt is made of.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "deploy"
EXTRAS: Final = ("otel", "pdf", "redis", "triton")
#: What the Dockerfile's first stage runs. Both are in the extra ``dev`` as well.
BUILD: Final = ("hatchling", "uv")
#: The Python of the image.
PYTHON: Final = "3.11.16"
_HEAD: Final = (
    "# {what}\n# Written by `make requirements`; versions are those of constraints.txt.\n"
)


def lock(extra: str | None = None) -> Path:
    """Where the lock of ``extra`` is; without one, that of the base install."""
    return FOLDER / (f"requirements-{extra}.txt" if extra else "requirements.txt")


def pins(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """What a lock holds: version and hashes (``sha256:…``) of each package by its name."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    logical = path.read_text().replace("\\\n", " ")
    for line in logical.splitlines():
        pin, *hashes = line.partition("#")[0].split() or [""]
        if pin:
            name, _, version = pin.partition("==")
            found[name] = (version, frozenset(each.removeprefix("--hash=") for each in hashes))
    return found


def uv() -> str:
    """The uv that is installed beside this Python, else the one on the path."""
    return which("uv", path=str(Path(sys.executable).parent)) or "uv"


def _resolve(path: Path, what: str, *arguments: str, wanted: str = "") -> int:
    """Write one lock. Returns how many packages it has."""
    command = [
        *(uv(), "pip", "compile", *arguments),
        *("--generate-hashes", "--constraints", "constraints.txt", "--python-version", PYTHON),
        *("--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"),
        *("--no-header", "--no-annotate", "--no-config", "--quiet"),
    ]
    done = subprocess.run(command, cwd=ROOT, input=wanted, text=True, stdout=-1, check=False)
    if done.returncode:
        sys.exit(f"{path.name} could not be resolved; see above")
    path.write_text(_HEAD.format(what=what) + done.stdout)
    return len(pins(path))


def main() -> None:
    """Write all locks."""
    base = lock()
    counts = {base: _resolve(base, "What the gateway needs.", "pyproject.toml")}
    known = [part for name in pins(base) for part in ("--no-emit-package", name)]
    for extra in EXTRAS:
        what = f"What the extra {extra} needs besides requirements.txt."
        arguments = ("pyproject.toml", "--extra", extra, *known)
        counts[lock(extra)] = _resolve(lock(extra), what, *arguments)
    build = lock("build")
    counts[build] = _resolve(build, "What builds the image.", "-", wanted="\n".join(BUILD))
    for path, count in counts.items():
        print(f"{path.relative_to(ROOT)}: {count} packages")


if __name__ == "__main__":
    main()
