"""A Dockerfile, carried out without Docker: each COPY by its own rules, each RUN as its own text.

Absolute paths of the image become paths below one folder. A stage begins with what that folder held
put aside; ``COPY --from`` takes from there.

Owns: reading the file and .dockerignore, as far as this project's use them, and carrying them out.
Does not know: what the image is for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

#: What is the image's own of absolute paths; the rest (/bin/sh) is this machine's.
_OWN: Final = re.compile(r"(?<![\w./$}-])/(?=(?:build|src|opt|etc|var|usr/local)/)")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: ``RUN`` and what follows, its lines joined."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of its JSON form, or those between spaces."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return self.text.split()


def steps(dockerfile: Path) -> list[Step]:
    """The instructions of a Dockerfile, in order."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    pairs = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [Step(name, text.strip()) for name, text in pairs]


def context(root: Path) -> list[str]:
    """The files that go to the builder: those of ``root`` that .dockerignore lets through. The last
    pattern that matches a file, or a folder around it, decides."""
    lines = (root / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    found = []
    for folder, folders, files in os.walk(root):
        place = Path(folder).relative_to(root)
        # What is left out as a whole, and nothing in it named again, need not be walked through.
        folders[:] = [each for each in folders if _kept(place / each / "any", patterns)
                      or any(line.startswith(f"!{each}/") for line in patterns)]  # fmt: skip
        found += [str(place / each) for each in files if _kept(place / each, patterns)]
    return sorted(found)


def _kept(path: Path, patterns: list[str]) -> bool:
    kept = True
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if any(_matches(PurePosixPath(each), bare) for each in (path, *path.parents[:-1])):
            kept = pattern.startswith("!")
    return kept


def _matches(path: PurePosixPath, pattern: str) -> bool:
    anywhere = pattern.startswith("**/")
    parts = pattern.removeprefix("**/").split("/")
    own = path.parts[-len(parts) :] if anywhere else path.parts
    return len(own) == len(parts) and all(map(fnmatchcase, own, parts))


@dataclass(slots=True)
class Built:
    """What came of a Dockerfile: its last stage lies at ``root``."""

    root: Path
    source: Path
    arguments: dict[str, str]
    environ: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Step] = field(default_factory=dict)
    stages: dict[str, Path] = field(default_factory=dict)
    _folder: Path = Path("/")
    _stage: str = ""

    def own(self, text: str) -> str:
        """``text`` with the image's absolute paths below ``root``."""
        return _OWN.sub(f"{self.root}/", text)

    def command(self, *names: str) -> list[str]:
        """The words of these instructions, one after the other."""
        return [word for name in names for word in self.settings[name].words]

    def take(self, step: Step) -> None:
        """Carry out one instruction."""
        match step.name:
            case "FROM":
                self._begin(step.words)
            case "ARG":
                name, given, value = step.text.partition("=")
                if given:
                    self.arguments.setdefault(name, value.strip('"'))
            case "ENV":
                pairs = (word.partition("=") for word in step.words)
                self.environ |= {name: self.own(value) for name, _, value in pairs}
            case "WORKDIR":
                self._folder = Path(self.own(f"{step.text}/"))
                self._folder.mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(step.words)
            case "RUN":
                self._run(step.text)
            case _:
                self.settings[step.name] = step

    def _begin(self, words: list[str]) -> None:
        if self._stage:
            self.stages[self._stage] = self.root.with_name(self._stage)
            self.root.rename(self.stages[self._stage])
        self._stage = words[2] if len(words) > 2 else "last"
        self.environ, self.settings, self._folder = {}, {"FROM": Step("FROM", words[0])}, self.root
        # The image's Python is this one, its pip included.
        shim = self.root.with_name("base") / "python"
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        shim.chmod(0o755)
        self.environ["PATH"] = f"{shim.parent}:/usr/bin:/bin"
        self.root.mkdir()

    def _copy(self, words: list[str]) -> None:
        flags = dict(word[2:].split("=") for word in words if word.startswith("--"))
        *sources, target = (word for word in words if not word.startswith("--"))
        into = Path(self.own(target)) if target.startswith("/") else self._folder / target
        if "from" in flags:
            for each in sources:
                made = self.stages[flags["from"]] / each.lstrip("/")
                shutil.copytree(made, into, symlinks=True, dirs_exist_ok=True)
            return
        for each in context(self.source):
            for pattern in sources:
                below = Path(each).is_relative_to(pattern)
                if not below and not _matches(PurePosixPath(each), pattern):
                    continue
                place = into / (Path(each).relative_to(pattern) if below else Path(each).name)
                if below and each == pattern:
                    place = into / Path(each).name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.source / each, place)

    def _run(self, text: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", self.own(text)],
            cwd=self._folder,
            env={**os.environ, **self.arguments, **self.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"RUN {text}\n{done.stdout}{done.stderr}"

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file of the last stage with its size and when it was changed, nanoseconds."""
        found = {}
        for path in self.root.rglob("*"):
            about = path.lstat()
            if not stat.S_ISDIR(about.st_mode):
                found[str(path.relative_to(self.root))] = (about.st_size, about.st_mtime_ns)
        return found


def build(dockerfile: Path, source: Path, folder: Path, **arguments: str) -> Built:
    """Carry out ``dockerfile`` over the files of ``source``, in ``folder``, which is empty.

    Raises AssertionError with the output of the RUN that failed."""
    built = Built(folder / "root", source, arguments)
    for step in steps(dockerfile):
        built.take(step)
    return built
