"""From the output tensors of a model to events.

Owns: what an answer is without configuration (a text, an observation, JSON), the expression that
says otherwise, and the pieces of a decoupled model's answer.
Does not know: how tensors travel.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.errors import Code, TransformFailed, UpstreamFailed
from gateway.model import Delta, ObservationReady
from gateway.observation import append, looks_like_observation
from gateway.upstreams.base import Call
from gateway.upstreams.triton_codec import TensorError, decode, split_bytes
from gateway.upstreams.triton_wire import WireTensor


def whole_answer(
    call: Call, tensors: Sequence[WireTensor], upstream: str
) -> Delta | ObservationReady:
    """The one event that a model's single response is.

    With ``call.output``: an observation where it yields one, else its result as the message. By
    itself: a BYTES output alone is the message, or the observation that it holds (several elements
    that all hold one are appended in order); anything else is the JSON object
    ``{tensor name: value}`` as text.

    Raises:
        UpstreamFailed: the tensors cannot be read.
        TransformFailed: ``call.output`` failed.
    """
    if call.output is not None:
        result = _evaluate(call, tensors, upstream)
        if looks_like_observation(result.encode()):
            return ObservationReady(result.encode())
        return whole_text(call, _as_text(result))
    elements = _only_elements(tensors, upstream)
    if elements and all(looks_like_observation(element) for element in elements):
        observation = elements[0]
        for element in elements[1:]:
            observation = append(observation, element)
        return ObservationReady(observation)
    if elements is not None and len(elements) == 1:
        try:
            return whole_text(call, elements[0].decode())
        except UnicodeDecodeError:
            pass  # not text: JSON has a way to show it
    return whole_text(call, _json(tensors, upstream))


class Pieces:
    """The responses of one decoupled call, each made an event as it arrives.

    With ``call.output``, what that yields for a response: a string is a piece of text, an
    observation is kept for the end (several are appended), nothing is nothing, other JSON is a
    piece as it is. By itself, a response with a single BYTES output is a piece of text, whatever
    it holds; any other is a line of JSON.
    """

    def __init__(self, call: Call, upstream: str) -> None:
        self._call = call
        self._upstream = upstream
        # A model that streams tokens may cut a character in two.
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._observation: bytes | None = None
        self._any = False

    def feed(self, tensors: Sequence[WireTensor]) -> Delta | None:
        """The piece that a response is, if it is one. Raises like ``whole_answer``."""
        text = self._mapped(tensors) if self._call.output is not None else self._text(tensors)
        if not text:
            return None
        self._any = True
        return Delta(self._call.actor, text, self._call.layer_id, last_layer=self._call.last_layer)

    def finish(self) -> list[Delta | ObservationReady]:
        """What is left when the last response has come."""
        self._utf8_text(b"", final=True)
        if self._observation is None:
            return [whole_text(self._call, "")]
        ready = ObservationReady(self._observation)
        return [whole_text(self._call, ""), ready] if self._any else [ready]

    def _mapped(self, tensors: Sequence[WireTensor]) -> str:
        result = _evaluate(self._call, tensors, self._upstream)
        data = result.encode()
        if not looks_like_observation(data):
            return _as_text(result)
        self._observation = data if self._observation is None else append(self._observation, data)
        return ""

    def _text(self, tensors: Sequence[WireTensor]) -> str:
        elements = _only_elements(tensors, self._upstream)
        if elements is None or len(elements) != 1:
            return _json(tensors, self._upstream) + "\n" if tensors else ""
        return self._utf8_text(elements[0])

    def _utf8_text(self, data: bytes, *, final: bool = False) -> str:
        try:
            return self._utf8.decode(data, final)
        except UnicodeDecodeError as error:
            raise UpstreamFailed(
                f"upstream {self._upstream}, model {self._call.pipeline}: its pieces are not text "
                "in UTF-8; the pipeline's output can map them",
                code=Code.UPSTREAM_INVALID,
            ) from error


def _only_elements(tensors: Sequence[WireTensor], upstream: str) -> list[bytes] | None:
    """The elements of the only output, if there is only one and it is BYTES."""
    if len(tensors) != 1 or tensors[0].datatype != "BYTES":
        return None
    try:
        return split_bytes(tensors[0].name, tensors[0].shape, tensors[0].data)
    except TensorError as error:
        raise _unreadable(error, upstream) from error


def _values(tensors: Sequence[WireTensor], upstream: str) -> dict[str, Any]:
    try:
        return {one.name: decode(one.name, one.datatype, one.shape, one.data) for one in tensors}
    except TensorError as error:
        raise _unreadable(error, upstream) from error


def _json(tensors: Sequence[WireTensor], upstream: str) -> str:
    return msgspec.json.encode(_values(tensors, upstream)).decode()


def _evaluate(call: Call, tensors: Sequence[WireTensor], upstream: str) -> str:
    """The result of ``call.output`` as JSON text; nothing is the empty text."""
    assert call.output is not None  # noqa: S101  both callers have looked
    view = msgspec.json.encode({"outputs": _values(tensors, upstream)}).decode()
    try:
        return call.output.evaluate(view, call.bindings) or ""
    except TransformFailed as error:
        raise TransformFailed(
            f"pipeline {call.request.pipeline}, output: {error.message}",
            reason=error.reason,
            code=error.code,
            offset=error.offset,
        ) from error


def _as_text(result: str) -> str:
    """A JSON string's own text; any other JSON text as it is."""
    return str(msgspec.json.decode(result)) if result.startswith('"') else result


def whole_text(call: Call, text: str) -> Delta:
    """A text that is all there is to come."""
    return Delta(call.actor, text, call.layer_id, finished=True, last_layer=call.last_layer)


def _unreadable(error: TensorError, upstream: str) -> UpstreamFailed:
    return UpstreamFailed(f"upstream {upstream}: output {error}", code=Code.UPSTREAM_INVALID)
