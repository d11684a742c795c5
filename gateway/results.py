"""What the results of a route's transforms mean.

Owns: the fields that the result of a ``request`` transform may have, and how each replaces the
request's; the events that the result of an ``event`` transform stands for.
Does not know: where a result came from, or what becomes of what is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from gateway.model import Media, Request


class _Chosen(msgspec.Struct):
    id: str


class _Changes(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The view's fields, any of them left out."""

    pipeline: str | UnsetType = UNSET
    execution_id: str | UnsetType | None = UNSET
    text: str | UnsetType | None = UNSET
    context: str | UnsetType | None = UNSET
    tag: str | UnsetType | None = UNSET
    # JSONata makes no difference between one item and a list of one.
    media: list[_Chosen | str] | _Chosen | str | UnsetType | None = UNSET
    observation: Raw | UnsetType = UNSET
    runtime_parameters: dict[str, Any] | UnsetType | None = UNSET
    meta_data: dict[str, Any] | UnsetType | None = UNSET
    # An actor's view has these beside the fields; they may come back, and change nothing.
    request: dict[str, Raw] | UnsetType = UNSET
    layers: list[Raw] | UnsetType = UNSET


_decoder = msgspec.json.Decoder(_Changes)


def apply_changes(request: Request, result: str) -> Request:
    """``request`` with the fields that ``result`` has in place of its own.

    ``result`` is the JSON text of an object with fields of the request's view (``request_view``).
    One that is null is taken away. Media are chosen by listing them, as objects with their ``id``
    or as IDs; their order is that of the list. ``pipeline`` and ``executionId`` may be there, as
    they are when a whole view comes back, but may not differ; ``request`` and ``layers`` may be
    there too, for the same reason.

    Raises:
        ValueError: ``result`` is no such object, or lists a media that the request does not have.
    """
    try:
        changes = _decoder.decode(result)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    for name in ("pipeline", "execution_id"):
        if getattr(changes, name) not in (UNSET, getattr(request, name)):
            raise ValueError(f"{name} cannot be changed")
    updates = {
        name: getattr(changes, name)
        for name in ("text", "context", "tag")
        if getattr(changes, name) is not UNSET
    }
    if changes.runtime_parameters is not UNSET:
        updates["parameters"] = changes.runtime_parameters or {}
    if changes.meta_data is not UNSET:
        updates["meta"] = changes.meta_data or {}
    if not isinstance(changes.observation, UnsetType):
        updates["observation"] = _observation(bytes(changes.observation))
    if not isinstance(changes.media, UnsetType):
        listed = changes.media or []
        updates["media"] = _chosen(request.media, listed if isinstance(listed, list) else [listed])
    return replace(request, **updates)


def _observation(text: bytes) -> bytes | None:
    if text == b"null":
        return None
    if not text.startswith(b"{"):
        raise ValueError("observation must be an object")
    return text


def _chosen(media: Sequence[Media], listed: Sequence[_Chosen | str]) -> tuple[Media, ...]:
    by_id = {item.id: item for item in media}
    names = [item if isinstance(item, str) else item.id for item in listed]
    for name in names:
        if name not in by_id:
            raise ValueError(f'it lists a media "{name[:80]}" that is not there')
    return tuple(by_id[name] for name in names)


_items_decoder = msgspec.json.Decoder(list[Raw])
_KINDS: Final = {'"': "a string", "[": "a list", "t": "true", "f": "false", "n": "null"}


def event_items(result: str) -> list[bytes]:
    """The JSON text of each event to send; ``result`` is what an ``event`` transform yielded.

    An object is one event, a list its items, null and empty lists none.

    Raises:
        ValueError: for any other value in either place.
    """
    result = result.strip()
    if result.startswith("{"):
        return [result.encode()]
    if result == "null":
        return []
    if not result.startswith("["):
        raise _no_event(result)
    try:
        listed = _items_decoder.decode(result)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    items = []
    for raw in listed:
        item = bytes(raw)
        if item.startswith(b"{"):
            items.append(item)
        elif item != b"[]":
            raise _no_event(item.decode(), "a list with ")
    return items


def _no_event(value: str, where: str = "") -> ValueError:
    kind = _KINDS.get(value[:1], "a number")
    return ValueError(f"it must be an object, a list of objects or nothing, and is {where}{kind}")
