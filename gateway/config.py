"""The configuration: one YAML file, parsed, validated, and explained where it is wrong.

Owns: every key there is, its default and its bound; the reading of ``${NAME}``, ``{file: …}`` and
YAML positions; the sentence that says what is wrong and where.
Does not know: how anything is run with it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
MIB = 1024 * 1024


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class ServerConfig(_Section):
    """Where the gateway listens, and which client headers it lets through."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    forward_headers: tuple[str, ...] = ()


class BoundsConfig(_Section):
    """How much of anything one request may take."""

    body_bytes_max: int = Field(64 * MIB, ge=1)
    parts_max: int = Field(64, ge=1)
    media_max: int = Field(64, ge=1)
    pdf_pages_max: int = Field(50, ge=1)
    event_bytes_max: int = Field(4 * MIB, ge=1024)
    answer_bytes_max: int = Field(64 * MIB, ge=1024)


class ClientTransformsConfig(_Section):
    """The child processes that evaluate expressions sent by clients."""

    time_s: float = Field(1.0, gt=0)
    memory_bytes_max: int = Field(256 * MIB, ge=64 * MIB)
    expression_bytes_max: int = Field(64 * 1024, ge=1)
    output_bytes_max: int = Field(16 * MIB, ge=1)
    processes: int = Field(2, ge=1, le=64)
    waiting_max: int = Field(32, ge=0)


class TransformsConfig(_Section):
    """The JSONata engine and the bounds of every evaluation."""

    engine: Literal["jsonatapy", "jsonata-python"] = "jsonatapy"
    time_s: float = Field(1.0, gt=0)
    depth_max: int = Field(300, ge=10)
    sequence_max: int = Field(1_000_000, ge=1)
    output_bytes_max: int = Field(16 * MIB, ge=1)
    client: ClientTransformsConfig = ClientTransformsConfig()


class KeyConfig(_Section):
    """A client's key, as the SHA-256 of its text in hex, and the pipelines it opens."""

    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    pipelines: tuple[str, ...] = ("*",)


class _UpstreamSection(_Section):
    url: str
    required: bool = True


class CambrionUpstreamConfig(_UpstreamSection):
    """A remote API in Cambrion's dialect; ``url`` ends with its base path, ``/v1``."""

    kind: Literal["cambrion"]
    api_key: SecretStr | None = None


class PupauUpstreamConfig(_UpstreamSection):
    """A remote API in Pupau's dialect; ``url`` is what stands before ``/pipelines``."""

    kind: Literal["pupau"]
    api_key: SecretStr | None = None


class TritonUpstreamConfig(_UpstreamSection):
    """A Triton server: ``grpc://``, ``grpcs://``, ``http://`` or ``https://``."""

    kind: Literal["triton"]


UpstreamConfig = Annotated[
    CambrionUpstreamConfig | PupauUpstreamConfig | TritonUpstreamConfig,
    Field(discriminator="kind"),
]


class Expression(_Section):
    """A JSONata expression and where its text stands, so that an error can point at it."""

    text: str
    file: str
    line: int = 1
    column: int = 1

    def locate(self, offset: int | None) -> str:
        """``file:line:column`` of the character at ``offset`` (0-based; ``None``: the start)."""
        raise AssertionError  # the loader's author fills this in


class TransformConfig(_Section):
    """The route's own transforms, each applied where ``dialects`` says."""

    request: Expression | None = None
    event: Expression | None = None
    observation: Expression | None = None


class MappingsConfig(_Section):
    """Replacements for the default mappings between the dialects (``transforms/*.jsonata``)."""

    observation_to_json: Expression | None = None
    observation_to_message: Expression | None = None
    responses_to_observation: Expression | None = None
    request_to_cambrion: Expression | None = None
    request_to_pupau: Expression | None = None


class TimeoutsConfig(_Section):
    """Seconds. ``total_s`` absent: 30 for executeSync, none for anything else."""

    connect_s: float = Field(5.0, gt=0)
    first_event_s: float = Field(60.0, gt=0)
    idle_s: float = Field(60.0, gt=0)
    total_s: float | None = Field(None, gt=0)


class PipelineConfig(_Section):
    """One route: a pipeline that clients can call, and the actor behind it."""

    upstream: str
    pipeline: str | None = None  # the upstream's name for it; absent: the same name
    description: str | None = None
    tag: str | None = None
    version: int | None = None
    inputs: dict[str, Expression] = Field(default_factory=dict)  # Triton: tensor name -> expression
    output: Expression | None = None  # Triton: over the output tensors
    transform: TransformConfig = TransformConfig()
    mappings: MappingsConfig = MappingsConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()


class Config(_Section):
    """The whole file."""

    server: ServerConfig = ServerConfig()
    bounds: BoundsConfig = BoundsConfig()
    transforms: TransformsConfig = TransformsConfig()
    keys: tuple[KeyConfig, ...] | None = None
    upstreams: dict[Name, UpstreamConfig]
    pipelines: dict[Name, PipelineConfig]
