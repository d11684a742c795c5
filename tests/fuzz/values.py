"""Targets that take one whole text: JSON of either side, tensors, the configuration, webhooks.

Owns: what must hold of their readers and writers.
Does not know: where inputs come from.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelStreamInferResponse

from gateway import config
from gateway.config import default_mapping
from gateway.dialects.events import event_json, parse_event, parse_responses, responses_value
from gateway.errors import ConfigError, RequestRejected, TransformFailed, UpstreamFailed
from gateway.executions.hook_addresses import checked_endpoint
from gateway.executions.hook_definitions import (
    changed_hook,
    definition_of,
    parse_hook,
    render_hook,
)
from gateway.model import Delta, LayerFinished, LayerStarted, Media, RawEvent, Request
from gateway.observation import append, looks_like_observation, with_execution_id
from gateway.plainjson import plain_json
from gateway.results import apply_changes, event_items
from gateway.transform import Bounds, Transform, compile_expression
from gateway.upstreams.base import Call
from gateway.upstreams.triton_codec import DATATYPES, TensorError, decode, encode
from gateway.upstreams.triton_grpc import _tensors
from gateway.upstreams.triton_messages import infer_request
from gateway.upstreams.triton_model import read_definition, read_model
from gateway.upstreams.triton_outputs import Pieces, whole_answer
from gateway.upstreams.triton_wire import InputTensor, Refused

#: JSON has no words for these, and Python's reader takes them all the same.
_STRICT = json.JSONDecoder(parse_constant=lambda name: math.nan)


def events(data: bytes) -> None:
    """An upstream's event: ValueError or an event, which is written as it was read; and without its
    text it is written so that it is read as the same."""
    try:
        event = parse_event(data)
    except ValueError:
        pass
    else:
        assert event_json(event) == data
        assert isinstance(json.loads(data.decode("utf-8", "replace")), dict)
        if not isinstance(event, RawEvent):
            assert isinstance(event, Delta | LayerStarted | LayerFinished)
            bare = msgspec.structs.replace(event, raw=None)
            try:
                written = event_json(bare)
            except UnicodeEncodeError:
                pass  # half a character, which only its own text can carry
            else:
                again = parse_event(written)
                assert msgspec.structs.replace(again, raw=None) == bare
    try:
        responses = parse_responses(data)
    except ValueError:
        return
    assert parse_responses(msgspec.json.encode(responses_value(responses))) == responses


def _has_identities(text: bytes) -> bool:
    """Whether each entry of an observation's lists is one that can be replaced, which is looked at
    only where there is something to replace."""
    try:
        append(text, text, replace=True)
    except RequestRejected:
        return False
    return True


def observation(data: bytes) -> None:
    """Two observations: RequestRejected, or one that has the entries of both; the same again
    changes nothing."""
    first, _, second = data.partition(b"\n\n")
    assert isinstance(looks_like_observation(first), bool)
    for replace in (False, True):
        try:
            result = append(first, second, replace=replace)
        except RequestRejected:
            continue
        fields = [_STRICT.decode(text.decode()) for text in (first, second, result)]
        old, new, both = fields
        assert both.keys() == old.keys() | new.keys()
        for name in ("mediaContents", "documents"):
            lists = [each.get(name) or [] for each in (old, new, both)]
            if not replace:
                assert lists[2] == lists[0] + lists[1] or not (lists[0] and lists[1])
            else:
                assert len(lists[2]) <= len(lists[0]) + len(lists[1])
        if replace and _has_identities(second):
            again = append(result, second, replace=True)
            assert append(again, second, replace=True) == again
        told = with_execution_id(result, 'an "ID"')
        assert json.loads(told)["executionId"] == 'an "ID"'


@cache
def _as_json() -> Transform:
    return compile_expression(default_mapping("observation_to_json").text, bounds=Bounds())


def plain(data: bytes) -> None:
    """The plain JSON of an observation is what the expression makes of it, or left to that."""
    made = plain_json(data)
    if made is None or not _is_text(data):  # which whoever reads an answer has seen to
        return
    try:
        evaluated = _as_json().evaluate(data.decode())
    except TransformFailed as error:
        raise AssertionError(f"the expression fails: {error}") from error
    assert _STRICT.decode(made.decode()) == _STRICT.decode(evaluated or "{}")


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


_REQUEST = Request(
    "p", "r", "text", media=tuple(Media(f"media-{n}", b"x", "text/plain") for n in (1, 2))
)


def results(data: bytes) -> None:
    """What a transform yields: ValueError, or what it stands for."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        changed = apply_changes(_REQUEST, text)
    except ValueError:
        pass
    else:
        assert (changed.pipeline, changed.request_id) == ("p", "r")
        assert {media.id for media in changed.media} <= {"media-1", "media-2"}
    try:
        items = event_items(text)
    except ValueError:
        return
    assert all(item.startswith(b"{") for item in items)


def _tensor(data: bytes) -> tuple[str, tuple[int, ...], bytes]:
    """A datatype, a shape of at most three dimensions, and the rest."""
    kind, rank = (data[0] % len(DATATYPES), data[1] % 4) if len(data) > 1 else (0, 0)
    shape = tuple(size if size < 128 else size - 256 for size in data[2 : 2 + rank])
    return DATATYPES[kind], shape, data[2 + rank :]


def _same(one: Any, other: Any) -> bool:
    return msgspec.json.encode(one) == msgspec.json.encode(other)


def codec(data: bytes) -> None:
    """Tensors: TensorError, or a value that has the same bytes again; and a value of JSON has bytes
    that are the same value again."""
    datatype, shape, rest = _tensor(data)
    try:
        value = decode("t", datatype, shape, rest)
    except TensorError:
        pass
    else:
        again = encode("t", datatype, shape, value) if 0 not in shape else None
        if again is not None:
            assert again.shape == shape
            assert _same(decode("t", datatype, shape, again.data), value)
            if datatype == "BYTES" or datatype.startswith(("INT", "UINT")):
                assert again.data == rest
    try:
        given = msgspec.json.decode(rest)
        encoded = encode("t", datatype, shape, given)
    except (TensorError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    assert len(encoded.shape) == len(shape)
    assert all(dim in (-1, size) for dim, size in zip(shape, encoded.shape, strict=True))
    value = decode("t", datatype, encoded.shape, encoded.data)
    assert encode("t", datatype, encoded.shape, value).data == encoded.data or 0 in encoded.shape


def messages(data: bytes) -> None:
    """Messages to and from Triton: what is written is what protocol buffers read; what they read
    is an answer, or one of the two errors."""
    datatype, shape, rest = _tensor(data)
    name = rest[:8].decode("utf-8", "replace")
    tensor = InputTensor(name, datatype, tuple(map(abs, shape)), (rest,), len(rest))
    written = b"".join(infer_request(name, name, [tensor, tensor], final_response=bool(rest)))
    read = ModelInferRequest.FromString(written)
    assert (read.model_name, read.id) == (name, name)
    assert [(one.name, one.datatype, tuple(one.shape)) for one in read.inputs] == [
        (name, datatype, tensor.shape)
    ] * 2
    assert list(read.raw_input_contents) == [rest, rest]
    try:
        answer = ModelStreamInferResponse.FromString(data).infer_response
    except DecodeError:
        return
    call = Call(_REQUEST, "m", "a")
    try:
        tensors = _tensors(answer)
        whole_answer(call, tensors, "up")
    except (Refused, UpstreamFailed):
        return
    pieces = Pieces(call, "up")
    try:
        pieces.feed(tensors)
        pieces.finish()
    except UpstreamFailed:
        return


def model(data: bytes) -> None:
    """What Triton tells of a model: ValueError, or a model that can be shown."""
    try:
        metadata, _, settings = data.partition(b"\n\n")
        told = msgspec.json.decode(metadata), msgspec.json.decode(settings or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    try:
        read = read_model(*told)
    except ValueError:
        return
    shown = read_definition(read, {step.model: read for step in read.steps})
    assert shown["nodes"]
    msgspec.json.encode(shown)


async def _nowhere(host: str) -> Sequence[str]:
    raise OSError(host)


def hook(data: bytes) -> None:
    """A webhook: RequestRejected, or a definition that can end no line, and comes back the same."""
    try:
        made = parse_hook(data, owner="o", now=1000.0)
    except RequestRejected:
        return
    definition = definition_of(made)
    for name, value in definition.headers.items():
        assert re.fullmatch(r"[!-~]+", name)
        assert re.fullmatch(r"[\t -~]*", value)
    for text in (definition.name or "", definition.form_payload_key, definition.form_document_key):
        assert not re.search(r"[\x00-\x1f\x7f]", text)
    shown = render_hook(made)
    assert definition.secret.encode() not in shown
    again = changed_hook(made, shown, 2000.0, 60.0)
    assert again == (made, False)
    try:
        asyncio.run(checked_endpoint(definition.endpoint, (), _nowhere))
    except RequestRejected:
        return
    assert definition.endpoint.startswith(("http://", "https://", "HTTP", "Http", "hTTP"))


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="fuzz-config-")  # gone with this process


def configuration(data: bytes) -> None:
    """A configuration file: taken, or ConfigError, each problem of which says where it is."""
    file = Path(_folder().name, "gateway.yaml")
    file.write_bytes(data)
    problems: list[str] = []
    try:
        config.load(file, {"HOME": "/", "KEY": "k"})
    except ConfigError as error:
        problems = error.problems or ["it says nothing"]
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    for problem in problems:
        assert "\n" not in problem
        at = re.match(re.escape(str(file)) + r"(?::([0-9]+):([0-9]+))?: .", problem)
        assert at, problem
        if at[1] is None:  # the file as a whole
            assert "is not UTF-8" in problem
            continue
        line, column = int(at[1]), int(at[2])
        assert 1 <= line <= len(lines)
        assert 1 <= column <= len(lines[line - 1]) + 1


def floats(data: bytes) -> None:
    """A number goes through every datatype of floats and comes back within its precision."""
    if len(data) != 8:
        return
    [number] = struct.unpack("<d", data)
    for datatype, precision in (("FP64", 0.0), ("FP32", 2**-24), ("BF16", 2**-8), ("FP16", 2**-11)):
        try:
            encoded = encode("t", datatype, [1], number)
        except TensorError:
            continue
        back = decode("t", datatype, [1], encoded.data)[0]
        if isinstance(back, str):
            assert not math.isfinite(number)
        else:
            assert abs(back - number) <= max(abs(number) * precision, 2**-24)
