"""From a request to the input tensors of a model.

Owns: the evaluation of an expression per tensor with ``$media`` in it, and what goes into a model
for which nothing is configured.
Does not know: how tensors travel.

Media never pass through JSON: an expression sees a placeholder for each, a string that nobody can
guess, and picks and arranges those; they are exchanged for the bytes afterwards.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from gateway.errors import Code, RequestRejected, TransformFailed
from gateway.model import layered_view, request_view
from gateway.transform import Transform
from gateway.upstreams.base import Call
from gateway.upstreams.triton_codec import Encoded, TensorError, encode
from gateway.upstreams.triton_model import Model, Tensor
from gateway.upstreams.triton_wire import InputTensor


def build_inputs(call: Call, model: Model) -> list[InputTensor]:
    """The tensors for ``call``: those that ``call.inputs`` gives, and the default for a required
    BYTES input that is left over alone: the media, else the text, else the observation.

    Raises:
        RequestRejected: the request lacks what a tensor needs; ``inputs`` does not suit the model.
        TransformFailed: an expression failed, or its result does not fit its tensor.
    """
    known = {tensor.name: tensor for tensor in model.inputs}
    unknown = [name for name in call.inputs if name not in known]
    if unknown:
        raise _misconfigured(call, model, f"has no input {', '.join(unknown)}")
    expressions = _Expressions(call, model)
    tensors = []
    for name, transform in call.inputs.items():
        encoded = expressions.encode(known[name], transform)
        if encoded is not None:
            tensors.append(_wire(known[name], encoded))
    left = [one for one in model.inputs if not one.optional and one.name not in call.inputs]
    if len(left) == 1 and left[0].datatype == "BYTES":
        tensors.append(_wire(left[0], _default(call, model, left[0])))
    elif left:
        raise _misconfigured(call, model, "has no single required BYTES input to fill by itself")
    if not tensors:
        raise _misconfigured(call, model, "would get no input at all")
    return tensors


class _Expressions:
    """The expressions of one call. Each sees the request's view and ``$media``."""

    def __init__(self, call: Call, model: Model) -> None:
        self._call = call
        self._model = model
        self._view: str | None = None
        self._nonce = secrets.token_hex(16) if call.request.media else ""
        self._media = {
            f"media:{self._nonce}:{number}": media.data
            for number, media in enumerate(call.request.media)
        }

    def encode(self, tensor: Tensor, transform: Transform) -> Encoded | None:
        """The tensor's value, or ``None`` where there is none and the input is optional."""
        result = self._evaluate(tensor, transform)
        try:
            value = None if result is None else msgspec.json.decode(result)
            if self._media:
                value = self._with_media(value)
            if value is None or value == []:
                if tensor.optional:
                    return None
                raise RequestRejected(
                    f"{_stage(self._call, tensor)}: nothing in the request for model "
                    f"{self._model.name}'s input {tensor.name}"
                )
            return _fit(tensor, self._model, value)
        except (TensorError, msgspec.DecodeError) as error:
            raise TransformFailed(
                f"{_stage(self._call, tensor)}: {error}", reason="result"
            ) from error

    def _evaluate(self, tensor: Tensor, transform: Transform) -> str | None:
        if self._view is None:
            request, layers = self._call.request, self._call.layers
            view = (
                msgspec.json.encode(request_view(request))
                if layers is None
                else layered_view(request, layers)
            )
            self._view = view.decode()
        bindings = {**self._call.bindings, "media": list(self._media)}
        try:
            return transform.evaluate(self._view, bindings)
        except TransformFailed as error:
            raise TransformFailed(
                f"{_stage(self._call, tensor)}: {self._told(error.message)}",
                reason=error.reason,
                code=error.code,
                offset=error.offset,
            ) from error

    def _told(self, message: str) -> str:
        """An engine's words without what stands for the media."""
        return message.replace(self._nonce, "…") if self._nonce else message

    def _with_media(self, value: Any) -> Any:
        """``value`` with every placeholder exchanged for its bytes."""
        if isinstance(value, list):
            return [self._with_media(item) for item in value]
        if isinstance(value, str) and self._nonce in value:
            if value not in self._media:
                raise TensorError("$media can only stand alone, not inside a longer text")
            return self._media[value]
        return value


def _default(call: Call, model: Model, tensor: Tensor) -> Encoded:
    request = call.request
    value: Any
    if request.media:
        value = [media.data for media in request.media]
        what = f"{len(value)} media"
    elif request.text is not None:
        value, what = request.text, "a text"
    elif request.observation is not None:
        value, what = request.observation, "an observation"
    else:
        raise RequestRejected(
            f"pipeline {request.pipeline}: the request has no media, no text and no observation "
            f"for model {model.name}'s input {tensor.name}"
        )
    try:
        return _fit(tensor, model, value)
    except TensorError as error:
        raise RequestRejected(
            f"pipeline {request.pipeline}: the request has {what}, but model {model.name}'s input "
            f"{tensor.name} takes {_capacity(tensor, model)}; the pipeline's inputs can choose"
        ) from error


def _fit(tensor: Tensor, model: Model, value: Any) -> Encoded:
    encoded = encode(tensor.name, tensor.datatype, tensor.shape, value)
    if model.max_batch_size and encoded.shape[0] > model.max_batch_size:
        raise TensorError(
            f"{tensor.name}: takes at most {model.max_batch_size} in a batch, got "
            f"{encoded.shape[0]}"
        )
    return encoded


def _capacity(tensor: Tensor, model: Model) -> str:
    """How many elements a tensor takes, in words."""
    shape = list(tensor.shape)
    if model.max_batch_size and shape and -1 not in shape[1:]:
        count = model.max_batch_size
        for size in shape[1:]:
            count *= size
        return f"at most {count}"
    return f"shape {shape}" if len(shape) != 1 else f"exactly {shape[0]}"


def _misconfigured(call: Call, model: Model, what: str) -> RequestRejected:
    tensors = ", ".join(
        f"{one.name} ({one.datatype} {list(one.shape)}{', optional' if one.optional else ''})"
        for one in model.inputs
    )
    return RequestRejected(
        f"pipeline {call.request.pipeline}: model {model.name} {what}; its inputs are "
        f"{tensors or 'none'}: give each an expression in the pipeline's inputs",
        code=Code.NOT_SUPPORTED,
    )


def _wire(tensor: Tensor, encoded: Encoded) -> InputTensor:
    size = sum(map(len, encoded.segments))
    return InputTensor(tensor.name, tensor.datatype, encoded.shape, encoded.segments, size)


def _stage(call: Call, tensor: Tensor) -> str:
    return f"pipeline {call.request.pipeline}, inputs.{tensor.name}"
