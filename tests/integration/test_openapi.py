"""What /openapi.json promises, held against a running gateway: examples, errors, the page."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.support.contract import METHODS, Contract, Operation
from tests.support.remote import remote
from tests.support.running import client, gateway
from tests.support.scripts import cambrion_script, pupau_script
from tests.support.timing import patience

KEY = "a-key-of-the-tests"
CONFIG = """
keys: [{{name: team, sha256: "{digest}", pipelines: ["*o*"]}}]
executions: {{hooks: {{allow_networks: [127.0.0.0/8]}}}}
upstreams:
  docs: {{kind: cambrion, url: "{docs}/v1"}}
  talk: {{kind: pupau, url: "{talk}"}}
pipelines:
  invoice: {{upstream: docs}}
  secret-project: {{upstream: talk}}
"""
HEADERS = {"X-API-Key": KEY}
EVENTS = "text/event-stream"

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest_asyncio.fixture(scope="module", loop_scope="module")


@shared
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a gateway with keys, which keeps executions."""
    async with remote(cambrion_script) as docs, remote(pupau_script) as talk:
        digest = sha256(KEY.encode()).hexdigest()
        config = CONFIG.format(docs=docs.url, talk=talk.url, digest=digest)
        async with gateway(config) as base, client(base) as session:
            yield session


@shared
async def contract(session: aiohttp.ClientSession) -> Contract:
    """Its document."""
    async with session.get("/openapi.json") as response:
        return Contract(await response.json())


async def answer(
    session: aiohttp.ClientSession, contract: Contract, operation: Operation, **asked: Any
) -> tuple[int, bytes]:
    """Make a call with the parameters' examples and hold its answer against the document."""
    path = operation.path
    for each in contract.parameters(operation):
        if each["in"] == "path":
            path = path.replace(f"{{{each['name']}}}", each["example"])
    path = asked.pop("path", path)
    asked["headers"] = {**HEADERS, **asked.get("headers", {})}
    async with patience(), session.request(operation.method, path, **asked) as response:
        body = await response.read()
        contract.judge(operation, response.status, response.headers, body)
        return response.status, body


def sent(kind: str, example: Any) -> dict[str, Any]:
    """An example of a request, as aiohttp takes it."""
    if kind == "multipart/form-data":
        form = aiohttp.FormData(default_to_multipart=True)
        for name, value in example.items():
            form.add_field(name, value)
        return {"data": form}
    # Nothing public can be reached from here.
    text = example if isinstance(example, str) else json.dumps(example)
    text = text.replace("https://example.org/", "http://127.0.0.1:9/")
    return {"data": text.encode(), "headers": {"Content-Type": kind}}


async def test_every_example_works_as_it_stands(
    session: aiohttp.ClientSession, contract: Contract
) -> None:
    media_path = ""
    operations = [each for each in contract.operations() if each.method != "delete"]
    operations += [each for each in contract.operations() if each.method == "delete"]
    for operation in operations:
        name = operation.described["operationId"]
        if name == "watchExecution":  # which waits for a run to end
            run = {"text": "Total 12.50", "executionId": "june-17"}
            queue = contract.named("executeAsync")
            assert (await answer(session, contract, queue, json=run))[0] == 200
        given: list[dict[str, Any]] = [
            sent(kind, example["value"])
            for kind, media in operation.described.get("requestBody", {}).get("content", {}).items()
            for example in media.get("examples", {}).values()
        ]
        for asked in given or [{"path": media_path} if name == "getMedia" else {}]:
            status, body = await answer(session, contract, operation, **asked)
            assert status in (200, 204), (name, body)
            if name == "addMedia":
                media_path = (
                    f"/v1/executions/june-17/observation/media/{json.loads(body)['mediaId']}"
                )


async def test_streams_tell_events_as_they_are_described(
    session: aiohttp.ClientSession, contract: Contract
) -> None:
    for name, asked in (
        ("executeSync", {"json": {"text": "x"}, "headers": {"Accept": EVENTS}}),
        ("query", {"json": {"request": "x"}, "params": {"sse": "true"}}),
        (
            "query",
            {
                "json": {"request": "x"},
                "path": "/pipelines/secret-project/queries",
                "params": {"sse": "true"},
            },
        ),
    ):
        status, body = await answer(session, contract, contract.named(name), **asked)
        assert status == 200
        assert b'"LAYER_RESPONSE"' in body


async def test_a_file_comes_back_as_the_type_that_its_bytes_have(
    session: aiohttp.ClientSession, contract: Contract
) -> None:
    body = contract.named("executeSync").described["requestBody"]["content"]["application/json"]
    image = body["examples"]["file"]["value"]["media"][0]
    run = {"executionId": "with-an-image"}
    await answer(session, contract, contract.named("createExecution"), json=run)
    add = contract.named("addMedia")
    path = "/v1/executions/with-an-image/observation/media"
    headers = {"Content-Type": "image/png"}
    _, made = await answer(session, contract, add, path=path, data=image, headers=headers)
    get, path = contract.named("getMedia"), f"{path}/{json.loads(made)['mediaId']}"
    status, data = await answer(session, contract, get, path=path)
    assert status == 200
    assert b64encode(data).decode() == image


async def test_every_other_method_is_refused_with_those_that_are_allowed(
    session: aiohttp.ClientSession, contract: Contract
) -> None:
    for path, there in contract.document["paths"].items():
        url = re.sub(r"\{[a-zA-Z]+\}", "some", path)
        for method in ("get", "put", "post", "delete", "patch", "options", "trace"):
            if method in there:
                continue
            async with session.request(method, url, headers=HEADERS) as response:
                assert response.status == 405, (method, url)
                allowed = response.headers["Allow"].lower().split(", ")
                assert allowed == [each for each in allowed if each in there]
                assert set(allowed) == set(METHODS) & set(there)


async def test_the_document_is_there_for_who_has_no_key_and_names_no_pipelines(
    session: aiohttp.ClientSession,
) -> None:
    async with session.get("/openapi.json") as response:
        text = await response.text()
        assert response.status == 200
        assert response.content_type == "application/json"
        assert "secret-project" not in text
        tag = response.headers["ETag"]
    async with session.get("/openapi.json", headers={"If-None-Match": tag}) as response:
        assert response.status == 304
        assert await response.read() == b""
        assert response.headers["ETag"] == tag
    async with session.head("/openapi.json") as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == str(len(text.encode()))


async def test_where_everything_is_open_the_document_names_the_pipelines() -> None:
    config = """
    upstreams: {docs: {kind: cambrion, url: "http://127.0.0.1:9/v1"}}
    pipelines: {doc: {upstream: docs}, other: {upstream: docs}}
    """
    async with (
        gateway(config) as base,
        client(base) as session,
        session.get("/openapi.json") as response,
    ):
        document = await response.json()
    assert document["components"]["parameters"]["pipeline"]["schema"]["enum"] == ["doc", "other"]
    assert "/v1/executions" not in document["paths"]


async def test_the_page_may_do_nothing_but_show_and_call_this_gateway(
    session: aiohttp.ClientSession,
) -> None:
    async with session.get("/docs") as response:
        page = await response.text()
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        policy = dict(
            each.split(" ", 1) for each in response.headers["Content-Security-Policy"].split("; ")
        )
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    for kind in ("style", "script"):
        (part,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    async with session.get("/docs/") as response:  # as some write it
        assert await response.text() == page


def some(operation: Operation) -> str:
    """The path of a call on what is not there."""
    return re.sub(r"\{[a-zA-Z]+\}", "none", operation.path)


async def test_a_key_is_asked_for_where_it_says_so_and_taken_in_every_way(
    session: aiohttp.ClientSession, contract: Contract
) -> None:
    for each in contract.operations():
        needed = each.described.get("security", contract.document["security"]) != []
        for headers, known in (
            ({}, False),
            ({"X-API-Key": "another"}, False),
            ({"X-API-Key": KEY}, True),
            ({"Api-Key": KEY}, True),
            ({"Authorization": f"Bearer {KEY}"}, True),
        ):
            async with session.request(each.method, some(each), headers=headers) as response:
                body = await response.read()
                contract.judge(each, response.status, response.headers, body)
                assert (response.status == 401) is (needed and not known), (each.path, headers)


@pytest.mark.parametrize("path", ["/v1/pipelines", "/openapi.json"])
async def test_a_page_of_another_site_gets_no_leave_to_read_or_to_send_headers(
    session: aiohttp.ClientSession, path: str
) -> None:
    asked = {
        "Origin": "http://elsewhere.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "x-api-key",
    }
    for method, status in (("OPTIONS", 405), ("GET", 200)):
        async with session.request(method, path, headers=HEADERS | asked) as response:
            assert response.status == status
            assert [name for name in response.headers if name.startswith("Access-Control")] == []


async def test_every_get_may_be_a_head(session: aiohttp.ClientSession, contract: Contract) -> None:
    for each in contract.operations():
        if each.method == "get":
            async with session.get(some(each), headers=HEADERS) as response:
                status, kind = response.status, response.content_type
            async with session.head(some(each), headers=HEADERS) as response:
                assert (response.status, response.content_type) == (status, kind), each.path
                assert await response.read() == b""


async def test_with_a_port_for_the_admin_it_has_what_is_left_on_this_one() -> None:
    config = """
    server: {port: 0, admin: {port: 0}}
    upstreams: {docs: {kind: cambrion, url: "http://127.0.0.1:9/v1"}}
    pipelines: {doc: {upstream: docs}}
    """
    async with gateway(config) as base, client(base) as session:
        async with session.get("/openapi.json") as response:
            left = Contract(await response.json())
        for path, status in (("/metrics", 404), ("/healthz", 200), ("/v1/pipelines", 200)):
            assert (path in left.document["paths"]) is (status == 200)
            async with session.get(path) as response:
                assert response.status == status
