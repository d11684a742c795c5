"""Every error code: what brings it about, and that the answer is as /openapi.json describes it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.errors import Code
from tests.support.contract import Contract
from tests.support.remote import Peer, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import cambrion_script
from tests.support.serving import ROOT
from tests.support.timing import patience

CONFIG = """
bounds: {{body_bytes_max: 10000}}
keys:
  - {{name: all, sha256: "{all}"}}
  - {{name: some, sha256: "{some}", pipelines: [fails]}}
  - {{name: used, sha256: "{used}", limits: {{requests_per_minute_max: 1}}}}
executions: {{media_max: 1}}
upstreams:
  docs: {{kind: cambrion, url: "{docs}/v1", retries: {{retries_max: 0}}}}
  narrow:
    {{kind: cambrion, url: "{docs}/v1", concurrency: {{running_max: 1, waiting_max: 0}}}}
  broken:
    {{kind: cambrion, url: "{docs}/v1", retries: {{retries_max: 0}}, breaker: {{failures: 1}}}}
  nowhere: {{kind: cambrion, url: "http://127.0.0.1:{closed}/v1", retries: {{retries_max: 0}}}}
pipelines:
  good: {{upstream: docs}}
  fails: {{upstream: docs}}
  babbles: {{upstream: docs}}
  rejects: {{upstream: docs}}
  busy: {{upstream: docs}}
  late: {{upstream: docs, pipeline: hangs, timeouts: {{total_s: 0.05}}}}
  hangs: {{upstream: narrow}}
  fails-again: {{upstream: broken, pipeline: fails}}
  away: {{upstream: nowhere}}
"""
#: What the API behind answers, by its pipelines' names.
ANSWERS = {
    "fails": ("500 Internal Server Error", b'{"code":"x","message":"no"}', ()),
    "babbles": ("200 OK", b"what?", ()),
    "rejects": ("400 Bad Request", b'{"code":"x","message":"not that"}', ()),
    "busy": ("429 Too Many Requests", b"{}", ("Retry-After: 7",)),
}
TEXT = {"text": "Total 12.50"}

#: What takes a gateway, or a store, of its own: tests that show it.
ELSEWHERE = {
    Code.REQUEST_TIMEOUT: (
        "test_slow_clients",
        "test_a_body_that_comes_too_slowly_is_answered_408",
    ),
    Code.INTERNAL: ("test_internal_faults", "test_a_fault_is_told_without_its_inside"),
    Code.SHUTTING_DOWN: ("test_draining", "test_before_its_head_what_does_not_finish"),
    Code.STORE_FULL: ("test_executions_faults", "test_a_full_store_is_told_with_507"),
    Code.STORE_UNAVAILABLE: ("test_executions_faults", "test_while_redis_is_away"),
}

shared = pytest_asyncio.fixture(scope="module", loop_scope="module")


async def behind(seen: Seen, peer: Peer) -> None:
    """A remote API that goes wrong in the way that is asked for."""
    name = seen.path.split("/")[3] if seen.path.count("/") > 3 else ""
    if name == "hangs":
        await seen.gone.wait()
    elif name in ANSWERS:
        status, body, headers = ANSWERS[name]
        await peer.answer(body, status, headers=headers)
    else:
        await cambrion_script(seen, peer)


@dataclass
class Caller:
    """A client of the gateway, and what that says of its calls."""

    base: str
    session: aiohttp.ClientSession
    contract: Contract

    async def call(
        self, operation: str, path: str = "good", key: str = "all", **asked: Any
    ) -> tuple[int, str, str]:
        """An answer's status, error code (name) and body, held against the description.
        ``path``: of the parameters that are in it, the values."""
        called = self.contract.named(operation)
        values = iter(path.split(" "))
        url = re.sub(r"\{\w+\}", lambda _: next(values), called.path)
        headers = {"X-API-Key": key, **asked.pop("headers", {})} if key else {}
        async with self.session.request(called.method, url, headers=headers, **asked) as response:
            body = await response.read()
            self.contract.judge(called, response.status, response.headers, body)
            if response.status in (429, 503):
                assert int(response.headers["Retry-After"]) > 0
            if response.status == 401:
                assert response.headers["WWW-Authenticate"] == "Bearer"
            error = await response.json() if response.status >= 400 else {}
            return response.status, error.get("code") or error.get("name", ""), body.decode()


@shared
async def caller() -> AsyncIterator[Caller]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        digests = {
            name: hashlib.sha256(name.encode()).hexdigest() for name in ("all", "some", "used")
        }
        async with remote(behind) as docs:
            config = CONFIG.format(docs=docs.url, closed=closed.getsockname()[1], **digests)
            async with gateway(config) as base, client(base) as session:
                async with session.get("/openapi.json") as response:
                    contract = Contract(await response.json())
                yield Caller(base, session, contract)


async def _execute(to: Caller, name: str, operation: str = "executeSync", **fields: Any) -> Any:
    return await to.call(operation, name, json=TEXT | fields)


async def _transform(to: Caller, expression: str) -> Any:
    return await _execute(to, "good", "executeSyncTransform", transform=expression)


async def _not_allowed(to: Caller) -> Any:
    async with to.session.patch("/v1/pipelines") as response:
        schema = to.contract.document["components"]["responses"]["Cambrion405"]
        error = await response.json()
        to.contract.check(schema["content"]["application/json"]["schema"], error)
        return response.status, error["code"], error


async def _second_file(to: Caller) -> Any:
    await to.call("createExecution", json={"executionId": "full"})
    headers = {"Content-Type": "text/plain"}
    await to.call("addMedia", "full", data=b"one", headers=headers)
    return await to.call("addMedia", "full", data=b"two", headers=headers)


async def _hook_of_another(to: Caller) -> Any:
    await to.call("createExecution", json={"executionId": "there"})
    return await _execute(to, "good", executionId="there", hookIds=["some"])


async def _what_was_transient(to: Caller) -> Any:
    _, _, body = await _execute(to, "good", "executeAsync", transient=True)
    name = re.findall(r'"executionId":"([^"]+)"', body)[0]
    while '"COMPLETED"' not in (await to.call("getExecution", name))[2]:
        await asyncio.sleep(0.01)
    return await to.call("getObservation", name)


async def _behind_another(to: Caller) -> Any:
    first = asyncio.create_task(_execute(to, "hangs"))
    try:
        metric = 'gateway_upstream_running{kind="cambrion",upstream="narrow"} 1.0'

        async def counted() -> str:
            async with to.session.get("/metrics") as response:
                return await response.text()

        while metric not in await counted():
            await asyncio.sleep(0.01)
        return await _execute(to, "hangs")
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def _twice(to: Caller, make: Callable[[], Awaitable[Any]]) -> Any:
    await make()
    return await make()


#: What brings a code about, and with which status.
WAYS: dict[Code, tuple[int, Callable[[Caller], Awaitable[Any]]]] = {
    Code.BAD_REQUEST: (400, lambda to: to.call("executeSync", json={})),
    Code.UNAUTHORIZED: (401, lambda to: to.call("listPipelines", key="")),
    Code.FORBIDDEN: (403, lambda to: to.call("executeSync", key="some", json=TEXT)),
    Code.NOT_FOUND: (404, lambda to: to.call("getExecution", "none")),
    Code.METHOD_NOT_ALLOWED: (405, _not_allowed),
    Code.TOO_LARGE: (413, lambda to: to.call("executeSync", json={"text": "x" * 10_000})),
    Code.UNSUPPORTED_MEDIA_TYPE: (
        415,
        lambda to: to.call("executeSync", data=b"x", headers={"Content-Encoding": "br"}),
    ),
    Code.NOT_SUPPORTED: (400, _hook_of_another),
    Code.TRANSFORM_INVALID: (400, lambda to: _transform(to, "(((")),
    Code.TRANSFORM_LIMIT: (
        400,
        lambda to: _transform(to, "($f := function($n) {$f($n + 1) + 1}; $f(1))"),
    ),
    Code.TRANSFORM_FAILED: (400, lambda to: _transform(to, '$number("x")')),
    Code.UPSTREAM_UNREACHABLE: (502, lambda to: _execute(to, "away")),
    Code.UPSTREAM_FAILED: (502, lambda to: _execute(to, "fails")),
    Code.UPSTREAM_INVALID: (502, lambda to: _execute(to, "babbles")),
    Code.UPSTREAM_REJECTED: (400, lambda to: _execute(to, "rejects")),
    Code.UPSTREAM_BUSY: (429, lambda to: _execute(to, "busy")),
    Code.UPSTREAM_UNAVAILABLE: (503, lambda to: _twice(to, lambda: _execute(to, "fails-again"))),
    Code.UPSTREAM_TIMEOUT: (504, lambda to: _execute(to, "late")),
    Code.RATE_LIMITED: (429, lambda to: _twice(to, lambda: to.call("listPipelines", key="used"))),
    Code.OVERLOADED: (503, _behind_another),
    Code.CONFLICT: (409, _second_file),
    Code.GONE: (410, _what_was_transient),
}


@pytest.mark.parametrize("code", WAYS)
@pytest.mark.asyncio(loop_scope="module")
async def test_each_comes_as_it_is_described(caller: Caller, code: Code) -> None:
    expected, way = WAYS[code]
    async with patience():
        status, told, body = await way(caller)
    assert (status, told) == (expected, code), body


@pytest.mark.asyncio(loop_scope="module")
async def test_the_other_dialect_says_it_in_capitals(caller: Caller) -> None:
    for name, told in (("fails", "UpstreamFailed"), ("none", "NotFound")):
        _, found, body = await caller.call("query", name, json={"request": "x"})
        assert found == told, body


def test_none_is_without_a_test() -> None:
    assert set(WAYS) | set(ELSEWHERE) == set(Code)
    assert not set(WAYS) & set(ELSEWHERE)
    for file, test in ELSEWHERE.values():
        assert f"async def {test}" in (ROOT / f"tests/integration/{file}.py").read_text()
