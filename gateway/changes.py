"""What one configuration has that another has not.

Owns: when two sections say the same, and the counting of those that do not.
Does not know: what becomes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gateway.config import Config
from gateway.values import Expression


def changes(before: Config, after: Config) -> dict[str, dict[str, list[str]]]:
    """The names of the upstreams, pipelines and keys that were added, removed and changed:
    ``{"upstreams": {"added": [...], "removed": [...], "changed": [...]}, "pipelines": {…}}``;
    what is empty is left out."""
    found = {
        "keys": _compare(*({key.name: key for key in each.keys or ()} for each in (before, after))),
        "upstreams": _compare(before.upstreams, after.upstreams),
        "pipelines": _compare(before.pipelines, after.pipelines),
    }
    return {what: each for what, each in found.items() if each}


def _compare(before: Mapping[str, BaseModel], after: Mapping[str, BaseModel]) -> dict[str, Any]:
    common = before.keys() & after.keys()
    found = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(n for n in common if _meaning(before[n]) != _meaning(after[n])),
    }
    return {how: names for how, names in found.items() if names}


def _meaning(value: Any) -> Any:
    """``value`` without the places where it was written."""
    match value:
        case Expression():
            return value.text
        case BaseModel():
            return {name: _meaning(each) for name, each in value}
        case dict():
            return {name: _meaning(each) for name, each in value.items()}
        case tuple():
            return [_meaning(each) for each in value]
    return value
