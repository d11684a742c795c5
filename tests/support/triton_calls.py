"""Calls of a Triton upstream, as short as tests want them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gateway.errors import GatewayError
from gateway.model import Delta, Event, Media, Request
from gateway.transform import Bounds, compile_expression
from gateway.upstreams.base import Call
from gateway.upstreams.triton import TritonUpstream


def call(
    model: str,
    *files: bytes,
    inputs: dict[str, Any] | None = None,
    output: str | None = None,
    **request: Any,
) -> Call:
    """A call; an input that is no string is that value itself."""
    media = tuple(Media(f"media-{n}", data, "image/png") for n, data in enumerate(files, 1))
    expressions = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in (inputs or {}).items()
    }
    return Call(
        request=Request(pipeline="route", request_id="req-1", media=media, **request),
        pipeline=model,
        actor="triton",
        inputs={
            name: compile_expression(text, bounds=Bounds()) for name, text in expressions.items()
        },
        output=None if output is None else compile_expression(output, bounds=Bounds()),
    )


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@contextlib.asynccontextmanager
async def upstream_at(url: str, **options: Any) -> AsyncIterator[TritonUpstream]:
    bounds = {"answer_bytes_max": 8 * 1024 * 1024, "event_bytes_max": 1024 * 1024, **options}
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        upstream = TritonUpstream("gpu", url, session=session, **bounds)
        try:
            yield upstream
        finally:
            await upstream.close()


async def run(upstream: TritonUpstream, made: Call) -> list[Event]:
    return [event async for event in upstream.stream(made)]


async def fails(upstream: TritonUpstream, made: Call) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await run(upstream, made)
    return caught.value


def texts(events: list[Event]) -> list[str]:
    assert all(isinstance(event, Delta) for event in events)
    return [event.message for event in events if isinstance(event, Delta)]


def message(text: str) -> Delta:
    return Delta("triton", text, "0", finished=True, last_layer=True)
