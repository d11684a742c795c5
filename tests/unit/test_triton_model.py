"""Models as Triton describes them, and the graph of an ensemble."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.upstreams.triton_model import Model, Tensor, read_definition, read_model

METADATA: dict[str, Any] = {
    "name": "reader",
    "versions": ["1", "12", "latest"],
    "platform": "python",
    "inputs": [
        {"name": "IMAGE", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "SIZE", "datatype": "INT32", "shape": ["-1", "2"]},
    ],
    "outputs": [{"name": "SCORE", "datatype": "FP32", "shape": [-1]}],
}
CONFIG: dict[str, Any] = {
    "max_batch_size": 4,
    "input": [{"name": "IMAGE", "optional": False}, {"name": "SIZE", "optional": True}],
    "model_transaction_policy": {"decoupled": True},
}


def test_a_model_is_read_from_its_metadata_and_configuration() -> None:
    assert read_model(METADATA, CONFIG) == Model(
        name="reader",
        version=12,
        inputs=(Tensor("IMAGE", "BYTES", (-1, 1)), Tensor("SIZE", "INT32", (-1, 2), True)),
        outputs=(Tensor("SCORE", "FP32", (-1,)),),
        max_batch_size=4,
        decoupled=True,
        steps=(),
    )


def test_what_triton_leaves_out_has_its_usual_meaning() -> None:
    model = read_model({"name": "bare"}, {})
    assert model == Model("bare", None, (), (), 0, False, ())


@pytest.mark.parametrize(
    ("metadata", "config", "message"),
    [
        ({}, {}, "missing required field `name`"),
        ({"name": "m", "inputs": [{"name": "A"}]}, {}, r"`\$.inputs\[0\]`"),
        ({"name": "m"}, {"max_batch_size": "many"}, r"`\$.max_batch_size`"),
        ([], {}, "Expected `object`"),
    ],
)
def test_a_description_that_cannot_be_read_names_the_field(
    metadata: Any, config: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_model(metadata, config)


def ensemble(*steps: dict[str, Any]) -> Model:
    return read_model({"name": "all"}, {"ensemble_scheduling": {"step": list(steps)}})


def test_an_ensemble_becomes_nodes_and_the_tensors_between_them() -> None:
    reader = read_model(METADATA, {})
    writer = read_model(
        {"name": "writer", "versions": ["3"], "inputs": [
            {"name": "SCORES", "datatype": "FP32", "shape": [-1]},
            {"name": "IMAGE", "datatype": "BYTES", "shape": [1]},
        ], "outputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1]}]},
        {},
    )  # fmt: skip
    model = ensemble(
        {"model_name": "reader", "input_map": {"IMAGE": "image"}, "output_map": {"SCORE": "s1"}},
        {
            "model_name": "writer",
            "model_version": "3",
            "input_map": {"SCORES": "s1", "IMAGE": "image"},
            "output_map": {"TEXT": "text"},
        },
    )
    definition = read_definition(model, {"reader": reader, "writer": writer})
    assert definition == {
        "nodes": [
            {
                "modelId": "reader",
                "modelName": "reader",
                "modelVersion": -1,
                "inputs": [
                    {"inputName": "IMAGE", "inputShape": [-1, 1], "inputType": "STRING"},
                    {"inputName": "SIZE", "inputShape": [-1, 2], "inputType": "INT_TENSOR"},
                ],
                "outputs": [
                    {"outputName": "SCORE", "outputShape": [-1], "outputType": "FLOAT_TENSOR"}
                ],
            },
            {
                "modelId": "writer",
                "modelName": "writer",
                "modelVersion": 3,
                "inputs": [
                    {"inputName": "SCORES", "inputShape": [-1], "inputType": "FLOAT_TENSOR"},
                    {"inputName": "IMAGE", "inputShape": [1], "inputType": "STRING"},
                ],
                "outputs": [{"outputName": "TEXT", "outputShape": [1], "outputType": "STRING"}],
            },
        ],
        "edges": [
            {
                "id": "edge-1",
                "dataHandle": "s1",
                "source": "reader",
                "target": "writer",
                "sourceHandle": "SCORE",
                "targetHandle": "SCORES",
            }
        ],
    }


def test_a_model_used_twice_is_two_nodes_with_names_of_their_own() -> None:
    step = {"model_name": "echo", "input_map": {"I": "a"}, "output_map": {"O": "b"}}
    again = {"model_name": "echo", "input_map": {"I": "b"}, "output_map": {"O": "c"}}
    echo = read_model({"name": "echo"}, {})
    definition = read_definition(ensemble(step, again), {"echo": echo})
    assert [node["modelId"] for node in definition["nodes"]] == ["echo", "echo#2"]
    assert [(edge["source"], edge["target"]) for edge in definition["edges"]] == [
        ("echo", "echo#2")
    ]


def test_any_other_model_is_one_node_without_edges() -> None:
    definition = read_definition(read_model(METADATA, CONFIG), {})
    assert [node["modelVersion"] for node in definition["nodes"]] == [12]
    assert definition["edges"] == []


def test_a_version_that_is_not_known_is_left_out() -> None:
    definition = read_definition(read_model({"name": "bare"}, {}), {})
    assert definition == {
        "nodes": [{"modelId": "bare", "modelName": "bare", "inputs": [], "outputs": []}],
        "edges": [],
    }
