"""The configuration as whoever watches the gateway may see it: with all values, without secrets.

Owns: what is masked, and how what is no plain value is shown.
Does not know: which keys there are, who asks.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, SecretStr

from gateway.values import Expression, Pem

MASK: Final = "***"
#: Keys whose text is no secret, but what a secret could be guessed with.
_HASHES: Final = frozenset({"sha256"})


def shown(value: Any) -> Any:
    """``value``, a section or any value of one, as what JSON can hold."""
    match value:
        case SecretStr():
            return MASK
        case Pem():
            return value.path
        case Expression():
            return {"text": value.text, "file": value.file, "line": value.line}
        case BaseModel():
            return {
                name: MASK if name in _HASHES and each is not None else shown(each)
                for name, each in value
            }
        case dict():
            return {name: shown(each) for name, each in value.items()}
        case tuple() | list() | set() | frozenset():
            return [shown(each) for each in value]
        case None | bool() | int() | float() | str():
            return value
    return str(value)
