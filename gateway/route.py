"""A configured pipeline, ready to run: its layers of actors, and where each actor can run.

Owns: the structure that a run walks through, its limits, and what can be told of a pipeline without
running it.
Does not know: requests, events, dialects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.compiled import CompiledActor, CompiledPipeline
from gateway.guard import Deadlines, Guard
from gateway.measured import Measured
from gateway.pipeline_sections import ActorSection, PipelineConfig, Policy
from gateway.upstreams.base import Piecemeal, Pushing, Upstream

#: executeSync ends after this many seconds where its route sets no ``total_s``.
EXECUTE_TOTAL_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """One of the upstreams that an actor can run on. ``pipeline`` is that upstream's own name for
    what is run; ``inputs`` and ``output`` are Triton's, ``weight`` that of policy ``weighted``."""

    guard: Guard
    pipeline: str
    weight: float
    inputs: Mapping[str, Measured]
    output: Measured | None


@dataclass(frozen=True, slots=True)
class Actor:
    """One actor. ``request`` and ``sticky`` are its own transforms, where it has them."""

    name: str
    targets: tuple[Target, ...]
    policy: Policy
    hedge_after_s: float | None
    sticky: Measured | None
    request: Measured | None


@dataclass(frozen=True, slots=True)
class Layer:
    """Actors that run side by side. ``needed`` of them must succeed; with ``goes_on`` the others
    run to their end where one fails."""

    actors: tuple[Actor, ...]
    needed: int
    goes_on: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One configured pipeline. ``transforms`` are measured and compiled.

    ``plain``: it was configured without layers, so that an upstream that has layers of its own
    shows them to the caller."""

    name: str
    config: PipelineConfig
    layers: tuple[Layer, ...]
    transforms: CompiledPipeline[Measured]
    #: The upstream of its one actor, where it is one actor that names one: then nothing has to be
    #: put together, and a run needs neither tasks nor queues.
    only: Upstream | None
    #: The same, where its answer may come in pieces also where it is not streamed.
    piecemeal: Piecemeal | None
    #: The same, where it can push the events of its own layers.
    pushing: Pushing | None
    #: Whether it is one actor, named as the pipeline.
    plain: bool
    #: Whether a plain executeSync is one call, with nothing to make or change before or after it.
    direct: bool
    #: The names of all upstreams that it can run on, each once, as the log has them.
    upstreams: str

    def answers_once(self) -> bool:
        """Whether a call that is not streamed has but one event, its whole answer."""
        if self.piecemeal is not None:
            return self.piecemeal.answers_once(self.layers[0].actors[0].targets[0].pipeline)
        return self.only is not None

    def limits(self, now: float, *, stream: bool, execute: bool) -> Deadlines:
        """The limits of a run that begins ``now``, loop time. A call that is not streamed has one
        event, its whole answer, so where the route says how long that may take, this alone counts.
        """
        timeouts = self.config.timeouts
        first_event_s, key = timeouts.first_event_s, "total_s"
        if stream:
            total_s, key = timeouts.stream_total_s, "stream_total_s"
        elif timeouts.total_s is not None:
            total_s = first_event_s = timeouts.total_s
        else:
            total_s = EXECUTE_TOTAL_S if execute else None
        ends_at = None if total_s is None else now + total_s
        return Deadlines(first_event_s, timeouts.idle_s, ends_at, total_s, key)

    def targets(self) -> Iterator[Target]:
        """Where its actors can run, in the order of the file."""
        for layer in self.layers:
            for actor in layer.actors:
                yield from actor.targets

    @property
    def description(self) -> dict[str, Any]:
        """What is told of it, as Cambrion's API lists pipelines."""
        described: dict[str, Any] = {"pipelineId": self.name, "name": self.name}
        answers = self.answers
        optional = {
            "description": self.config.description,
            "tag": self.config.tag,
            "status": None if answers is None else "READY" if answers else "UNAVAILABLE",
            "version": self.config.version,
        }
        return described | {name: value for name, value in optional.items() if value is not None}

    @property
    def answers(self) -> bool | None:
        """Whether every actor has an upstream whose last answer was good; ``None``: not known."""
        actors = [
            [target.guard.answers for target in actor.targets]
            for layer in self.layers
            for actor in layer.actors
        ]
        if any(all(answers is False for answers in targets) for targets in actors):
            return False
        return True if all(any(targets) for targets in actors) else None

    async def definition(self, request_id: str) -> dict[str, Any]:
        """Its graph, ``{"nodes": [...], "edges": [...]}``: the upstream's own where it is one
        actor; else a node for each actor, and edges from each to all of the next layer.

        Raises:
            UpstreamFailed, UpstreamTimeout: the upstream did not tell.
        """
        if self.plain:
            target = next(self.targets())
            return await target.guard.ask(
                target.guard.upstream.definition(target.pipeline, request_id),
                self.config.timeouts.first_event_s,
            )
        nodes = [
            {
                "modelId": actor.name,
                "modelName": actor.targets[0].pipeline,
                "inputs": [],
                "outputs": [],
            }
            for layer in self.layers
            for actor in layer.actors
        ]
        pairs = [
            (source.name, target.name)
            for before, after in zip(self.layers, self.layers[1:], strict=False)
            for source in before.actors
            for target in after.actors
        ]
        edges = [
            {"id": f"edge-{number}", "source": source, "target": target}
            for number, (source, target) in enumerate(pairs, start=1)
        ]
        return {"nodes": nodes, "edges": edges}


def build_routes(
    pipelines: Mapping[str, PipelineConfig],
    guards: Mapping[str, Guard],
    transforms: Mapping[str, CompiledPipeline[Measured]],
) -> dict[str, Route]:
    """The routes of a configuration; ``guards`` by the names of the upstreams."""

    def layers(name: str, section: PipelineConfig) -> tuple[Layer, ...]:
        compiled = transforms[name].layers
        if not section.layers:
            return (Layer((_actor(name, section, compiled[0][0], guards),), 1, False),)
        return tuple(
            Layer(
                tuple(
                    _actor(actor.actor, actor, each, guards)
                    for actor, each in zip(layer.actors, made, strict=True)
                ),
                layer.needed,
                layer.on_error == "continue",
            )
            for layer, made in zip(section.layers, compiled, strict=True)
        )

    def route(name: str, section: PipelineConfig) -> Route:
        made = layers(name, section)
        targets = made[0].actors[0].targets
        only = None
        if not section.layers and len(targets) == 1:
            only = targets[0].guard.upstream
        pushing = only if isinstance(only, Pushing) and only.layered else None
        own = transforms[name]
        changed = (own.request, own.observation, section.mappings.request_to_cambrion)
        names = (
            target.guard.name
            for layer in made
            for actor in layer.actors
            for target in actor.targets
        )
        return Route(
            name,
            section,
            made,
            own,
            only=only,
            piecemeal=only if isinstance(only, Piecemeal) else None,
            pushing=pushing,
            plain=not section.layers,
            direct=only is not None and only.kind == "cambrion" and not any(changed),
            upstreams=", ".join(dict.fromkeys(names)),
        )

    return {name: route(name, section) for name, section in pipelines.items()}


def _actor(
    name: str,
    section: ActorSection,
    compiled: CompiledActor[Measured],
    guards: Mapping[str, Guard],
) -> Actor:
    return Actor(
        name=name,
        targets=tuple(
            Target(
                guard=guards[target.upstream],
                pipeline=target.pipeline or name,
                weight=target.weight,
                inputs=made.inputs,
                output=made.output,
            )
            for target, made in zip(section.targets(), compiled.targets, strict=True)
        ),
        policy=section.policy,
        hedge_after_s=section.hedge_after_s,
        sticky=compiled.sticky,
        request=compiled.request,
    )
