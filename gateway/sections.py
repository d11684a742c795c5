"""Every section of the configuration: its keys, their meanings, defaults and bounds.

Owns: the models that pydantic validates, and what a short form stands for.
Does not know: how a file is read and its mistakes are explained (``config``, ``explain``), what
keys say of each other (``crossrefs``), how anything is run with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler

from gateway.values import (
    Expression,
    HeaderName,
    Jsonata,
    KeyHash,
    Name,
    Need,
    Secret,
    TritonUrl,
    WebUrl,
)

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
DAY_S: Final = 86_400


class Policy(StrEnum):
    """How an actor that names several upstreams takes one."""

    FALLBACK = "fallback"
    RACE = "race"
    HEDGE = "hedge"
    WEIGHTED = "weighted"
    LEAST_BUSY = "least_busy"


class Section(BaseModel):
    """What all sections have in common."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    #: The key whose value alone may stand for the whole section; ``""``: there is none.
    short: ClassVar[str] = ""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The section, or the value of its short key alone."""
        schema = handler(core_schema)
        if cls.short:
            section = handler.resolve_ref_schema(schema)
            full = dict(section)
            section.clear()
            section["anyOf"] = [full["properties"][cls.short], full]
        return schema


class ServerConfig(Section):
    """Where the gateway listens, how long it waits for clients, and how it stops."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="The address to listen on; 0.0.0.0 for all."
    )
    port: int = Field(default=8080, ge=0, le=65535, description="The port; 0 takes any free one.")
    forward_headers: tuple[HeaderName, ...] = Field(
        default=(),
        description="Client headers passed upstream and seen by transforms as $headers.",
    )
    heartbeat_s: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        description="A stream in which nothing else happens gets a comment this often, seconds.",
    )
    write_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=DAY_S,
        description="A client that reads nothing for so many seconds is dropped.",
    )
    header_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=DAY_S,
        description="Seconds for a request's head to arrive; then 408.",
    )
    body_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=DAY_S,
        description="Seconds for a request's body to arrive, and one more for each "
        "body_bytes_per_s_min that did; then 408.",
    )
    body_bytes_per_s_min: int = Field(
        default=4096, ge=1, le=GIB, description="The slowest that a long body may arrive, bytes/s."
    )
    pre_stop_s: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="After SIGTERM requests are still accepted for so many seconds, while /readyz "
        "says 503.",
    )
    drain_s: float = Field(
        default=20.0,
        ge=0,
        le=DAY_S,
        description="Then running requests have so many seconds to finish; what has not by then is "
        "ended with an error.",
    )
    watch: bool = Field(
        default=True,
        description="Whether a changed configuration or transform is loaded at once; SIGHUP always "
        "does.",
    )


class BoundsConfig(Section):
    """How much of anything one request may take."""

    body_bytes_max: int = Field(
        default=64 * MIB,
        ge=1,
        le=64 * GIB,
        description="A request body, after decompression; longer: 413.",
    )
    parts_max: int = Field(default=64, ge=1, le=10_000, description="Parts of one multipart body.")
    media_max: int = Field(default=64, ge=1, le=10_000, description="Files of one request.")
    pdf_pages_max: int = Field(
        default=50, ge=1, le=10_000, description="Pages that tryImageConversion renders of one PDF."
    )
    event_bytes_max: int = Field(
        default=4 * MIB,
        ge=1024,
        le=GIB,
        description="One SSE event of an upstream; a longer one ends it.",
    )
    answer_bytes_max: int = Field(
        default=64 * MIB, ge=1024, le=64 * GIB, description="One whole answer of an upstream."
    )


class ClientTransformsConfig(Section):
    """The child processes that evaluate expressions sent by clients."""

    time_s: float = Field(default=1.0, gt=0, le=60, description="Seconds for one evaluation.")
    memory_bytes_max: int = Field(
        default=256 * MIB,
        ge=64 * MIB,
        le=64 * GIB,
        description="Address space of one child process.",
    )
    expression_bytes_max: int = Field(
        default=64 * 1024, ge=1, le=MIB, description="Length of an expression that a client sends."
    )
    output_bytes_max: int = Field(
        default=16 * MIB, ge=1, le=GIB, description="Length of its result, as JSON."
    )
    processes: int = Field(
        default=2, ge=1, le=64, description="Child processes; each runs one at a time."
    )
    waiting_max: int = Field(
        default=32,
        ge=0,
        le=10_000,
        description="Evaluations that may wait for a process; more: 503.",
    )


class LargeTransformsConfig(Section):
    """The child processes that evaluate the configuration's expressions over large inputs."""

    over_bytes: int = Field(
        default=128 * 1024,
        ge=1024,
        le=GIB,
        description="Inputs from this length on are evaluated in a process of their own.",
    )
    memory_bytes_max: int = Field(
        default=GIB, ge=64 * MIB, le=64 * GIB, description="Address space of one child process."
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="Child processes; each runs one at a time."
    )
    waiting_max: int = Field(
        default=64,
        ge=0,
        le=10_000,
        description="Evaluations that may wait for a process; more: 503.",
    )


class TransformsConfig(Section):
    """The JSONata engine and the bounds of every evaluation."""

    engine: Literal["jsonatapy", "jsonata-python"] = Field(
        default="jsonatapy", description="The JSONata engine."
    )
    time_s: float = Field(default=1.0, gt=0, le=60, description="Seconds for one evaluation.")
    depth_max: int = Field(
        default=300, ge=10, le=10_000, description="Depth of nested calls in one evaluation."
    )
    sequence_max: int = Field(
        default=1_000_000, ge=1, le=100_000_000, description="Items of one sequence."
    )
    output_bytes_max: int = Field(
        default=16 * MIB, ge=1, le=GIB, description="Length of a result, as JSON."
    )
    large: LargeTransformsConfig = Field(
        default=LargeTransformsConfig(),
        description="Where the configuration's expressions run over large inputs.",
    )
    client: ClientTransformsConfig = Field(
        default=ClientTransformsConfig(),
        description="Bounds of expressions sent by clients, which run in processes of their own.",
    )


class KeyConfig(Section):
    """A client's key, as the SHA-256 of its text in hex, and the pipelines it opens."""

    name: Name = Field(description="Whose key it is; seen in logs, and by transforms as $key.")
    sha256: KeyHash = Field(description="Made with: printf %s KEY | sha256sum")
    pipelines: tuple[str, ...] = Field(
        default=("*",), description="Names of pipelines it opens; * and ? stand for any characters."
    )


class ConcurrencyConfig(Section):
    """How many calls of an upstream run at once, and how many may wait to."""

    running_max: int = Field(
        default=1000, ge=1, le=1_000_000, description="Calls that run at once."
    )
    waiting_max: int = Field(
        default=1000,
        ge=0,
        le=1_000_000,
        description="Calls that may wait for one to end; more: 503.",
    )
    wait_s: float = Field(
        default=10.0, gt=0, le=DAY_S, description="Seconds that a call waits; longer: 503."
    )


class BreakerConfig(Section):
    """When an upstream is left alone for a while, and how it is tried again."""

    failures: int = Field(
        default=5,
        ge=0,
        le=1_000_000,
        description="Failures in a row that open it; 0: however many.",
    )
    failure_rate: float = Field(
        default=0.5, gt=0, le=1, description="The share of failed calls that opens it, too."
    )
    calls_min: int = Field(
        default=20, ge=1, le=1_000_000, description="Calls in window_s before the share counts."
    )
    window_s: float = Field(
        default=30.0, gt=0, le=DAY_S, description="Seconds over which the share is taken."
    )
    open_s: float = Field(
        default=3.0,
        gt=0,
        le=DAY_S,
        description="Seconds between calls that are let through to try it, while it is open.",
    )


class RetriesConfig(Section):
    """When a call that failed before its first event is made again."""

    retries_max: int = Field(default=2, ge=0, le=100, description="Retries of one call; 0: none.")
    backoff_s: float = Field(
        default=0.1,
        ge=0,
        le=3600,
        description="Seconds up to which the first retry waits; each further one up to twice that.",
    )
    backoff_s_max: float = Field(
        default=2.0,
        ge=0,
        le=3600,
        description="The longest wait; where Retry-After asks for a longer one, there is no retry.",
    )
    budget: float = Field(
        default=0.2, ge=0, le=1, description="Retries at most, as a share of the calls."
    )
    repeat_broken: bool | None = Field(
        default=None,
        description="Whether a call that may have begun to run is made again too. Absent: only on "
        "Triton, where an inference changes nothing.",
    )


class UpstreamSection(Section):
    """What upstreams of all kinds have in common."""

    required: bool = Field(
        default=True, description="Whether /readyz reports the gateway as not ready without it."
    )
    concurrency: ConcurrencyConfig = Field(
        default=ConcurrencyConfig(), description="How many calls run at once."
    )
    breaker: BreakerConfig = Field(
        default=BreakerConfig(), description="When it is left alone for a while."
    )
    retries: RetriesConfig = Field(
        default=RetriesConfig(), description="When a failed call is made again."
    )


class CambrionUpstreamConfig(UpstreamSection):
    """A remote API in Cambrion's dialect."""

    kind: Literal["cambrion"] = Field(description="What it speaks.")
    url: WebUrl = Field(
        description="Where it is. Cambrion: up to and with /v1; Pupau: what stands before "
        "/pipelines; Triton: grpc:// or grpcs:// for gRPC, else its HTTP port."
    )
    api_key: Secret | None = Field(default=None, description="The gateway's own key there.")


class PupauUpstreamConfig(UpstreamSection):
    """A remote API in Pupau's dialect."""

    kind: Literal["pupau"] = Field(description="What it speaks.")
    url: WebUrl = Field(description="What stands before /pipelines.")
    api_key: Secret | None = Field(default=None, description="The gateway's own key there.")


class TritonUpstreamConfig(UpstreamSection):
    """A Triton server."""

    kind: Literal["triton"] = Field(description="What it speaks.")
    url: TritonUrl = Field(description="gRPC with grpc:// or grpcs://, else HTTP.")
    check_every_s: float = Field(
        default=5.0, gt=0, le=3600, description="Seconds between questions whether it is ready."
    )


UpstreamConfig = Annotated[
    CambrionUpstreamConfig | PupauUpstreamConfig | TritonUpstreamConfig,
    Field(discriminator="kind"),
]


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
