"""One actor of a run: what it is asked, the upstream it runs on, what it comes to.

Owns: the call on each upstream that the actor may run on, and the reading of every kind's events as
one actor's text or observation.
Does not know: the other actors of its layer, how layers follow each other, who is calling.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import Code, GatewayError, UpstreamFailed, UpstreamTimeout
from gateway.flatten import Flattened
from gateway.guard import Deadlines, Fate, Guard
from gateway.mapping import Mapper
from gateway.model import (
    ActorError,
    ActorResponse,
    Delta,
    Event,
    Frames,
    LayerFinished,
    ObservationReady,
    Request,
)
from gateway.policies import Candidate, take
from gateway.route import Actor, Route, Target
from gateway.services import Services
from gateway.tracing import Span, actor_span
from gateway.upstreams.base import Call


class Part(Struct, frozen=True):
    """What an actor knows of the run it is a part of.

    ``request`` is the run's, after its route's transform; ``layers`` the finished layers as a JSON
    list. ``frames``: the caller can be sent an upstream's own frames, and ``texts``, that the JSON
    texts of its events will do. ``messages``: a message is wanted also where the upstream gives an
    observation. ``trace``: the span that it is a part of.
    """

    route: Route
    mapper: Mapper
    services: Services
    request: Request
    layers: bytes
    layer_id: str
    last_layer: bool
    frames: bool
    texts: bool
    messages: bool
    deadlines: Deadlines
    trace: Span | None = None

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Bounds what is done before the upstream is called by the run's total limit."""
        deadlines = self.deadlines
        try:
            async with asyncio.timeout_at(deadlines.ends_at):
                yield
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"pipeline {self.route.name}: the request was not prepared within "
                f"{deadlines.total_s:g} s ({deadlines.total_key})"
            ) from error


class ActorRun:
    """One actor of one run. ``events`` runs it; afterwards the rest says what it came to.

    ``ended``: whether it has come to its end, and ``error``: why it failed; ``observed``: its
    observation, once that has been made.
    """

    def __init__(self, actor: Actor, part: Part) -> None:
        self.actor = actor
        self.error: GatewayError | None = None
        self.ended = False
        self.observed: bytes | None = None
        self._part = part
        asked = None if part.route.plain else _Asked(actor, part).request
        #: Where the run is traced.
        self._span = _span(part, actor.name)
        self._attempts = [
            _Attempt(actor, target, part, asked, self._span) for target in actor.targets
        ]
        self._taken = self._attempts[0]

    def events(self) -> AsyncGenerator[Event]:
        """Its events, as they happen. Closing this closes the work upstream.

        In a plain route, the events of an upstream that has layers of its own are passed on as they
        are. Otherwise they are ``Delta`` pieces of this one actor, the last one ``finished``.
        """
        events = self._taken.events(Fate()) if len(self._attempts) == 1 else self._of_several()
        return events if self._span is None else self._traced(events)

    async def _traced(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        finally:
            self.close()

    def close(self) -> None:
        """Its part of a trace is over, because of the error that is being handled, if one is."""
        if self._span is not None:
            if len(self._attempts) == 1:
                self._tell_upstream(self._span)
            self._span.end_with(sys.exception())

    def _tell_upstream(self, span: Span) -> None:
        span.attributes["gateway.upstream.name"] = self._taken.target.guard.name

    async def ask(self) -> None:
        """Run it where it has one upstream, whose answer is not streamed: no event has to be passed
        on. Raises GatewayError."""
        try:
            await self._taken.ask(Fate())
        finally:
            self.close()

    async def asked(self) -> tuple[Guard, Call, Deadlines]:
        """What to ask whom, within which limits, where it has one upstream, which pushes the events
        of its own layers; whoever asks it calls ``close`` afterwards. Raises GatewayError."""
        return await self._taken.asked()

    def note(self, event: Event) -> None:
        """One of the events that are pushed."""
        self._taken.note(event)

    async def _of_several(self) -> AsyncGenerator[Event]:
        part, actor = self._part, self.actor
        async with part.in_time():
            sticky = await part.mapper.sticky(actor, part.request, part.layers)
        events = take(
            [
                Candidate(attempt.target.guard, attempt.target.weight, attempt.events)
                for attempt in self._attempts
            ],
            actor.policy,
            hedge_after_s=actor.hedge_after_s,
            sticky=sticky,
            taken=self._take,
            random=part.services.random,
            clock=part.services.clock,
        )
        async with aclosing(events):
            async for event in events:
                yield event

    def _take(self, index: int) -> None:
        self._taken = self._attempts[index]
        labels = (self._part.route.name, self.actor.name, self._taken.target.guard.name)
        self._part.services.metrics.actor_taken.labels(*labels).inc()
        if self._span is not None:
            self._tell_upstream(self._span)

    @property
    def relays(self) -> bool:
        """Whether its events are those of an upstream's own layers."""
        return self._taken.relays

    @property
    def target(self) -> Target:
        """Where it ran."""
        return self._taken.target

    @property
    def ready(self) -> ObservationReady | None:
        """The observation that its upstream gave, if it did."""
        return self._taken.ready

    @property
    def carried(self) -> bool:
        """Whether its upstream was sent the observation that the request started from, and so has
        it in its own."""
        return self._taken.carried

    @property
    def finished(self) -> LayerFinished | None:
        """The last layer's end, of an upstream whose own layers were passed on."""
        return self._taken.finished

    @property
    def response(self) -> ActorResponse:
        """Its text so far, and why it failed where it did."""
        error = self.error
        errors = () if error is None else (ActorError(error.message, error.name),)
        return ActorResponse(self.actor.name, "".join(self._taken.text), errors)


class _Asked:
    """What an actor is asked, whichever upstream it then runs on.

    Apart from ``ActorRun``, so that nothing refers back to that: a run that ties a knot stays in
    memory until the garbage collector finds it.
    """

    def __init__(self, actor: Actor, part: Part) -> None:
        self._actor = actor
        self._part = part
        self._request: Request | None = None
        self._asking = asyncio.Lock()

    async def request(self) -> Request:
        """Made once, by the first who asks."""
        part = self._part
        async with self._asking:
            if self._request is None:
                async with part.in_time():
                    self._request = await part.mapper.actor_request(
                        part.request, self._actor, part.layers, first=part.layer_id == "0"
                    )
        return self._request


class _Attempt:
    """The actor's call on one upstream."""

    def __init__(
        self,
        actor: Actor,
        target: Target,
        part: Part,
        asked: Callable[[], Awaitable[Request]] | None,
        trace: Span | None,
    ) -> None:
        self.target = target
        self.relays = part.route.plain and target.guard.upstream.layered
        self.ready: ObservationReady | None = None
        self.finished: LayerFinished | None = None
        self.carried = False
        self.text: list[str] = []
        self._actor = actor
        self._part = part
        self._asked = asked
        self._trace = trace
        self._text_bytes = 0

    async def events(self, fate: Fate) -> AsyncGenerator[Event]:
        """See ``ActorRun.events``."""
        part, guard = self._part, self.target.guard
        call = await self._call()
        flattened = Flattened() if guard.upstream.layered and not self.relays else None
        async with aclosing(guard.stream(call, self._deadlines(), fate)) as events:
            async for event in events:
                try:
                    if flattened is not None:
                        event = self._flat(flattened, event)  # noqa: PLW2901
                    self.note(event)
                except UpstreamFailed as error:
                    fate.outcome = error.outcome
                    raise
                if event is self.finished and call.frames:
                    continue  # its frame has been passed on already
                yield event
        if flattened is not None:
            yield self._piece("", finished=True)
        elif self.ready is not None and part.messages and not self.text:
            yield await self._message(self.ready)

    async def ask(self, fate: Fate) -> None:
        """See ``ActorRun.ask``."""
        call = await self._call()
        self.note(await self.target.guard.call(call, self._deadlines(), fate))
        if self.ready is not None and self._part.messages and not self.text:
            await self._message(self.ready)

    async def asked(self) -> tuple[Guard, Call, Deadlines]:
        """See ``ActorRun.asked``."""
        return self.target.guard, await self._call(), self._deadlines()

    def note(self, event: Event) -> None:
        """Keep what of ``event`` is asked for when the actor has ended."""
        if isinstance(event, Delta):
            if not self.relays:
                self._add(event.message)
        elif isinstance(event, ObservationReady):
            self.ready = event
        elif isinstance(event, LayerFinished) and event.last:
            self.finished = event

    async def _message(self, ready: ObservationReady) -> Delta:
        """An observation as the text that stands for it."""
        part = self._part
        message = await part.mapper.message(ready.observation, final=part.route.plain)
        self._add(message)
        return self._piece(message, finished=True)

    def _deadlines(self) -> Deadlines:
        """The run's limits. Where there are other upstreams to go on to, one that says nothing is
        left after ``first_event_s`` also where the call is not streamed."""
        deadlines = self._part.deadlines
        if len(self._actor.targets) == 1:
            return deadlines
        first_event_s = self._part.route.config.timeouts.first_event_s
        if deadlines.first_event_s == first_event_s:
            return deadlines
        return replace(deadlines, first_event_s=first_event_s)

    async def _call(self) -> Call:
        part, target = self._part, self.target
        upstream = target.guard.upstream
        request = part.request if self._asked is None else await self._asked()
        if self._asked is not None and upstream.executes and request.observation is not None:
            # It would give the observation back with its own added, and the run adds that up
            # itself. Only where there is nothing else to run on, it has to have it.
            if request.media or request.text:
                request = replace(request, observation=None, idempotent=False)
            else:
                self.carried = True
        body = part.mapper.usual_body(upstream.kind, request)
        if body is None:
            async with part.in_time():
                body = await part.mapper.body(upstream.kind, request)
        return Call(
            request=request,
            pipeline=target.pipeline,
            actor=self._actor.name,
            layer_id=part.layer_id,
            last_layer=part.last_layer,
            connect_s=part.route.config.timeouts.connect_s,
            frames=part.frames and self.relays and len(self._actor.targets) == 1,
            texts=part.texts,
            body=body,
            layers=None if part.route.plain else part.layers,
            inputs=target.inputs,
            output=target.output,
            bindings=part.mapper.bindings,
            trace=self._trace,
        )

    def _flat(self, flattened: Flattened, event: Event) -> Event:
        """A remote event as a piece of this actor's text, or as a sign of life."""
        text = flattened.feed(event)
        if text:
            return self._piece(text)
        if isinstance(event, LayerFinished) and event.last and not self.text:
            failure = failure_of(event.responses, self.target.guard.name)
            if failure is not None:
                raise failure
        return _ALIVE

    def _piece(self, text: str, *, finished: bool = False) -> Delta:
        part = self._part
        return Delta(self._actor.name, text, part.layer_id, finished, part.last_layer)

    def _add(self, text: str) -> None:
        """Keep a piece of its text, which is said once more when its layer is done."""
        limit = self._part.services.answer_bytes_max
        self._text_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if self._text_bytes > limit:
            raise UpstreamFailed(
                f"upstream {self.target.guard.name}: its text is longer than answer_bytes_max "
                f"({limit} bytes)",
                code=Code.UPSTREAM_INVALID,
            )
        self.text.append(text)


#: The upstream lives, but there is nothing to send on.
_ALIVE: Final = Frames(b"", 0)


def _span(part: Part, actor: str) -> Span | None:
    if part.trace is None:
        return None
    return actor_span(part.trace, part.route.name, actor, part.layer_id)


def failure_of(responses: Iterable[ActorResponse], upstream: str) -> UpstreamFailed | None:
    """The failure that an actor of an upstream's own reports instead of a message, if any."""
    for response in responses:
        if response.errors and not response.message:
            error = response.errors[0]
            return UpstreamFailed(
                f"upstream {upstream}: actor {response.actor_id} failed: "
                f"{error.message} ({error.name})",
                alive=True,
            )
    return None
