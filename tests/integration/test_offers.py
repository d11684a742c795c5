"""Requests that offer another protocol, whose end the parser takes for that of everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.integration.test_smuggling import (
    CHUNKS,
    CONFIG,
    HIDDEN,
    NEXT,
    REST,
    START,
    ids,
    read_answers,
    read_ended,
)
from tests.support.raw import raw
from tests.support.remote import Remote, remote
from tests.support.running import gateway
from tests.support.scripts import cambrion_script

OFFER = (
    START + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
)
#: A head whose body is the hidden request: where it is thrown away, that is one.
AROUND = START + b"Content-Length: %d\r\n\r\n" % len(HIDDEN)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Remote, str]]:
    async with remote(cambrion_script) as far, gateway(CONFIG.format(url=far.url)) as base:
        yield far, base


async def read_so_far(base: str) -> None:
    """Return once the gateway has read what was sent before."""
    async with raw(base) as other:
        await other.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_answers(other, 1)


@pytest.mark.parametrize(
    "rest",
    [REST, b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS],
    ids=["", "no body", "chunks"],
)
@pytest.mark.parametrize("apart", [0, 1, 2, 3, 14, 60])
async def test_what_comes_in_one_read_with_the_end_of_an_offer_is_never_read_in_part(
    rest: bytes, apart: int
) -> None:
    whole = OFFER + rest
    cut = len(whole) - apart
    async with running() as (far, base), raw(base) as connection:
        first = (whole[:cut], whole[cut:] + AROUND) if apart else (whole + AROUND,)
        for piece in (*first, HIDDEN):
            with suppress(ConnectionError):
                await connection.send(piece)
            await read_so_far(base)
        assert ids(far) == []
        assert len(await read_ended(connection)) == 1
        assert ids(far) == []


@pytest.mark.parametrize("apart", [0, 5, 12, 40])
async def test_an_offer_with_nothing_behind_it_keeps_its_connection_however_it_is_cut(
    apart: int,
) -> None:
    whole = OFFER + REST
    async with running() as (far, base), raw(base) as connection:
        for _ in range(3):
            await connection.send(whole[: len(whole) - apart])
            if apart:
                await read_so_far(base)
                await connection.send(whole[len(whole) - apart :])
            assert await read_answers(connection, 1) == [200]
        await connection.send(NEXT)
        assert await read_answers(connection, 1) == [200]
        assert ids(far) == ["next"]
