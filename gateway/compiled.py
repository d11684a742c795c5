"""Every JSONata expression of a configuration, compiled.

Owns: compiling once what is written once, however many pipelines share it; telling where in which
file an expression is wrong; what must be installed for a configuration to run.
Does not know: when an expression is evaluated, or over what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Generic, TypeVar

from gateway.config import Config, default_mapping
from gateway.errors import ConfigError, TransformFailed
from gateway.sections import MappingsConfig, PipelineConfig, TransformsConfig
from gateway.transform import Bounds, Transform, compile_expression
from gateway.values import Expression

T = TypeVar("T")

#: What the extra ``triton`` installs, by the names it is imported under.
_TRITON_MODULES: Final = ("tritonclient", "grpc", "google.protobuf", "numpy")


@dataclass(frozen=True, slots=True)
class CompiledPipeline(Generic[T]):
    """The transforms of one pipeline, of whatever kind; ``None`` where it has none of its own.

    The five mappings are never ``None``: the default stands where a pipeline does not replace it.
    """

    request: T | None
    event: T | None
    observation: T | None
    inputs: Mapping[str, T]
    output: T | None
    observation_to_json: T
    observation_to_message: T
    responses_to_observation: T
    request_to_cambrion: T
    request_to_pupau: T


@dataclass(frozen=True, slots=True)
class CompiledConfig:
    """The transforms of every pipeline, by its name."""

    pipelines: Mapping[str, CompiledPipeline[Transform]]


def bounds_of(section: TransformsConfig) -> Bounds:
    """The bounds of an evaluation that ``section`` sets."""
    return Bounds(
        time_s=section.time_s,
        depth_max=section.depth_max,
        sequence_max=section.sequence_max,
        output_bytes_max=section.output_bytes_max,
    )


def compile_config(config: Config) -> CompiledConfig:
    """Compile every expression of ``config``, for the thread that calls.

    Raises:
        ConfigError: every expression that does not compile, each a line
            ``file:line:column: pipelines.x.transform.event: what is wrong``.
    """
    defaults = {name: default_mapping(name) for name in MappingsConfig.model_fields}
    bounds, engine = bounds_of(config.transforms), config.transforms.engine
    compiled: dict[str, Transform] = {}
    failed: dict[str, TransformFailed] = {}
    problems = []
    for path, expression in (*defaults.items(), *config.expressions()):
        text = expression.text
        if text not in compiled and text not in failed:
            try:
                compiled[text] = compile_expression(text, bounds=bounds, engine=engine)
            except TransformFailed as error:
                failed[text] = error
        if text in failed:
            where = expression.locate(failed[text].offset)
            problems.append(f"{where}: {path}: {failed[text].message}")
    if problems:
        raise ConfigError(problems)
    return CompiledConfig(
        {
            name: _pipeline(pipeline, defaults, compiled)
            for name, pipeline in config.pipelines.items()
        }
    )


def _pipeline(
    section: PipelineConfig, defaults: Mapping[str, Expression], compiled: Mapping[str, Transform]
) -> CompiledPipeline[Transform]:
    def own(expression: Expression | None) -> Transform | None:
        return None if expression is None else compiled[expression.text]

    def mapping(name: str) -> Transform:
        return compiled[(getattr(section.mappings, name) or defaults[name]).text]

    return CompiledPipeline(
        request=own(section.transform.request),
        event=own(section.transform.event),
        observation=own(section.transform.observation),
        inputs={tensor: compiled[each.text] for tensor, each in section.inputs.items()},
        output=own(section.output),
        observation_to_json=mapping("observation_to_json"),
        observation_to_message=mapping("observation_to_message"),
        responses_to_observation=mapping("responses_to_observation"),
        request_to_cambrion=mapping("request_to_cambrion"),
        request_to_pupau=mapping("request_to_pupau"),
    )


def installation_problems(
    config: Config, triton_modules: Sequence[str] = _TRITON_MODULES
) -> list[str]:
    """What ``config`` needs and this installation does not have, a line each."""
    kinds = {name: upstream.kind for name, upstream in config.upstreams.items()}
    missing = [module for module in triton_modules if not _installed(module)]
    if not missing:
        return []
    return [
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
