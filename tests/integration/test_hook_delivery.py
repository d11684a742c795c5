"""One message on its way to a webhook: what arrives, what its answer means, where it never goes."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hmac
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from time import time
from typing import Any

import pytest
import trustme
from msgspec.structs import replace
from standardwebhooks import Webhook

from gateway.errors import RequestRejected
from gateway.executions.hook_addresses import Lookup, Names, checked_endpoint
from gateway.executions.hook_definitions import Definition, PayloadType
from gateway.executions.hook_delivery import Answer, Courier, Meaning
from gateway.executions.records import Delivery, HookEvent, Key, Status
from gateway.model import Media
from gateway.sections import HooksConfig
from gateway.upstreams.outgoing import Body
from tests.support.http_api import listening, nothing_left
from tests.support.leftovers import peak_bytes
from tests.support.remote import Peer, Remote, Script, Seen, remote
from tests.support.timing import patience, until

pytestmark = pytest.mark.usefixtures(nothing_left.__name__)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
LOOPBACK = ("127.0.0.0/8",)
MESSAGE = Delivery(
    "msg_1",
    "hook-1",
    Key("tenant", "execution-1"),
    HookEvent.STATUS_CHANGE,
    Status.COMPLETED,
    1_700_000_000.0,
)
TEXT = Body("application/json", [b'{"documents":[]}'])


async def unknown(host: str) -> Sequence[str]:
    raise OSError("there are no names here")


def names(*answers: Sequence[str]) -> Lookup:
    """What a name means, each time it is asked for; the last one for good."""
    left = list(answers)

    async def lookup(host: str) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return lookup


@asynccontextmanager
async def courier(
    *,
    allow: Sequence[str] = LOOPBACK,
    lookup: Lookup = unknown,
    timeout_s: float = 20.0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Courier]:
    section = HooksConfig(allow_networks=tuple(allow), timeout_s=timeout_s)
    made = Courier(section, lookup=lookup, wall=time, tls=tls)
    try:
        async with patience():
            yield made
    finally:
        await made.close()


def hook(endpoint: str, **fields: Any) -> Definition:
    return Definition(
        event_type=HookEvent.STATUS_CHANGE, endpoint=endpoint, secret=SECRET, **fields
    )


def answering(status: str = "200 OK", *headers: str, body: bytes = b"") -> Script:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(body, status, headers=headers)

    return script


async def sent(status: str, *headers: str) -> Answer:
    """What an answer is taken for."""
    async with remote(answering(status, *headers)) as far, courier() as given:
        answer = await given.send(hook(f"{far.url}/hook"), MESSAGE, TEXT)
        assert len(far.seen) == 1
        return answer


async def arrived(body: Body = TEXT, message: Delivery = MESSAGE, **fields: Any) -> Seen:
    """A message as it arrives."""
    async with remote(answering()) as far, courier() as given:
        answer = await given.send(hook(f"{far.url}/hook?token=x", **fields), message, body)
        assert answer == Answer(Meaning.DELIVERED, "answered 200")
        [seen] = far.seen
        return seen


async def test_a_message_arrives_signed_and_says_what_it_is_of() -> None:
    seen = await arrived(headers={"Authorization": "Bearer abc", "user-agent": "mine"})
    assert (seen.method, seen.path) == ("POST", "/hook?token=x")
    assert seen.body == b'{"documents":[]}'
    assert Webhook(SECRET).verify(seen.body, seen.headers) == {"documents": []}
    expected = {
        "content-type": "application/json",
        "content-length": "16",
        "authorization": "Bearer abc",
        "user-agent": "mine",
        "accept-encoding": "identity",
        "webhook-id": "msg_1",
        "x-execution-id": "execution-1",
        "x-execution-status": "COMPLETED",
        "x-hook-id": "hook-1",
        "x-hook-event": "STATUS_CHANGE",
    }
    assert {name: seen.headers[name] for name in expected} == expected
    assert abs(int(seen.headers["webhook-timestamp"]) - time()) < 60


async def test_what_has_no_status_says_none() -> None:
    seen = await arrived(message=replace(MESSAGE, status=None))
    assert "x-execution-status" not in seen.headers
    assert seen.headers["user-agent"].startswith("pipeline-gateway/")


async def test_both_secrets_sign_while_they_rotate() -> None:
    seen = await arrived(old_secret=OLD_SECRET, old_secret_until=time() + 3600)
    for secret in (SECRET, OLD_SECRET):
        Webhook(secret).verify(seen.body, seen.headers)
    seen = await arrived(old_secret=OLD_SECRET, old_secret_until=time() - 1)
    Webhook(SECRET).verify(seen.body, seen.headers)
    assert " " not in seen.headers["webhook-signature"]


@pytest.mark.parametrize("size", [0, 100, 3_000_000])
async def test_a_form_is_signed_as_its_bytes_are_sent(size: int) -> None:
    file = Media("media-1", b"\xff\x00\r\n" * (size // 4), "application/pdf")
    body = Body("multipart/form-data; boundary=x", [b"--x\r\n\r\n", file, b"\r\n--x--\r\n"])
    seen = await arrived(body, payload_type=PayloadType.FORM)
    assert seen.body == b"--x\r\n\r\n" + file.data + b"\r\n--x--\r\n"
    assert seen.headers["content-type"] == "multipart/form-data; boundary=x"
    assert seen.headers["content-length"] == str(len(seen.body))
    signed = f"msg_1.{seen.headers['webhook-timestamp']}.".encode() + seen.body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert seen.headers["webhook-signature"] == f"v1,{signature}"


async def test_nothing_is_kept_from_one_message_to_the_next() -> None:
    script = answering("200 OK", "Set-Cookie: a=b; Path=/")
    lookup = names(["127.0.0.1"])  # of an address no cookies would be kept in any case
    async with remote(script) as far, courier(lookup=lookup) as given:
        for _ in range(2):
            definition = hook(f"http://receiver.example:{far.port}/")
            await given.send(definition, MESSAGE, TEXT)
            await until(lambda: far.open_connections == 0)
        assert len(far.seen) == 2
        assert "cookie" not in far.seen[1].headers


async def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with remote(answering()) as far, remote(answering()) as proxy, courier() as given:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        answer = await given.send(hook(far.url), MESSAGE, TEXT)
        assert answer.meaning is Meaning.DELIVERED
        assert (len(far.seen), len(proxy.seen)) == (1, 0)


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content"])
async def test_2xx_means_that_it_has_arrived(status: str) -> None:
    assert await sent(status) == Answer(Meaning.DELIVERED, f"answered {status[:3]}")


async def test_410_means_that_nothing_is_wanted_any_more() -> None:
    assert await sent("410 Gone") == Answer(Meaning.GONE, "answered 410")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 429, 500, 502, 503, 504])
async def test_any_other_answer_is_a_failure(status: int) -> None:
    assert await sent(f"{status} No") == Answer(Meaning.FAILED, f"answered {status}")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_a_failure_and_is_never_followed(status: int) -> None:
    async with remote(answering()) as other:
        answer = await sent(f"{status} Elsewhere", f"Location: {other.url}/")
        assert answer == Answer(Meaning.FAILED, f"answered {status}")
        assert other.seen == []


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (("Retry-After: 120",), 120),
        (("Retry-After: 0",), 0),
        (("Retry-After: 604800",), 86_400),
        (("Retry-After: 9999999999",), 0),
        (("Retry-After: -5",), 0),
        (("Retry-After: soon",), 0),
        (("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT",), 0),
        (
            ("Date: Fri, 31 Dec 1999 23:58:59 GMT", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT"),
            60,
        ),
        (
            ("Date: Fri, 31 Dec 1999 23:58:59 GMT", "Retry-After: Fri, 31 Dec 1999 23:59:59 -0000"),
            60,
        ),
        (("Date: Fri, 31 Dec 1999 0:0:0 GMT", "Retry-After: Fri, 31 Dec 2049 0:0:0 GMT"), 86_400),
    ],
)
async def test_it_is_told_how_long_to_leave_the_other_side_alone(
    status: str, headers: tuple[str, ...], seconds: float
) -> None:
    assert await sent(status, *headers) == Answer(Meaning.FAILED, f"answered {status[:3]}", seconds)


async def test_a_date_counts_from_now_where_the_other_side_tells_none() -> None:
    answer = await sent("503 No", f"Retry-After: {formatdate(time() + 600, usegmt=True)}")
    assert 540 < answer.retry_after_s <= 600


async def test_only_429_and_503_ask_for_patience() -> None:
    assert (await sent("500 No", "Retry-After: 120")).retry_after_s == 0


async def test_an_endpoint_that_says_nothing_has_failed() -> None:
    async def silent(seen: Seen, peer: Peer) -> None:
        await seen.gone.wait()

    async with remote(silent) as far, courier(timeout_s=0.2) as given:
        answer = await given.send(hook(far.url), MESSAGE, TEXT)
        assert answer == Answer(Meaning.FAILED, "no answer within 0.2 s")
        await until(lambda: far.open_connections == 0)


async def test_an_answer_that_drips_counts_by_its_status() -> None:
    async def dripping(seen: Seen, peer: Peer) -> None:
        await peer.open_stream("text/plain")
        while not seen.gone.is_set():
            await peer.chunk(b".")
            await asyncio.sleep(0.01)

    async with remote(dripping) as far, courier(timeout_s=0.5) as given:
        answer = await given.send(hook(far.url), MESSAGE, TEXT)
        assert answer == Answer(Meaning.DELIVERED, "answered 200")
        await until(lambda: far.open_connections == 0)


async def test_of_an_endless_answer_little_is_read() -> None:
    written = 0

    async def endless(seen: Seen, peer: Peer) -> None:
        nonlocal written
        await peer.open_stream("text/plain")
        while not seen.gone.is_set():
            await peer.chunk(bytes(65_536))
            written += 65_536

    async with remote(endless) as far, courier() as given:
        assert (await given.send(hook(far.url), MESSAGE, TEXT)).meaning is Meaning.DELIVERED
        await until(lambda: far.open_connections == 0)
    assert written < 16 * 1024 * 1024  # what the system holds of it


async def test_an_answer_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(60_000_000))
    assert len(bomb) < 64 * 1024
    script = answering("200 OK", "Content-Encoding: gzip", body=bomb)
    before = peak_bytes(begin=True)
    async with remote(script) as far, courier() as given:
        assert (await given.send(hook(far.url), MESSAGE, TEXT)).meaning is Meaning.DELIVERED
    assert peak_bytes() < before + 30_000_000


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "broke off (ServerDisconnectedError)"),
        (b"HTTP/1.1 200", "broke off (ServerDisconnectedError)"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "its answer is not HTTP"),
    ],
)
async def test_an_endpoint_that_breaks_off_has_failed(data: bytes, why: str) -> None:
    async def broken(seen: Seen, peer: Peer) -> None:
        await peer.send(data)
        peer.writer.close()

    async with remote(broken) as far, courier() as given:
        assert await given.send(hook(far.url), MESSAGE, TEXT) == Answer(Meaning.FAILED, why)


async def test_an_endpoint_that_is_not_there_has_failed() -> None:
    async with remote(answering()) as far:
        pass
    async with courier() as given:
        answer = await given.send(hook(f"{far.url}/secret"), MESSAGE, TEXT)
        assert answer.meaning is Meaning.FAILED
        assert answer.why.startswith("cannot be reached: ")
        assert "secret" not in answer.why
        answer = await given.send(hook("http://nobody.example/"), MESSAGE, TEXT)
        assert answer == Answer(Meaning.FAILED, "its host cannot be found")


def server_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_a_certificate_must_hold() -> None:
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    lookup = names(["127.0.0.1"])
    async with remote(answering(), server_tls(authority, "receiver.example")) as far:
        right = hook(f"https://receiver.example:{far.port}/")
        wrong = hook(f"https://other.example:{far.port}/")
        async with courier(lookup=lookup, tls=trusting) as given:
            assert (await given.send(right, MESSAGE, TEXT)).meaning is Meaning.DELIVERED
            answer = await given.send(wrong, MESSAGE, TEXT)
            assert answer == Answer(Meaning.FAILED, "its certificate does not hold")
        async with courier(lookup=lookup) as given:
            answer = await given.send(right, MESSAGE, TEXT)
            assert answer == Answer(Meaning.FAILED, "its certificate does not hold")
        assert len(far.seen) == 1


@asynccontextmanager
async def unvisited() -> AsyncIterator[str]:
    """The port of a server on the loopback that nobody must connect to."""
    visits = 0

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1

    async with listening(visited) as url:
        yield url.rpartition(":")[2]
        await asyncio.sleep(0.05)  # one that was made would have been taken by now
    assert visits == 0


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_connection_is_made_to_what_is_not_allowed(scheme: str, host: str) -> None:
    async with unvisited() as port, courier(allow=(), lookup=Names()) as given:
        answer = await given.send(hook(f"{scheme}://{host}:{port}/"), MESSAGE, TEXT)
        if host in ("127.1", "2130706433"):
            assert answer == Answer(Meaning.FAILED, "its URL cannot be used")
        else:
            assert answer.meaning is Meaning.REFUSED
            assert answer.why.startswith("its host is at an address that is ")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("name", ["receiver.example", "receiver.example.", "localhost"])
async def test_nor_by_a_name_that_leads_there(name: str, address: str) -> None:
    async with unvisited() as port, courier(allow=(), lookup=names([address])) as given:
        answer = await given.send(hook(f"http://{name}:{port}/"), MESSAGE, TEXT)
        assert answer == Answer(Meaning.REFUSED, "its host is at an address that is loopback")


async def test_nor_where_it_leads_to_several_such_places() -> None:
    lookup = names(["::1", "127.0.0.1", "10.255.255.1"])
    async with unvisited() as port, courier(allow=(), lookup=lookup) as given:
        answer = await given.send(hook(f"http://receiver.example:{port}/"), MESSAGE, TEXT)
        assert answer == Answer(Meaning.REFUSED, "its host is at an address that is loopback")


async def test_a_name_that_comes_to_mean_something_else_is_refused_then() -> None:
    lookup = names(["93.184.215.14"], ["127.0.0.1"])
    async with unvisited() as port, courier(allow=(), lookup=lookup) as given:
        url = await checked_endpoint(f"http://rebound.example:{port}/", (), lookup)
        answer = await given.send(hook(url), MESSAGE, TEXT)
        assert answer == Answer(Meaning.REFUSED, "its host is at an address that is loopback")
        with pytest.raises(RequestRejected, match="loopback"):
            await checked_endpoint(url, (), lookup)


async def test_a_name_is_asked_for_its_meaning_at_each_message() -> None:
    async with remote(answering()) as far:
        lookup = names(["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"])
        async with courier(lookup=lookup) as given:
            definition = hook(f"http://receiver.example:{far.port}/")
            meanings = [(await given.send(definition, MESSAGE, TEXT)).meaning for _ in range(3)]
    assert meanings == [Meaning.DELIVERED, Meaning.REFUSED, Meaning.DELIVERED]
    assert far.seen[0].headers["host"] == f"receiver.example:{far.port}"


async def test_of_a_name_s_addresses_only_those_that_are_allowed_are_tried() -> None:
    lookup = names(["10.255.255.1", "::1", "127.0.0.1"])
    async with remote(answering()) as far, courier(lookup=lookup) as given:
        answer = await given.send(hook(f"http://receiver.example:{far.port}/"), MESSAGE, TEXT)
        assert answer.meaning is Meaning.DELIVERED


async def test_nothing_is_said_to_another_than_the_address_was_of() -> None:
    # To the system 0.0.0.0 is another word for 127.0.0.1: the address is allowed, the peer is not.
    async with remote(answering()) as far, courier(allow=["0.0.0.0/32"]) as given:
        answer = await given.send(hook(f"http://0.0.0.0:{far.port}/"), MESSAGE, TEXT)
        assert answer == Answer(Meaning.REFUSED, "its host is at an address that is loopback")
        await until(lambda: far.open_connections == 0)
        assert far.seen == []


async def test_messages_go_side_by_side() -> None:
    waiting = asyncio.Barrier(8)

    async def together(seen: Seen, peer: Peer) -> None:
        await waiting.wait()
        await peer.answer(b"")

    async def one(given: Courier, far: Remote) -> Answer:
        return await given.send(hook(far.url), MESSAGE, TEXT)

    async with remote(together) as far, courier() as given:
        answers = await asyncio.gather(*(one(given, far) for _ in range(8)))
        assert {answer.meaning for answer in answers} == {Meaning.DELIVERED}
