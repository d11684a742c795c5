"""The two vocabularies of the gateway: ``Request`` going down, ``Event`` coming up.

Every inbound dialect is parsed into the one and rendered from the other; every upstream takes the
one and yields the other. JSON that nobody has to look into stays the bytes it arrived as
(``observation``, ``raw``): it is parsed at most once, by whoever needs the value.

Owns: these structs and the JSON view of a request that transforms see.
Does not know: any wire format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from gateway.errors import Outcome


class Media(Struct, frozen=True):
    """One file of a request.

    ``id`` is ``media-1`` and so on in the order of the request; ``data`` the decoded bytes;
    ``content_type`` what the bytes themselves say (``mediatype.detect``); ``filename`` only where
    the caller gave one.
    """

    id: str
    data: bytes
    content_type: str
    filename: str | None = None

    def __repr__(self) -> str:
        return f"Media({self.id!r}, {len(self.data)} bytes, {self.content_type!r})"


class Request(Struct, frozen=True):
    """One normalised request. A field that the caller left out is ``None``, never invented.

    ``observation`` is JSON text (an object, UTF-8). ``parameters`` are the caller's run-time
    parameters without ``context``, which has a field of its own. ``headers`` are the allow-listed
    ones, names in lower case. ``key`` is the *name* of the caller's key, never the key.
    ``execution_id`` and ``hook_ids`` are as the caller wrote them.
    """

    pipeline: str
    request_id: str
    text: str | None = None
    context: str | None = None
    media: tuple[Media, ...] = ()
    observation: bytes | None = None
    execution_id: str | None = None
    tag: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    transient: bool = False
    idempotent: bool = False
    try_image_conversion: bool = False
    try_simple_text: bool = False
    transform: str | None = None
    stream: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    hook_ids: tuple[str, ...] = ()


class ActorError(Struct, frozen=True):
    """What an actor reports of its own failure: ``name`` is an exception-like name."""

    message: str
    name: str


class ActorResponse(Struct, frozen=True):
    """One actor's whole answer, as a ``LAYER_RESPONSE`` lists it."""

    actor_id: str
    message: str
    errors: tuple[ActorError, ...] = ()
    info: tuple[Any, ...] = ()


class LayerStarted(Struct, frozen=True):
    """A layer begins (``LAYER_MESSAGE``). ``raw``: the event's JSON text as it was sent."""

    layer_id: str
    message: str
    execution_count: int | None = None
    raw: bytes | None = None


class Delta(Struct, frozen=True):
    """A piece of one actor's text (``STREAMING_RESPONSE``)."""

    actor_id: str
    message: str
    layer_id: str
    finished: bool = False
    last_layer: bool = False
    raw: bytes | None = None


class LayerFinished(Struct, frozen=True):
    """A layer is done (``LAYER_RESPONSE``): each actor's whole text. ``last``: nothing follows.

    ``raw`` is the JSON text as the upstream sent it: of the event in a stream, of the list of
    responses in a plain answer.
    """

    layer_id: str
    responses: tuple[ActorResponse, ...]
    last: bool = False
    execution_count: int | None = None
    raw: bytes | None = None


class ObservationReady(Struct, frozen=True):
    """The finished observation: JSON text, UTF-8.

    From an upstream it is an object; an ``observation`` transform may make any JSON value of it.
    """

    observation: bytes
    execution_id: str | None = None


class Frames(Struct, frozen=True):
    """``count`` whole SSE frames in the caller's own dialect, exactly as they arrived, unparsed.

    A ``count`` of 0 says that the upstream is alive: a comment, or nothing that can be passed on.
    """

    data: bytes
    count: int


class RawEvent(Struct, frozen=True):
    """An event that is sent on as this JSON text: one of a type the gateway does not know, or what
    an ``event`` transform made."""

    raw: bytes


class Failed(Struct, frozen=True):
    """The run cannot go on. Ends a stream; ``responses`` are those of the layer in which it failed,
    each actor's text so far, and the errors."""

    layer_id: str
    responses: tuple[ActorResponse, ...]


Event = LayerStarted | Delta | LayerFinished | ObservationReady | Frames | RawEvent | Failed


def is_content(event: Event) -> bool:
    """Whether ``event`` brings something of what was asked for, rather than news of the run. A last
    piece without text does not: how its layer ended may follow it."""
    if isinstance(event, ObservationReady):
        return True
    match event:
        case LayerStarted():
            return False
        case LayerFinished():
            return event.last
        case Delta():
            return bool(event.message)
        case Frames():
            return event.count > 0
        case _:
            return True


class Result(Struct, frozen=True):
    """What a plain (not streamed) call comes to; a dialect writes down the part it has a word for.

    ``observation`` and ``view`` (the caller's own ``/json`` or ``/transform``; ``None``: it yielded
    nothing) are JSON text. ``raw`` is the list of ``responses`` as the upstream wrote it, where it
    did. ``outcome`` is not ``COMPLETE`` where an actor reports a failure within its response.
    """

    execution_id: str
    observation: bytes | None = None
    view: bytes | None = None
    responses: tuple[ActorResponse, ...] = ()
    raw: bytes | None = None
    outcome: Outcome = Outcome.COMPLETE


def request_view(request: Request) -> dict[str, Any]:
    """The request as the JSON object that transforms see; media as ``{id, contentType, filename,
    size}``, sizes in bytes. Absent fields are absent. ``observation`` is the parsed value."""

    optional = {
        "text": request.text,
        "context": request.context,
        "executionId": request.execution_id,
        "tag": request.tag,
    }
    view: dict[str, Any] = {"pipeline": request.pipeline}
    view.update({name: value for name, value in optional.items() if value is not None})
    view["media"] = [
        {
            "id": media.id,
            "contentType": media.content_type,
            **({} if media.filename is None else {"filename": media.filename}),
            "size": len(media.data),
        }
        for media in request.media
    ]
    if request.observation is not None:
        view["observation"] = msgspec.Raw(request.observation)
    if request.parameters:
        view["runtimeParameters"] = dict(request.parameters)
    if request.meta:
        view["metaData"] = dict(request.meta)
    return view


def layered_view(request: Request, layers: bytes) -> bytes:
    """What the expressions of an actor see, as JSON text: the request's fields, the same once more
    as ``request``, and the finished ``layers``, which is JSON text."""
    view = msgspec.json.encode(request_view(request))
    return b"".join((view[:-1], b',"request":', view, b',"layers":', layers, b"}"))
