"""What a pipeline's expressions make of requests, observations and messages.

Owns: the value that each stage's expression is given, and what its result may be.
Does not know: in which order a run applies them, upstreams, who is calling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from gateway.dialects.events import event_json, responses_value
from gateway.errors import Code, RequestRejected, TransformFailed
from gateway.measured import Measured
from gateway.metrics import Metrics
from gateway.model import (
    ActorResponse,
    Event,
    Frames,
    RawEvent,
    Request,
    layered_view,
    request_view,
)
from gateway.plainjson import plain_json
from gateway.results import apply_changes, event_items
from gateway.route import Actor, Route
from gateway.tracing import Evaluations, Span

#: Fields of the upstreams' request bodies that no mapping makes.
_ADDED_FIELDS: Final = frozenset(
    ("media", "transient", "idempotent", "tryImageConversion", "trySimpleText", "file")
)
_NO_FIELDS: Final[Mapping[str, Any]] = {}
_Evaluate: TypeAlias = Callable[[str, Mapping[str, Any] | None], str | None]


class Mapper:
    """The expressions of ``route`` for one request; ``bindings`` are the variables they see, and
    ``trace`` the span that they are parts of, where the request is traced."""

    __slots__ = ("_evaluations", "_metrics", "_route", "_transforms", "bindings", "seen", "trace")

    def __init__(
        self,
        route: Route,
        bindings: Mapping[str, Any],
        metrics: Metrics,
        trace: Span | None = None,
    ) -> None:
        self._route = route
        self._transforms = route.transforms
        self._metrics = metrics
        self.bindings = bindings
        self.trace = trace
        self._evaluations: Evaluations | None = None
        #: The last text of an event that ``event_texts`` was given.
        self.seen = b""

    async def request(self, request: Request) -> Request:
        """The request, or what the route's ``request`` transform makes of it."""
        transform = self._transforms.request
        if transform is None:
            return request
        return await self._changed(request, transform, "request", _view(request))

    async def actor_request(
        self, request: Request, actor: Actor, layers: bytes, *, first: bool
    ) -> Request:
        """What ``actor`` is asked: its own ``request`` transform over the request and ``layers``,
        the JSON list of the finished ones; without one, in any layer but the first, what
        ``layers_to_request`` makes of them."""
        if actor.request is not None:
            transform, stage = actor.request, f"request transform of actor {actor.name}"
        elif not first:
            transform, stage = self._transforms.layers_to_request, "layers_to_request"
        else:
            return request
        return await self._changed(request, transform, stage, layered_view(request, layers))

    async def _changed(
        self, request: Request, transform: Measured, stage: str, view: bytes
    ) -> Request:
        changed = await transform.run(view, self.bindings, self.trace)
        if changed is None:
            return request
        try:
            return apply_changes(request, changed.decode())
        except ValueError as error:
            raise self.bad_result(stage, str(error)) from error

    async def sticky(self, actor: Actor, request: Request, layers: bytes) -> str | None:
        """What keeps requests together under policy ``weighted``, as JSON text."""
        if actor.sticky is None:
            return None
        value = await actor.sticky.run(layered_view(request, layers), self.bindings, self.trace)
        return None if value is None else value.decode()

    def usual_body(self, kind: str, request: Request) -> Mapping[str, Any] | None:
        """As ``body``, where no expression is needed for it; else ``None``."""
        replaced = self._route.config.mappings
        if kind == "cambrion":
            return cambrion_fields(request) if replaced.request_to_cambrion is None else None
        if kind == "pupau":
            # How JSONata writes an observation down as text is for JSONata.
            usual = replaced.request_to_pupau is None and request.text is not None
            return pupau_fields(request) if usual else None
        return _NO_FIELDS

    async def body(self, kind: str, request: Request) -> Mapping[str, Any]:
        """The request in the words of an upstream that speaks one of the dialects, as what
        ``msgspec.json`` writes as JSON."""
        if kind == "cambrion":
            stage, mapping = "request_to_cambrion", self._transforms.request_to_cambrion
        elif kind == "pupau":
            stage, mapping = "request_to_pupau", self._transforms.request_to_pupau
        else:
            return _NO_FIELDS
        try:
            mapped = await mapping.run(_view(request), self.bindings, self.trace)
        except TransformFailed as error:
            if error.reason != "output":
                raise
            raise RequestRejected(
                "text and observation together are longer than transforms.output_bytes_max",
                code=Code.TOO_LARGE,
            ) from error
        if mapped is None or not mapped.startswith(b"{"):
            raise self.bad_result(stage, "it must be an object")
        fields = msgspec.json.decode(mapped, type=dict[str, Raw])
        if reserved := _ADDED_FIELDS.intersection(fields):
            raise self.bad_result(stage, f'the gateway adds "{min(reserved)}" itself')
        return fields

    def events(self, event: Event) -> Sequence[Event]:
        """What the route's ``event`` transform makes of an event; empty: it drops it."""
        if self._transforms.event is None or isinstance(event, Frames):
            return (event,)
        items: list[bytes] = []
        seen = self.seen
        self.event_texts((event_json(event),), items)
        self.seen = seen
        return [RawEvent(item) for item in items]

    def event_texts(self, texts: Sequence[bytes], made: list[bytes]) -> None:
        """As ``events``, from JSON texts to JSON texts, which are added to ``made`` one by one: so
        those before one that fails are there."""
        transform = self._transforms.event
        if transform is None:
            made += texts
            return
        evaluate: _Evaluate = transform.evaluate
        bindings = self.bindings
        if self.trace is not None:
            evaluate = self._traced(transform, self.trace)
        for text in texts:
            self.seen = text
            result = evaluate(text.decode("utf-8", "replace"), bindings)  # as the rules have it
            if result is None:
                continue
            if result[0] == "{":  # one, as nearly always
                made.append(result.encode())
                continue
            try:
                made += event_items(result)
            except ValueError as error:
                raise self.bad_result("event", str(error)) from error

    def _traced(self, transform: Measured, trace: Span) -> _Evaluate:
        if self._evaluations is None:
            self._evaluations = Evaluations(transform.span(trace), monotonic)
        return partial(self._evaluations.evaluate, transform.evaluate)

    def done(self) -> None:
        """There are no more events."""
        if self._evaluations is not None:
            self._evaluations.end()

    async def observation(self, responses: tuple[ActorResponse, ...], execution_id: str) -> bytes:
        """What actors said, as an observation of the execution of that ID."""
        if self._route.config.mappings.responses_to_observation is None:
            return usual_observation(responses, execution_id)
        given = {"executionId": execution_id, "responses": responses_value(responses)}
        mapping = self._transforms.responses_to_observation
        mapped = await mapping.run(msgspec.json.encode(given), self.bindings, self.trace)
        if mapped is None or not mapped.startswith(b"{"):
            raise self.bad_result("responses_to_observation", "it must be an object")
        return mapped

    async def transformed(self, observation: bytes) -> bytes:
        """The observation, or what the route's ``observation`` transform makes of it."""
        transform = self._transforms.observation
        if transform is None:
            return observation
        result = await transform.run(observation, self.bindings, self.trace)
        return b"null" if result is None else result

    async def json(self, observation: bytes) -> bytes:
        """The observation's JSON view."""
        if self._route.config.mappings.observation_to_json is None:
            plain = plain_json(observation)
            if plain is not None:
                return plain
        mapping = self._transforms.observation_to_json
        result = await mapping.run(observation, self.bindings, self.trace)
        return b"{}" if result is None else result

    async def message(self, observation: bytes, *, final: bool) -> str:
        """The text that stands for an observation where an actor's message is wanted; ``final``:
        it is the whole run's, so that the route's ``observation`` transform applies."""
        if final and self._transforms.observation is not None:
            return _text_of(await self.transformed(observation))
        view = await self.json(observation)
        usual = self._route.config.mappings.observation_to_message is None
        if usual and (said := usual_message(view)) is not None:
            return said
        given = {"observation": Raw(observation), "json": Raw(view)}
        result = await self._transforms.observation_to_message.run(
            msgspec.json.encode(given), self.bindings, self.trace
        )
        return "" if result is None else _text_of(result)

    def bad_result(self, stage: str, what: str) -> TransformFailed:
        """The error for an expression whose result cannot be used."""
        name = stage.split(maxsplit=1)[0]
        self._metrics.transform_errors.labels(self._route.name, name, "result").inc()
        words = stage if "transform" in stage else f"{stage} transform"
        return TransformFailed(
            f"pipeline {self._route.name}, {words}: its result does not fit: {what}",
            reason="result",
        )


def cambrion_fields(request: Request) -> dict[str, Any]:
    """What ``transforms/request_to_cambrion.jsonata`` makes of ``request``, made without it: where
    nobody has replaced it, a small call need not wait for the engine, nor a large observation be
    read and written once more."""
    fields: dict[str, Any] = {}
    if request.text is not None:
        fields["text"] = request.text
    if request.tag is not None:
        fields["tag"] = request.tag
    if request.observation is not None:
        fields["observation"] = Raw(request.observation)
    if request.context is not None:
        fields["runtimeParameters"] = {**request.parameters, "context": request.context}
    elif request.parameters:
        fields["runtimeParameters"] = request.parameters
    return fields


def pupau_fields(request: Request) -> dict[str, Any]:
    """As ``cambrion_fields``, for ``transforms/request_to_pupau.jsonata`` and a ``request`` with a
    text."""
    fields: dict[str, Any] = {"request": request.text}
    if request.context is not None:
        fields["context"] = request.context
    return fields


def usual_observation(responses: tuple[ActorResponse, ...], execution_id: str) -> bytes:
    """As ``cambrion_fields``, for ``transforms/responses_to_observation.jsonata``."""
    contents = [
        {
            "id": response.actor_id,
            "mediaId": response.actor_id,
            "documentPages": [
                {
                    "page": 1,
                    "document": {
                        "id": response.actor_id,
                        "entities": [
                            {
                                "id": f"{response.actor_id}-1",
                                "block": {"text": response.message},
                                "label": response.actor_id,
                                "layoutType": "LINE",
                            }
                        ],
                    },
                }
            ],
            "rawText": response.message,
        }
        for response in responses
    ]
    return msgspec.json.encode(
        {"executionId": execution_id, "mediaContents": contents, "documents": []}
    )


def usual_message(view: bytes) -> str | None:
    """What ``transforms/observation_to_message.jsonata`` makes of an observation whose JSON view is
    ``view``, where that is an object that is not empty, as nearly always; else ``None``: what there
    is to say then, the engine finds."""
    return view.decode() if view.startswith(b"{") and view != b"{}" else None


def _view(request: Request) -> bytes:
    return msgspec.json.encode(request_view(request))


def _text_of(value: bytes) -> str:
    """A JSON string's text; any other JSON value as its own text."""
    if value.startswith(b'"'):
        return msgspec.json.decode(value, type=str)
    return value.decode()
