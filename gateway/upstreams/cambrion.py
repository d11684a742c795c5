"""Upstreams in Cambrion's dialect: one executeSync, answered by an observation.

Owns: the outgoing body of that call and the reading of its answer.
Does not know: who asked, or in which dialect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import msgspec

from gateway.model import Event, Media, ObservationReady
from gateway.upstreams.base import Call
from gateway.upstreams.http import HttpApi
from gateway.upstreams.outgoing import Body


class _Answer(msgspec.Struct, rename="camel"):
    observation: msgspec.Raw
    execution_id: str | None = None


# From this size on an answer is read in a thread: it takes milliseconds.
_LARGE_BYTES: Final = 1024 * 1024
_answer_decoder = msgspec.json.Decoder(_Answer)


class CambrionUpstream:
    """A remote API in Cambrion's dialect."""

    kind = "cambrion"
    layered = False
    executes = True

    def __init__(self, api: HttpApi) -> None:
        self.name = api.name
        self._api = api

    async def stream(self, call: Call) -> AsyncIterator[Event]:
        """See ``Upstream.stream``. Yields one ``ObservationReady``: the dialect has no stream."""
        yield await self.call(call)

    async def call(self, call: Call) -> Event:
        """See ``Upstream.call``."""
        request = call.request
        with await self._api.post(
            _path(call.pipeline),
            _body(call),
            request_id=request.request_id,
            connect_s=call.connect_s,
            headers=request.headers,
            whole=True,
        ) as answer:
            text = await answer.read()
        if len(text) < _LARGE_BYTES:
            return self._read(text)
        return await asyncio.to_thread(self._read, text)

    def _read(self, text: bytes) -> ObservationReady:
        try:
            answer = _answer_decoder.decode(text)
            observation = bytes(answer.observation)
            if not observation.isascii():
                observation.decode()
        except (ValueError, RecursionError) as error:
            raise self._api.invalid(
                "its answer is not the JSON of {executionId, observation}"
            ) from error
        if not observation.startswith(b"{"):
            raise self._api.invalid("the observation in its answer is not an object")
        return ObservationReady(observation, execution_id=answer.execution_id)

    async def definition(self, pipeline: str, request_id: str) -> dict[str, Any]:
        """See ``Upstream.definition``: as the remote API describes it."""
        with await self._api.get(
            f"/pipelines/{quote(pipeline, safe='')}/definition",
            request_id=request_id,
            connect_s=5.0,
        ) as answer:
            text = await answer.read()
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except (ValueError, RecursionError) as error:
            raise self._api.invalid("its pipeline definition is not a JSON object") from error

    async def probe(self) -> None:
        """See ``Upstream.probe``: the list of pipelines is asked for."""
        (await self._api.get("/pipelines", request_id="ready", connect_s=2.0)).close()

    async def close(self) -> None:
        """See ``Upstream.close``."""
        await self._api.close()


@lru_cache(1024)
def _path(pipeline: str) -> str:
    return f"/pipelines/{quote(pipeline, safe='')}/executeSync"


def _body(call: Call) -> Body | bytes:
    """The JSON body; the media's base64 is made while it is sent, and never stands in memory."""
    request = call.request
    fields: dict[str, Any] = dict(call.body)
    if request.transient:
        fields["transient"] = True
    if request.idempotent:
        fields["idempotent"] = True
    if request.try_image_conversion:
        fields["tryImageConversion"] = True
    if request.try_simple_text:
        fields["trySimpleText"] = True
    text = msgspec.json.encode(fields)
    if not request.media:
        return text
    head = text[:-1]
    segments: list[bytes | Media] = [head, b'"media":["' if head == b"{" else b',"media":["']
    for index, media in enumerate(request.media):
        if index:
            segments.append(b'","')
        segments.append(media)
    segments.append(b'"]}')
    return Body("application/json", segments, base64=True)
