"""From what a client sends to the request that it stands for.

Owns: which way a body is read and parsed, so that neither a slow client nor a large body holds up
others; what is known of a request before its body.
Does not know: what becomes of a request, how anything is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from multidict import MultiMapping

from gateway.body import Pace, arrived, read_body, read_form, read_json
from gateway.dialects import cambrion, pupau
from gateway.dialects.wire import Origin, Part
from gateway.errors import Code, RequestRejected
from gateway.exchange import Exchange
from gateway.heads import connection_headers
from gateway.keys import Caller
from gateway.model import Request
from gateway.routing import Target
from gateway.tracing import untraced

# A body from this size on is parsed in a thread: decoding its base64 takes milliseconds.
_LARGE_BODY_BYTES: Final = 256 * 1024
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
T = TypeVar("T")


class Reading:
    """Reads requests. Nothing of a body is held any more when its request has been made of it: a
    long text must not stand beside its media while a run lasts. All of it raises RequestRejected.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: Whether there are executions that a request can be about.
        self.keeps = False

    async def execute(
        self, exchange: Exchange, target: Target, caller: Caller, *, stream: bool
    ) -> Request:
        """The request of a call in Cambrion's dialect."""
        if exchange.request.content_type.startswith("multipart/"):
            raise RequestRejected(
                "this call takes JSON, with the files as base64 in media; it takes no form",
                code=Code.UNSUPPORTED_MEDIA_TYPE,
            )
        there = arrived(exchange.request, exchange.site.bounds.body_bytes_max)
        body = await self._read_body(exchange, read_json) if there is None else there
        exchange.request_bytes = len(body)
        origin = self._origin(exchange, target, caller, stream)
        if len(body) < _LARGE_BODY_BYTES:
            return cambrion.parse_request(origin, body)
        return await asyncio.to_thread(cambrion.parse_request, origin, body)

    async def query(
        self, exchange: Exchange, target: Target, caller: Caller, *, stream: bool
    ) -> Request:
        """The request of a call in Pupau's dialect."""
        request, bounds = exchange.request, exchange.site.bounds
        body: bytes | list[Part]
        if request.content_type.startswith("multipart/"):
            body = await self._timed(
                exchange,
                read_form(
                    request,
                    bytes_max=bounds.body_bytes_max,
                    parts_max=bounds.parts_max,
                    pace=_pace(exchange),
                ),
            )
            exchange.request_bytes = sum(len(part.data) for part in body)
        else:
            body = await self.body(exchange)
        origin = self._origin(exchange, target, caller, stream)
        if isinstance(body, list) or len(body) < _LARGE_BODY_BYTES:
            return pupau.parse_request(origin, body)
        return await asyncio.to_thread(pupau.parse_request, origin, body)

    async def body(self, exchange: Exchange) -> bytes:
        """The whole body, inflated."""
        there = arrived(exchange.request, exchange.site.bounds.body_bytes_max)
        body = await self._read_body(exchange, read_body) if there is None else there
        exchange.request_bytes = len(body)
        return body

    async def parsed(self, body: bytes, parse: Callable[[bytes], T]) -> T:
        """What ``parse`` makes of a body."""
        if len(body) < _LARGE_BODY_BYTES:
            return parse(body)
        return await asyncio.to_thread(parse, body)

    def _origin(self, exchange: Exchange, target: Target, caller: Caller, stream: bool) -> Origin:
        forwarded = exchange.site.server.forward_headers
        headers = _forwarded(exchange.request.headers, forwarded) if forwarded else _NO_HEADERS
        traced = exchange.carried
        if exchange.site.tracing is None:
            traced = untraced(exchange.request.headers)
        if traced:
            headers = {**headers, **traced}
        return Origin(  # in the order of its fields, which msgspec takes much faster than by name
            target.pipeline,
            exchange.request_id,
            stream,
            exchange.site.bounds.media_max,
            headers,
            caller.name,
            self.keeps,
        )

    async def _read_body(self, exchange: Exchange, read: Callable[..., Awaitable[T]]) -> T:
        bytes_max = exchange.site.bounds.body_bytes_max
        reading = read(exchange.request, bytes_max=bytes_max, pace=_pace(exchange))
        return await self._timed(exchange, reading)

    async def _timed(self, exchange: Exchange, reading: Awaitable[T]) -> T:
        """Await the client, and keep the time apart from the gateway's own."""
        began = self._clock()
        try:
            return await reading
        finally:
            exchange.waited.client_s += self._clock() - began


def _forwarded(given: MultiMapping[str], names: Iterable[str]) -> dict[str, str]:
    """The headers of these ``names`` that go along to the upstream."""
    return {
        name: given[name].encode("utf-8", "replace").decode()
        for name in names
        if name in given and name not in connection_headers(given)
    }


def _pace(exchange: Exchange) -> Pace:
    server = exchange.site.server
    return Pace(server.body_timeout_s, server.body_bytes_per_s_min)
