"""The sections of a pipeline: its actors, its layers, its transforms and timeouts.

Owns: their keys, their meanings, defaults and bounds, and what a short form stands for.
Does not know: the other sections (``sections``), what keys say of each other (``crossrefs``), how
anything is run with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from gateway.section import DAY_S, Section
from gateway.values import Expression, Jsonata, Name, Need


class Policy(StrEnum):
    """How an actor that names several upstreams takes one."""

    FALLBACK = "fallback"
    RACE = "race"
    HEDGE = "hedge"
    WEIGHTED = "weighted"
    LEAST_BUSY = "least_busy"


class TransformConfig(Section):
    """The route's own transforms, each applied where ``dialects`` says."""

    request: Jsonata | None = Field(
        default=None,
        description="Sees the request; the fields of its result replace the request's.",
    )
    event: Jsonata | None = Field(
        default=None, description="Sees each event; nothing drops it, a list sends several."
    )
    observation: Jsonata | None = Field(
        default=None,
        description="Sees the finished observation; its result takes that one's place (in the "
        "message for a Pupau caller only where there are no layers).",
    )


class MappingsConfig(Section):
    """Replacements for the default mappings between the dialects (``transforms/*.jsonata``)."""

    observation_to_json: Jsonata | None = Field(
        default=None, description="Observation to its JSON view."
    )
    observation_to_message: Jsonata | None = Field(
        default=None, description="Observation to the message of an actor."
    )
    responses_to_observation: Jsonata | None = Field(
        default=None, description="Responses of actors to an observation."
    )
    layers_to_request: Jsonata | None = Field(
        default=None,
        description="Finished layers to the request of the next one's actors without a transform.",
    )
    request_to_cambrion: Jsonata | None = Field(
        default=None, description="Request to the body of a Cambrion call."
    )
    request_to_pupau: Jsonata | None = Field(
        default=None, description="Request to the body of a Pupau query."
    )


class TimeoutsConfig(Section):
    """How long a call of the pipeline may take, seconds."""

    connect_s: float = Field(
        default=5.0, gt=0, le=DAY_S, description="Seconds to get a connection to the upstream."
    )
    first_event_s: float = Field(
        default=60.0,
        gt=0,
        le=DAY_S,
        description="Seconds from the call to its first event. Where an actor "
        "has several upstreams it should leave the next one time within the total.",
    )
    idle_s: float = Field(default=60.0, gt=0, le=DAY_S, description="Seconds between two events.")
    total_s: float | None = Field(
        default=None,
        gt=0,
        le=7 * DAY_S,
        description="Seconds for a call that is not streamed. Absent: 30 for executeSync, else no "
        "limit.",
    )
    stream_total_s: float | None = Field(
        default=None,
        gt=0,
        le=7 * DAY_S,
        description="Seconds for a whole stream. Absent: as long as it goes on.",
    )


class TargetConfig(Section):
    """One of the upstreams that an actor can run on. Its name alone stands for it too."""

    short: ClassVar[str] = "upstream"

    upstream: str = Field(description="Its name above.")
    pipeline: str | None = Field(
        default=None,
        min_length=1,
        description="Its name for what is run. Absent: the actor's pipeline.",
    )
    weight: float = Field(
        default=1.0,
        ge=0,
        le=1_000_000,
        description="Its share of calls under policy weighted; 0: only where the others fail.",
    )
    inputs: dict[str, Jsonata] = Field(
        default_factory=dict, description="As below; absent: the actor's inputs."
    )
    output: Jsonata | None = Field(default=None, description="As below; absent: the actor's.")


class ActorSection(Section):
    """Where an actor runs: on one upstream, or on several by a policy."""

    upstream: str | None = Field(default=None, description="Which upstream runs it, by its name.")
    upstreams: tuple[TargetConfig, ...] = Field(
        default=(), description="Several in place of one; each a name or a section."
    )
    policy: Policy = Field(
        default=Policy.FALLBACK,
        description="fallback: the next where one fails; race: all at once, the first to say "
        "something is taken; hedge: the next also where one takes long; weighted: by weight; "
        "least_busy: the better of two by live latency.",
    )
    hedge_after_s: float | None = Field(
        default=None,
        gt=0,
        le=DAY_S,
        description="Policy hedge: seconds without content before the next is started. Absent: the "
        "live p95 of the upstream over all its pipelines; 1 until 20 calls are known.",
    )
    sticky: Jsonata | None = Field(
        default=None,
        description="Policy weighted: sees the request; what has the same result stays together.",
    )
    pipeline: str | None = Field(
        default=None,
        min_length=1,
        description="The upstream's name for it (a pipeline ID, a Triton model). Absent: the same.",
    )
    inputs: dict[str, Jsonata] = Field(
        default_factory=dict,
        description="Triton: an expression for each input tensor; $media stands for the files.",
    )
    output: Jsonata | None = Field(
        default=None,
        description="Triton: sees {outputs: …} by tensor; yields an observation or a message.",
    )

    def targets(self) -> tuple[TargetConfig, ...]:
        """The upstreams it can run on, each with all that it needs, in the order of the file."""
        if not self.upstreams:
            return (
                TargetConfig(
                    upstream=self.upstream or "",
                    pipeline=self.pipeline,
                    inputs=self.inputs,
                    output=self.output,
                ),
            )
        return tuple(
            target.model_copy(
                update={
                    "pipeline": target.pipeline or self.pipeline,
                    "inputs": target.inputs or self.inputs,
                    "output": target.output or self.output,
                }
            )
            for target in self.upstreams
        )


class ActorTransformConfig(Section):
    """An actor's own transform."""

    request: Jsonata | None = Field(
        default=None,
        description="Sees the request, and layers: the finished ones' responses and observations.",
    )


class ActorConfig(ActorSection):
    """One actor of a layer."""

    actor: Name = Field(description="Its name: the actorId of all it says.")
    transform: ActorTransformConfig = Field(
        default=ActorTransformConfig(), description="Its own transform."
    )


class LayerConfig(Section):
    """Actors that run side by side. Their list alone stands for it too."""

    short: ClassVar[str] = "actors"

    actors: tuple[ActorConfig, ...] = Field(description="The actors.")
    on_error: Literal["fail", "continue"] = Field(
        default="fail",
        description="fail: once fewer than need can succeed, the run ends; continue: the others "
        "run to their end, and the error is reported with their responses.",
    )
    need: Need | None = Field(
        default=None,
        description="How many actors must succeed: all, any, or a number. Absent: all with fail, "
        "any with continue.",
    )

    @property
    def lenient(self) -> bool:
        """Whether the run may go on without one of the actors."""
        return self.on_error == "continue" or self.needed < len(self.actors)

    @property
    def needed(self) -> int:
        """How many of the actors must succeed."""
        need = self.need or ("all" if self.on_error == "fail" else "any")
        return {"all": len(self.actors), "any": 1}.get(need) or int(need)


class PipelineConfig(ActorSection):
    """One route: a pipeline that clients can call, and the actors behind it.

    Without ``layers`` it is one actor, named as the pipeline."""

    layers: tuple[LayerConfig, ...] = Field(
        default=(),
        description="Layers of actors, run one after the other; in place of upstream.",
    )
    description: str | None = Field(default=None, description="Shown in GET /v1/pipelines.")
    tag: str | None = Field(default=None, description="Shown in GET /v1/pipelines.")
    version: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Shown in GET /v1/pipelines.",
    )
    transform: TransformConfig = Field(
        default=TransformConfig(), description="The route's own transforms."
    )
    mappings: MappingsConfig = Field(
        default=MappingsConfig(),
        description="Replacements for the default mappings in transforms/.",
    )
    timeouts: TimeoutsConfig = Field(default=TimeoutsConfig(), description="How long it may take.")

    def expressions(self) -> Iterator[tuple[str, Expression]]:
        """Every expression with its key below the pipeline: ``inputs.IMAGE``, ``output`` …"""
        yield from _actor_expressions(self, "")
        for n, layer in enumerate(self.layers):
            for m, actor in enumerate(layer.actors):
                path = f"layers[{n}].actors[{m}]."
                yield from _actor_expressions(actor, path)
                if actor.transform.request is not None:
                    yield f"{path}transform.request", actor.transform.request
        for section in ("transform", "mappings"):
            for stage, expression in getattr(self, section):
                if expression is not None:
                    yield f"{section}.{stage}", expression


def _actor_expressions(actor: ActorSection, path: str) -> Iterator[tuple[str, Expression]]:
    holders: list[tuple[str, ActorSection | TargetConfig]] = [(path, actor)]
    holders += [(f"{path}upstreams[{n}].", each) for n, each in enumerate(actor.upstreams)]
    for where, holder in holders:
        for tensor, expression in holder.inputs.items():
            yield f"{where}inputs.{tensor}", expression
        if holder.output is not None:
            yield f"{where}output", holder.output
    if actor.sticky is not None:
        yield f"{path}sticky", actor.sticky
