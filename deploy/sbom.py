"""What the image is made of, as a CycloneDX document: ``python -m deploy.sbom [EXTRA …]``.

Names, versions and licences are read off an installation of the locks, made for that and thrown
away; the hashes are the locks' own. What the base image brings (Debian, Python) is not in it.

Owns: how the document comes about, and where it is put: ``dist/pipeline-gateway-sbom.json``.
Does not know: what is locked (``locks``), the format (cyclonedx-py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy import locks
from gateway import __version__

TARGET: Final = locks.ROOT / "dist" / "pipeline-gateway-sbom.json"


def described(python: Path, extras: Iterable[str] = ()) -> dict[str, Any]:
    """The document about what is installed for ``python``; hashes come from the locks of
    ``extras`` and of the base install. Raises SystemExit where it cannot be made."""
    command = [
        *(sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"),
        *(
            "--no-validate",
            "--of",
            "JSON",
            "--pyproject",
            str(locks.ROOT / "pyproject.toml"),
            str(python),
        ),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit("the bill of materials could not be made; see above")
    document: dict[str, Any] = json.loads(done.stdout)
    document["metadata"]["component"]["version"] = __version__
    pins = {
        name: pin
        for extra in (None, *extras)
        for name, pin in locks.pins(locks.lock(extra)).items()
    }
    for component in document.get("components", ()):
        name = component["name"].lower().replace("_", "-").replace(".", "-")
        _, hashes = pins.get(name, ("", frozenset()))
        if hashes:
            component.setdefault("externalReferences", []).append(_files(component, hashes))
    return document


def _files(component: dict[str, Any], hashes: frozenset[str]) -> dict[str, Any]:
    contents = sorted(each.removeprefix("sha256:") for each in hashes)
    return {
        "type": "distribution",
        "url": component["purl"],
        "comment": "its files, one of which is installed; which one depends on the architecture",
        "hashes": [{"alg": "SHA-256", "content": content} for content in contents],
    }


def main(extras: list[str]) -> None:
    """Write the document for the image with these extras."""
    unknown = [extra for extra in extras if extra not in locks.EXTRAS]
    if unknown:
        sys.exit(f"no extra is called {unknown[0]}; there are: {', '.join(locks.EXTRAS)}")
    files = [part for extra in (None, *extras) for part in ("-r", str(locks.lock(extra)))]
    with TemporaryDirectory() as folder:
        python = Path(folder, "bin", "python")
        subprocess.run(
            [locks.uv(), "venv", "--quiet", "--python", sys.executable, folder], check=True
        )
        install = ["pip", "install", "--quiet", "--require-hashes", "--python", str(python)]
        subprocess.run([locks.uv(), *install, *files], check=True)
        text = json.dumps(described(python, extras), indent=2)
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"the bill of materials is not one: {wrong}")
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text + "\n")
    components = len(json.loads(text)["components"])
    print(f"{TARGET.relative_to(locks.ROOT)}: {components} components")


if __name__ == "__main__":
    main(sys.argv[1:])
