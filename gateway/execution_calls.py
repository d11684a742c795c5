"""The calls on executions: read a request, have it done, answer.

Owns: these handlers, whose execution a call may mean, which direct calls are kept and how.
Does not know: what the bodies mean (``executions.bodies``), how anything is kept or run.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from math import inf
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.answering import Action, Answering
from gateway.errors import Code, GatewayError, RequestRejected, StoreFailed
from gateway.eventstream import PING
from gateway.exchange import Exchange
from gateway.executions import bodies
from gateway.executions.feeds import Piece, pieces
from gateway.executions.records import (
    BEGINNING,
    EventId,
    Execution,
    Key,
    Logged,
    New,
    checked_id,
    event_id,
    unknown,
)
from gateway.executions.service import Executions
from gateway.heads import accepts_json, flag
from gateway.keys import Caller
from gateway.metrics import UNNAMED, Mode
from gateway.model import Request
from gateway.observation import with_execution_id
from gateway.outlet import Written
from gateway.pipeline import Run
from gateway.reading import Reading
from gateway.route import Route
from gateway.routing import Target
from gateway.tracing import evaluation

_EVENT_STREAM: Final = "text/event-stream"
#: So much of a log is written at once.
_PIECE_BYTES: Final = 64 * 1024


async def kept_nowhere(exchange: Exchange, target: Target) -> Written:
    """Refuse a call that is about what this gateway does not keep."""
    raise RequestRejected(
        "this gateway keeps no executions; its configuration has no executions: section",
        code=Code.NOT_SUPPORTED,
    )


class ExecutionCalls:
    """The handlers, as ``actions``.

    Args:
        clock: monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        answering: Answering,
        reading: Reading,
        executions: Executions,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._answering = answering
        self._reading = reading
        self._executions = executions
        self._store = executions.store
        self._clock = clock
        self._wall = wall
        self.actions: dict[str, Action] = {
            "execute_async": self._execute_async,
            "create_execution": self._create,
            "list_executions": self._list,
            "get_execution": self._get,
            "delete_execution": self._delete,
            "cancel_execution": self._cancel,
            "submit_execution": self._submit,
            "watch_execution": self._watch,
            "get_observation": self._get_observation,
            "post_observation": self._post_observation,
            "observation_json": self._observation_json,
            "transform_observation": self._transform,
            "add_media": self._add_media,
            "get_media": self._get_media,
        }

    # Whose

    def _key(self, exchange: Exchange, target: Target) -> Key:
        """The execution that the path means: the caller's own, whether there is one or not."""
        caller = self._answering.identify(exchange)
        return Key(caller.owner, checked_id(target.id, "the execution's ID"))

    async def _named(self, request: Request, caller: Caller) -> Execution:
        """The execution that the body names."""
        key = Key(caller.owner, checked_id(request.execution_id or "", "executionId"))
        execution = await self._store.get(key)
        if execution is None:
            raise RequestRejected("executionId: there is no such execution")
        for name, given in (
            ("transient", request.transient and not execution.transient),
            ("hookIds", request.hook_ids),
        ):
            if given:
                raise RequestRejected(
                    f"{name}: can only be said of a new execution, not of one that is there",
                    code=Code.NOT_SUPPORTED,
                )
        return execution

    async def _new(self, request: Request, caller: Caller) -> New:
        """The execution that a call makes which names none."""
        return New(
            Key(caller.owner, str(uuid.uuid4())),
            self._wall(),
            tag=request.tag,
            hook_ids=await self._hooks(caller.owner, bodies.checked_hooks(request.hook_ids)),
            transient=request.transient,
        )

    async def _hooks(self, owner: str, hook_ids: tuple[str, ...]) -> tuple[str, ...]:
        for each in hook_ids:
            if await self._store.hook(owner, each) is None:
                raise RequestRejected(f'hookIds: there is no webhook "{each}"')
        return hook_ids

    # Runs

    async def _execute_async(self, exchange: Exchange, target: Target) -> Written:
        _, caller = self._answering.admit(exchange, target)
        request = await self._reading.execute(exchange, target, caller, stream=True)
        bodies.checked_tag(request.tag)
        if request.transform:
            await exchange.site.services.sandbox.check_syntax(request.transform)
        new = None
        if request.execution_id is None:
            new = await self._new(request, caller)
            key = new.key
        else:
            key = (await self._named(request, caller)).key
            if not await self._runnable(request, key):
                raise RequestRejected(
                    "nothing to run on: the execution holds no media and no observation; "
                    "add some, or send media, text or an observation"
                )
        await self._executions.submit(request, key, new)
        return await self._send(exchange, msgspec.json.encode({"executionId": key.id}))

    async def _runnable(self, request: Request, key: Key) -> bool:
        if request.media or request.text or request.observation is not None:
            return True
        return await self._store.has_media(key) or await self._store.observation(key) is not None

    def resumable(self, request: Request) -> bool:
        """Whether the request's stream is one that its client may lose and attach to again."""
        return request.stream and self._executions.section.resume_s > 0

    async def execute(
        self, exchange: Exchange, route: Route, caller: Caller, request: Request
    ) -> Written:
        """Answer a direct call, and keep what it finds."""
        bodies.checked_tag(request.tag)
        if request.execution_id is not None or request.hook_ids or self.resumable(request):
            return await self._on_execution(exchange, route, caller, request)
        if request.transient:
            return await self._answering.run(
                exchange, self._answering.new_run(exchange, route, request)
            )
        # Nobody can know of this one before it has ended: it is written down at once, and whole.
        new = await self._new(request, caller)
        request = replace(request, execution_id=new.key.id)
        run = self._answering.new_run(exchange, route, request)
        run.keep = partial(self._record, new, self._clock())
        return await self._answering.run(exchange, run)

    async def _record(self, new: New, began: float, observation: bytes) -> None:
        await self._executions.record(new, observation, self._clock() - began)

    async def _on_execution(
        self, exchange: Exchange, route: Route, caller: Caller, request: Request
    ) -> Written:
        """Answer a direct call that others can know of while it runs."""
        new, ready = None, False
        if request.execution_id is None:
            new = await self._new(request, caller)
            key = new.key
            request = replace(request, execution_id=key.id)
        else:
            key = (await self._named(request, caller)).key
            request, ready = await self._executions.prepared(request, key)
        run = self._answering.new_run(exchange, route, request)
        instead = ready or request.idempotent
        if request.stream:
            return await self._begin_stream(exchange, run, key, new, replaces=instead)
        if exchange.mode is Mode.EXECUTE_TRANSFORM:
            await run.check_transform()
        if new is not None:
            await self._store.create(new)
        result = await self._executions.call(run, key, replace=instead)
        return await self._answering.send_result(exchange, result)

    async def _begin_stream(
        self, exchange: Exchange, run: Run, key: Key, new: New | None, *, replaces: bool
    ) -> Written:
        """Answer with the events of a run that others can attach to."""
        without = new is not None and not new.hook_ids  # it is all the same to the caller
        if without and not self._executions.answers:
            return await self._answering.run(exchange, run)
        try:
            claim = await self._executions.begin(key, new)
        except StoreFailed:
            if not without:
                raise
            return await self._answering.run(exchange, run)
        events = self._executions.stream(
            run, claim, exchange.site, dialect=exchange.dialect, replace=replaces
        )
        fields = f"X-Execution-Id: {key.id}\r\n"
        return await self._stream(exchange, _singly(events), fields)

    # Executions

    async def _create(self, exchange: Exchange, target: Target) -> Written:
        owner = self._answering.identify(exchange).owner
        given = bodies.parse_given(await self._reading.body(exchange))
        new = New(
            Key(owner, given.id or str(uuid.uuid4())),
            self._wall(),
            tag=given.tag,
            meta=given.meta,
            hook_ids=await self._hooks(owner, given.hook_ids),
        )
        if not await self._store.create(new):
            return await self._nothing(exchange)
        made = Execution(new.key, new.created_at, new.tag, new.meta, new.hook_ids)
        return await self._send(exchange, bodies.render_execution(made))

    async def _list(self, exchange: Exchange, target: Target) -> Written:
        owner = self._answering.identify(exchange).owner
        listing = bodies.parse_listing(exchange.request.query)
        found = await self._store.listed(
            owner, tag=listing.tag, after=listing.after, limit=listing.limit + 1
        )
        items = bodies.render_page(found[: listing.limit])
        more = len(items) < len(found)
        fields = bodies.next_fields(listing, found[len(items) - 1]) if more else ""
        return await self._send(exchange, bodies.render_list(items), fields=fields)

    async def _get(self, exchange: Exchange, target: Target) -> Written:
        key = self._key(exchange, target)
        execution = await self._store.get(key)
        if execution is None:
            raise unknown(key)
        return await self._send(exchange, bodies.render_execution(execution))

    async def _delete(self, exchange: Exchange, target: Target) -> Written:
        key = self._key(exchange, target)
        return await self._done(exchange, key, await self._executions.delete(key))

    async def _cancel(self, exchange: Exchange, target: Target) -> Written:
        key = self._key(exchange, target)
        return await self._done(exchange, key, await self._executions.cancel(key))

    async def _submit(self, exchange: Exchange, target: Target) -> Written:
        key = self._key(exchange, target)
        return await self._done(exchange, key, await self._executions.submit_event(key))

    # The observation

    async def _observation(self, key: Key) -> bytes:
        observation = await self._store.observation(key)
        if observation is not None:
            return observation
        execution = await self._store.get(key)
        if execution is None:
            raise unknown(key)
        if execution.transient and execution.status is not None and execution.status.ended:
            raise RequestRejected(
                f'the execution "{key.id}" was transient: what it found is not kept',
                code=Code.GONE,
            )
        return bodies.no_observation(key.id)

    async def _get_observation(self, exchange: Exchange, target: Target) -> Written:
        return await self._send(exchange, await self._observation(self._key(exchange, target)))

    async def _post_observation(self, exchange: Exchange, target: Target) -> Written:
        key = self._key(exchange, target)
        instead = flag(exchange.request, "idempotent")
        body = await self._reading.body(exchange)
        if not body:
            return await self._send(exchange, await self._observation(key))
        given = await self._reading.parsed(body, partial(_given_observation, key))
        merged = await self._executions.merge(key, given, replace=instead)
        return await self._done(exchange, key, merged)

    async def _observation_json(self, exchange: Exchange, target: Target) -> Written:
        observation = await self._observation(self._key(exchange, target))
        mapping = exchange.site.services.observation_to_json
        view = await mapping.run(observation, self._bindings(exchange), exchange.trace)
        return await self._send(exchange, b"{}" if view is None else view)

    async def _transform(self, exchange: Exchange, target: Target) -> Written:
        key = self._key(exchange, target)
        body = await self._reading.body(exchange)
        try:
            expression = body.decode()
        except UnicodeDecodeError as error:
            raise RequestRejected("the request body is not UTF-8") from error
        if not expression.strip():
            raise RequestRejected("the request body is empty; expected a JSONata expression")
        observation = await self._observation(key)
        sandbox = exchange.site.services.sandbox
        with evaluation(exchange.trace, UNNAMED, "client"):
            view = await sandbox.evaluate(expression, observation, self._bindings(exchange))
        content_type = "application/json" if accepts_json(exchange.request) else "text/plain"
        return await self._send(exchange, b"null" if view is None else view, content_type)

    def _bindings(self, exchange: Exchange) -> dict[str, object]:
        return {"requestId": exchange.request_id, "key": exchange.key}

    # Media

    async def _add_media(self, exchange: Exchange, target: Target) -> Written:
        key = self._key(exchange, target)
        if exchange.request.content_type.startswith("multipart/"):
            raise RequestRejected(
                "this call takes the file itself, or its base64, as its body; it takes no form",
                code=Code.UNSUPPORTED_MEDIA_TYPE,
            )
        body = await self._reading.body(exchange)
        section = self._executions.section
        parse = partial(
            bodies.parse_media, media_id=str(uuid.uuid4()), bytes_max=section.media_bytes_max
        )
        media = await self._reading.parsed(body, parse)
        if not await self._store.add_media(key, media, media_max=section.media_max):
            raise unknown(key)
        return await self._send(exchange, msgspec.json.encode({"mediaId": media.id}))

    async def _get_media(self, exchange: Exchange, target: Target) -> Written:
        key = self._key(exchange, target)
        media_id = checked_id(target.media_id, "the media's ID")
        media = await self._store.media(key, media_id)
        if media is None:
            if await self._store.get(key) is None:
                raise unknown(key)
            raise RequestRejected(
                f'the execution "{key.id}" has no media "{media_id}"', code=Code.NOT_FOUND
            )
        return await self._send(
            exchange, media.data, media.content_type, bodies.media_fields(media)
        )

    # Events

    async def _watch(self, exchange: Exchange, target: Target) -> Written:
        key = self._key(exchange, target)
        request = exchange.request
        # A browser that attaches again has both: what its page asked for first, and what it has.
        given = (request.headers.get("Last-Event-ID"), request.query.get("lastEventId"))
        last = next(iter([event_id(each) for each in given if each]), None)
        after = last or BEGINNING
        if request.method == "HEAD":
            async with aclosing(await self._executions.attach(key, after)) as batches:
                await anext(batches)
            return await self._answering.send(exchange, 200, None, _EVENT_STREAM)
        if last:
            page = await self._store.events(key, after, limit=1)
            if page is not None and page.ended and not page.events and not page.lost:
                return await self._nothing(exchange)  # which tells a browser to ask no more
        return await self._stream(exchange, self._waited(exchange, key, after))

    async def _waited(
        self, exchange: Exchange, key: Key, after: EventId
    ) -> AsyncGenerator[Sequence[Piece]]:
        """The events as they come, the time that they take counted as an upstream's."""
        clock, waited = self._clock, exchange.waited
        began = clock()
        try:
            async with aclosing(await self._executions.attach(key, after)) as batches:
                async for batch in batches:
                    waited.upstream_s, began = waited.upstream_s + clock() - began, inf
                    yield batch
                    began = clock()
        finally:  # a client who leaves does so while it waits
            waited.upstream_s += max(0.0, clock() - began)

    async def _stream(
        self, exchange: Exchange, events: AsyncGenerator[Sequence[Piece]], fields: str = ""
    ) -> Written:
        """Write events with their IDs. A stream that ends before its execution has was broken
        off, whatever by: its client attaches again, here or elsewhere."""
        with self._answering.streaming(exchange, fields) as stream:
            try:
                async with aclosing(events):
                    async for batch in events:
                        for piece in batch:
                            await stream.send(piece.data, piece.count)
                        if not stream.opened:  # it is there, and nothing has happened yet
                            await stream.send(PING)
            except GatewayError as error:
                if not stream.opened:
                    raise
                exchange.fail(error)
            except asyncio.CancelledError:
                ending = exchange.ended()
                if ending is None:
                    raise
                if not stream.opened:
                    stream.stop()
                    return await self._answering.send_error(exchange, ending)
            except ConnectionError:
                raise
            except Exception:
                if not stream.opened:
                    raise
                self._answering.internal(exchange)
            return await self._answering.finish(exchange, stream)

    # Answers

    async def _send(
        self,
        exchange: Exchange,
        body: bytes,
        content_type: str = "application/json",
        fields: str = "",
    ) -> Written:
        return await self._answering.send(exchange, 200, body, content_type, fields)

    async def _nothing(self, exchange: Exchange) -> Written:
        return await self._answering.send(exchange, 204, None)

    async def _done(self, exchange: Exchange, key: Key, found: bool) -> Written:
        if not found:
            raise unknown(key)
        return await self._nothing(exchange)


def _given_observation(key: Key, body: bytes) -> bytes:
    return with_execution_id(bodies.parse_observation(body), key.id)


async def _singly(events: AsyncGenerator[Logged]) -> AsyncGenerator[Sequence[Piece]]:
    async with aclosing(events):
        async for event in events:
            yield pieces((event,))
