"""What a Triton model is: its tensors, its batching, whether it streams, its steps.

Owns: reading that from the model's metadata and configuration, and the graph of an ensemble in
Cambrion's shape.
Does not know: how metadata and configuration are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

#: Cambrion's three types of a tensor.
_FLOATS: Final = ("FP16", "FP32", "FP64", "BF16")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as the model declares it. ``shape`` holds the batch dimension, if there is
    one, and -1 for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an ensemble. ``inputs`` and ``outputs`` map the step's own tensors to the names
    they have in the ensemble; ``version`` -1 is the latest."""

    model: str
    version: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Model:
    """A model. ``max_batch_size`` 0: it has no batch dimension. ``decoupled``: it answers one
    request with any number of responses; Triton itself says so of an ensemble with such a step.
    ``version`` is the latest that is served, where it is known."""

    name: str
    version: int | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int
    decoupled: bool
    steps: tuple[Step, ...]


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int] = []


class _Metadata(msgspec.Struct):
    name: str
    versions: list[str] = []
    inputs: list[_Tensor] = []
    outputs: list[_Tensor] = []


class _ConfigInput(msgspec.Struct):
    name: str
    optional: bool = False


class _ConfigStep(msgspec.Struct):
    model_name: str
    model_version: int = -1
    input_map: dict[str, str] = {}
    output_map: dict[str, str] = {}


class _Ensemble(msgspec.Struct, frozen=True):
    step: list[_ConfigStep] = []


class _Policy(msgspec.Struct, frozen=True):
    decoupled: bool = False


class _Config(msgspec.Struct):
    max_batch_size: int = 0
    input: list[_ConfigInput] = []
    ensemble_scheduling: _Ensemble = _Ensemble()
    model_transaction_policy: _Policy = _Policy()


def read_model(metadata: Any, config: Any) -> Model:
    """A model from its metadata and configuration, both in the form that Triton's HTTP API gives
    them. Numbers may be strings, as the JSON form of protocol buffers has them.

    Raises:
        ValueError: naming the field that is not as it should be.
    """
    try:
        told = msgspec.convert(metadata, _Metadata, strict=False)
        configured = msgspec.convert(config, _Config, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    optional = {one.name for one in configured.input if one.optional}
    versions = [int(version) for version in told.versions if version.isdigit()]
    return Model(
        name=told.name,
        version=max(versions, default=None),
        inputs=tuple(_tensor(one, optional) for one in told.inputs),
        outputs=tuple(_tensor(one, ()) for one in told.outputs),
        max_batch_size=configured.max_batch_size,
        decoupled=configured.model_transaction_policy.decoupled,
        steps=tuple(
            Step(one.model_name, one.model_version, one.input_map, one.output_map)
            for one in configured.ensemble_scheduling.step
        ),
    )


def _tensor(told: _Tensor, optional: set[str] | tuple[()]) -> Tensor:
    return Tensor(told.name, told.datatype, tuple(told.shape), told.name in optional)


def read_definition(model: Model, composing: Mapping[str, Model]) -> dict[str, Any]:
    """The graph of ``model`` as ``{"nodes": [...], "edges": [...]}``.

    An ensemble has a node for each step and an edge for each tensor that goes from one step to
    another; any other model is one node. ``composing`` holds the steps' models by name.
    """
    if not model.steps:
        return {"nodes": [_node(model.name, model, model.version)], "edges": []}
    ids = _step_ids(model.steps)
    nodes = [
        _node(step_id, composing[step.model], step.version)
        for step_id, step in zip(ids, model.steps, strict=True)
    ]
    made: dict[str, tuple[str, str]] = {}  # tensor of the ensemble: who makes it, and as what
    for step_id, step in zip(ids, model.steps, strict=True):
        made.update({tensor: (step_id, output) for output, tensor in step.outputs.items()})
    edges: list[dict[str, Any]] = []
    for step_id, step in zip(ids, model.steps, strict=True):
        for target_input, tensor in step.inputs.items():
            if tensor in made:
                source, source_output = made[tensor]
                edges.append(
                    {
                        "id": f"edge-{len(edges) + 1}",
                        "dataHandle": tensor,
                        "source": source,
                        "target": step_id,
                        "sourceHandle": source_output,
                        "targetHandle": target_input,
                    }
                )
    return {"nodes": nodes, "edges": edges}


def _step_ids(steps: Sequence[Step]) -> list[str]:
    """A name for each step: its model's, with ``#2`` and so on where the model occurs again."""
    seen: dict[str, int] = {}
    ids = []
    for step in steps:
        seen[step.model] = number = seen.get(step.model, 0) + 1
        ids.append(step.model if number == 1 else f"{step.model}#{number}")
    return ids


def _node(node_id: str, model: Model, version: int | None) -> dict[str, Any]:
    return {
        "modelId": node_id,
        "modelName": model.name,
        **({} if version is None else {"modelVersion": version}),
        "inputs": [
            {"inputName": one.name, "inputShape": list(one.shape), "inputType": _type(one)}
            for one in model.inputs
        ],
        "outputs": [
            {"outputName": one.name, "outputShape": list(one.shape), "outputType": _type(one)}
            for one in model.outputs
        ],
    }


def _type(tensor: Tensor) -> str:
    if tensor.datatype == "BYTES":
        return "STRING"
    return "FLOAT_TENSOR" if tensor.datatype in _FLOATS else "INT_TENSOR"
