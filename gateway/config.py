"""The configuration: one YAML file, parsed, validated, and explained where it is wrong.

Owns: the file as a whole, and the order in which it is read and checked.
Does not know: which keys a section has (``sections``, ``pipeline_sections``), how YAML is read
(``yamltext``), what one value accepts (``values``), what keys say of each other (``crossrefs``),
how a problem is worded (``explain``), how anything is run with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from gateway import crossrefs, explain, shape, yamltext
from gateway.edge_sections import LimitsConfig, TracingConfig
from gateway.errors import ConfigError
from gateway.keyfile import or_file, with_keys
from gateway.pipeline_sections import PipelineConfig
from gateway.section import Section
from gateway.sections import (
    BoundsConfig,
    ExecutionsConfig,
    KeyConfig,
    ServerConfig,
    TransformsConfig,
    UpstreamConfig,
)
from gateway.values import Expression, Name, Source, packaged, read_expression
from gateway.yamltext import Files


class Config(Section):
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
        description="The clients' keys, or {file: keys.yaml}: a file that holds the list, relative "
        "to the configuration's folder. Absent: the gateway is open to all.",
        json_schema_extra=or_file,
    )
    limits: LimitsConfig = Field(
        default=LimitsConfig(), description="Where it is counted what keys have asked for."
    )
    tracing: TracingConfig | None = Field(
        default=None, description="Traces, sent to an OpenTelemetry collector. Absent: none."
    )
    executions: ExecutionsConfig | None = Field(
        default=None, description="Work that outlives the request. Absent: none is kept."
    )
    upstreams: dict[Name, UpstreamConfig] = Field(description="The APIs behind the gateway.")
    pipelines: dict[Name, PipelineConfig] = Field(description="What clients can call.")

    def expressions(self) -> Iterator[tuple[str, Expression]]:
        """Every expression of the file with its key: ``pipelines.invoice.transform.event``."""
        for name, pipeline in self.pipelines.items():
            for path, expression in pipeline.expressions():
                yield f"pipelines.{name}.{path}", expression


def load(path: Path, environ: Mapping[str, str], *, files: Files | None = None) -> Config:
    """The configuration in the file ``path``; variables come from ``environ``.

    Every file that was read, or looked for in vain, is noted in ``files``, also where that fails.

    Raises:
        ConfigError: everything that is wrong, each problem a line
            ``file:line:column: key: what is wrong``, in the order of the file.
    """
    examined = examine(path, environ, files=files)
    if examined.config is None:
        raise ConfigError(examined.problems)
    return examined.config


@dataclass(frozen=True, slots=True)
class Examined:
    """A file and what is wrong with it.

    ``config`` is there where nothing is. ``expressions`` are those that could be read all the same,
    each with its key, and ``transforms`` the section that they are to be compiled by: the defaults
    where that one is wrong itself."""

    config: Config | None
    problems: list[str]
    expressions: tuple[tuple[str, Expression], ...]
    transforms: TransformsConfig


def examine(path: Path, environ: Mapping[str, str], *, files: Files | None = None) -> Examined:
    """As ``load``, for whoever wants to know of what is right as well.

    Raises ConfigError where the file is missing or no YAML."""
    files = {} if files is None else files
    document, fault = with_keys(yamltext.read(path, files), path.parent, environ, files)
    problems = explain.Problems(document)
    if fault is not None:
        problems.add(*fault)
    keys = _keys()
    data = explain.plain(keys, environ, problems)
    config = None
    source = Source(path.parent, files)
    try:
        config = Config.model_validate(data, context=source)
    except ValidationError as error:
        explain.explain(error, keys, problems)
    crossrefs.check(data, problems)
    found = problems.lines()
    if config is not None and not found:
        return Examined(config, [], tuple(config.expressions()), config.transforms)
    readable = tuple(_readable(data, keys, (), source))
    # Every validation error has become a problem above.
    return Examined(None, found or [f"{path}: cannot be used"], readable, _transforms(data))


def _readable(
    data: Any, within: shape.Shape, path: explain.KeyPath, source: Source
) -> Iterator[tuple[str, Expression]]:
    """The expressions of a file that is wrong elsewhere."""
    match within, data:
        case shape.Leaf(words=words), _ if words.literal:
            with suppress(ValidationError):  # it is among the problems
                yield explain.dotted(path), Expression.model_validate(data, context=source)
        case shape.Keys(), dict():
            known = within.variant(None)
            for key, value in data.items():
                yield from _readable(value, known[key][0], (*path, key), source)
        case shape.Names(value=below), dict():
            for key, value in data.items():
                yield from _readable(value, below, (*path, key), source)
        case shape.Sequence(item=item), list():
            for n, value in enumerate(data):
                yield from _readable(value, item, (*path, n), source)
        case _:
            pass  # it is among the problems, or holds no expression


def _transforms(data: Any) -> TransformsConfig:
    section = data.get("transforms") if isinstance(data, dict) else None
    with suppress(ValidationError):
        return TransformsConfig.model_validate(section or {})
    return TransformsConfig()


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
