"""The client of the two remote APIs over TLS."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import aclosing

import pytest
import trustme

from gateway.errors import Code, UpstreamFailed, UpstreamTimeout
from tests.support.http_api import (
    FLOOD,
    HEAD,
    LIMIT_S,
    SMALL,
    WAYS,
    Way,
    api,
    flood,
    large,
    listening,
    nothing_left,
    post,
    sending,
    settled,
)
from tests.support.remote import remote
from tests.support.scripts import answering

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("way", WAYS)
async def test_over_tls_all_is_as_without_it(authority: trustme.CA, way: Way) -> None:
    text = b"hello" * 100_000
    async with (
        remote(answering(text), server_tls(authority)) as far,
        api(far.url, tls=client_tls(authority)) as given,
    ):
        for body in (SMALL, large(8), SMALL):
            with await post(given, body) as answer:
                assert await way(answer) == text
        assert far.open_connections == 1
        assert len(far.seen[1].body) == 8 * 256 * 1024


async def test_over_tls_a_slow_reader_holds_the_upstream_back(authority: trustme.CA) -> None:
    async with (
        remote(flood, server_tls(authority)) as far,
        api(far.url, tls=client_tls(authority)) as given,
    ):
        with await post(given) as answer:
            async with aclosing(answer.pieces()) as pieces:
                length = len(await anext(pieces))
                assert await settled(lambda: len(far.seen[0].body)) < 320
                async for piece in pieces:
                    length += len(piece)
    assert length == len(FLOOD)


@pytest.mark.parametrize("trusted", [True, False], ids=["another name", "an unknown authority"])
async def test_a_certificate_that_does_not_prove_it_fails(
    authority: trustme.CA, trusted: bool
) -> None:
    tls = server_tls(authority, "api.example" if trusted else "127.0.0.1")
    async with (
        remote(answering(b"{}"), tls) as far,
        api(far.url, tls=client_tls(authority) if trusted else None) as given,
    ):
        words = "is for another name" if trusted else "comes from a CA that is not trusted"
        with pytest.raises(UpstreamFailed, match=f"upstream far: its certificate {words}") as info:
            await post(given)
        assert info.value.code == Code.UPSTREAM_UNREACHABLE
        assert far.seen == []


async def test_over_tls_an_answer_without_a_length_ends_with_its_connection(
    authority: trustme.CA,
) -> None:
    async with (
        remote(sending(HEAD + b"\r\nhello", close=True), server_tls(authority)) as far,
        api(far.url, tls=client_tls(authority)) as given,
    ):
        with await post(given) as answer:
            assert await answer.read() == b"hello"


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "connect_s"])
async def test_a_handshake_that_nobody_answers_is_given_up(cancel: bool) -> None:
    accepted, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        gone.set()

    async with listening(silent) as url, api(url.replace("http", "https")) as given:
        asking = asyncio.create_task(
            given.get("/", request_id="r", connect_s=LIMIT_S if cancel else 0.1)
        )
        await accepted.wait()
        if cancel:
            asking.cancel()
        error: type[BaseException] = asyncio.CancelledError if cancel else UpstreamTimeout
        with pytest.raises(error):
            await asking
        await gone.wait()
