"""One run of one pipeline: its layers in their order, what they come to.

Owns: the order of things in a run, which failures end it, the putting together of observations, and
the event that closes a stream which failed.
Does not know: HTTP, how a dialect writes anything down, how an actor comes by what it says.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from gateway import pdf
from gateway.actor import ActorRun, Part, failure_of
from gateway.dialects.events import parse_event, responses_value
from gateway.errors import Code, GatewayError, RequestRejected, TransformFailed, UpstreamFailed
from gateway.fanout import Ended, Waited, side_by_side
from gateway.guard import Deadlines, Guard
from gateway.mapping import Mapper
from gateway.metrics import Dialect, Mode
from gateway.model import (
    ActorError,
    ActorResponse,
    Delta,
    Event,
    Failed,
    Frames,
    LayerFinished,
    LayerStarted,
    ObservationReady,
    Request,
    Result,
)
from gateway.observation import append, with_execution_id
from gateway.route import Layer, Route
from gateway.services import Services
from gateway.sse import Decoder
from gateway.tracing import Span, evaluation
from gateway.upstreams.base import Call

_EXECUTE_MODES: Final = (Mode.EXECUTE, Mode.EXECUTE_JSON, Mode.EXECUTE_TRANSFORM)


@dataclass(slots=True)
class Run:
    """One run. ``stream`` or ``call`` runs it, once."""

    route: Route
    request: Request
    mode: Mode
    services: Services
    waited: Waited = field(default_factory=Waited)
    #: The span that it is a part of, where it is traced.
    trace: Span | None = None
    #: Whether each event is wanted by itself, also such as could be passed on unread.
    apart: bool = False
    #: Which actors of a pipeline of layers have failed, and with which code.
    actors_failed: dict[str, Code] = field(default_factory=dict)
    #: Its expressions. ``event_texts`` is as ``take``, for events that came as JSON texts.
    mapper: Mapper = field(init=False)
    _deadlines: Deadlines = field(init=False)
    _actors: list[ActorRun] = field(default_factory=list)  # of the layer that runs
    _done: list[list[ActorRun]] = field(default_factory=list)  # of the finished layers
    _view: list[bytes] = field(default_factory=list)  # of the finished layers, for expressions
    _layer_id: str = "0"
    _new_id: str = ""
    _made: tuple[str, bytes] | None = None
    #: The last frames that were passed on unread.
    frames: bytes = b""
    _ending: list[Event] = field(default_factory=list)
    #: Whether the last event was sent: the route's transform may have dropped it.
    told: bool = True
    #: What is done with the observation, once, before anything is told of it.
    keep: Callable[[bytes], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        bindings = {
            "pipeline": self.route.name,
            "requestId": self.request.request_id,
            "headers": dict(self.request.headers),
            "key": self.request.key,
        }
        self.mapper = Mapper(self.route, bindings, self.services.metrics, self.trace)
        self._deadlines = self.route.limits(
            self.services.clock(),
            stream=self.request.stream,
            execute=self.mode in _EXECUTE_MODES,
        )

    async def stream(self, dialect: Dialect) -> AsyncGenerator[Event]:
        """The events to send to a caller of ``dialect``, as they happen.

        Raises:
            GatewayError: the run failed. Where anything had been sent before, the event that says
                so to the caller has been yielded first.
        """
        sent = False
        try:
            async with aclosing(self._events(dialect)) as events:
                async for event in events:
                    for item in self._due(event, dialect):
                        sent = True
                        yield item
            for item in await self.ending(dialect):
                sent = True
                yield item
        except GatewayError as error:
            if sent:
                yield self.failed(error)
            raise
        finally:
            self.mapper.done()
        failure = self.reported_failure()
        if failure is not None:
            if not self.told:  # the route's transform dropped the event that told of it
                yield self.failed(failure)
            raise failure

    async def asked(self, dialect: Dialect) -> tuple[Guard, Call, Deadlines]:
        """What to ask whom, within which limits, for a route whose one upstream pushes its events:
        ``take`` says of each what to send, and ``ending``, once it has ended, what more.

        Raises GatewayError.
        """
        actor = await self._only(dialect)
        return await actor.asked()

    def over(self) -> None:
        """What ``asked`` told of has ended."""
        for actor in self._actors:
            actor.close()

    def take(self, event: Event, dialect: Dialect) -> Sequence[Event]:
        """What is to be sent for an event that was pushed. (Frames are sent as they are; ``frames``
        holds the last.)"""
        actor = self._actors[0]
        actor.note(event)
        if self.frames and event is actor.finished:
            return ()  # its frame has been passed on already
        if isinstance(event, LayerStarted):
            self._layer_id = event.layer_id
        return self._due(event, dialect)

    def _due(self, event: Event, dialect: Dialect) -> Sequence[Event]:
        """What is to be sent for ``event`` now. What is last must not be followed by a failure:
        where an observation is to come, the end of the last layer waits until it has been made."""
        last = isinstance(event, LayerFinished) and event.last
        if dialect is Dialect.CAMBRION and (last or self._ending):
            self._ending.append(event)
            return ()
        return self._to_send(event)

    async def ending(self, dialect: Dialect) -> list[Event]:
        """What is to be sent when the last layer has ended. Raises GatewayError."""
        ready = None
        if dialect is Dialect.CAMBRION and self.reported_failure() is None:
            execution_id, observation = await self._observation()
            ready = ObservationReady(await self.mapper.transformed(observation), execution_id)
        items = [item for event in self._ending for item in self._to_send(event)]
        return items if ready is None else [*items, ready]

    async def call(self, dialect: Dialect) -> Result:
        """The whole result for a caller of ``dialect`` who does not stream. Raises GatewayError."""
        if self.mode is Mode.EXECUTE_TRANSFORM:
            await self.check_transform()
        only = self.route.only
        if only is not None and self.route.answers_once():
            actor = await self._ask(dialect)
            ready = actor.ready
            own = self.request.execution_id is None
            if own and self.mode is Mode.EXECUTE and ready is not None and only.executes:
                observation = ready.observation
                if self.route.transforms.observation is not None:
                    observation = await self.mapper.transformed(observation)
                return Result(ready.execution_id or self._execution_id, observation=observation)
        else:
            async with aclosing(self._events(dialect)) as events:
                async for _ in events:
                    pass
        failure = self.reported_failure()
        if dialect is Dialect.PUPAU:
            finished = self._actors[0].finished
            if finished is not None and self.route.plain:
                result = Result("", responses=finished.responses, raw=finished.raw)
            else:
                result = Result("", responses=self._responses())
            return result if failure is None else replace(result, outcome=failure.outcome)
        if failure is not None:
            raise failure
        return await self.result_of(*await self._observation())

    async def check_transform(self) -> None:
        """See that the caller's own expression is there and can be one. Raises GatewayError."""
        if not self.request.transform:
            raise RequestRejected("transform: missing; this call needs a JSONata expression")
        await self.services.sandbox.check_syntax(self.request.transform)

    async def perform(self) -> bytes:
        """Run it for what it finds, and for nothing that is made of that. Raises GatewayError."""
        async with aclosing(self._events(Dialect.CAMBRION)) as events:
            async for _ in events:
                pass
        if (failure := self.reported_failure()) is not None:
            raise failure
        return await self.found()

    async def found(self) -> bytes:
        """The observation that the run came to, before the route's own transform."""
        return (await self._observation())[1]

    async def result_of(self, execution_id: str, observation: bytes) -> Result:
        """What a Cambrion caller is answered where ``observation`` is what there is now. Raises
        GatewayError."""
        if self.mode is Mode.EXECUTE:
            transformed = await self.mapper.transformed(observation)
            return Result(execution_id, observation=transformed)
        if self.mode is Mode.EXECUTE_JSON:
            return Result(execution_id, view=await self.mapper.json(observation))
        with evaluation(self.trace, self.route.name, "client"):
            return Result(execution_id, view=await self._own_view(observation))

    async def _ask(self, dialect: Dialect) -> ActorRun:
        """Run the one actor of a route, on its one upstream, for the whole of its answer."""
        actor = await self._only(dialect)
        clock = self.services.clock
        asked = clock()
        try:
            await actor.ask()
        finally:
            self.waited.upstream_s += clock() - asked
        return actor

    async def _only(self, dialect: Dialect) -> ActorRun:
        """The one actor of a route that has no more, ready to run."""
        if self._unready:
            await self._prepare(dialect)
        actor = ActorRun(self.route.layers[0].actors[0], self._part(0, dialect))
        self._actors = [actor]
        return actor

    async def _events(self, dialect: Dialect) -> AsyncGenerator[Event]:
        """The events of all layers, one after the other."""
        if self._unready:
            await self._prepare(dialect)
        layers = self.route.layers
        for number, layer in enumerate(layers):
            async with aclosing(self._layer(layer, number, dialect)) as events:
                async for event in events:
                    yield event
            if number + 1 < len(layers):
                self._done.append(self._actors)
                self._view.append(await self._layer_view())

    @property
    def _unready(self) -> bool:
        """Whether there is something to do for ``_prepare``."""
        request = self.request
        return (
            self.route.transforms.request is not None
            or request.try_simple_text
            or request.try_image_conversion
        )

    async def _prepare(self, dialect: Dialect) -> None:
        """Conversions, then the route's ``request`` transform."""
        request, part = self.request, self._part(0, dialect)
        async with part.in_time():
            if unable := [t.guard for t in self.route.targets() if not t.guard.upstream.executes]:
                if request.try_simple_text:
                    raise RequestRejected(
                        f"trySimpleText: pipeline {self.route.name} runs on an upstream of kind "
                        f"{unable[0].upstream.kind}, which cannot do that",
                        code=Code.NOT_SUPPORTED,
                    )
                if request.try_image_conversion:
                    pages_max = self.services.pdf_pages_max
                    request = await pdf.convert(request, pages_max=pages_max)
            self.request = await self.mapper.request(request)

    def _part(self, number: int, dialect: Dialect) -> Part:
        """What the actors of layer ``number`` know of the run."""
        route, stream = self.route, self.request.stream
        passed_on = stream and dialect is Dialect.PUPAU and not self.apart
        last = number + 1 == len(route.layers)
        return Part(
            route=route,
            mapper=self.mapper,
            services=self.services,
            request=self.request,
            layers=b"[" + b",".join(self._view) + b"]" if self._view else b"[]",
            layer_id=str(number),
            last_layer=last,
            frames=passed_on and route.transforms.event is None and not self.apart,
            texts=passed_on and route.pushing is not None,
            messages=stream or dialect is Dialect.PUPAU or not last,
            deadlines=self._deadlines,
            trace=self.trace,
        )

    async def _layer(self, layer: Layer, number: int, dialect: Dialect) -> AsyncGenerator[Event]:
        """The events of one layer. An upstream without layers of its own gets one around it."""
        part = self._part(number, dialect)
        self._layer_id = part.layer_id
        self._actors = actors = [ActorRun(actor, part) for actor in layer.actors]
        # The first layer's beginning is told with its first event: a run that fails before can
        # still be answered with a status that says so.
        started = number > 0
        if started:
            yield self._started()
        failed = 0
        stream = side_by_side([actor.events for actor in actors], self.waited, self.services.clock)
        async with aclosing(stream) as items:
            async for index, event in items:
                if isinstance(event, Ended):
                    actors[index].ended = True
                    if event.error is not None:
                        actors[index].error = event.error
                        failed += 1
                        self._note_failure(actors[index], event.error)
                        if not layer.goes_on and len(actors) - failed < layer.needed:
                            raise event.error
                    continue
                match event:
                    case ObservationReady() | Frames(count=0):
                        continue
                    case Frames():
                        self.frames = event.data
                    case LayerStarted() if actors[index].relays:
                        self._layer_id = event.layer_id
                    case Delta() if not started and not actors[index].relays:
                        started = True
                        yield self._started()
                yield event
        if len(actors) - failed < layer.needed:
            raise next(actor.error for actor in actors if actor.error is not None)
        if actors[0].relays:
            return
        if not started:
            yield self._started()
        yield LayerFinished(part.layer_id, self._responses(), last=part.last_layer)

    async def _layer_view(self) -> bytes:
        """The layer that has just finished, as the JSON that later actors' expressions see."""
        observations = [
            {"actorId": actor.actor.name, "observation": Raw(await self._observed(actor))}
            for actor in self._actors
            if actor.error is None
        ]
        return msgspec.json.encode(
            {
                "layerId": self._layer_id,
                "responses": responses_value(self._responses()),
                "observations": observations,
            }
        )

    def _note_failure(self, actor: ActorRun, error: GatewayError) -> None:
        """A run may go on without an actor; that it failed must be seen all the same."""
        if not self.route.plain:
            name = actor.actor.name
            self.actors_failed[name] = error.code
            self.services.metrics.actor_failures.labels(self.route.name, name, error.code).inc()

    def _responses(self) -> tuple[ActorResponse, ...]:
        """What the actors of the current layer have said, in the order of the configuration."""
        return tuple(actor.response for actor in self._actors)

    def _to_send(self, event: Event) -> Sequence[Event]:
        """The event, or what the route's ``event`` transform makes of it."""
        items = self.mapper.events(event)
        self.told = bool(items)
        return items

    def _started(self) -> LayerStarted:
        layer_id = self._layer_id
        return LayerStarted(layer_id, f"Executing layer {layer_id}...", execution_count=1)

    def failed(self, error: GatewayError) -> Failed:
        """The event that tells a stream's caller of ``error`` and ends the stream."""
        told = (ActorError(error.message, error.name),)
        responses = list(self._responses())
        # A failure that the layer was to bear with does not stand for the one that ended the run,
        # which is that of every actor whose work it cut short.
        if all(actor.error is not error for actor in self._actors):
            cut = [n for n, actor in enumerate(self._actors) if not actor.ended]
            if not cut and len(responses) == 1:
                cut = [0]
            for number in cut:
                responses[number] = replace(responses[number], errors=told)
            if not cut:  # all had said what they had to say
                responses.append(ActorResponse(self.route.name, "", told))
        return Failed(self._current_layer(), tuple(responses))

    def _current_layer(self) -> str:
        """The layer that runs now. Frames that were passed on unread are looked into only here."""
        texts = [frame.data for frame in Decoder(len(self.frames) + 1).feed(self.frames)]
        for text in [*texts, self.mapper.seen]:
            try:
                event = parse_event(text)
            except ValueError:  # not worth failing over: the run has failed already
                continue
            if isinstance(event, LayerStarted | Delta | LayerFinished):
                self._layer_id = event.layer_id
        return self._layer_id

    def reported_failure(self) -> UpstreamFailed | None:
        """The failure that an upstream's own actor reports instead of a message, where its layers
        were passed on."""
        if not self.route.plain or (finished := self._actors[0].finished) is None:
            return None
        return failure_of(finished.responses, self._actors[0].target.guard.name)

    @property
    def _execution_id(self) -> str:
        """The run's own ID: its execution's where it has one, else one that no upstream gave it."""
        if not self._new_id:
            self._new_id = self.request.execution_id or str(uuid.uuid4())
        return self._new_id

    async def _observation(self) -> tuple[str, bytes]:
        """The run's execution ID and its observation, before the route's own transform."""
        if self._made is None:
            self._made = await self._make_observation()
            if self.keep is not None:
                await self.keep(self._made[1])
        return self._made

    async def _make_observation(self) -> tuple[str, bytes]:
        actors = [actor for layer in (*self._done, self._actors) for actor in layer]
        first = actors[0]
        if self.route.plain and first.ready is not None and first.target.guard.upstream.executes:
            if self.request.execution_id is not None:
                return self._execution_id, self._named(first.ready.observation, first)
            return first.ready.execution_id or self._execution_id, first.ready.observation
        total = self.request.observation
        carried = any(actor.carried for actor in actors)
        found: bytes | None = None
        for actor in actors:
            if actor.error is None:
                observed = await self._observed(actor)
                found = observed if found is None else self._append(found, observed, carried, actor)
        if found is None:
            found = b"{}"
        if total is not None:
            found = self._append(total, found, self.request.idempotent or carried, first)
        return self._execution_id, self._named(found, first)

    async def _observed(self, actor: ActorRun) -> bytes:
        """What one actor found: its upstream's observation, or what it said as one."""
        if actor.observed is None:
            actor.observed = await self._observation_of(actor)
        return actor.observed

    async def _observation_of(self, actor: ActorRun) -> bytes:
        if actor.ready is not None:
            return actor.ready.observation
        finished = actor.finished if actor.relays else None
        responses = (actor.response,) if finished is None else finished.responses
        return await self.mapper.observation(responses, self._execution_id)

    def _append(self, first: bytes, second: bytes, replaces: bool, actor: ActorRun) -> bytes:
        try:
            return append(first, second, replace=replaces)
        except RequestRejected as error:  # the caller's own was checked when it came
            raise self._no_observation(actor, error.message) from error

    def _named(self, observation: bytes, actor: ActorRun) -> bytes:
        try:
            return with_execution_id(observation, self._execution_id)
        except RequestRejected as error:
            raise self._no_observation(actor, error.message) from error

    def _no_observation(self, actor: ActorRun, what: str) -> GatewayError:
        if actor.ready is None:
            return self.mapper.bad_result("responses_to_observation", what)
        return UpstreamFailed(
            f"upstream {actor.target.guard.name}: {what}", code=Code.UPSTREAM_INVALID
        )

    async def _own_view(self, observation: bytes) -> bytes | None:
        """The caller's own expression over the observation, in the sandbox."""
        metrics, clock = self.services.metrics, self.services.clock
        began = clock()
        try:
            return await self.services.sandbox.evaluate(
                self.request.transform or "", observation, self.mapper.bindings
            )
        except TransformFailed as error:
            metrics.transform_errors.labels(self.route.name, "client", error.reason).inc()
            raise
        finally:
            metrics.transform_duration.labels(self.route.name, "client").observe(clock() - began)
