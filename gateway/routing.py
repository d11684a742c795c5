"""Which call a method and a path stand for.

Owns: the table of paths, and the dialect in which a path's errors are told.
Does not know: whether there is a pipeline, an execution or a webhook of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from gateway.errors import Code, RequestRejected
from gateway.metrics import Dialect, Mode


class Target(Struct, frozen=True):
    """What is asked for. ``pipeline``, ``id`` (of an execution or a webhook) and ``media_id`` are
    as the caller wrote them, unchecked; ``""`` for none."""

    action: str
    dialect: Dialect
    mode: Mode = Mode.OTHER
    pipeline: str = ""
    method: str = "GET"
    id: str = ""
    media_id: str = ""


class MethodNotAllowed(RequestRejected):
    """The path is there, the method is not; ``allowed`` lists those that are."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(
            f"{method[:20]} is not allowed on {path[:200]}; use {allowed.replace(', ', ' or ')}",
            code=Code.METHOD_NOT_ALLOWED,
        )
        self.allowed = allowed


#: Callers use few paths, and each many times. So many are kept, and none that is longer.
_PATHS_KEPT: Final = 4096
_PATH_CHARS_KEPT: Final = 256

_EXECUTE: Final = {
    ("executeSync",): ("execute", Mode.EXECUTE),
    ("executeSync", "json"): ("execute", Mode.EXECUTE_JSON),
    ("executeSync", "transform"): ("execute", Mode.EXECUTE_TRANSFORM),
    ("executeAsync",): ("execute_async", Mode.EXECUTE_ASYNC),
}
#: What stands behind an execution's ID, and which actions that is, by method.
_OF_EXECUTION: Final = {
    (): {"GET": "get_execution", "DELETE": "delete_execution"},
    ("cancel",): {"POST": "cancel_execution"},
    ("submit",): {"POST": "submit_execution"},
    ("events",): {"GET": "watch_execution"},
    ("observation",): {"GET": "get_observation", "POST": "post_observation"},
    ("observation", "json"): {"GET": "observation_json", "POST": "observation_json"},
    ("observation", "transform"): {"POST": "transform_observation"},
    ("observation", "media"): {"POST": "add_media"},
}
_EXECUTIONS: Final = {"GET": "list_executions", "POST": "create_execution"}
_HOOKS: Final = {"GET": "list_hooks", "POST": "create_hook"}
_HOOK: Final = {"GET": "get_hook", "PUT": "put_hook", "DELETE": "delete_hook"}


def dialect_of(path: str) -> Dialect:
    """The dialect that a caller of ``path`` speaks, for errors before anything else is known."""
    return Dialect.PUPAU if path.startswith("/pipelines") else Dialect.CAMBRION


def resolve(method: str, path: str) -> Target:
    """The target of a request. ``path`` is as it was sent, still percent-encoded.

    Raises:
        RequestRejected: no such path (404), or not with this method (405).
    """
    targets = _known(path) if len(path) <= _PATH_CHARS_KEPT else _lookup(path)
    for target in targets:
        if method == target.method or (method == "HEAD" and target.method == "GET"):
            return target
    if not targets:
        raise RequestRejected(f"there is no {method[:20]} {path[:200]}", code=Code.NOT_FOUND)
    raise MethodNotAllowed(method, path, ", ".join(target.method for target in targets))


def _lookup(path: str) -> Sequence[Target]:
    """What there is on a path, one target for each method."""
    match tuple(unquote(part) for part in path.rstrip("/").split("/")[1:]):
        case ("healthz" | "readyz" | "metrics" | "openapi.json" | "docs" as action,):
            return (Target(action, Dialect.CAMBRION),)
        case ("v1", "pipelines"):
            return (Target("list", Dialect.CAMBRION, Mode.DESCRIBE),)
        case ("v1", "pipelines", name):
            return (Target("describe", Dialect.CAMBRION, Mode.DESCRIBE, name),)
        case ("v1", "pipelines", name, "definition"):
            return (Target("definition", Dialect.CAMBRION, Mode.DESCRIBE, name),)
        case ("v1", "pipelines", name, *call) if tuple(call) in _EXECUTE:
            verb, mode = _EXECUTE[tuple(call)]
            return (Target(verb, Dialect.CAMBRION, mode, name, "POST"),)
        case ("v1", "executions" | "hooks" as kind, *rest):
            return _of_executions(rest) if kind == "executions" else _of_hooks(rest)
        case ("pipelines", name, "queries"):
            return (Target("query", Dialect.PUPAU, Mode.QUERY, name, "POST"),)
    return ()


def _of_executions(parts: Sequence[str]) -> Sequence[Target]:
    match parts:
        case []:
            return _targets(_EXECUTIONS, Mode.EXECUTIONS)
        case [name, "observation", "media", media_id]:
            return _targets({"GET": "get_media"}, Mode.EXECUTIONS, name, media_id)
        case [name, *rest]:
            mode = Mode.WATCH if rest == ["events"] else Mode.EXECUTIONS
            return _targets(_OF_EXECUTION.get(tuple(rest), {}), mode, name)
    return ()


def _of_hooks(parts: Sequence[str]) -> Sequence[Target]:
    match parts:
        case []:
            return _targets(_HOOKS, Mode.HOOKS)
        case [name]:
            return _targets(_HOOK, Mode.HOOKS, name)
    return ()


def _targets(
    actions: dict[str, str], mode: Mode, name: str = "", media_id: str = ""
) -> Sequence[Target]:
    return tuple(
        Target(action, Dialect.CAMBRION, mode, method=method, id=name, media_id=media_id)
        for method, action in actions.items()
    )


_known = lru_cache(_PATHS_KEPT)(_lookup)
