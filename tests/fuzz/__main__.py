"""``python -m tests.fuzz [TARGET…] [--seconds 60]``: look for inputs that no target has seen yet.

Each target runs under atheris (``pip install -e .[fuzz]``) for so many seconds. What takes a new
way through the gateway is kept in ``corpus/TARGET``; what breaks a target is kept there as
``found-…``, for the tests to fail with until it is mended.

Owns: running the engine, and what is kept of its findings.
Does not know: what the targets check.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.minimising import chosen
from tests.fuzz.targets import CORPUS, ROOT, TARGETS, seeds

#: Long inputs cost time, and say little that short ones do not.
_BYTES_MAX = 2048
#: A single input that takes so long is a finding.
_TIMEOUT_S = 10


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def keep(name: str, inputs: list[bytes]) -> int:
    """Make ``inputs`` the corpus of a target, beside what was found by breaking it."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if not old.name.startswith("found-"):
            old.unlink()
    for data in inputs:
        (folder / _name(data)).write_bytes(data)
    return len(inputs)


def look(name: str, seconds: int) -> bool:
    """Fuzz one target. Returns whether it held."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch, "work")
        work.mkdir()
        known = [file.read_bytes() for file in (CORPUS / name).glob("*")] + list(seeds(name))
        for data in known:
            (work / _name(data)).write_bytes(data)
        run = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.engine", name, str(work),
             f"-max_total_time={seconds}", f"-max_len={_BYTES_MAX}", f"-timeout={_TIMEOUT_S}",
             "-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={scratch}/found-"],
            cwd=ROOT,  capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        found = [file for file in Path(scratch).glob("found-*") if file.is_file()]
        for file in found:
            data = file.read_bytes()
            (CORPUS / name).mkdir(parents=True, exist_ok=True)
            (CORPUS / name / f"found-{_name(data)}").write_bytes(data)
        inputs = [file.read_bytes() for file in work.iterdir()]
    runs = re.search(r"number_of_executed_units: *(\d+)", run.stderr)
    if runs is None and not found:
        print(run.stdout[-2000:], run.stderr[-4000:], sep="\n", file=sys.stderr)
        return False
    told = f"{int(runs[1]) / seconds:.0f}/s" if runs and not found else "broken"
    if found:
        print(run.stdout[-3000:], run.stderr[:3000], sep="\n", file=sys.stderr)
        kept = len(known)
    else:
        kept = keep(name, chosen(TARGETS[name], inputs))
    print(f"{name}: {told}, {len(inputs)} inputs of which {kept} are kept", flush=True)
    return not found


def main() -> int:
    """0 where every target held."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    arguments = parser.parse_args()
    names = arguments.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    try:
        import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401, PLC0415
    except ImportError:
        print("atheris is missing: pip install -e '.[fuzz]'", file=sys.stderr)
        return 2
    held = [look(name, arguments.seconds) for name in names]  # each, whatever another found
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
