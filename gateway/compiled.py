"""Every JSONata expression of a configuration, compiled.

Owns: compiling once what is written once, however many pipelines share it; telling where in which
file an expression is wrong; what must be installed for a configuration to run.
Does not know: when an expression is evaluated, or over what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Generic, Protocol, TypeVar

from gateway.config import Config, default_mapping
from gateway.errors import ConfigError, TransformFailed
from gateway.pipeline_sections import ActorSection, MappingsConfig, PipelineConfig
from gateway.sections import TransformsConfig
from gateway.transform import Bounds, Transform, compile_expression
from gateway.values import Expression

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: What the extra ``triton`` installs, by the names it is imported under.
_TRITON_MODULES: Final = ("tritonclient", "grpc", "google.protobuf", "numpy", "packaging", "hpack")
_TRACING_MODULE: Final = "opentelemetry.proto"


@dataclass(frozen=True, slots=True)
class CompiledTarget(Generic[T]):
    """The expressions that an actor's call on one upstream needs: Triton's tensors."""

    inputs: Mapping[str, T]
    output: T | None


@dataclass(frozen=True, slots=True)
class CompiledActor(Generic[T]):
    """The transforms of one actor; ``None`` where it has none. ``targets`` in the file's order."""

    request: T | None
    sticky: T | None
    targets: tuple[CompiledTarget[T], ...]


@dataclass(frozen=True, slots=True)
class CompiledPipeline(Generic[T]):
    """The transforms of one pipeline, of whatever kind; ``None`` where it has none of its own.

    The mappings are never ``None``: the default stands where a pipeline does not replace it.
    ``layers`` has the actors of each layer; a pipeline without layers has one of one actor.
    """

    request: T | None
    event: T | None
    observation: T | None
    layers: tuple[tuple[CompiledActor[T], ...], ...]
    layers_to_request: T
    observation_to_json: T
    observation_to_message: T
    responses_to_observation: T
    request_to_cambrion: T
    request_to_pupau: T


def bounds_of(section: TransformsConfig) -> Bounds:
    """The bounds of an evaluation that ``section`` sets."""
    return Bounds(
        time_s=section.time_s,
        depth_max=section.depth_max,
        sequence_max=section.sequence_max,
        output_bytes_max=section.output_bytes_max,
    )


def compile_config(config: Config) -> dict[str, Transform]:
    """Every expression of ``config`` and every default mapping, compiled for the thread that
    calls, by its text.

    Raises:
        ConfigError: every expression that does not compile, each a line
            ``file:line:column: pipelines.x.transform.event: what is wrong``.
    """
    compiled, problems = _compile(config.expressions(), config.transforms)
    if problems:
        # An engine's errors hold frames, this one too, until a garbage collection on whichever
        # thread that runs. What this thread compiled, it lets go of here.
        compiled.clear()
        raise ConfigError(problems)
    return compiled


def expression_problems(
    expressions: Iterable[tuple[str, Expression]], section: TransformsConfig
) -> list[str]:
    """What ``compile_config`` would say of these expressions, each given with its key."""
    compiled, problems = _compile(expressions, section)
    compiled.clear()  # see above
    return problems


def _compile(
    expressions: Iterable[tuple[str, Expression]], section: TransformsConfig
) -> tuple[dict[str, Transform], list[str]]:
    defaults = {name: default_mapping(name) for name in MappingsConfig.model_fields}
    bounds, engine = bounds_of(section), section.engine
    compiled: dict[str, Transform] = {}
    failed: dict[str, TransformFailed] = {}
    problems = []
    for path, expression in (*defaults.items(), *expressions):
        text = expression.text
        if text not in compiled and text not in failed:
            try:
                compiled[text] = compile_expression(text, bounds=bounds, engine=engine)
            except TransformFailed as error:
                failed[text] = error
        if text in failed:
            where = expression.locate(failed[text].offset)
            problems.append(f"{where}: {path}: {failed[text].message}")
    return compiled, problems


class Make(Protocol[T_co]):
    """Makes what stands for an expression; ``stage`` names its use: ``request``, ``inputs`` …

    ``actor`` is the actor's name, or ``""`` for what belongs to the pipeline as a whole."""

    def __call__(self, expression: Expression, stage: str, actor: str = "") -> T_co:
        """What stands for ``expression``."""
        ...


def assemble_transforms(section: PipelineConfig, make: Make[T]) -> CompiledPipeline[T]:
    """The transforms of a pipeline, each made by ``make``."""

    def own(expression: Expression | None, stage: str, actor: str = "") -> T | None:
        return None if expression is None else make(expression, stage, actor)

    def compiled_actor(
        name: str, actor: ActorSection, request: Expression | None
    ) -> CompiledActor[T]:
        return CompiledActor(
            request=own(request, "request", name),
            sticky=own(actor.sticky, "sticky", name),
            targets=tuple(
                CompiledTarget(
                    {tensor: make(each, "inputs", name) for tensor, each in target.inputs.items()},
                    own(target.output, "output", name),
                )
                for target in actor.targets()
            ),
        )

    def mapping(name: str) -> T:
        return make(getattr(section.mappings, name) or default_mapping(name), name)

    layers = tuple(
        tuple(compiled_actor(actor.actor, actor, actor.transform.request) for actor in layer.actors)
        for layer in section.layers
    )
    return CompiledPipeline(
        request=own(section.transform.request, "request"),
        event=own(section.transform.event, "event"),
        observation=own(section.transform.observation, "observation"),
        layers=layers or ((compiled_actor("", section, None),),),
        layers_to_request=mapping("layers_to_request"),
        observation_to_json=mapping("observation_to_json"),
        observation_to_message=mapping("observation_to_message"),
        responses_to_observation=mapping("responses_to_observation"),
        request_to_cambrion=mapping("request_to_cambrion"),
        request_to_pupau=mapping("request_to_pupau"),
    )


def installation_problems(
    config: Config,
    triton_modules: Sequence[str] = _TRITON_MODULES,
    tracing_module: str = _TRACING_MODULE,
    redis_module: str = "redis",
) -> list[str]:
    """What ``config`` needs and this installation does not have, a line each."""
    kinds = {name: upstream.kind for name, upstream in config.upstreams.items()}
    problems = []
    if config.tracing is not None and not _installed(tracing_module):
        problems.append(
            f"tracing: needs {tracing_module}; install the extra with: "
            "pip install 'pipeline-gateway[otel]'"
        )
    stores = {
        "limits": config.limits.store,
        "executions": None if config.executions is None else config.executions.store,
    }
    problems += [
        f"{section}.store: needs {redis_module}; install the extra with: "
        "pip install 'pipeline-gateway[redis]'"
        for section, store in stores.items()
        if store is not None and store.startswith("redis") and not _installed(redis_module)
    ]
    missing = [module for module in triton_modules if not _installed(module)]
    if not missing:
        return problems
    return problems + [
        f"upstreams.{name}: kind triton needs {', '.join(missing)}; install the extra with: "
        "pip install 'pipeline-gateway[triton]'"
        for name, kind in kinds.items()
        if kind == "triton"
    ]


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
