"""Has anything that the image installs a known hole? ``python -m deploy.audit``.

Exit codes: 0 none is known; 1 some are, each on a line; 2 it could not be found out.

Owns: which locks are asked about, what comes of the answer.
Does not know: the holes; pip-audit asks a service for them (``AUDIT_SERVICE``: pypi or osv).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Final

from deploy import locks

HOLES: Final = 1
UNKNOWN: Final = 2


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit code for a report of pip-audit's, and the lines that say why."""
    asked = report.get("dependencies", [])
    skipped = [each for each in asked if "skip_reason" in each]
    holes = [
        f"{each['name']} {each['version']}: {hole['id']}{_fixed(hole)}"
        for each in asked
        for hole in each.get("vulns", ())
    ]
    if skipped:
        holes.append(
            f"of {len(asked)} packages {len(skipped)} could not be looked up, {skipped[0]['name']} "
            "first: the service of vulnerabilities cannot be reached from here, or does not know "
            "them; AUDIT_SERVICE=osv asks another one"
        )
        return UNKNOWN, holes
    if not asked:
        return UNKNOWN, ["nothing was looked up"]
    return (HOLES if holes else 0), holes or [f"{len(asked)} packages: no hole is known"]


def _fixed(hole: dict[str, Any]) -> str:
    versions = hole.get("fix_versions")
    return f"; fixed in {', '.join(versions)}" if versions else "; there is no fixed version"


def main() -> None:
    """Ask about all locks, and exit."""
    files = [locks.lock(), *map(locks.lock, (*locks.EXTRAS, "build"))]
    command = [
        *(sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json"),
        *("--progress-spinner", "off", "--vulnerability-service"),
        os.environ.get("AUDIT_SERVICE", "pypi"),
        *(part for path in files for part in ("-r", str(path))),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"pip-audit ended with {done.returncode}"]
        print(
            f"the service of vulnerabilities cannot be asked from here: {last[0]}", file=sys.stderr
        )
        sys.exit(UNKNOWN)
    code, lines = verdict(report)
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    sys.exit(code)


if __name__ == "__main__":
    main()
