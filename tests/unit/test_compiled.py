"""Compiling a whole configuration: what is shared, and how every mistake is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from gateway.compiled import (
    CompiledPipeline,
    assemble_transforms,
    bounds_of,
    compile_config,
    installation_problems,
)
from gateway.config import Config, load
from gateway.errors import ConfigError
from gateway.pipeline_sections import MappingsConfig
from gateway.sections import TransformsConfig
from gateway.transform import Transform
from gateway.values import Expression

Loader = Callable[[str], Config]

HEAD = """\
upstreams:
  api: {kind: pupau, url: "http://api"}
  gpu: {kind: triton, url: "grpc://gpu"}
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Loader:
    def load_text(text: str) -> Config:
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "transforms").mkdir(exist_ok=True)
        (tmp_path / "transforms" / "bad.jsonata").write_text("{\n  'a': [1\n}\n")
        path = tmp_path / "config" / "gateway.yaml"
        path.write_text(HEAD + dedent(text))
        return load(path, {})

    return load_text


def compiled(config: Config) -> dict[str, CompiledPipeline[Transform]]:
    """The transforms of every pipeline, by its name."""
    by_text = compile_config(config)

    def make(expression: Expression, stage: str, actor: str = "") -> Transform:
        return by_text[expression.text]

    return {name: assemble_transforms(section, make) for name, section in config.pipelines.items()}


def test_a_pipeline_has_its_own_transforms_and_the_default_mappings(loaded: Loader) -> None:
    config = loaded("""\
    pipelines:
      a:
        upstream: gpu
        inputs: {IN: '$string(media)'}
        output: '$uppercase(x)'
        transform: {request: '1', event: '2', observation: '3'}
        mappings: {observation_to_json: '"mine"'}
      b: {upstream: api}
    """)
    pipelines = compiled(config)
    own, bare = pipelines["a"], pipelines["b"]
    assert own.request is not None
    assert own.event is not None
    assert own.observation is not None
    ((actor,),) = own.layers
    ((bare_actor,),) = bare.layers
    (target,), (bare_target,) = actor.targets, bare_actor.targets
    assert target.output is not None
    stages = (own.request, own.event, own.observation, own.observation_to_json)
    assert [stage.evaluate("null") for stage in stages] == ["1", "2", "3", '"mine"']
    assert target.inputs["IN"].evaluate('{"media": [1]}') == '"[1]"'
    assert target.output.evaluate('{"x": "y"}') == '"Y"'
    assert (bare.request, bare.event, bare.observation) == (None, None, None)
    assert (bare_target.inputs, bare_target.output) == ({}, None)
    assert own.observation_to_message is bare.observation_to_message
    assert all(getattr(bare, name) is not None for name in MappingsConfig.model_fields)


def test_the_same_text_is_compiled_once(loaded: Loader) -> None:
    lines = "".join(f"  p{n}: {{upstream: api, transform: {{event: $}}}}\n" for n in range(50))
    pipelines = compiled(loaded(f"pipelines:\n{lines}"))
    assert len({id(pipeline.event) for pipeline in pipelines.values()}) == 1


def test_every_expression_that_does_not_compile_is_named_with_its_place(
    loaded: Loader, tmp_path: Path
) -> None:
    config = loaded("""\
    pipelines:
      a:
        upstream: gpu
        inputs: {IN: 'a +'}
        transform:
          event: |
            {
              "a": )
            }
          observation: {file: bad.jsonata}
      b: {upstream: api, transform: {request: $, event: 'a +'}}
    """)
    with pytest.raises(ConfigError) as caught:
        compile_config(config)
    places = [re.match(r"(.*?): (\S+): (.+)", line) for line in caught.value.problems]
    assert [place and place.groups()[:2] for place in places] == [
        (f"{tmp_path}/config/gateway.yaml:7:22", "pipelines.a.inputs.IN"),
        (f"{tmp_path}/config/gateway.yaml:11:16", "pipelines.a.transform.event"),
        (f"{tmp_path}/transforms/bad.jsonata:3:1", "pipelines.a.transform.observation"),
        (f"{tmp_path}/config/gateway.yaml:14:57", "pipelines.b.transform.event"),
    ]


@pytest.mark.parametrize("engine", ["jsonatapy", "jsonata-python"])
def test_the_engine_and_the_bounds_are_those_of_the_configuration(
    engine: str, loaded: Loader
) -> None:
    config = loaded(f"""\
    transforms: {{engine: {engine}, time_s: 0.25, depth_max: 20, sequence_max: 30,
                 output_bytes_max: 5}}
    pipelines: {{a: {{upstream: api, transform: {{event: '"123456"'}}}}}}
    """)
    bounds = bounds_of(config.transforms)
    assert (bounds.time_s, bounds.depth_max, bounds.sequence_max) == (0.25, 20, 30)
    event = compiled(config)["a"].event
    assert event is not None
    with pytest.raises(Exception, match="larger than 5 bytes"):
        event.evaluate("null")


def test_the_bounds_of_the_configuration_and_of_the_engine_have_the_same_defaults() -> None:
    assert bounds_of(TransformsConfig()) == type(bounds_of(TransformsConfig()))()


def test_ten_thousand_pipelines_compile_each_text_once(loaded: Loader) -> None:
    lines = "".join(
        f"  p{n}: {{upstream: gpu, inputs: {{A: $media}}, transform: {{event: '{n % 5}'}}}}\n"
        for n in range(10_000)
    )
    pipelines = compiled(loaded(f"pipelines:\n{lines}"))
    assert len(pipelines) == 10_000
    assert len({id(pipeline.event) for pipeline in pipelines.values()}) == 5


def test_what_is_not_installed_is_named_for_each_upstream_that_needs_it(
    loaded: Loader,
) -> None:
    config = loaded("pipelines: {}\n")
    assert installation_problems(config) == []
    assert installation_problems(config, ("json", "no_such.thing", "nosuch")) == [
        "upstreams.gpu: kind triton needs no_such.thing, nosuch; install the extra with: "
        "pip install 'pipeline-gateway[triton]'"
    ]


@pytest.mark.parametrize("section", ["limits", "executions"])
def test_a_store_without_what_it_needs_is_told_where_it_is_configured(
    section: str, loaded: Loader
) -> None:
    shared = loaded(f"pipelines: {{}}\n{section}: {{store: 'rediss://127.0.0.1:1/0'}}\n")
    assert installation_problems(shared) == []
    assert installation_problems(shared, redis_module="no_such.thing") == [
        f"{section}.store: needs no_such.thing; install the extra with: "
        "pip install 'pipeline-gateway[redis]'"
    ]


def test_executions_in_a_file_need_no_extra(loaded: Loader) -> None:
    kept = loaded("pipelines: {}\nexecutions: {}\n")
    assert installation_problems(kept, redis_module="no_such.thing") == []


def test_tracing_without_what_it_needs_is_told_where_it_is_configured(loaded: Loader) -> None:
    traced = loaded("pipelines: {}\ntracing: {endpoint: 'http://127.0.0.1:4318/v1/traces'}\n")
    assert installation_problems(traced) == []
    assert installation_problems(traced, tracing_module="no_such.thing") == [
        "tracing: needs no_such.thing; install the extra with: pip install 'pipeline-gateway[otel]'"
    ]
    assert installation_problems(loaded("pipelines: {}\n"), tracing_module="no_such.thing") == []
