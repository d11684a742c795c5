"""The sections of the configuration but for pipelines': keys, meanings, defaults and bounds.

Owns: the models that pydantic validates.
Does not know: the sections of pipelines (``pipeline_sections``) and of the gateway's edge
(``edge_sections``: TLS, limits, tracing), how a file is read and its mistakes are explained
(``config``, ``explain``), what keys say of each other (``crossrefs``), how anything is run with
them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.edge_sections import AdminConfig, ClientTlsConfig, KeyLimitsConfig, UpstreamTlsConfig
from gateway.section import DAY_S, GIB, MIB, Section
from gateway.values import (
    HeaderName,
    KeyHash,
    Name,
    Network,
    Secret,
    StoreUrl,
    TritonUrl,
    WebUrl,
    Workers,
)


class ServerConfig(Section):
    """Where the gateway listens, how long it waits for clients, and how it stops."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="The address to listen on; 0.0.0.0 for all."
    )
    port: int = Field(default=8080, ge=0, le=65535, description="The port; 0 takes any free one.")
    workers: Workers = Field(
        default="1",
        description="Processes that serve, all on one port; auto: one for each CPU that it may "
        "use. Upstreams' limits, breakers and retry budgets are each worker's own.",
    )
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
    tls: ClientTlsConfig | None = Field(
        default=None, description="TLS towards clients. Absent: none."
    )
    admin: AdminConfig | None = Field(
        default=None,
        description="A port of its own for /metrics and /config, also for /healthz and /readyz, "
        "which stay on the gateway's. Absent: all but /config are on the gateway's port.",
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
    sha256: KeyHash = Field(description="Made with: pipeline-gateway keys new, or keys hash.")
    pipelines: tuple[str, ...] = Field(
        default=("*",), description="Names of pipelines it opens; * and ? stand for any characters."
    )
    tenant: Name | None = Field(
        default=None,
        description="Whose the executions and webhooks are that it makes. Keys of one tenant share "
        "them; absent: the key's own.",
    )
    limits: KeyLimitsConfig = Field(
        default=KeyLimitsConfig(), description="How much it may ask for. Absent: any amount."
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


class HooksConfig(Section):
    """Where webhooks may lead, and how long their delivery is tried."""

    allow_networks: tuple[Network, ...] = Field(
        default=(),
        description="Networks (10.1.0.0/16, ::1/128) that webhooks may lead to although they are "
        "private, loopback, link-local or otherwise not public.",
    )
    timeout_s: float = Field(
        default=30.0, gt=0, le=30, description="Seconds for one delivery, connecting included."
    )
    retry_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="Seconds to the second attempt; each further one waits longer, hours in the "
        "end.",
    )
    attempts_max: int = Field(
        default=10, ge=1, le=100, description="Attempts at one delivery; then it is given up."
    )
    concurrency: int = Field(
        default=16, ge=1, le=1000, description="Deliveries of one worker at once."
    )
    hooks_max: int = Field(default=1000, ge=1, le=1_000_000, description="Webhooks of one owner.")
    rotation_s: float = Field(
        default=float(DAY_S),
        ge=0,
        le=30 * DAY_S,
        description="Seconds for which a replaced secret still signs beside the new one.",
    )


class ExecutionsConfig(Section):
    """Executions: work that outlives the request. Absent: the gateway keeps none."""

    store: StoreUrl = Field(
        default="sqlite:executions.db",
        validate_default=True,  # or it would not be found beside the configuration
        description="sqlite:PATH, a file beside the configuration, or redis://HOST:PORT/NUMBER "
        "(rediss:// with TLS), which any number of replicas may share.",
    )
    username: str | None = Field(default=None, description="The gateway's user of that Redis.")
    password: Secret | None = Field(default=None, description="Its password there.")
    retention_days: float = Field(
        default=30.0, gt=0, le=3650, description="Executions are removed so long after their end."
    )
    media_bytes_max: int = Field(
        default=32 * MIB, ge=1, le=512 * MIB, description="One file that an execution keeps."
    )
    media_max: int = Field(
        default=64, ge=1, le=10_000, description="Files that one execution keeps."
    )
    events_max: int = Field(
        default=10_000,
        ge=10,
        le=1_000_000,
        description="Events of one execution that are kept to be resumed from; the newest.",
    )
    resume_s: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="Streams of direct calls carry IDs, run on for so many seconds when their "
        "client has gone, and can be resumed; 0: they end with their client.",
    )
    lease_s: float = Field(
        default=10.0,
        ge=1,
        le=600,
        description="A replica that has not been heard of for so long is taken for dead, and its "
        "runs begin again elsewhere.",
    )
    attempts_max: int = Field(
        default=3, ge=1, le=1000, description="How often a run is begun before it is given up."
    )
    concurrency: int = Field(
        default=16, ge=1, le=10_000, description="Queued runs that one worker runs at once."
    )
    queue_max: int = Field(
        default=100_000, ge=1, le=100_000_000, description="Runs that may be queued; more: 503."
    )
    hooks: HooksConfig = Field(default=HooksConfig(), description="Webhooks.")


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
    tls: UpstreamTlsConfig = Field(
        default=UpstreamTlsConfig(), description="Where its URL begins with https:// or grpcs://."
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
