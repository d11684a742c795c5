"""The own gRPC client on real sockets: against gRPC's own server, and against a scripted one."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme

from gateway.upstreams.grpc_call import Call, CallFailed, Code, Lost, MessageTooLong, NotGrpc
from gateway.upstreams.grpc_client import Channel
from tests.support.http2_server import HEAD, OK, Asked, Server, framed, http2_server
from tests.support.timing import patience, until

PATH = "/test.Service/Echo"


@asynccontextmanager
async def channel(port: int, **options: Any) -> AsyncIterator[Channel]:
    bounds = {"tls": None, "agent": "test", "message_bytes_max": 8 * 1024 * 1024, **options}
    made = Channel("127.0.0.1", port, **bounds)
    try:
        yield made
    finally:
        await made.close()


async def ask(
    made: Channel, *message: bytes, metadata: bytes = b"", connect_s: float = 10
) -> bytes:
    async with patience():
        return await made.unary(
            made.method(PATH), metadata, message or (b"hello",), connect_s=connect_s
        )


async def fails(made: Channel, **options: Any) -> Exception:
    with pytest.raises((CallFailed, Lost, MessageTooLong, NotGrpc, OSError)) as caught:
        await ask(made, **options)
    return caught.value


@asynccontextmanager
async def served(
    handler: Any, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[int]:
    """gRPC's own server, with ``handler`` for every method."""

    class Every(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return handler

    big = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=big)
    server.add_generic_rpc_handlers((Every(),))
    port = (
        server.add_insecure_port("127.0.0.1:0")
        if credentials is None
        else server.add_secure_port("127.0.0.1:0", credentials)
    )
    await server.start()
    try:
        yield int(port)
    finally:
        await server.stop(None)


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def test_large_messages_go_both_ways_byte_for_byte() -> None:
    message = os.urandom(5_000_000)
    async with (
        served(grpc.unary_unary_rpc_method_handler(echo)) as port,
        channel(port) as made,
    ):
        assert await ask(made, message[:7], message[7:3_000_000], message[3_000_000:]) == message
        assert await ask(made, b"") == b""


async def test_calls_run_side_by_side() -> None:
    together = asyncio.Barrier(200)

    async def meet(request: bytes, context: Any) -> bytes:
        await together.wait()
        return request

    async with (
        served(grpc.unary_unary_rpc_method_handler(meet)) as port,
        channel(port) as made,
    ):
        messages = [str(number).encode() for number in range(200)]
        assert await asyncio.gather(*(ask(made, one) for one in messages)) == messages


async def test_whoever_leaves_has_the_call_cancelled_at_the_server() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()
        return b""

    async with (
        served(grpc.unary_unary_rpc_method_handler(wait)) as port,
        channel(port) as made,
    ):
        waiting = asyncio.create_task(ask(made))
        await begun.wait()
        waiting.cancel()
        async with patience():
            await cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_stream_that_nobody_takes_from_holds_its_server_back() -> None:
    sent = 0
    piece = bytes(250_000)

    async def pour(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield piece

    async with (
        served(grpc.unary_stream_rpc_method_handler(pour)) as port,
        channel(port) as made,
    ):
        messages = made.stream(made.method(PATH), b"", [b"x"], connect_s=10)
        async with patience(), aclosing(messages):
            assert await anext(messages) == piece
            before = -1
            while sent > before:  # until it stands still
                before = sent
                await asyncio.sleep(0.2)
            assert sent < 50
            assert [len(one) async for one in messages] == [len(piece)] * 99


async def test_over_tls_with_who_is_trusted_and_with_nobody_else() -> None:
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    pair = (own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_server_credentials([pair])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    trusting.set_alpn_protocols(["h2"])
    doubting = ssl.create_default_context()
    doubting.set_alpn_protocols(["h2"])
    async with served(grpc.unary_unary_rpc_method_handler(echo), credentials) as port:
        async with channel(port, tls=trusting) as made:
            assert await ask(made) == b"hello"
        async with channel(port, tls=doubting) as made:
            assert isinstance(await fails(made), ssl.SSLError)


async def test_a_server_that_agrees_to_no_http2_is_not_spoken_to() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    trusting.set_alpn_protocols(["h2"])

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
    async with server, channel(server.sockets[0].getsockname()[1], tls=trusting) as made:
        assert "does not speak HTTP/2" in str(await fails(made))


# From here on, the server is scripted.


async def answer(asked: Asked) -> None:
    asked.answer()


async def test_calls_that_a_server_has_no_room_for_wait_for_their_turn() -> None:
    running: list[Asked] = []

    async def one_by_one(asked: Asked) -> None:
        running.append(asked)
        assert len(running) == 1
        await asyncio.sleep(0.01)
        running.remove(asked)
        asked.answer()

    async with http2_server(one_by_one, at_once=1) as server, channel(server.port) as made:
        calls = [asyncio.create_task(ask(made)) for _ in range(6)]
        await until(lambda: server.calls)
        calls[2].cancel()
        calls[3].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in answers] == [
        False, False, True, True, False, False,
    ]  # fmt: skip
    assert answers[0] == answers[5] == b"hi"
    assert len(server.connections) == 1


async def test_whoever_asks_again_and_again_lets_others_have_their_turn() -> None:
    answered: list[str] = []

    async def greedy() -> None:
        for _ in range(20):
            await ask(made)
            answered.append("greedy")

    async def modest() -> None:
        await ask(made)
        answered.append("modest")

    async with http2_server(answer, at_once=1) as server, channel(server.port) as made:
        await asyncio.gather(greedy(), modest(), modest())
    assert "modest" not in answered[5:]


async def test_those_who_wait_for_a_turn_in_vain_leave_nothing_behind() -> None:
    async def never(asked: Asked) -> None:
        await asyncio.sleep(3600)

    def futures() -> int:
        return sum(type(each) is asyncio.Future for each in gc.get_objects())

    async with http2_server(never, at_once=1) as server, channel(server.port) as made:
        first = asyncio.create_task(fails(made))
        await until(lambda: server.calls)
        before = futures()
        for _ in range(100):
            waiting = asyncio.create_task(ask(made))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert futures() < before + 50
        await made.close()
        await first


async def test_who_waits_for_a_turn_on_a_connection_that_is_lost_goes_to_the_next() -> None:
    async def lost_at_first(asked: Asked) -> None:
        if len(server.connections) == 1:
            await asyncio.sleep(0.01)
            asked.connection.transport.abort()
        else:
            asked.answer()

    async with http2_server(lost_at_first, at_once=1) as server, channel(server.port) as made:
        calls = [asyncio.create_task(ask(made)) for _ in range(3)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], Lost)
    assert answers[1:] == [b"hi", b"hi"]


def refusing(times: int, how: Callable[[Asked], None]) -> Callable[[Asked], Awaitable[None]]:
    left = times

    async def script(asked: Asked) -> None:
        nonlocal left
        if left:
            left -= 1
            how(asked)
        else:
            asked.answer()

    return script


HOWS: dict[str, Callable[[Asked], None]] = {
    "reset as refused": lambda asked: asked.reset(7),
    "going away": lambda asked: asked.connection.go_away(0),
}


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
async def test_a_call_that_nobody_heard_is_asked_once_more(how: Callable[[Asked], None]) -> None:
    async with http2_server(refusing(1, how)) as server, channel(server.port) as made:
        assert await ask(made) == b"hi"
        assert server.calls == 2
    async with http2_server(refusing(1, how)) as server, channel(server.port) as made:
        messages = made.stream(made.method(PATH), b"", [b"x"], connect_s=10)
        assert [one async for one in messages] == [b"hi"]
        assert server.calls == 2
    async with http2_server(refusing(2, how)) as server, channel(server.port) as made:
        error = await fails(made)
        assert isinstance(error, CallFailed)
        assert error.code is Code.UNAVAILABLE
        assert server.calls == 2


async def test_a_stream_that_nobody_hears_twice_fails() -> None:
    script = refusing(2, HOWS["reset as refused"])
    async with http2_server(script) as server, channel(server.port) as made:
        with pytest.raises(CallFailed):
            await anext(made.stream(made.method(PATH), b"", [b"x"], connect_s=10))


def odd(*steps: Any) -> Callable[[Asked], None]:
    """What a server sends, step by step: fields, or bytes of the body."""

    def script(asked: Asked) -> None:
        for number, step in enumerate(steps):
            end = number == len(steps) - 1
            if isinstance(step, bytes):
                asked.data(step, end=end)
            else:
                asked.head(*step, end=end)

    return script


def refused_after_all(asked: Asked) -> None:
    asked.head()
    asked.reset(7)


FAILING: list[tuple[str, Callable[[Asked], None], type[Exception], str]] = [
    ("a status", odd(HEAD, (("grpc-status", "5"), ("grpc-message", "no%20m%C3%B6del"))),
     CallFailed, "NOT_FOUND: no mödel"),
    ("a status at once", odd((*HEAD, ("grpc-status", "14"))), CallFailed, "UNAVAILABLE: "),
    ("a status that is none", odd((*HEAD, ("grpc-status", "99"))), CallFailed, "UNKNOWN: "),
    ("a proxy's page", odd(((":status", "503"), ("content-type", "text/html")), b"<p>"),
     CallFailed, "UNAVAILABLE: answered 503"),
    ("a proxy's other page", odd(((":status", "418"),)), CallFailed, "UNKNOWN: answered 418"),
    ("a page", odd(((":status", "200"), ("content-type", "text/html")), b"<p>"), NotGrpc,
     "does not speak gRPC"),
    ("no status", odd(HEAD, framed(b"hi")), NotGrpc, "ended without a status"),
    ("no message", odd(HEAD, OK), NotGrpc, "answered a call with 0 messages"),
    ("two messages", odd(HEAD, framed(b"a") + framed(b"b"), OK), NotGrpc, "with 2 messages"),
    ("half a message", odd(HEAD, framed(b"abc")[:-1], OK), NotGrpc, "in the middle of a message"),
    ("a compressed one", odd(HEAD, framed(b"a", compressed=True), OK), NotGrpc, "compressed"),
    ("one too long", odd(HEAD, b"\0\0\x80\0\x01", OK), MessageTooLong, ""),
    ("a reset", lambda asked: asked.reset(2), CallFailed, "INTERNAL: reset the call"),
    ("a cancellation", lambda asked: asked.reset(8), CallFailed, "CANCELLED: "),
    ("too many", lambda asked: asked.reset(11), CallFailed, "RESOURCE_EXHAUSTED: "),
    ("not secure", lambda asked: asked.reset(12), CallFailed, "PERMISSION_DENIED: "),
    ("a refusal after a head", refused_after_all, CallFailed, "UNAVAILABLE: "),
    ("an end", lambda asked: asked.connection.transport.abort(), Lost, ""),
    ("nonsense", lambda asked: asked.connection.transport.write(b"HTTP/1.1 400 What\r\n"), NotGrpc,
     "does not speak HTTP/2 as it should"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("how", "kind", "said"), [case[1:] for case in FAILING], ids=[case[0] for case in FAILING]
)
async def test_a_call_that_fails_says_how(
    how: Callable[[Asked], None], kind: type[Exception], said: str
) -> None:
    async def script(asked: Asked) -> None:
        how(asked)

    async with http2_server(script) as server, channel(server.port) as made:
        error = await fails(made)
        assert type(error) is kind
        assert said in str(error)
        assert server.calls == 1
        server.script = answer
        assert await ask(made) == b"hi"  # the next one is none the worse for it


async def test_news_before_the_answer_are_passed_over_and_pieces_come_as_they_like() -> None:
    async def script(asked: Asked) -> None:
        asked.head((":status", "103"), ("link", "x"))
        asked.head()
        for byte in framed(b"one") + framed(b"") + framed(b"three"):
            asked.data(bytes((byte,)))
        asked.head(*OK, end=True)

    async with http2_server(script) as server, channel(server.port) as made:
        messages = made.stream(made.method(PATH), b"", [b"x"], connect_s=10)
        assert [one async for one in messages] == [b"one", b"", b"three"]


async def test_a_call_for_one_message_ends_where_more_come_than_that() -> None:
    cancelled: list[Asked] = []

    async def pour(asked: Asked) -> None:
        asked.head()
        asked.data(framed(b"again") * 3)
        await asked.gone.wait()
        cancelled.append(asked)

    async with http2_server(pour) as server, channel(server.port) as made:
        assert "2 messages or more" in str(await fails(made))
        await until(lambda: cancelled)


def test_messages_of_nothing_hold_their_server_back_too() -> None:
    class Counting:
        count = 0

        def taken(self, call: Call, count: int) -> None:
            self.count += count

    carrier = Counting()
    call = Call(carrier, 1000, whole=False)
    for _ in range(50):
        call.on_data(framed(b"") * 3000)
    assert carrier.count < 300_000
    while call.messages:
        call.take()
    assert carrier.count == 50 * 15_000


async def test_a_stream_that_is_closed_is_cancelled() -> None:
    closed: list[Asked] = []

    async def script(asked: Asked) -> None:
        asked.head()
        asked.data(framed(b"one"))
        await asked.gone.wait()
        closed.append(asked)

    async with http2_server(script) as server, channel(server.port) as made:
        messages = made.stream(made.method(PATH), b"", [b"x"], connect_s=10)
        assert await anext(messages) == b"one"
        await messages.aclose()
        await until(lambda: closed)


async def test_a_silent_server_is_pinged_and_waited_for_while_it_answers_that() -> None:
    async def script(asked: Asked) -> None:
        await until(lambda: asked.connection.pings >= 2)
        asked.answer()

    async with (
        http2_server(script) as server,
        channel(server.port, keepalive_s=0.05, keepalive_answer_s=2) as made,
    ):
        assert await ask(made) == b"hi"


async def test_a_server_that_answers_no_ping_is_given_up() -> None:
    async def script(asked: Asked) -> None:
        asked.connection.deaf = True

    async with (
        http2_server(script) as server,
        channel(server.port, keepalive_s=0.05, keepalive_answer_s=0.05) as made,
    ):
        assert isinstance(await fails(made), Lost)


async def test_nobody_is_pinged_where_nobody_waits() -> None:
    async with (
        http2_server(answer) as server,
        channel(server.port, keepalive_s=0.05, keepalive_answer_s=0.05) as made,
    ):
        for _ in range(4):
            await ask(made)
            await asyncio.sleep(0.1)
        assert len(server.connections) == 1
        assert server.connections[0].pings == 0


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async with http2_server(answer) as server, channel(server.port) as made:
        for _ in range(3):
            assert await ask(made) == b"hi"
            server.connections[-1].transport.close()
            await asyncio.sleep(0.05)
        assert len(server.connections) == 3


async def test_a_server_that_goes_away_still_answers_what_it_heard() -> None:
    async def script(asked: Asked) -> None:
        asked.connection.go_away(asked.stream)
        # By now the library itself would say no more on this connection.
        asked.connection.transport.write(
            bytes.fromhex("00000101040000") + asked.stream.to_bytes(2, "big") + b"\x88"
            + bytes.fromhex("00000700000000") + asked.stream.to_bytes(2, "big") + framed(b"hi")
            + bytes.fromhex("00000f01050000") + asked.stream.to_bytes(2, "big")
            + b"\x00\x0bgrpc-status\x010"
        )  # fmt: skip

    async with http2_server(script) as server, channel(server.port) as made:
        assert await ask(made) == b"hi"
        assert await ask(made) == b"hi"
        assert len(server.connections) == 2


async def test_a_server_that_goes_away_at_once_is_not_asked_but_the_next_one_is() -> None:
    async with http2_server(answer) as server, channel(server.port) as made:
        server.leaving = 2
        assert await ask(made) == b"hi"
        assert len(server.connections) == 3
        assert server.calls == 1


async def test_a_server_that_says_nothing_is_waited_for_no_longer_than_that() -> None:
    async with http2_server(answer, mute=True) as server, channel(server.port) as made:
        calls = (ask(made, connect_s=0.1) for _ in range(3))
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, TimeoutError)
        await until(lambda: all(one.transport.is_closing() for one in server.connections))


async def test_a_server_that_hangs_up_before_it_spoke_was_not_reached() -> None:
    def hang_up(server: Server) -> None:
        for connection in server.connections:
            connection.transport.close()

    async with http2_server(answer, mute=True) as server, channel(server.port) as made:
        asking = asyncio.create_task(fails(made))
        await until(lambda: server.connections)
        hang_up(server)
        error = await asking
    assert isinstance(error, OSError)
    assert error.strerror == "closed before it had spoken"


async def test_all_who_need_a_connection_wait_for_the_same_and_fail_with_it() -> None:
    reached = 0

    def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal reached
        reached += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, channel(server.sockets[0].getsockname()[1]) as made:
        for error in await asyncio.gather(*(fails(made) for _ in range(50))):
            assert isinstance(error, OSError)
        assert reached == 1
        await fails(made)
        assert reached == 2


async def test_a_connection_is_made_for_the_others_too_where_the_first_has_left() -> None:
    async with http2_server(answer, mute=True) as server, channel(server.port) as made:
        first = asyncio.create_task(ask(made))
        second = asyncio.create_task(ask(made))
        await until(lambda: server.connections)
        first.cancel()
        await asyncio.wait([first])
        server.mute = False
        server.connections[0].connection_made(server.connections[0].transport)
        assert await second == b"hi"


async def test_a_server_that_always_goes_away_at_once_is_not_asked_for_ever() -> None:
    async with http2_server(answer) as server, channel(server.port) as made:
        server.leaving = 1000
        assert "goes away" in str(await fails(made))
        assert len(server.connections) == 3


async def test_a_channel_that_is_closed_while_it_connects_is_closed() -> None:
    async with http2_server(answer, mute=True) as server, channel(server.port) as made:
        asking = asyncio.create_task(fails(made))
        await until(lambda: server.connections)
        await made.close()
        assert isinstance(await asking, Lost)
        assert isinstance(await fails(made), Lost)
        await until(server.connections[0].transport.is_closing)
        assert len(server.connections) == 1


async def test_nobody_listening_is_told_at_once() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    async with channel(port) as made:
        assert isinstance(await fails(made), ConnectionRefusedError)


async def test_calls_that_run_when_the_channel_is_closed_end() -> None:
    async def never(asked: Asked) -> None:
        await asyncio.sleep(3600)

    async with http2_server(never) as server, channel(server.port) as made:
        asking = asyncio.create_task(fails(made))
        await until(lambda: server.calls)
        await made.close()
        assert isinstance(await asking, Lost)
