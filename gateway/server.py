"""The HTTP face: read a request, run it, write the answer as it comes, account for it.

Owns: handlers, the writing of streams, request IDs, /metrics and health, the line in the log.
Does not know: what a dialect's bodies mean, what a run does.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import hdrs, web
from prometheus_client.exposition import choose_encoder

from gateway import logs
from gateway.body import read_body, read_form
from gateway.dialects import cambrion, pupau
from gateway.dialects.wire import Origin, Part
from gateway.errors import Code, GatewayError, Outcome, RequestRejected
from gateway.fanout import Waited
from gateway.keys import Caller
from gateway.metrics import UNNAMED, Dialect, Metrics, Mode
from gateway.model import Event, Failed, Frames, Request
from gateway.pipeline import Run
from gateway.route import Route
from gateway.routing import MethodNotAllowed, Target, dialect_of, resolve
from gateway.site import Site

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_REFUSED: Final = re.compile(r"q=0(\.0*)?")
_DIALECTS: Final = {Dialect.CAMBRION: cambrion, Dialect.PUPAU: pupau}
_SERVER: Final = "pipeline-gateway"
_JSON: Final = "application/json"
_EVENT_STREAM: Final = "text/event-stream"
# A body from this size on is parsed in a thread: decoding its base64 takes milliseconds.
_LARGE_BODY_BYTES: Final = 256 * 1024
# A stream that is always ready to go on lets others have a turn after this many seconds.
_TURN_S: Final = 0.005
T = TypeVar("T")


@dataclass(slots=True)
class Exchange:
    """What is known of one request and its answer, for the metrics and the log."""

    request: web.BaseRequest
    site: Site
    request_id: str
    began: float
    dialect: Dialect
    mode: Mode = Mode.OTHER
    pipeline: str = UNNAMED
    upstream: str | None = None
    key: str | None = None
    outcome: Outcome = Outcome.COMPLETE
    code: Code | None = None
    message: str | None = None
    status: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    events: int = 0
    first_event_s: float | None = None
    waited: Waited = field(default_factory=Waited)

    def fail(self, error: GatewayError) -> None:
        """Note how it ended; not the error itself, whose traceback would tie all this in a knot."""
        self.outcome, self.code, self.message = error.outcome, error.code, error.message


class Gateway:
    """Answers every request, each by the configuration that was live when it began.

    Args:
        clock: monotonic seconds, the running loop's own.
    """

    def __init__(self, site: Site, *, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._site = site
        self._metrics = metrics
        self._clock = clock
        self._actions: dict[str, Callable[[Exchange, Target], Awaitable[web.StreamResponse]]] = {
            "healthz": self._healthz,
            "readyz": self._readyz,
            "metrics": self._expose,
            "list": self._list,
            "describe": self._describe,
            "definition": self._definition,
            "execute": self._execute,
            "query": self._query,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises but for cancellation, which is the client's leaving."""
        path = request.rel_url.raw_path
        site = self._site
        exchange = Exchange(request, site, _request_id(request), self._clock(), dialect_of(path))
        site.enter()
        try:
            try:
                target = resolve(request.method, path)
                exchange.dialect, exchange.mode = target.dialect, target.mode
                return await self._actions[target.action](exchange, target)
            except GatewayError as error:
                exchange.fail(error)
                return await self._send_error(exchange, error)
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception:  # noqa: BLE001  the caller gets an answer, the log gets the fault
                return await self._send_error(exchange, self._internal(exchange))
        except (ConnectionError, asyncio.CancelledError):
            exchange.outcome = Outcome.CLIENT_GONE
            raise
        finally:
            site.leave()
            self._account(exchange)

    @property
    def site(self) -> Site:
        """The configuration that is live."""
        return self._site

    def swap(self, site: Site) -> Site:
        """Requests that begin from now on use ``site``. Returns the one before."""
        before, self._site = self._site, site
        return before

    # Pipelines

    async def _execute(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        route, caller = self._admit(exchange, target)
        stream = target.mode is Mode.EXECUTE and _accepts(exchange.request, _EVENT_STREAM)
        if stream:
            exchange.mode = Mode.EXECUTE_STREAM
        if exchange.request.content_type.startswith("multipart/"):
            raise RequestRejected(
                "executeSync takes JSON, with the files as base64 in media; it takes no form",
                code=Code.UNSUPPORTED_MEDIA_TYPE,
            )
        body = await self._read_body(exchange)
        origin = self._origin(exchange, target, caller, stream)
        request = await _parse(cambrion.parse_request, origin, body)
        run = Run(route, request, exchange.mode, exchange.site.services, exchange.waited)
        if stream:
            return await self._stream(exchange, run)
        result = await run.call(Dialect.CAMBRION)
        view = exchange.mode is not Mode.EXECUTE
        content_type = _JSON
        if exchange.mode is Mode.EXECUTE_TRANSFORM and not _accepts_json(exchange.request):
            content_type = "text/plain"
        return await self._send(
            exchange, 200, cambrion.render_result(result, view=view), content_type
        )

    async def _query(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        request = exchange.request
        stream = _flag(request, "sse")
        if stream:
            exchange.mode = Mode.QUERY_STREAM
        route, caller = self._admit(exchange, target)
        body: bytes | list[Part]
        if request.content_type.startswith("multipart/"):
            body = await self._timed(
                exchange,
                read_form(
                    request,
                    bytes_max=exchange.site.bounds.body_bytes_max,
                    parts_max=exchange.site.bounds.parts_max,
                ),
            )
            exchange.request_bytes = sum(len(part.data) for part in body)
        else:
            body = await self._read_body(exchange)
        origin = self._origin(exchange, target, caller, stream)
        run = Run(
            route,
            await _parse(pupau.parse_request, origin, body),
            exchange.mode,
            exchange.site.services,
            exchange.waited,
        )
        if stream:
            return await self._stream(exchange, run)
        result = await run.call(Dialect.PUPAU)
        exchange.outcome = result.outcome
        return await self._send(exchange, 200, pupau.render_result(result))

    def _admit(self, exchange: Exchange, target: Target) -> tuple[Route, Caller]:
        """The pipeline and the caller, once it is certain that the one is open to the other."""
        route = exchange.site.routes.get(target.pipeline)
        if route is not None:
            exchange.pipeline, exchange.upstream = route.name, ", ".join(route.upstreams)
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
        # What a header named in Connection says concerns this connection and goes no further.
        own = {token.strip().lower() for token in given.get(hdrs.CONNECTION, "").split(",")}
        headers = {
            name: given[name].encode("utf-8", "replace").decode()
            for name in exchange.site.server.forward_headers
            if name in given and name not in own
        }
        return Origin(
            pipeline=target.pipeline,
            request_id=exchange.request_id,
            stream=stream,
            media_max=exchange.site.bounds.media_max,
            headers=headers,
            key=caller.name,
        )

    async def _read_body(self, exchange: Exchange) -> bytes:
        body = await self._timed(
            exchange, read_body(exchange.request, bytes_max=exchange.site.bounds.body_bytes_max)
        )
        exchange.request_bytes = len(body)
        return body

    async def _timed(self, exchange: Exchange, reading: Awaitable[T]) -> T:
        """Await the client, and keep the time apart from the gateway's own."""
        began = self._clock()
        try:
            return await reading
        finally:
            exchange.waited.client_s += self._clock() - began

    async def _stream(self, exchange: Exchange, run: Run) -> web.StreamResponse:
        """Write the run's events as they come. The head goes out with the first, so that a run
        which fails before it still gets the status that says so."""
        dialect = exchange.dialect
        render = _DIALECTS[dialect].render_event
        response: web.StreamResponse | None = None
        labels = (exchange.pipeline, dialect)
        events_total = self._metrics.stream_events.labels(*labels)
        open_streams = self._metrics.streams_open.labels(*labels)
        open_streams.inc()
        turn = self._clock()
        try:
            async with aclosing(run.stream(dialect)) as events:
                async for event in events:
                    data = render(event)
                    began = self._clock()
                    if response is None:
                        response = await self._open_stream(exchange)
                    await response.write(data)
                    ended = self._clock()
                    exchange.waited.client_s += ended - began
                    if ended - turn > _TURN_S:
                        # Neither side made this wait: let others have their turn.
                        await asyncio.sleep(0)
                        turn = self._clock()
                    exchange.response_bytes += len(data)
                    count = event.count if isinstance(event, Frames) else 1
                    exchange.events += count
                    events_total.inc(count)
                    counts = count and not isinstance(event, Failed)
                    if counts and exchange.first_event_s is None:
                        exchange.first_event_s = self._clock() - exchange.began
        except GatewayError as error:
            if response is None:
                raise
            exchange.fail(error)
        except ConnectionError:
            raise
        except Exception:
            if response is None:
                raise
            await self._break_off(exchange, run, response)
        finally:
            open_streams.dec()
        if response is None:  # every event was dropped by the route's transform
            response = await self._open_stream(exchange)
        await response.write_eof()
        return response

    async def _break_off(self, exchange: Exchange, run: Run, response: web.StreamResponse) -> None:
        """End a stream in which the gateway itself failed, with an event that says so."""
        closing: Event = run.failed(self._internal(exchange))
        await response.write(_DIALECTS[exchange.dialect].render_event(closing))

    def _internal(self, exchange: Exchange) -> GatewayError:
        """Log the fault being handled; what the caller learns of it is only where to look."""
        fields = {"request_id": exchange.request_id}
        logs.events.exception("internal error", extra={"fields": fields})
        error = GatewayError(
            f"the gateway failed; its log says why, at request {exchange.request_id}"
        )
        exchange.fail(error)
        return error

    async def _open_stream(self, exchange: Exchange) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: _EVENT_STREAM,
                hdrs.SERVER: _SERVER,
                hdrs.CACHE_CONTROL: "no-cache",
                "X-Accel-Buffering": "no",
                "X-Request-Id": exchange.request_id,
            }
        )
        exchange.status = 200
        await response.prepare(exchange.request)
        return response

    # Descriptions

    async def _list(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        caller = exchange.site.keyring.identify(exchange.request.headers)
        exchange.key = caller.name
        described = [
            _description(route) for route in exchange.site.routes.values() if caller.may(route.name)
        ]
        return await self._send(exchange, 200, msgspec.json.encode(described))

    async def _describe(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        route, _ = self._admit(exchange, target)
        definition = await self._graph(exchange, route)
        described = {"pipeline": _description(route), "pipelineDefinition": definition}
        return await self._send(exchange, 200, msgspec.json.encode(described))

    async def _definition(self, exchange: Exchange, target: Target) -> web.StreamResponse:
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

    async def _healthz(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        return await self._send(exchange, 200, b'{"alive":true}')

    async def _readyz(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        failures = await exchange.site.health.failures()
        body = msgspec.json.encode({"ready": not failures, "failing": failures})
        return await self._send(exchange, 503 if failures else 200, body)

    async def _expose(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        accept = exchange.request.headers.get(hdrs.ACCEPT, "")
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none; the classic form will do
            encode, content_type = choose_encoder("")
        # Many pipelines make many lines: written in a thread, so that streams go on meanwhile.
        text = await asyncio.to_thread(encode, self._metrics.registry)
        return await self._send(exchange, 200, text, content_type)

    # Answers

    async def _send(
        self,
        exchange: Exchange,
        status: int,
        body: bytes,
        content_type: str = _JSON,
        headers: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        response = web.Response(
            status=status,
            body=body,
            headers={
                **(headers or {}),
                hdrs.CONTENT_TYPE: content_type,
                hdrs.SERVER: _SERVER,
                "X-Request-Id": exchange.request_id,
            },
        )
        exchange.status = status
        exchange.response_bytes = len(body)
        began = self._clock()
        await response.prepare(exchange.request)
        await response.write_eof()
        exchange.waited.client_s += self._clock() - began
        return response

    async def _send_error(self, exchange: Exchange, error: GatewayError) -> web.StreamResponse:
        headers: dict[str, str] = {}
        if isinstance(error, MethodNotAllowed):
            headers[hdrs.ALLOW] = error.allowed
        if error.retry_after_s is not None:
            headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after_s)))
        if error.status == 401:
            headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        body = _DIALECTS[exchange.dialect].render_error(error)
        return await self._send(exchange, error.status, body, headers=headers)

    def _account(self, exchange: Exchange) -> None:
        """Count the request and log its line, once, whatever way it ended."""
        duration_s = self._clock() - exchange.began
        waited = exchange.waited
        overhead_s = max(0.0, duration_s - waited.upstream_s - waited.client_s)
        metrics, labels = self._metrics, (exchange.pipeline, exchange.dialect, exchange.mode)
        metrics.requests.labels(*labels, exchange.outcome).inc()
        metrics.request_duration.labels(*labels).observe(duration_s)
        metrics.overhead.labels(*labels).observe(overhead_s)
        metrics.request_bytes.labels(*labels[:2]).observe(exchange.request_bytes)
        metrics.response_bytes.labels(*labels[:2]).observe(exchange.response_bytes)
        if exchange.first_event_s is not None:
            metrics.first_event.labels(*labels).observe(exchange.first_event_s)
        fields: dict[str, Any] = {
            "request_id": exchange.request_id,
            "dialect": exchange.dialect,
            "mode": exchange.mode,
            "pipeline": exchange.pipeline,
            "upstream": exchange.upstream,
            "key": exchange.key,
            "status": exchange.status,
            "outcome": exchange.outcome,
            "duration_s": round(duration_s, 6),
            "overhead_s": round(overhead_s, 6),
            "request_bytes": exchange.request_bytes,
            "response_bytes": exchange.response_bytes,
        }
        if exchange.first_event_s is not None:
            fields["first_event_s"] = round(exchange.first_event_s, 6)
            fields["events"] = exchange.events
        if exchange.code is not None:
            fields["code"] = exchange.code
            # A rejection's message may quote the request; the others speak of upstreams.
            if exchange.outcome is not Outcome.REJECTED:
                fields["error"] = exchange.message
        logs.requests.info("request", extra={"fields": fields})


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


def _request_id(request: web.BaseRequest) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _accepts(request: web.BaseRequest, content_type: str) -> bool:
    for part in ",".join(request.headers.getall(hdrs.ACCEPT, [])).lower().split(","):
        name, *parameters = (item.strip() for item in part.split(";"))
        if name == content_type and not any(_REFUSED.fullmatch(item) for item in parameters):
            return True
    return False


def _accepts_json(request: web.BaseRequest) -> bool:
    return hdrs.ACCEPT not in request.headers or any(
        _accepts(request, content_type) for content_type in (_JSON, "application/*", "*/*")
    )


def _flag(request: web.BaseRequest, name: str) -> bool:
    value = request.query.get(name, "false").lower()
    if value not in ("true", "false"):
        raise RequestRejected(f'query parameter {name}: expected true or false, got "{value[:40]}"')
    return value == "true"


async def _parse(
    parse: Callable[[Origin, Any], Request], origin: Origin, body: bytes | list[Part]
) -> Request:
    if isinstance(body, bytes) and len(body) >= _LARGE_BODY_BYTES:
        return await asyncio.to_thread(parse, origin, body)
    return parse(origin, body)
