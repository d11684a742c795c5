"""The HTTP face: read a request, run it, write the answer as it comes, account for it.

Owns: handlers, request IDs, /metrics and health, which requests run, and their end when the gateway
stops.
Does not know: what a dialect's bodies mean, what a run does, how a stream is kept going.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from math import ceil
from typing import Any, Final, TypeVar, cast

import msgspec
from aiohttp import hdrs, web

from gateway import logs
from gateway.body import Pace, arrived, read_body, read_form, read_json
from gateway.dialects import cambrion, pupau
from gateway.dialects.wire import Origin, Part
from gateway.errors import Code, GatewayError, RequestRejected, ShuttingDown
from gateway.eventstream import EventStream
from gateway.exchange import Exchange
from gateway.execution_calls import kept_nowhere
from gateway.exposition import Exposition, exposition_of
from gateway.heads import accepts, accepts_json, flag, request_id
from gateway.keys import Caller
from gateway.metrics import Dialect, Metrics, Mode
from gateway.outlet import CLOSED, Outlet, Written
from gateway.pipeline import Run
from gateway.protocol import SERVER
from gateway.relay import Relay
from gateway.route import Route
from gateway.routing import MethodNotAllowed, Target, dialect_of, resolve
from gateway.site import Site

_DIALECTS: Final = {Dialect.CAMBRION: cambrion, Dialect.PUPAU: pupau}
_JSON: Final = "application/json"
_EVENT_STREAM: Final = "text/event-stream"
# What keeps whatever stands between from holding a stream back.
_UNBUFFERED: Final = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
# A body from this size on is parsed in a thread: decoding its base64 takes milliseconds.
_LARGE_BODY_BYTES: Final = 256 * 1024
# How long a client may take to read the end of an answer that a stop cut short, and how often that
# long while others still come to theirs; how long what is left may take to fall apart: seconds.
_LAST_WORDS_S: Final = 1.0
_LAST_ROUNDS: Final = 5
_UNWIND_S: Final = 0.4
T = TypeVar("T")


class Gateway:
    """Answers every request, each by the configuration that was live when it began.

    Args:
        clock: monotonic seconds, the running loop's own.
        exposition: what /metrics answers; left out, what ``metrics`` holds.
    """

    def __init__(
        self,
        site: Site,
        *,
        metrics: Metrics,
        clock: Callable[[], float],
        exposition: Exposition | None = None,
    ) -> None:
        self._site = site
        self._metrics = metrics
        self._clock = clock
        self._exposition = exposition or exposition_of(metrics)
        self._running: set[Exchange] = set()
        #: Set when nothing runs any more; made when that is waited for.
        self._idle: asyncio.Event | None = None
        self._stopping = False
        self._stopped = False
        self._actions: dict[str, Callable[[Exchange, Target], Awaitable[Written]]] = {
            "healthz": self._healthz,
            "readyz": self._readyz,
            "metrics": self._expose,
            "list": self._list,
            "describe": self._describe,
            "definition": self._definition,
            "execute": self._execute,
            "query": self._query,
        }

    async def handle(self, request: web.BaseRequest) -> Written:
        """Answer one request; never raises but for cancellation, which is the client's leaving."""
        site, path = self._site, request.rel_url.raw_path
        exchange = Exchange(
            request,
            site,
            request_id(request.headers),
            self._clock(),
            dialect_of(path),
            Outlet(request, site.server.write_timeout_s),
            cast("asyncio.Task[Any]", asyncio.current_task()),
        )
        site.users += 1
        self._running.add(exchange)
        try:
            try:
                if self._stopped:
                    raise _shutting_down()
                target = resolve(request.method, path)
                exchange.dialect, exchange.mode = target.dialect, target.mode
                return await self._actions.get(target.action, kept_nowhere)(exchange, target)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  told and logged
                return await self._failed(exchange, error)
        except asyncio.CancelledError:
            exchange.leave()
            exchange.outlet.drop()
            raise
        except ConnectionError:  # nobody is there to be told
            exchange.leave()
            exchange.outlet.drop()
            return CLOSED
        finally:
            self._running.discard(exchange)
            if self._idle is not None and not self._running:
                self._idle.set()
            site.leave()
            exchange.account(self._metrics, self._clock())

    async def _failed(self, exchange: Exchange, error: BaseException) -> Written:
        """Answer with the error that is being handled, where there is anybody to be answered: else
        it goes on."""
        if isinstance(error, GatewayError):
            exchange.fail(error)
            return await self._send_error(exchange, error)
        if isinstance(error, asyncio.CancelledError):
            ending = exchange.ended()
            if ending is None or exchange.status is not None:
                raise error  # nobody is there, or in mid-answer nothing can be said
            return await self._send_error(exchange, ending)
        if isinstance(error, ConnectionError):
            raise error
        return await self._send_error(exchange, self._internal(exchange))

    @property
    def site(self) -> Site:
        """The configuration that is live."""
        return self._site

    def swap(self, site: Site) -> Site:
        """Requests that begin from now on use ``site``. Returns the one before."""
        before, self._site = self._site, site
        return before

    # The end

    @property
    def running(self) -> int:
        """How many requests run now."""
        return len(self._running)

    def stop(self) -> None:
        """Say from now on that the gateway is not ready, and let every answer end its connection.
        Requests are still answered."""
        self._stopping = True

    async def drain(self, within_s: float) -> None:
        """Return as soon as no request runs. What runs after ``within_s`` seconds is ended with an
        error, which a client has a second to read; longer only while many are being ended."""
        self._stopping = True
        if await self._quiet(within_s):
            return
        self._stopped = True
        for exchange in list(self._running):
            exchange.end(_shutting_down())
        for _ in range(_LAST_ROUNDS):
            running = self.running
            if await self._quiet(_LAST_WORDS_S):
                return
            if self.running == running:  # where many run, their ends alone take longer than that
                break
        await self._drop()

    async def cut(self) -> None:
        """End every request at once, with an error only where that need not be waited for."""
        self._stopping = self._stopped = True
        for exchange in list(self._running):
            exchange.end(_shutting_down())
            if exchange.outlet.unsent:
                exchange.outlet.drop()
        if not await self._quiet(_UNWIND_S):
            await self._drop()

    async def _drop(self) -> None:
        for exchange in list(self._running):
            exchange.outlet.drop()
        await self._quiet(_UNWIND_S)

    async def _quiet(self, within_s: float) -> bool:
        """Whether no request runs any more, ``within_s`` seconds from now at the latest."""
        if not self._running:
            return True
        if self._idle is None:
            self._idle = asyncio.Event()
        self._idle.clear()
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    # Pipelines

    async def _execute(self, exchange: Exchange, target: Target) -> Written:
        route, caller = self._admit(exchange, target)
        stream = target.mode is Mode.EXECUTE and accepts(exchange.request, _EVENT_STREAM)
        if stream:
            exchange.mode = Mode.EXECUTE_STREAM
        if exchange.request.content_type.startswith("multipart/"):
            raise RequestRejected(
                "executeSync takes JSON, with the files as base64 in media; it takes no form",
                code=Code.UNSUPPORTED_MEDIA_TYPE,
            )
        there = arrived(exchange.request, exchange.site.bounds.body_bytes_max)
        body = await self._read_body(exchange, read_json) if there is None else there
        exchange.request_bytes = len(body)
        origin = self._origin(exchange, target, caller, stream)
        if len(body) < _LARGE_BODY_BYTES:
            request = cambrion.parse_request(origin, body)
        else:
            request = await asyncio.to_thread(cambrion.parse_request, origin, body)
        del body, there  # a long text must not stand beside its media while the run lasts
        run = Run(route, request, exchange.mode, exchange.site.services, exchange.waited)
        exchange.actors_failed = run.actors_failed
        if stream:
            return await self._stream(exchange, run)
        result = await run.call(Dialect.CAMBRION)
        view = exchange.mode is not Mode.EXECUTE
        content_type = _JSON
        if exchange.mode is Mode.EXECUTE_TRANSFORM and not accepts_json(exchange.request):
            content_type = "text/plain"
        return await self._send(
            exchange, 200, cambrion.render_result(result, view=view), content_type
        )

    async def _query(self, exchange: Exchange, target: Target) -> Written:
        request = exchange.request
        stream = flag(request, "sse")
        if stream:
            exchange.mode = Mode.QUERY_STREAM
        route, caller = self._admit(exchange, target)
        bounds = exchange.site.bounds
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
            there = arrived(request, bounds.body_bytes_max)
            body = await self._read_body(exchange, read_body) if there is None else there
            exchange.request_bytes = len(body)
        origin = self._origin(exchange, target, caller, stream)
        if isinstance(body, list) or len(body) < _LARGE_BODY_BYTES:
            parsed = pupau.parse_request(origin, body)
        else:
            parsed = await asyncio.to_thread(pupau.parse_request, origin, body)
        del body
        run = Run(route, parsed, exchange.mode, exchange.site.services, exchange.waited)
        exchange.actors_failed = run.actors_failed
        if stream:
            return await self._stream(exchange, run)
        result = await run.call(Dialect.PUPAU)
        exchange.outcome = result.outcome
        return await self._send(exchange, 200, pupau.render_result(result))

    def _admit(self, exchange: Exchange, target: Target) -> tuple[Route, Caller]:
        """The pipeline and the caller, once it is certain that the one is open to the other."""
        route = exchange.site.routes.get(target.pipeline)
        if route is not None:
            exchange.pipeline, exchange.upstream = route.name, route.upstreams
        caller = exchange.site.keyring.identify(exchange.request.headers)
        exchange.key = caller.name
        if not caller.may(target.pipeline):
            raise RequestRejected("this key does not open that pipeline", code=Code.FORBIDDEN)
        if route is None:
            raise RequestRejected(
                f'there is no pipeline "{target.pipeline[:128]}"', code=Code.NOT_FOUND
            )
        return route, caller

    def _origin(self, exchange: Exchange, target: Target, caller: Caller, stream: bool) -> Origin:
        given = exchange.request.headers
        headers: dict[str, str] = {}
        for name in exchange.site.server.forward_headers:
            if name in given and name not in _own(given):
                headers[name] = given[name].encode("utf-8", "replace").decode()
        return Origin(
            pipeline=target.pipeline,
            request_id=exchange.request_id,
            stream=stream,
            media_max=exchange.site.bounds.media_max,
            headers=headers,
            key=caller.name,
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

    async def _stream(self, exchange: Exchange, run: Run) -> Written:
        """Write the run's events as they come. A run that fails before anything was written still
        gets the status that says so."""
        dialect = exchange.dialect
        render = _DIALECTS[dialect].render_event
        labels = (exchange.pipeline, dialect)
        stream = EventStream(
            exchange,
            _head(exchange, _EVENT_STREAM) + _UNBUFFERED,
            heartbeat_s=exchange.site.server.heartbeat_s,
            counter=self._metrics.stream_events.labels(*labels),
            clock=self._clock,
        )
        exchange.outlet.closing |= self._stopping
        open_streams = self._metrics.streams_open.labels(*labels)
        open_streams.inc()
        try:
            with stream:
                try:
                    if run.route.pushing is not None:
                        relay = Relay(run, exchange, stream, render=render, clock=self._clock)
                        await relay.run(run.route.pushing)
                    else:
                        async with aclosing(run.stream(dialect)) as events:
                            await stream.relay(events, render)
                except GatewayError as error:
                    if not stream.opened:
                        raise
                    exchange.fail(error)
                    if not stream.told:  # so the run has not told of it either
                        await stream.send(render(run.failed(error)))
                except asyncio.CancelledError:
                    ending = exchange.ended()
                    if ending is None:
                        raise
                    if not stream.opened:
                        stream.stop()
                        return await self._send_error(exchange, ending)
                    await stream.send(render(run.failed(ending)))
                except ConnectionError:
                    raise
                except Exception:
                    if not stream.opened:
                        raise
                    await stream.send(render(run.failed(self._internal(exchange))))
                exchange.outlet.closing |= self._stopping
                return await stream.finish()
        finally:
            open_streams.dec()

    def _internal(self, exchange: Exchange) -> GatewayError:
        """Log the fault being handled; what the caller learns of it is only where to look."""
        fields = {"request_id": exchange.request_id}
        logs.events.exception("internal error", extra={"fields": fields})
        error = GatewayError(
            f"the gateway failed; its log says why, at request {exchange.request_id}"
        )
        exchange.fail(error)
        return error

    # Descriptions

    async def _list(self, exchange: Exchange, target: Target) -> Written:
        caller = exchange.site.keyring.identify(exchange.request.headers)
        exchange.key = caller.name
        described = [
            _description(route) for route in exchange.site.routes.values() if caller.may(route.name)
        ]
        return await self._send(exchange, 200, msgspec.json.encode(described))

    async def _describe(self, exchange: Exchange, target: Target) -> Written:
        route, _ = self._admit(exchange, target)
        definition = await self._graph(exchange, route)
        described = {"pipeline": _description(route), "pipelineDefinition": definition}
        return await self._send(exchange, 200, msgspec.json.encode(described))

    async def _definition(self, exchange: Exchange, target: Target) -> Written:
        route, _ = self._admit(exchange, target)
        definition = await self._graph(exchange, route)
        return await self._send(exchange, 200, msgspec.json.encode(definition))

    async def _graph(self, exchange: Exchange, route: Route) -> dict[str, Any]:
        began = self._clock()
        try:
            return await route.definition(exchange.request_id)
        finally:
            exchange.waited.upstream_s += self._clock() - began

    # The gateway itself

    async def _healthz(self, exchange: Exchange, target: Target) -> Written:
        return await self._send(exchange, 200, b'{"alive":true}')

    async def _readyz(self, exchange: Exchange, target: Target) -> Written:
        if self._stopping:
            body = b'{"ready":false,"failing":{},"stopping":true}'
            return await self._send(exchange, 503, body)
        failures = await exchange.site.health.failures()
        body = msgspec.json.encode({"ready": not failures, "failing": failures})
        return await self._send(exchange, 503 if failures else 200, body)

    async def _expose(self, exchange: Exchange, target: Target) -> Written:
        text, content_type = await self._exposition(exchange.request.headers.get(hdrs.ACCEPT, ""))
        return await self._send(exchange, 200, text, content_type)

    # Answers

    async def _send(
        self,
        exchange: Exchange,
        status: int,
        body: bytes,
        content_type: str = _JSON,
        fields: str = "",
    ) -> Written:
        outlet = exchange.outlet
        outlet.closing |= self._stopping or status == 408
        exchange.status = status
        exchange.response_bytes = len(body)
        outlet.answer(status, _head(exchange, content_type) + fields, body)
        if outlet.unflushed:
            began = self._clock()
            await outlet.flushed()
            exchange.waited.client_s += self._clock() - began
        outlet.closing |= self._stopping  # by now, though its head may not have said so
        if status == 408:
            # Whoever was too slow to send the request is not waited for to send the rest of it.
            exchange.request.protocol.force_close()
        return outlet.written

    async def _send_error(self, exchange: Exchange, error: GatewayError) -> Written:
        fields = ""
        if isinstance(error, MethodNotAllowed):
            fields += f"Allow: {error.allowed}\r\n"
        if error.retry_after_s is not None:
            fields += f"Retry-After: {max(1, ceil(error.retry_after_s))}\r\n"
        if error.status == 401:
            fields += "WWW-Authenticate: Bearer\r\n"
        body = _DIALECTS[exchange.dialect].render_error(error)
        return await self._send(exchange, error.status, body, fields=fields)


def _head(exchange: Exchange, content_type: str) -> str:
    """The lines that every answer's head has."""
    return (
        f"Content-Type: {content_type}\r\nServer: {SERVER}\r\n"
        f"X-Request-Id: {exchange.request_id}\r\n"
    )


def _own(headers: Mapping[str, str]) -> set[str]:
    """What is named in Connection concerns this connection, and goes no further."""
    return {token.strip().lower() for token in headers.get(hdrs.CONNECTION, "").split(",")}


def _description(route: Route) -> dict[str, Any]:
    config = route.config
    described: dict[str, Any] = {"pipelineId": route.name, "name": route.name}
    answers = route.answers
    optional = {
        "description": config.description,
        "tag": config.tag,
        "status": None if answers is None else "READY" if answers else "UNAVAILABLE",
        "version": config.version,
    }
    return described | {name: value for name, value in optional.items() if value is not None}


def _pace(exchange: Exchange) -> Pace:
    server = exchange.site.server
    return Pace(server.body_timeout_s, server.body_bytes_per_s_min)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the gateway is shutting down", retry_after_s=1.0)
