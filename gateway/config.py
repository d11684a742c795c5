"""The configuration: one YAML file, parsed, validated, and explained where it is wrong.

Owns: every key there is, its meaning, its default and its bound; the order in which a file is read
and checked.
Does not know: how YAML is read (``yamltext``), what one value accepts (``values``), what keys say
of each other (``crossrefs``), how a problem is worded (``explain``), how anything is run with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway import crossrefs, explain, shape, yamltext
from gateway.errors import ConfigError
from gateway.values import (
    Expression,
    HeaderName,
    Jsonata,
    KeyHash,
    Name,
    Secret,
    Source,
    TritonUrl,
    WebUrl,
    packaged,
    read_expression,
)

__all__ = [
    "BoundsConfig",
    "CambrionUpstreamConfig",
    "ClientTransformsConfig",
    "Config",
    "Expression",
    "KeyConfig",
    "MappingsConfig",
    "PipelineConfig",
    "PupauUpstreamConfig",
    "ServerConfig",
    "TimeoutsConfig",
    "TransformConfig",
    "TransformsConfig",
    "TritonUpstreamConfig",
    "UpstreamConfig",
    "default_mapping",
    "default_path",
    "load",
    "pipeline_expressions",
    "reference",
]

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
DAY_S: Final = 86_400


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class ServerConfig(_Section):
    """Where the gateway listens, and which client headers it lets through."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="The address to listen on; 0.0.0.0 for all."
    )
    port: int = Field(default=8080, ge=0, le=65535, description="The port; 0 takes any free one.")
    forward_headers: tuple[HeaderName, ...] = Field(
        default=(),
        description="Client headers passed upstream and seen by transforms as $headers.",
    )


class BoundsConfig(_Section):
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


class ClientTransformsConfig(_Section):
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


class LargeTransformsConfig(_Section):
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


class TransformsConfig(_Section):
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


class KeyConfig(_Section):
    """A client's key, as the SHA-256 of its text in hex, and the pipelines it opens."""

    name: Name = Field(description="Whose key it is; seen in logs, and by transforms as $key.")
    sha256: KeyHash = Field(description="Made with: printf %s KEY | sha256sum")
    pipelines: tuple[str, ...] = Field(
        default=("*",), description="Names of pipelines it opens; * and ? stand for any characters."
    )


class _UpstreamSection(_Section):
    required: bool = Field(
        default=True, description="Whether /readyz reports the gateway as not ready without it."
    )


class CambrionUpstreamConfig(_UpstreamSection):
    """A remote API in Cambrion's dialect."""

    kind: Literal["cambrion"] = Field(description="What it speaks.")
    url: WebUrl = Field(
        description="Where it is. Cambrion: up to and with /v1; Pupau: what stands before "
        "/pipelines; Triton: grpc:// or grpcs:// for gRPC, else its HTTP port."
    )
    api_key: Secret | None = Field(default=None, description="The gateway's own key there.")


class PupauUpstreamConfig(_UpstreamSection):
    """A remote API in Pupau's dialect."""

    kind: Literal["pupau"] = Field(description="What it speaks.")
    url: WebUrl = Field(description="What stands before /pipelines.")
    api_key: Secret | None = Field(default=None, description="The gateway's own key there.")


class TritonUpstreamConfig(_UpstreamSection):
    """A Triton server."""

    kind: Literal["triton"] = Field(description="What it speaks.")
    url: TritonUrl = Field(description="gRPC with grpc:// or grpcs://, else HTTP.")


UpstreamConfig = Annotated[
    CambrionUpstreamConfig | PupauUpstreamConfig | TritonUpstreamConfig,
    Field(discriminator="kind"),
]


class TransformConfig(_Section):
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
        description="Sees the finished observation; its result takes that one's place.",
    )


class MappingsConfig(_Section):
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
    request_to_cambrion: Jsonata | None = Field(
        default=None, description="Request to the body of a Cambrion call."
    )
    request_to_pupau: Jsonata | None = Field(
        default=None, description="Request to the body of a Pupau query."
    )


class TimeoutsConfig(_Section):
    """Seconds. ``total_s`` absent: 30 for executeSync, none for anything else."""

    connect_s: float = Field(
        default=5.0, gt=0, le=DAY_S, description="Seconds to get a connection to the upstream."
    )
    first_event_s: float = Field(
        default=60.0, gt=0, le=DAY_S, description="Seconds from the call to its first event."
    )
    idle_s: float = Field(default=60.0, gt=0, le=DAY_S, description="Seconds between two events.")
    total_s: float | None = Field(
        default=None,
        gt=0,
        le=7 * DAY_S,
        description="Seconds for the whole call. Absent: 30 for executeSync, else no limit.",
    )


class PipelineConfig(_Section):
    """One route: a pipeline that clients can call, and the actor behind it."""

    upstream: str = Field(description="Which upstream runs it, by its name above.")
    pipeline: str | None = Field(
        default=None,
        min_length=1,
        description="The upstream's name for it (a pipeline ID, a Triton model). Absent: the same.",
    )
    description: str | None = Field(default=None, description="Shown in GET /v1/pipelines.")
    tag: str | None = Field(default=None, description="Shown in GET /v1/pipelines.")
    version: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Shown in GET /v1/pipelines.",
    )
    inputs: dict[str, Jsonata] = Field(
        default_factory=dict,
        description="Triton: an expression for each input tensor; $media stands for the files.",
    )
    output: Jsonata | None = Field(
        default=None,
        description="Triton: sees {outputs: …} by tensor; yields an observation or a message.",
    )
    transform: TransformConfig = Field(
        default=TransformConfig(), description="The route's own transforms."
    )
    mappings: MappingsConfig = Field(
        default=MappingsConfig(),
        description="Replacements for the default mappings in transforms/.",
    )
    timeouts: TimeoutsConfig = Field(default=TimeoutsConfig(), description="How long it may take.")


class Config(_Section):
    """The whole file."""

    server: ServerConfig = Field(default=ServerConfig(), description="Where the gateway listens.")
    bounds: BoundsConfig = Field(
        default=BoundsConfig(), description="How much of anything one request may take."
    )
    transforms: TransformsConfig = Field(
        default=TransformsConfig(),
        description="The JSONata engine and the bounds of every evaluation.",
    )
    keys: tuple[KeyConfig, ...] | None = Field(
        default=None,
        description="The clients' keys. Absent: the gateway is open to all.",
    )
    upstreams: dict[Name, UpstreamConfig] = Field(description="The APIs behind the gateway.")
    pipelines: dict[Name, PipelineConfig] = Field(description="What clients can call.")

    def expressions(self) -> Iterator[tuple[str, Expression]]:
        """Every expression of the file with its key: ``pipelines.invoice.transform.event``."""
        for name, pipeline in self.pipelines.items():
            for path, expression in pipeline_expressions(pipeline):
                yield f"pipelines.{name}.{path}", expression


def pipeline_expressions(pipeline: PipelineConfig) -> Iterator[tuple[str, Expression]]:
    """Every expression of one pipeline with its key below it: ``inputs.IMAGE``, ``output`` …"""
    for tensor, expression in pipeline.inputs.items():
        yield f"inputs.{tensor}", expression
    if pipeline.output is not None:
        yield "output", pipeline.output
    for section in ("transform", "mappings"):
        for stage, expression in getattr(pipeline, section):
            if expression is not None:
                yield f"{section}.{stage}", expression


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in the file ``path``; variables come from ``environ``.

    Raises:
        ConfigError: everything that is wrong, each problem a line
            ``file:line:column: key: what is wrong``, in the order of the file.
    """
    document = yamltext.read(path)
    problems = explain.Problems(document)
    keys = _keys()
    data = explain.plain(keys, environ, problems)
    config = None
    try:
        config = Config.model_validate(data, context=Source(path.parent))
    except ValidationError as error:
        explain.explain(error, keys, problems)
    crossrefs.check(data, problems)
    problems.raise_any()
    if config is None:  # every validation error has become a problem above
        raise ConfigError([f"{path}: cannot be used"])
    return config


def default_path() -> Path:
    """The file to load where none is named: ``config/gateway.yaml`` here, else the packaged one."""
    here = Path("config/gateway.yaml")
    return here if here.is_file() else packaged("config") / "gateway.yaml"


@cache
def _keys() -> shape.Keys:
    return shape.shape_of(Config)


def reference() -> list[shape.Row]:
    """Every key there is: its path, what it takes, its default (``""``: none) and its meaning."""
    return list(shape.rows(_keys()))


@cache
def default_mapping(name: str) -> Expression:
    """The default mapping ``transforms/<name>.jsonata``; ``name`` is a field of MappingsConfig.

    Raises ConfigError where the file is missing or unreadable."""
    path = packaged("transforms") / f"{name}.jsonata"
    try:
        return Expression.model_validate(read_expression(path))
    except ValueError as error:
        raise ConfigError([f"the default mapping {name}: {error}"]) from error
