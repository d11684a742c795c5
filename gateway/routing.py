"""Which call a method and a path stand for.

Owns: the table of paths, and the dialect in which a path's errors are told.
Does not know: whether a pipeline of that name exists.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from gateway.errors import Code, RequestRejected
from gateway.metrics import Dialect, Mode


class Target(Struct, frozen=True):
    """What is asked for. ``pipeline`` is as the caller wrote it, unchecked; ``""`` for none."""

    action: str
    dialect: Dialect
    mode: Mode = Mode.OTHER
    pipeline: str = ""
    method: str = "GET"


class MethodNotAllowed(RequestRejected):
    """The path is there, the method is not; ``allowed`` is the one that is."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(
            f"{method[:20]} is not allowed on {path[:200]}; use {allowed}",
            code=Code.METHOD_NOT_ALLOWED,
        )
        self.allowed = allowed


#: Callers use few paths, and each many times. So many are kept, and none that is longer.
_PATHS_KEPT: Final = 4096
_PATH_CHARS_KEPT: Final = 256

_EXECUTE: Final = {
    (): Mode.EXECUTE,
    ("json",): Mode.EXECUTE_JSON,
    ("transform",): Mode.EXECUTE_TRANSFORM,
}


def dialect_of(path: str) -> Dialect:
    """The dialect that a caller of ``path`` speaks, for errors before anything else is known."""
    return Dialect.PUPAU if path.startswith("/pipelines") else Dialect.CAMBRION


def resolve(method: str, path: str) -> Target:
    """The target of a request. ``path`` is as it was sent, still percent-encoded.

    Raises:
        RequestRejected: no such path (404), or not with this method (405).
    """
    target = _known(path) if len(path) <= _PATH_CHARS_KEPT else _lookup(path)
    if target is None:
        raise RequestRejected(f"there is no {method[:20]} {path[:200]}", code=Code.NOT_FOUND)
    if method != target.method and not (method == "HEAD" and target.method == "GET"):
        raise MethodNotAllowed(method, path, target.method)
    return target


def _lookup(path: str) -> Target | None:
    match tuple(unquote(part) for part in path.rstrip("/").split("/")[1:]):
        case ("healthz" | "readyz" | "metrics" as action,):
            return Target(action, Dialect.CAMBRION)
        case ("v1", "pipelines"):
            return Target("list", Dialect.CAMBRION, Mode.DESCRIBE)
        case ("v1", "pipelines", name):
            return Target("describe", Dialect.CAMBRION, Mode.DESCRIBE, name)
        case ("v1", "pipelines", name, "definition"):
            return Target("definition", Dialect.CAMBRION, Mode.DESCRIBE, name)
        case ("v1", "pipelines", name, "executeSync", *view) if tuple(view) in _EXECUTE:
            return Target("execute", Dialect.CAMBRION, _EXECUTE[tuple(view)], name, "POST")
        case ("pipelines", name, "queries"):
            return Target("query", Dialect.PUPAU, Mode.QUERY, name, "POST")
    return None


_known = lru_cache(_PATHS_KEPT)(_lookup)
