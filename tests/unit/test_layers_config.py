"""Layers and policies in the configuration: what short forms stand for, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from gateway.config import Config, load
from gateway.errors import ConfigError
from gateway.pipeline_sections import Policy

UPSTREAMS = """\
upstreams:
  api: {kind: pupau, url: "http://api"}
  docs: {kind: cambrion, url: "http://docs"}
  gpu: {kind: triton, url: "grpc://gpu"}
pipelines:
  p:
"""

Loader = Callable[[str], Config]


@pytest.fixture
def loaded(tmp_path: Path) -> Loader:
    def load_text(below: str) -> Config:
        path = tmp_path / "gateway.yaml"
        indented = "".join(f"    {line}\n" for line in dedent(below).strip().split("\n"))
        path.write_text(UPSTREAMS + indented)
        return load(path, {})

    return load_text


def problems(loaded: Loader, text: str) -> list[str]:
    """The problems of the pipeline ``text``, without the file: its first line is line 7."""
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return [problem.split(".yaml:", 1)[1] for problem in caught.value.problems]


def test_a_layer_is_a_list_of_actors_or_a_section_around_it(loaded: Loader) -> None:
    pipeline = loaded("""
        layers:
          - - {actor: ocr, upstream: gpu, pipeline: invoice_ocr, inputs: {IMAGE: $media}}
          - actors:
              - {actor: summary, upstream: api, transform: {request: '{"text": "x"}'}}
              - {actor: archive, upstreams: [docs, {upstream: api, pipeline: store}]}
            on_error: continue
            need: 1
    """).pipelines["p"]
    first, second = pipeline.layers
    assert [actor.actor for layer in pipeline.layers for actor in layer.actors] == [
        "ocr",
        "summary",
        "archive",
    ]
    assert (first.on_error, first.needed) == ("fail", 1)
    assert (second.on_error, second.needed) == ("continue", 1)
    targets = second.actors[1].targets()
    assert [(target.upstream, target.pipeline) for target in targets] == [
        ("docs", None),
        ("api", "store"),
    ]


def test_what_an_upstream_of_several_leaves_out_is_the_actors(loaded: Loader) -> None:
    pipeline = loaded("""
        upstreams: [gpu, {upstream: gpu, pipeline: small, inputs: {B: text}}]
        pipeline: big
        inputs: {A: $media}
        output: outputs
        policy: hedge
        hedge_after_s: 0.5
    """).pipelines["p"]
    assert pipeline.policy is Policy.HEDGE
    own, other = pipeline.targets()
    assert (own.pipeline, list(own.inputs)) == ("big", ["A"])
    assert (other.pipeline, list(other.inputs)) == ("small", ["B"])
    assert own.output is other.output is pipeline.output


@pytest.mark.parametrize(
    ("section", "needed"),
    [
        ("{actors: &a [{actor: x, upstream: api}, {actor: y, upstream: api}]}", 2),
        ("{on_error: continue, actors: &a [{actor: x, upstream: api}]}", 1),
        ("{need: any, actors: [{actor: x, upstream: api}, {actor: y, upstream: api}]}", 1),
        ("{need: all, on_error: continue, actors: [{actor: x, upstream: api}]}", 1),
        ("{need: 2, actors: [{actor: x, upstream: api}, {actor: y, upstream: api}]}", 2),
    ],
)
def test_how_many_actors_a_layer_needs(section: str, needed: int, loaded: Loader) -> None:
    (layer,) = loaded(f"layers: [{section}]").pipelines["p"].layers
    assert layer.needed == needed


def test_every_expression_of_every_actor_has_its_key(loaded: Loader) -> None:
    config = loaded("""
        layers:
          - - actor: ocr
              upstreams: [{upstream: gpu, inputs: {B: b}, output: c}, gpu]
              inputs: {A: a}
              policy: weighted
              sticky: d
              transform: {request: e}
    """)
    assert {key: expression.text for key, expression in config.expressions()} == {
        "pipelines.p.layers[0].actors[0].inputs.A": "a",
        "pipelines.p.layers[0].actors[0].upstreams[0].inputs.B": "b",
        "pipelines.p.layers[0].actors[0].upstreams[0].output": "c",
        "pipelines.p.layers[0].actors[0].sticky": "d",
        "pipelines.p.layers[0].actors[0].transform.request": "e",
    }


MISTAKES = {
    "neither upstream nor layers": (
        "tag: x",
        ["6:3: pipelines.p.upstream: is missing"],
    ),
    "one upstream and several": (
        "{upstream: api, upstreams: [docs]}",
        ["7:21: pipelines.p.upstreams: stands beside upstream; keep one of the two"],
    ),
    "an actor's keys beside layers": (
        "upstream: api\nlayers: [[{actor: a, upstream: api}]]",
        ["7:5: pipelines.p.upstream: belongs to an actor where there are layers"],
    ),
    "an unknown upstream of an actor": (
        "layers: [[{actor: a, upstream: apo}]]",
        ['7:36: pipelines.p.layers[0][0].upstream: there is no upstream "apo"; '
         'did you mean "api"?'],
    ),
    "an unknown one among several": (
        "upstreams: [api, doc, {upstream: gpi}]",
        ['7:22: pipelines.p.upstreams[1]: there is no upstream "doc"; did you mean "docs"?',
         '7:38: pipelines.p.upstreams[2].upstream: there is no upstream "gpi"; '
         'did you mean "gpu"?'],
    ),
    "an actor without an upstream": (
        "layers: [[{actor: a}]]",
        ["7:15: pipelines.p.layers[0][0].upstream: is missing"],
    ),
    "an actor without a name": (
        "layers: [[{upstream: api}]]",
        ["7:15: pipelines.p.layers[0][0].actor: is missing"],
    ),
    "two actors of one name, in two layers": (
        "layers: [[{actor: a, upstream: api}], {actors: [{actor: a, upstream: api}]}]",
        ["7:61: pipelines.p.layers[1].actors[0].actor: is the name of "
         "pipelines.p.layers[0][0] already"],
    ),
    "an unknown key of an actor": (
        "layers: [[{actor: a, upstream: api, polcy: race}]]",
        ['7:41: pipelines.p.layers[0][0].polcy: unknown key; did you mean "policy"?'],
    ),
    "no layers": ("layers: []", ["7:13: pipelines.p.layers: lists no layer"]),
    "a layer without actors": (
        "layers: [[]]",
        ["7:14: pipelines.p.layers[0]: lists no actor"],
    ),
    "a layer that is text": (
        "layers: [ocr]",
        ["7:14: pipelines.p.layers[0]: must be a list ([a, b], or a line with a dash for each)"],
    ),
    "no upstreams": ("upstreams: []", ["7:16: pipelines.p.upstreams: lists no upstream"]),
    "more needed than there are": (
        "layers: [{need: 2, actors: [{actor: a, upstream: api}]}]",
        ["7:21: pipelines.p.layers[0].need: is more than the 1 actors of the layer"],
    ),
    "a need that is none": (
        "layers: [{need: most, actors: [{actor: a, upstream: api}]}]",
        ["7:21: pipelines.p.layers[0].need: must be all, any, or a number from 1"],
    ),
    "an unknown policy": (
        "{upstreams: [api, docs], policy: fallbak}",
        ["7:38: pipelines.p.policy: must be one of fallback, race, hedge, weighted, least_busy, "
         'not "fallbak"; did you mean "fallback"?'],
    ),
    "a policy of one": (
        "{upstream: api, policy: race}",
        ["7:21: pipelines.p.policy: chooses among several; it needs upstreams"],
    ),
    "what only another policy looks at": (
        "{upstreams: [api, {upstream: docs, weight: 2}], sticky: $, hedge_after_s: 1}",
        ["7:40: pipelines.p.upstreams[1].weight: is only looked at with policy: weighted",
         "7:53: pipelines.p.sticky: is only looked at with policy: weighted",
         "7:64: pipelines.p.hedge_after_s: is only looked at with policy: hedge"],
    ),
    "tensors of what has none": (
        "layers: [[{actor: a, upstreams: [{upstream: docs, output: $}, gpu], inputs: {A: $}}]]",
        ["7:55: pipelines.p.layers[0][0].upstreams[0].output: only a Triton upstream has tensors; "
         '"docs" is of kind cambrion'],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_every_mistake_is_named_with_its_place(
    text: str, expected: list[str], loaded: Loader
) -> None:
    assert problems(loaded, text) == expected
