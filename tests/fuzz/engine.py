"""One target under atheris, in a process of its own: ``python -m tests.fuzz.engine TARGET …``.

Owns: which modules' branches atheris sees.
Does not know: which targets there are, what becomes of what it finds.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

#: What is read in Python. The readers in C are seen through what comes of them only.
_SEEN = ["gateway", "hpack", "multipart"]


def main() -> None:
    """Arguments: a target's name, then libFuzzer's."""
    with atheris.instrument_imports(include=_SEEN):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415  only now is it instrumented
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
