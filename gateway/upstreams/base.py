"""What every kind of upstream offers, and nothing else.

Owns: the ``Upstream`` protocols and ``Call``, which says what is wanted of one.
Does not know: any wire format, any policy, who is calling.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct, field

from gateway.model import Event, Request
from gateway.tracing import Span
from gateway.transform import Transform


class Call(Struct, frozen=True):
    """One call of one actor on one upstream.

    ``pipeline`` is the upstream's own name for what to run (a pipeline ID, a Triton model);
    ``actor`` the name its pieces are labelled with; ``layer_id`` and ``last_layer`` their layer.
    ``connect_s`` bounds the time to get a connection, seconds. ``frames``: the caller wants the
    upstream's SSE frames untouched (``Frames``), if this kind can give them; ``texts``: where its
    events are pushed, their JSON texts will do, but for the last layer's end. ``body`` holds the
    fields of this kind's request body but for media and flags, as ``msgspec.json`` writes them;
    ``layers`` is the JSON list of the finished layers, which expressions see too; ``inputs`` and
    ``output`` are Triton's, an expression per input tensor and one over the output tensors.
    ``bindings`` are the variables that expressions see: ``pipeline``, ``requestId``, ``headers``,
    ``key``. ``trace``: the span that the call is a part of, where it is traced.
    """

    request: Request
    pipeline: str
    actor: str
    layer_id: str = "0"
    last_layer: bool = True
    connect_s: float = 5.0
    frames: bool = False
    texts: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)
    layers: bytes | None = None
    inputs: Mapping[str, Transform] = field(default_factory=dict)
    output: Transform | None = None
    bindings: Mapping[str, Any] = field(default_factory=dict)
    trace: Span | None = None


class Upstream(Protocol):
    """A remote API. One object for the life of the process; safe for concurrent calls.

    ``layered``: it answers in layers of its own (``LayerStarted`` … ``LayerFinished``), rather than
    with one actor's text or observation. ``executes``: it understands the fields of an execute
    call by itself (a starting observation, the conversions of media), so the gateway leaves them
    to it.
    """

    name: str
    kind: str
    layered: bool
    executes: bool

    def stream(self, call: Call) -> AsyncIterator[Event]:
        """Run ``call`` and yield its events as they arrive.

        Yields ``Delta`` pieces and/or one final ``ObservationReady``, or, from a kind that has
        layers of its own, its ``LayerStarted``, ``Delta`` and ``LayerFinished`` as they are.
        The caller closes the iterator; closing it cancels the work upstream and releases the
        connection.

        Raises:
            UpstreamFailed, UpstreamTimeout: naming the upstream, never containing its key.
            RequestRejected: the request has nothing that this upstream could run on.
            TransformFailed: a tensor's expression failed.
        """
        ...

    async def call(self, call: Call) -> Event:
        """Run ``call`` and return the one event that says all: what ``stream`` would end with.

        For a request that is not streamed: there is nothing to see before. Cancelling it cancels
        the work upstream. Raises as ``stream`` does.
        """
        ...

    async def definition(self, pipeline: str, request_id: str) -> dict[str, Any]:
        """The graph of ``pipeline``: ``{"nodes": [...], "edges": [...]}`` in Cambrion's shape."""
        ...

    async def probe(self) -> None:
        """Ask whether the upstream is there. Returns when it is; raises ``UpstreamFailed`` or
        ``UpstreamTimeout`` when it is not."""
        ...

    async def close(self) -> None:
        """Close every connection. No call may be running."""
        ...


@runtime_checkable
class Piecemeal(Upstream, Protocol):
    """An upstream of which some pipelines answer in pieces also a call that is not streamed: their
    time limits are those between pieces, which only ``stream`` lets anybody see."""

    def answers_once(self, pipeline: str) -> bool:
        """Whether ``pipeline``, the upstream's own name, is known to answer with one event."""
        ...


class Source(Protocol):
    """Where pushed events come from; it can be held back."""

    def pause(self) -> None:
        """Push nothing for now. What has been read already may still come."""
        ...

    def resume(self) -> None:
        """Go on pushing."""
        ...


class Sink(Protocol):
    """Takes events as they are read off the wire, and must not wait."""

    def begin(self, source: Source) -> None:
        """Events will come from ``source``."""
        ...

    def complete(self) -> None:
        """All that counts has come: what may still follow is no longer waited for in earnest."""
        ...

    def frames(self, data: bytes, count: int) -> None:
        """As ``feed``, for one ``Frames``: what is passed on untouched is worth no object."""
        ...

    def texts(self, texts: Sequence[bytes]) -> None:
        """As ``feed``, for events that are wanted as JSON texts only; an empty list is a sign of
        life."""
        ...

    def feed(self, events: Iterable[Event]) -> None:
        """The events of one read, made as they are asked for. What this raises, and what making
        them raises, ends the call."""
        ...


@runtime_checkable
class Pushing(Upstream, Protocol):
    """An upstream whose streams need no task of their own: each read is handed on where it is
    made."""

    async def relay(self, call: Call, sink: Sink) -> None:
        """Run ``call``, which is streamed, and push its events to ``sink``; returns after the last.

        The same events as ``stream`` yields. Cancelling it cancels the work upstream. Raises as
        ``stream`` does, and what ``sink`` raises.
        """
        ...
