"""Whose an execution is: to anybody else there is none, and no ID leads anywhere but to one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio

from tests.support.client import PNG
from tests.support.gated import Reader, Talker
from tests.support.raw import raw
from tests.support.remote import remote
from tests.support.running import client, gateway

KEYS = {
    "acme-1": "tenant: acme",
    "acme-2": "tenant: acme, pipelines: [doc]",
    "other": "",
    "stranger": "tenant: elsewhere",
}
CONFIG = """
keys:
{keys}
executions: {{hooks: {{allow_networks: [127.0.0.0/8]}}}}
upstreams:
  docs: {{kind: cambrion, url: "{docs}/v1"}}
  talk: {{kind: pupau, url: "{talk}"}}
pipelines:
  doc: {{upstream: docs}}
  chat: {{upstream: talk}}
"""
SYNC = "/v1/pipelines/doc/executeSync"
ASYNC = "/v1/pipelines/doc/executeAsync"
HOOK = {"eventType": "SUBMIT", "endpoint": "http://127.0.0.1:9/"}
#: What one answer to the same request may have that another has not.
_OF_ONE_ANSWER = ("date", "x-request-id")

# One gateway serves all the tests: each uses IDs of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest_asyncio.fixture(scope="module", loop_scope="module")


def key(name: str) -> dict[str, str]:
    """The header that says who is calling."""
    return {"X-API-Key": f"{name}-key"}


@shared
async def base() -> AsyncIterator[str]:
    keys = "\n".join(
        f'  - {{name: {name}, sha256: "{hashlib.sha256(f"{name}-key".encode()).hexdigest()}"'
        f"{', ' if more else ''}{more}}}"
        for name, more in KEYS.items()
    )
    async with remote(Reader()) as docs, remote(Talker()) as talk:
        config = CONFIG.format(keys=keys, docs=docs.url, talk=talk.url)
        async with gateway(config) as base:
            yield base


@shared
async def session(base: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(base) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession, who: str, method: str, path: str, **asked: Any
) -> tuple[int, dict[str, str], bytes]:
    """Status, head and body of an answer, without what is of this one answer only."""
    headers = key(who) | asked.pop("headers", {})
    async with session.request(method, path, headers=headers, **asked) as response:
        head = {
            name: value
            for name, value in response.headers.items()
            if name.lower() not in _OF_ONE_ANSWER
        }
        return response.status, head, await response.read()


async def made(session: aiohttp.ClientSession, who: str, execution_id: str) -> str:
    """The ID of a file in a new execution that has been run on."""
    asked = {"executionId": execution_id, "tag": "t"}
    status, _, _ = await ask(session, who, "POST", "/v1/executions", json=asked)
    assert status == 200
    path = f"/v1/executions/{execution_id}/observation/media"
    _, _, body = await ask(session, who, "POST", path, data=PNG)
    status, _, _ = await ask(session, who, "POST", SYNC, json={"executionId": execution_id})
    assert status == 200
    return str(json.loads(body)["mediaId"])


#: Every call on an execution: what follows its ID, and the body.
CALLS: list[tuple[str, str, bytes]] = [
    ("GET", "", b""),
    ("HEAD", "", b""),
    ("DELETE", "", b""),
    ("POST", "/cancel", b""),
    ("POST", "/submit", b""),
    ("GET", "/events", b""),
    ("HEAD", "/events", b""),
    ("GET", "/events?lastEventId=1-1", b""),
    ("GET", "/observation", b""),
    ("POST", "/observation", b""),
    ("POST", "/observation", b'{"documents":[]}'),
    ("GET", "/observation/json", b""),
    ("POST", "/observation/json", b""),
    ("POST", "/observation/transform", b"$"),
    ("POST", "/observation/media", PNG),
    ("GET", "/observation/media/{media}", b""),
]


async def test_to_others_an_execution_does_not_exist_whatever_they_ask(
    session: aiohttp.ClientSession,
) -> None:
    media_id = await made(session, "acme-1", "mine")
    for method, rest, body in CALLS:
        for who in ("other", "stranger"):
            path = f"/v1/executions/{{}}{rest.format(media=media_id)}"
            asked = await ask(session, who, method, path.format("mine"), data=body)
            nowhere = await ask(session, who, method, path.format("none"), data=body)
            assert asked[0] == 404, (method, rest)
            assert (asked[0], asked[1], asked[2].replace(b"mine", b"none")) == nowhere
    for path in (SYNC, ASYNC):
        named = [{"executionId": name, "text": "x"} for name in ("mine", "none")]
        answers = [await ask(session, "other", "POST", path, json=each) for each in named]
        assert answers[0] == answers[1]
        assert answers[0][0] == 400
    for query in ("", "?tag=t", "?after=mine"):
        status, _, body = await ask(session, "other", "GET", f"/v1/executions{query}")
        assert (status, body) == (200, b"[]")
    # And nothing of all this did anything to it.
    status, _, body = await ask(session, "acme-1", "GET", "/v1/executions/mine")
    assert json.loads(body)["status"] == "COMPLETED"


async def test_the_keys_of_one_tenant_share_what_they_make(
    session: aiohttp.ClientSession,
) -> None:
    media_id = await made(session, "acme-1", "shared")
    for method, rest, body in CALLS:
        if method == "DELETE":
            continue
        path = f"/v1/executions/shared{rest.format(media=media_id)}"
        status, _, _ = await ask(session, "acme-2", method, path, data=body)
        assert status in (200, 204), (method, rest)
    status, _, _ = await ask(session, "acme-2", "DELETE", "/v1/executions/shared")
    assert status == 204
    status, _, _ = await ask(session, "acme-1", "GET", "/v1/executions/shared")
    assert status == 404


async def test_the_same_id_of_another_owner_is_another_execution(
    session: aiohttp.ClientSession,
) -> None:
    for who in ("acme-1", "other"):
        asked = {"executionId": "same", "tag": who}
        status, _, _ = await ask(session, who, "POST", "/v1/executions", json=asked)
        assert status == 200
    status, _, _ = await ask(session, "other", "DELETE", "/v1/executions/same")
    assert status == 204
    _, _, body = await ask(session, "acme-2", "GET", "/v1/executions/same")
    assert json.loads(body)["tag"] == "acme-1"


async def test_a_key_runs_only_the_pipelines_that_it_opens_but_reads_all_that_is_its_own(
    session: aiohttp.ClientSession,
) -> None:
    chat = "/v1/pipelines/chat/executeAsync"
    status, _, _ = await ask(session, "acme-2", "POST", chat, json={"text": "x"})
    assert status == 403
    status, _, _ = await ask(session, "acme-2", "POST", chat, data=b"{")
    assert status == 403
    status, _, body = await ask(session, "acme-1", "POST", chat, json={"text": "x"})
    assert status == 200
    path = f"/v1/executions/{json.loads(body)['executionId']}/events"
    status, _, log = await ask(session, "acme-2", "GET", path)
    assert (status, b'"COMPLETED"' in log) == (200, True)


async def test_webhooks_are_their_owners_alone(session: aiohttp.ClientSession) -> None:
    _, _, body = await ask(session, "acme-1", "POST", "/v1/hooks", json=HOOK)
    hook_id = json.loads(body)["hookId"]
    status, _, _ = await ask(session, "acme-2", "GET", f"/v1/hooks/{hook_id}")
    assert status == 200
    for method, body in (("GET", b""), ("PUT", json.dumps(HOOK).encode()), ("DELETE", b"")):
        asked = await ask(session, "other", method, f"/v1/hooks/{hook_id}", data=body)
        nowhere = await ask(session, "other", method, "/v1/hooks/none", data=body)
        assert asked[0] == 404
        assert (asked[0], asked[2].replace(hook_id.encode(), b"none")) == (404, nowhere[2])
    _, _, body = await ask(session, "other", "GET", "/v1/hooks")
    assert body == b"[]"
    asked_for = {"hookIds": [hook_id]}
    status, _, body = await ask(session, "other", "POST", "/v1/executions", json=asked_for)
    assert (status, b"there is no webhook" in body) == (400, True)
    status, _, _ = await ask(session, "acme-2", "POST", "/v1/executions", json=asked_for)
    assert status == 200


@pytest.mark.parametrize(
    "path", ["/v1/executions", "/v1/executions/e", "/v1/executions/e/events", "/v1/hooks/h"]
)
async def test_without_a_key_nothing_is_told(session: aiohttp.ClientSession, path: str) -> None:
    async with session.get(path) as response:
        assert response.status == 401
        assert "WWW-Authenticate" in response.headers


IDS = [
    "../../etc/passwd",
    "..",
    ".hidden",
    "-rf",
    "a/b",
    "a\\b",
    "a\0b",
    "\n",
    "*",
    "e?",
    "e[0-9]",
    "e'--",
    'e"',
    "e e",
    "e%",
    "{e}",
    "é",
    "x" * 129,
    "x" * 8000,
]


async def stores_asked(session: aiohttp.ClientSession) -> dict[str, float]:
    """How often a store was asked what, apart from what it is asked all the time."""
    async with session.get("/metrics") as response:
        text = await response.text()
    found = re.findall(
        r'^gateway_store_seconds_count{operation="(\w+)"} (\S+)$', text, re.MULTILINE
    )
    assert found
    idle = ("beat", "claim", "due", "counts", "log_bytes", "expire", "events", "news")
    return {call: float(count) for call, count in found if call not in idle}


@pytest.mark.parametrize("given", IDS)
async def test_an_id_that_can_be_none_is_refused_before_any_store_is_asked(
    session: aiohttp.ClientSession, base: str, given: str
) -> None:
    before = await stores_asked(session)
    quoted = quote(given, safe="")
    for method, rest, body in CALLS:
        path = f"/v1/executions/{quoted}{rest.format(media='m')}"
        await refused(base, method, path, body)
    for method in ("GET", "PUT", "DELETE"):
        await refused(base, method, f"/v1/hooks/{quoted}", json.dumps(HOOK).encode())
    for path in (SYNC, ASYNC):
        for field, value in (("executionId", given), ("hookIds", [given])):
            asked = json.dumps({"text": "x", field: value})
            await refused(base, "POST", path, asked.encode())
    for field, value in (("executionId", given), ("hookIds", [given])):
        await refused(base, "POST", "/v1/executions", json.dumps({field: value}).encode())
    assert await stores_asked(session) == before


async def refused(base: str, method: str, path: str, body: bytes) -> None:
    """See that this is answered with 400. Sent as it stands, as no client's library would."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: other-key\r\nConnection: close\r\n"
    async with raw(base) as connection:
        await connection.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await connection.read_all()
    assert answer.startswith(b"HTTP/1.1 400 "), (method, path[:100], answer[:300])


async def test_a_path_that_climbs_leads_nowhere(base: str) -> None:
    for path in ("/v1/executions/../../etc/passwd", "/v1/executions/e/../../../metrics"):
        async with raw(base) as connection:
            await connection.send(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            assert (await connection.read_all()).startswith(b"HTTP/1.1 404 ")
