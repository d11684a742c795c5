"""The HTTP face: read a request, run it, write the answer as it comes, account for it.

Owns: handlers, request IDs, which requests run, and their end when the gateway stops.
Does not know: what a dialect's bodies mean, what a run does, how a stream is kept going.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from math import ceil
from time import time
from typing import Any, Final

import msgspec

from gateway import direct, logs, tracing_request
from gateway.alarms import Alarms
from gateway.answering import JSON, Action
from gateway.dialects import cambrion, pupau
from gateway.docs_calls import DocsCalls
from gateway.errors import Code, GatewayError, RequestRejected, ShuttingDown
from gateway.eventstream import EventStream
from gateway.exchange import Exchange
from gateway.execution_calls import ExecutionCalls, kept_nowhere
from gateway.executions.service import Executions
from gateway.exposition import Exposition, exposition_of
from gateway.heads import accepts, accepts_json, flag, request_id
from gateway.hook_calls import HookCalls
from gateway.keys import Caller
from gateway.limiting import limit
from gateway.metrics import Dialect, Metrics, Mode
from gateway.model import Request, Result
from gateway.outlet import CLOSED, Outlet, Written
from gateway.own_calls import OwnCalls, elsewhere
from gateway.pipeline import Run
from gateway.protocol import SERVER, Incoming
from gateway.reading import Reading
from gateway.relay import Relay
from gateway.route import Route
from gateway.routing import MethodNotAllowed, Target, dialect_of, resolve
from gateway.site import Site

_DIALECTS: Final = {Dialect.CAMBRION: cambrion, Dialect.PUPAU: pupau}
_EVENT_STREAM: Final = "text/event-stream"
# What keeps whatever stands between from holding a stream back.
_UNBUFFERED: Final = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
# How long a client may take to read the end of an answer that a stop cut short, and how often that
# long while others still come to theirs; how long what is left may take to fall apart: seconds.
_LAST_WORDS_S: Final = 1.0
_LAST_ROUNDS: Final = 5
_UNWIND_S: Final = 0.4


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
        self._alarms = Alarms()
        self._running: set[Exchange] = set()
        #: Set when nothing runs any more; made when that is waited for.
        self._idle: asyncio.Event | None = None
        self._stopping = False
        self._stopped = False
        self._reading = Reading(clock)
        self._kept: ExecutionCalls | None = None
        exposition = exposition or exposition_of(metrics)
        self.own = own = OwnCalls(
            self, exposition, metrics=metrics, stopping=lambda: self._stopping
        )
        docs = DocsCalls(self, keeps=lambda: self._kept is not None)
        self._actions: dict[str, Action] = {
            **own.actions,
            **docs.actions,
            "list": self._list,
            "describe": self._describe,
            "definition": self._definition,
            "execute": self._execute,
            "query": self._query,
        }

    def keep(self, executions: Executions, *, wall: Callable[[], float] = time) -> None:
        """From now on keep executions, and answer the calls on them. ``wall``: Unix seconds."""
        self._reading.keeps = True
        self._kept = ExecutionCalls(self, self._reading, executions, clock=self._clock, wall=wall)
        hooks = HookCalls(self, self._reading, executions, wall=wall)
        self._actions |= self._kept.actions | hooks.actions

    def watch_elsewhere(self) -> None:
        """From now on /metrics is answered on the port for watching alone."""
        self._actions["metrics"] = elsewhere

    async def handle(self, request: Incoming) -> Written:
        """Answer one request; never raises but for cancellation, which is the client's leaving."""
        site, path = self._site, request.path
        exchange = Exchange(
            request,
            site,
            request_id(request.headers),
            self._clock(),
            dialect_of(path),
            Outlet(request, site.server.write_timeout_s),
        )
        site.users += 1
        self._running.add(exchange)
        if site.tracing is not None:
            exchange.trace, exchange.carried = tracing_request.begin(site.tracing, request)
        try:
            try:
                if self._stopped:
                    raise _shutting_down()
                target = resolve(request.method, path)
                exchange.dialect, exchange.mode = target.dialect, target.mode
                if site.limiting is not None and target.mode is not Mode.OTHER:
                    await limit(exchange, target, self.identify)
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
            return await self.send_error(exchange, error)
        if isinstance(error, asyncio.CancelledError):
            ending = exchange.ended()
            if ending is None or exchange.status is not None:
                raise error  # nobody is there, or in mid-answer nothing can be said
            return await self.send_error(exchange, ending)
        if isinstance(error, ConnectionError):
            raise error
        return await self.send_error(exchange, self.internal(exchange))

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
        route, caller = self.admit(exchange, target)
        stream = target.mode is Mode.EXECUTE and accepts(exchange.request, _EVENT_STREAM)
        if stream:
            exchange.mode = Mode.EXECUTE_STREAM
        request = await self._reading.execute(exchange, target, caller, stream=stream)
        if self._kept is not None:
            return await self._kept.execute(exchange, route, caller, request)
        if route.direct and exchange.mode is Mode.EXECUTE:
            services = exchange.site.services
            parts = (route, request, services, exchange.waited, exchange.trace)
            result = await direct.execute(*parts)
            return await self.send(exchange, 200, cambrion.render_result(result, view=False))
        return await self.run(exchange, self.new_run(exchange, route, request))

    def new_run(self, exchange: Exchange, route: Route, request: Request) -> Run:
        """See ``Answering``."""
        parts = (route, request, exchange.mode, exchange.site.services, exchange.waited)
        run = Run(*parts, exchange.trace)
        exchange.actors_failed = run.actors_failed
        return run

    async def run(self, exchange: Exchange, run: Run) -> Written:
        """See ``Answering``."""
        if run.request.stream:
            return await self._stream(exchange, run)
        return await self.send_result(exchange, await run.call(exchange.dialect))

    async def send_result(self, exchange: Exchange, result: Result) -> Written:
        """See ``Answering``."""
        view = exchange.mode is not Mode.EXECUTE
        content_type = JSON
        if exchange.mode is Mode.EXECUTE_TRANSFORM and not accepts_json(exchange.request):
            content_type = "text/plain"
        return await self.send(
            exchange, 200, cambrion.render_result(result, view=view), content_type
        )

    async def _query(self, exchange: Exchange, target: Target) -> Written:
        stream = flag(exchange.request, "sse")
        if stream:
            exchange.mode = Mode.QUERY_STREAM
        route, caller = self.admit(exchange, target)
        parsed = await self._reading.query(exchange, target, caller, stream=stream)
        if self._kept is not None and self._kept.resumable(parsed):
            return await self._kept.execute(exchange, route, caller, parsed)
        run = self.new_run(exchange, route, parsed)
        if stream:
            return await self._stream(exchange, run)
        result = await run.call(Dialect.PUPAU)
        exchange.outcome = result.outcome
        return await self.send(exchange, 200, pupau.render_result(result))

    def identify(self, exchange: Exchange) -> Caller:
        """See ``Answering``."""
        caller = exchange.caller or exchange.site.keyring.identify(exchange.request.headers)
        exchange.key = caller.name
        return caller

    def admit(self, exchange: Exchange, target: Target) -> tuple[Route, Caller]:
        """See ``Answering``."""
        route = exchange.site.routes.get(target.pipeline)
        if route is not None:
            exchange.pipeline, exchange.upstream = route.name, route.upstreams
        caller = self.identify(exchange)
        if not caller.may(target.pipeline):
            raise RequestRejected("this key does not open that pipeline", code=Code.FORBIDDEN)
        if route is None:
            raise RequestRejected(
                f'there is no pipeline "{target.pipeline[:128]}"', code=Code.NOT_FOUND
            )
        return route, caller

    async def _stream(self, exchange: Exchange, run: Run) -> Written:
        """Write the run's events as they come. A run that fails before anything was written still
        gets the status that says so."""
        dialect = exchange.dialect
        render = _DIALECTS[dialect].render_event
        with self.streaming(exchange) as stream:
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
                    return await self.send_error(exchange, ending)
                await stream.send(render(run.failed(ending)))
            except ConnectionError:
                raise
            except Exception:
                if not stream.opened:
                    raise
                await stream.send(render(run.failed(self.internal(exchange))))
            return await self.finish(exchange, stream)

    def streaming(self, exchange: Exchange, fields: str = "") -> EventStream:
        """See ``Answering``."""
        labels = (exchange.pipeline, exchange.dialect)
        exchange.outlet.closing |= self._stopping
        return EventStream(
            exchange,
            _head(exchange, _EVENT_STREAM) + _UNBUFFERED + fields,
            heartbeat_s=exchange.site.server.heartbeat_s,
            counter=self._metrics.stream_events.labels(*labels),
            level=self._metrics.streams_open.labels(*labels),
            alarms=self._alarms,
            clock=self._clock,
        )

    async def finish(self, exchange: Exchange, stream: EventStream) -> Written:
        """See ``Answering``."""
        exchange.outlet.closing |= self._stopping
        return await stream.finish()

    def internal(self, exchange: Exchange) -> GatewayError:
        """See ``Answering``: what the caller learns of a fault is only where to look."""
        fields = {"request_id": exchange.request_id}
        logs.events.exception("internal error", extra={"fields": fields})
        error = GatewayError(
            f"the gateway failed; its log says why, at request {exchange.request_id}"
        )
        exchange.fail(error)
        return error

    # Descriptions

    async def _list(self, exchange: Exchange, target: Target) -> Written:
        caller = self.identify(exchange)
        described = [
            route.description for route in exchange.site.routes.values() if caller.may(route.name)
        ]
        return await self.send(exchange, 200, msgspec.json.encode(described))

    async def _describe(self, exchange: Exchange, target: Target) -> Written:
        route, _ = self.admit(exchange, target)
        definition = await self._graph(exchange, route)
        described = {"pipeline": route.description, "pipelineDefinition": definition}
        return await self.send(exchange, 200, msgspec.json.encode(described))

    async def _definition(self, exchange: Exchange, target: Target) -> Written:
        route, _ = self.admit(exchange, target)
        definition = await self._graph(exchange, route)
        return await self.send(exchange, 200, msgspec.json.encode(definition))

    async def _graph(self, exchange: Exchange, route: Route) -> dict[str, Any]:
        began = self._clock()
        try:
            return await route.definition(exchange.request_id)
        finally:
            exchange.waited.upstream_s += self._clock() - began

    # Answers

    async def send(
        self,
        exchange: Exchange,
        status: int,
        body: bytes | None,
        content_type: str = JSON,
        fields: str = "",
    ) -> Written:
        """See ``Answering``."""
        outlet = exchange.outlet
        outlet.closing |= self._stopping or status == 408
        exchange.status = status
        exchange.response_bytes = len(body or b"")
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

    async def send_error(self, exchange: Exchange, error: GatewayError) -> Written:
        """See ``Answering``."""
        fields = ""
        if isinstance(error, MethodNotAllowed):
            fields += f"Allow: {error.allowed}\r\n"
        if error.retry_after_s is not None:
            fields += f"Retry-After: {max(1, ceil(error.retry_after_s))}\r\n"
        if error.status == 401:
            fields += "WWW-Authenticate: Bearer\r\n"
        body = _DIALECTS[exchange.dialect].render_error(error)
        return await self.send(exchange, error.status, body, fields=fields)


def _head(exchange: Exchange, content_type: str) -> str:
    """The lines that every answer's head has."""
    return (
        f"Content-Type: {content_type}\r\nServer: {SERVER}\r\n"
        f"X-Request-Id: {exchange.request_id}\r\n{exchange.limits}"
    )


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the gateway is shutting down", retry_after_s=1.0)
