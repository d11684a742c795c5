"""Targets that take what a client sends: a head, a body in JSON or as a form.

Owns: what must hold of the reading of requests.
Does not know: where inputs come from.
"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64encode
from contextlib import suppress
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import EMPTY_PAYLOAD, StreamReader, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, RawRequestMessage
from multidict import CIMultiDict

from gateway import protocol
from gateway.body import Pace, read_form
from gateway.dialects import cambrion, pupau
from gateway.dialects.wire import Origin, Part
from gateway.errors import RequestRejected
from gateway.heads import connection_headers, request_id
from gateway.lifting import LiftedText, Lifter
from gateway.model import Request
from gateway.routing import resolve
from gateway.upstreams.base import Call
from gateway.upstreams.pupau import _body
from tests.fuzz.cutting import cut

ORIGIN = Origin("p", "r", media_max=4, keeps=True)
#: Stands for ``\x01`` in a body: so long a string no fuzzer makes, and short ones are not lifted.
LONG = b64encode(bytes(range(256)) * 256)
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()


def _parser() -> HttpRequestParser:
    """aiohttp's, as the server has it."""
    loop = _runner().get_loop()
    return HttpRequestParser(
        BaseProtocol(loop), loop, 2**16, payload_exception=RuntimeError, auto_decompress=False
    )


def head(data: bytes) -> None:
    """Heads: what is let through has one length, one host, and nothing that could end a line."""
    text, pieces = cut(data)
    taken = []
    for feeding in ([text], pieces):
        parser, messages, fault = _parser(), [], False
        try:
            for piece in feeding:
                messages += parser.feed_data(piece)[0]
                if messages:
                    break
        except HttpProcessingError:
            fault = True
        if messages and not fault:
            message, body = messages[0]
            refused = protocol._refusal(message, body)
            taken.append(None if refused else (message.method, message.path, message.raw_headers))
            if refused is None:
                _check_head(message, body, text)
    # Of several in one read, a fault in a later one hides those before it.
    assert len(taken) < 2 or taken[0] == taken[1]


def _check_head(message: RawRequestMessage, body: StreamReader, text: bytes) -> None:
    headers = message.headers
    names = [name.lower() for name, _ in message.raw_headers]
    lengths = headers.getall(hdrs.CONTENT_LENGTH, [])
    codings = headers.getall(hdrs.TRANSFER_ENCODING, [])
    assert len(lengths) + len(codings) <= 1
    assert all(re.fullmatch("0*[0-9]{1,20}", length) for length in lengths)
    assert all(coding.lower() == "chunked" for coding in codings)
    assert message.version in ((1, 0), (1, 1))
    assert not codings or message.version == (1, 1)
    assert names.count(b"host") == 1 or (message.version == (1, 0) and not names.count(b"host"))
    length = int(lengths[0].lstrip("0") or "0") if lengths else 0
    assert length < 2**64 - 1
    assert (body is EMPTY_PAYLOAD) == (not codings and not length)
    for name, value in message.raw_headers:
        assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name), name
        assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value), value
    assert not re.search(r"[\x00-\x20\x7f#]", message.path), message.path
    assert _ID.fullmatch(request_id(headers))
    connection_headers(headers)
    with suppress(RequestRejected):
        resolve(message.method, message.url.raw_path)


def _lifted(pieces: list[bytes]) -> bytes | LiftedText:
    lifter = Lifter("0123456789abcdef" * 2)
    for piece in pieces:
        lifter.feed(piece)
    return lifter.finish()


def lifting(data: bytes) -> None:
    """Long strings that are lifted out of a text can be put back, to the byte."""
    text, _ = cut(data)
    text = text.replace(b"\x01", LONG, 3)
    knob = data[0] if data else 0
    size = 4096 + 127 * knob
    lifted = _lifted([text[at : at + size] for at in range(0, len(text), size)])
    assert len(lifted) == len(text)
    assert (lifted if isinstance(lifted, bytes) else lifted.whole()) == text


def _execute(body: bytes | LiftedText) -> Request | tuple[str, str]:
    try:
        return cambrion.parse_request(ORIGIN, body)
    except RequestRejected as error:
        return (error.code, error.message)


def execute(data: bytes) -> None:
    """An execute call's body: one error class, the same with its media lifted out, and what is
    taken is what another reader of JSON reads."""
    text, _ = cut(data)
    text = text.replace(b"\x01", LONG, 3)
    knob = data[0] if data else 0
    size = 4096 + 127 * knob
    plain = _execute(text)
    assert _execute(_lifted([text[at : at + size] for at in range(0, len(text), size)])) == plain
    if isinstance(plain, Request):
        read = json.loads(text)
        assert plain.text == read.get("text")
        assert plain.tag == read.get("tag")
        assert len(plain.media) == len(read.get("media") or ())
        assert len(plain.media) <= ORIGIN.media_max
        assert all(media.data for media in plain.media)
        if plain.observation is not None:
            assert isinstance(json.loads(plain.observation), dict)
        assert plain.text or plain.media or plain.observation or plain.execution_id


def query(data: bytes) -> None:
    """A query's body in JSON: one error class, and what is taken is what another reader reads."""
    try:
        request = pupau.parse_request(ORIGIN, data)
    except RequestRejected:
        return
    read = json.loads(data)
    assert read == dict(json.loads(data, object_pairs_hook=list))  # no key twice
    assert request.text == read["request"]
    assert request.context == read.get("context")


BOUNDARY = "b"


def _incoming(boundary: str, pieces: list[bytes]) -> Any:
    """A form as the server hands it on, all of it there."""
    reader = StreamReader(BaseProtocol(_runner().get_loop()), 2**16, loop=_runner().get_loop())
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    headers = CIMultiDict({hdrs.CONTENT_TYPE: f'multipart/form-data; boundary="{boundary}"'})
    return SimpleNamespace(headers=headers, content_length=None, content=reader)


def _form(boundary: str, pieces: list[bytes]) -> list[Part] | str:
    async def read() -> list[Part]:
        incoming = cast("protocol.Incoming", _incoming(boundary, pieces))
        return await read_form(incoming, bytes_max=1 << 20, parts_max=6, pace=Pace(60, 1))

    try:
        return _runner().run(read())
    except RequestRejected as error:
        return error.message


def form(data: bytes) -> None:
    """A form: one error class, the same cut anywhere; and what is made of it for an upstream is
    read there as it was meant, whatever its names hold."""
    text, pieces = cut(data)
    parts = _form(BOUNDARY, [text] if text else [])
    assert _form(BOUNDARY, pieces) == parts
    if isinstance(parts, str):
        return
    assert len(parts) <= 6
    try:
        request = pupau.parse_request(ORIGIN, parts)
    except RequestRejected:
        return
    sent = _body(Call(request, "p", "a", body={"request": request.text or ""}))
    if not request.media:
        return
    boundary = sent.content_type.partition("boundary=")[2]
    again = _form(boundary, [sent.after(b"")])
    assert isinstance(again, list), again
    assert [part.name for part in again] == ["request"] + ["file"] * len(request.media)
    assert [part.data for part in again[1:]] == [media.data for media in request.media]
    assert again[0].data == (request.text or "").encode()
