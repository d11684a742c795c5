"""One run of one pipeline: transforms, the layer's actor, what it comes to.

Owns: the order of things in a run, the making of messages from observations and back, and the event
that closes a stream which failed.
Does not know: HTTP, how a dialect writes anything down, how an upstream is reached.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway import pdf
from gateway.compiled import CompiledPipeline
from gateway.dialects.events import event_json, parse_event, responses_value
from gateway.errors import (
    Code,
    GatewayError,
    RequestRejected,
    TransformFailed,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.fanout import Deadlines, Fanout, Waited
from gateway.measured import Measured
from gateway.metrics import Dialect, Metrics, Mode
from gateway.model import (
    ActorResponse,
    Delta,
    Event,
    Failed,
    Frames,
    LayerFinished,
    LayerStarted,
    ObservationReady,
    RawEvent,
    Request,
    Result,
    request_view,
)
from gateway.observation import append, with_execution_id
from gateway.results import apply_changes, event_items
from gateway.sandbox import Sandbox
from gateway.sections import PipelineConfig
from gateway.sse import Decoder
from gateway.upstreams.base import Call, Upstream

#: executeSync ends after this many seconds where its route sets no ``total_s``.
EXECUTE_TOTAL_S: Final = 30.0
LAYER_ID: Final = "0"
#: Fields of the upstreams' request bodies that no mapping makes.
_ADDED_FIELDS: Final = frozenset(
    ("media", "transient", "idempotent", "tryImageConversion", "trySimpleText", "file")
)
_EXECUTE_MODES: Final = (Mode.EXECUTE, Mode.EXECUTE_JSON, Mode.EXECUTE_TRANSFORM)


@dataclass(frozen=True, slots=True)
class Route:
    """One configured pipeline, ready to run. ``transforms`` are measured and compiled."""

    name: str
    config: PipelineConfig
    upstream: Upstream
    transforms: CompiledPipeline[Measured]

    @property
    def target(self) -> str:
        """The upstream's own name for what is run."""
        return self.config.pipeline or self.name


@dataclass(frozen=True, slots=True)
class Services:
    """What every run needs of the process."""

    fanout: Fanout
    sandbox: Sandbox
    metrics: Metrics
    clock: Callable[[], float]
    pdf_pages_max: int


@dataclass(slots=True)
class Run:
    """One run. ``events`` runs it; afterwards ``responses`` and ``ready`` hold what it came to."""

    route: Route
    request: Request
    mode: Mode
    services: Services
    waited: Waited = field(default_factory=Waited)
    responses: tuple[ActorResponse, ...] = ()
    raw: bytes | None = None
    ready: ObservationReady | None = None
    _bindings: dict[str, Any] = field(default_factory=dict)
    _layer_id: str = LAYER_ID
    _text: list[str] = field(default_factory=list)
    _made: tuple[str, bytes] | None = None
    _frames: bytes = b""
    _told: bool = True

    def __post_init__(self) -> None:
        self._bindings = {
            "pipeline": self.route.name,
            "requestId": self.request.request_id,
            "headers": dict(self.request.headers),
            "key": self.request.key,
        }

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
                    for item in self._to_send(event):
                        sent = True
                        yield item
            failure = self._actor_failure()
            if failure is None and dialect is Dialect.CAMBRION:
                execution_id, observation = await self._observation()
                yield ObservationReady(await self._transformed(observation), execution_id)
        except GatewayError as error:
            if sent:
                yield self.failed(error)
            raise
        if failure is not None:
            if not self._told:  # the route's transform dropped the event that told of it
                yield self.failed(failure)
            raise failure

    async def call(self, dialect: Dialect) -> Result:
        """The whole result for a caller of ``dialect`` who does not stream. Raises GatewayError."""
        if self.mode is Mode.EXECUTE_TRANSFORM and not self.request.transform:
            raise RequestRejected("transform: missing; this call needs a JSONata expression")
        if self.mode is Mode.EXECUTE_TRANSFORM:
            await self.services.sandbox.check_syntax(self.request.transform or "")
        async with aclosing(self._events(dialect)) as events:
            async for _ in events:
                pass
        failure = self._actor_failure()
        if dialect is Dialect.PUPAU:
            result = Result("", responses=self.responses, raw=self.raw)
            return result if failure is None else replace(result, outcome=failure.outcome)
        if failure is not None:
            raise failure
        execution_id, observation = await self._observation()
        if self.mode is Mode.EXECUTE:
            return Result(execution_id, observation=await self._transformed(observation))
        if self.mode is Mode.EXECUTE_JSON:
            return Result(execution_id, view=await self._json(observation))
        return Result(execution_id, view=await self._view(observation))

    async def _events(self, dialect: Dialect) -> AsyncGenerator[Event]:
        """Run the layer's one actor. An upstream without layers of its own gets one around it."""
        route, upstream = self.route, self.route.upstream
        deadlines = self._deadlines()
        try:
            async with asyncio.timeout_at(deadlines.ends_at):
                await self._prepare()
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"pipeline {route.name}: the request was not prepared within "
                f"{deadlines.total_s:g} s (total_s)"
            ) from error
        call = Call(
            request=self.request,
            pipeline=route.target,
            actor=route.name,
            layer_id=LAYER_ID,
            connect_s=route.config.timeouts.connect_s,
            frames=(
                self.request.stream
                and dialect is Dialect.PUPAU
                and upstream.layered
                and route.transforms.event is None
            ),
            body=await self._body(),
            inputs=route.transforms.inputs,
            output=route.transforms.output,
            bindings=self._bindings,
        )
        started = False
        stream = self.services.fanout.stream(upstream, call, deadlines, self.waited)
        async with aclosing(stream) as events:
            async for event in events:
                match event:
                    case Frames():
                        if not event.data:
                            continue
                        self._frames = event.data
                    case ObservationReady():
                        self.ready = event
                        continue
                    case LayerStarted():
                        self._layer_id = event.layer_id
                    case LayerFinished():
                        if event.last:
                            self.responses, self.raw = event.responses, event.raw
                        if call.frames:  # its frame has been passed on already
                            continue
                    case Delta() if not upstream.layered:
                        if not started:
                            started = True
                            yield self._started()
                        self._text.append(event.message)
                yield event
        if upstream.layered:
            return
        wants_message = self.request.stream or dialect is Dialect.PUPAU
        if wants_message and not self._text and self.ready is not None:
            yield self._started()
            _, observation = await self._observation()
            message = await self._message(observation)
            self._text.append(message)
            yield Delta(route.name, message, LAYER_ID, finished=True, last_layer=True)
        self.responses = (ActorResponse(route.name, "".join(self._text)),)
        yield LayerFinished(LAYER_ID, self.responses, last=True)

    async def _prepare(self) -> None:
        """Conversions, then the route's ``request`` transform."""
        request = self.request
        if not self.route.upstream.executes:
            if request.try_simple_text:
                raise RequestRejected(
                    f"trySimpleText: pipeline {self.route.name} runs on an upstream of kind "
                    f"{self.route.upstream.kind}, which cannot do that",
                    code=Code.NOT_SUPPORTED,
                )
            if request.try_image_conversion:
                request = await pdf.convert(request, pages_max=self.services.pdf_pages_max)
        transform = self.route.transforms.request
        if transform is not None:
            view = msgspec.json.encode(request_view(request)).decode()
            changed = await transform.run(view, self._bindings)
            if changed is not None:
                try:
                    request = apply_changes(request, changed)
                except ValueError as error:
                    raise self._bad_result("request", str(error)) from error
        self.request = request

    def _bad_result(self, stage: str, what: str) -> TransformFailed:
        self.services.metrics.transform_errors.labels(self.route.name, stage, "result").inc()
        return TransformFailed(
            f"pipeline {self.route.name}, {stage} transform: its result does not fit: {what}",
            reason="result",
        )

    async def _body(self) -> dict[str, Raw]:
        """The request in the words of an upstream that speaks one of the dialects."""
        transforms, kind = self.route.transforms, self.route.upstream.kind
        if kind == "cambrion":
            stage, mapping = "request_to_cambrion", transforms.request_to_cambrion
        elif kind == "pupau":
            stage, mapping = "request_to_pupau", transforms.request_to_pupau
        else:
            return {}
        view = msgspec.json.encode(request_view(self.request)).decode()
        try:
            mapped = await mapping.run(view, self._bindings)
        except TransformFailed as error:
            if error.reason != "output":
                raise
            raise RequestRejected(
                "text and observation together are longer than transforms.output_bytes_max",
                code=Code.TOO_LARGE,
            ) from error
        if mapped is None or not mapped.startswith("{"):
            raise self._bad_result(stage, "it must be an object")
        fields = msgspec.json.decode(mapped, type=dict[str, Raw])
        if reserved := _ADDED_FIELDS.intersection(fields):
            raise self._bad_result(stage, f'the gateway adds "{min(reserved)}" itself')
        return fields

    def _deadlines(self) -> Deadlines:
        """The run's limits. A call that is not streamed has one event, its whole answer, so where
        the route says how long that may take, this alone counts."""
        timeouts = self.route.config.timeouts
        total_s, first_event_s = timeouts.total_s, timeouts.first_event_s
        if total_s is None and self.mode in _EXECUTE_MODES:
            total_s = EXECUTE_TOTAL_S
        elif total_s is not None and not self.request.stream:
            first_event_s = total_s
        ends_at = None if total_s is None else self.services.clock() + total_s
        return Deadlines(first_event_s, timeouts.idle_s, ends_at, total_s)

    def _to_send(self, event: Event) -> Iterator[Event]:
        """The event, or what the route's ``event`` transform makes of it."""
        transform = self.route.transforms.event
        if transform is None or isinstance(event, Frames):
            yield event
            return
        result = transform.evaluate(event_json(event).decode(), self._bindings)
        self._told = result is not None
        if result is None:
            return
        try:
            items = event_items(result)
        except ValueError as error:
            raise self._bad_result("event", str(error)) from error
        for item in items:
            yield RawEvent(item)

    def _started(self) -> LayerStarted:
        return LayerStarted(LAYER_ID, f"Executing layer {LAYER_ID}...", execution_count=1)

    def failed(self, error: GatewayError) -> Failed:
        """The event that tells a stream's caller of ``error`` and ends the stream."""
        return Failed(
            code=error.code,
            name=error.name,
            message=error.message,
            layer_id=self._current_layer(),
            actor_id=self.route.name,
            text="".join(self._text),
        )

    def _current_layer(self) -> str:
        """The layer that runs now. Frames that were passed on unread are looked into only here."""
        for frame in Decoder(len(self._frames) + 1).feed(self._frames):
            try:
                event = parse_event(frame.data)
            except ValueError:  # not worth failing over: the run has failed already
                continue
            if isinstance(event, LayerStarted | Delta | LayerFinished):
                self._layer_id = event.layer_id
        return self._layer_id

    def _actor_failure(self) -> UpstreamFailed | None:
        """The failure that an actor of the last layer reports instead of a message, if any."""
        for response in self.responses:
            if response.errors and not response.message:
                error = response.errors[0]
                return UpstreamFailed(
                    f"upstream {self.route.upstream.name}: actor {response.actor_id} failed: "
                    f"{error.message} ({error.name})"
                )
        return None

    async def _observation(self) -> tuple[str, bytes]:
        """The run's execution ID and its observation, before the route's own transform."""
        if self._made is None:
            self._made = await self._make_observation()
        return self._made

    async def _make_observation(self) -> tuple[str, bytes]:
        ready = self.ready
        if ready is not None and self.route.upstream.executes:
            return ready.execution_id or str(uuid.uuid4()), ready.observation
        execution_id = str(uuid.uuid4())
        if ready is not None:
            observation = ready.observation
        else:
            given = {"executionId": execution_id, "responses": responses_value(self.responses)}
            mapped = await self.route.transforms.responses_to_observation.run(
                msgspec.json.encode(given).decode(), self._bindings
            )
            if mapped is None or not mapped.startswith("{"):
                raise self._bad_result("responses_to_observation", "it must be an object")
            observation = mapped.encode()
        try:
            observation = with_execution_id(observation, execution_id)
            if self.request.observation is not None:
                replaces = self.request.idempotent
                observation = append(self.request.observation, observation, replace=replaces)
                observation = with_execution_id(observation, execution_id)
        except RequestRejected as error:  # the caller's own was checked when it came
            if ready is None:
                raise self._bad_result("responses_to_observation", error.message) from error
            raise UpstreamFailed(
                f"upstream {self.route.upstream.name}: {error.message}", code=Code.UPSTREAM_INVALID
            ) from error
        return execution_id, observation

    async def _transformed(self, observation: bytes) -> bytes:
        """The observation, or what the route's ``observation`` transform makes of it."""
        transform = self.route.transforms.observation
        if transform is None:
            return observation
        result = await transform.run(observation.decode(), self._bindings)
        return b"null" if result is None else result.encode()

    async def _json(self, observation: bytes) -> bytes:
        mapping = self.route.transforms.observation_to_json
        result = await mapping.run(observation.decode(), self._bindings)
        return b"{}" if result is None else result.encode()

    async def _message(self, observation: bytes) -> str:
        """The text that stands for an observation where an actor's message is wanted."""
        if self.route.transforms.observation is not None:
            return _text_of(await self._transformed(observation))
        given = {"observation": Raw(observation), "json": Raw(await self._json(observation))}
        result = await self.route.transforms.observation_to_message.run(
            msgspec.json.encode(given).decode(), self._bindings
        )
        return "" if result is None else _text_of(result.encode())

    async def _view(self, observation: bytes) -> bytes | None:
        """The caller's own expression over the observation, in the sandbox."""
        metrics, clock = self.services.metrics, self.services.clock
        began = clock()
        try:
            return await self.services.sandbox.evaluate(
                self.request.transform or "", observation, self._bindings
            )
        except TransformFailed as error:
            metrics.transform_errors.labels(self.route.name, "client", error.reason).inc()
            raise
        finally:
            metrics.transform_duration.labels(self.route.name, "client").observe(clock() - began)


def _text_of(value: bytes) -> str:
    """A JSON string's text; any other JSON value as its own text."""
    if value.startswith(b'"'):
        return msgspec.json.decode(value, type=str)
    return value.decode()
