"""What the person on call sees: metrics, health, logs; and what nobody may see: keys."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.raw import raw
from tests.support.raw import request as written
from tests.support.remote import Remote, remote
from tests.support.running import client, gateway
from tests.support.scripts import answering, cambrion_script, pupau_script
from tests.support.serving import ROOT
from tests.support.timing import patience

KEY = "cli-ent-secr3t"
CONFIG = f"""
server: {{{{port: 0, forward_headers: [X-Tenant, User-Agent]}}}}
keys:
  - {{{{name: team, sha256: "{hashlib.sha256(KEY.encode()).hexdigest()}", pipelines: ["do*"]}}}}
upstreams:
  docs: {{{{kind: cambrion, url: "{{cambrion}}/v1", api_key: upstream-key}}}}
  talk: {{{{kind: pupau, url: "{{pupau}}", api_key: upstream-key}}}}
  spare: {{{{kind: pupau, url: "http://127.0.0.1:1", required: false}}}}
pipelines:
  doc: {{{{upstream: docs, description: Reads, tag: t, version: 3}}}}
  chat: {{{{upstream: talk}}}}
"""


@pytest.fixture
async def upstreams() -> AsyncIterator[tuple[Remote, Remote]]:
    async with remote(cambrion_script) as cambrion, remote(pupau_script) as pupau:
        yield cambrion, pupau


@pytest.fixture
async def session(upstreams: tuple[Remote, Remote]) -> AsyncIterator[aiohttp.ClientSession]:
    cambrion, pupau = upstreams
    async with (
        gateway(CONFIG.format(cambrion=cambrion.url, pupau=pupau.url)) as base,
        client(base) as session,
    ):
        yield session


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"X-API-Key": KEY}, "/v1/pipelines/doc/executeSync", 200),
        ({"Api-Key": KEY}, "/v1/pipelines/doc/executeSync", 200),
        ({"Authorization": f"Bearer {KEY}"}, "/pipelines/doc/queries", 200),
        ({"X-API-Key": KEY}, "/pipelines/doc/queries", 200),
        ({}, "/v1/pipelines/doc/executeSync", 401),
        ({"X-API-Key": "wrong"}, "/pipelines/doc/queries", 401),
        ({"X-API-Key": KEY}, "/v1/pipelines/chat/executeSync", 403),
        ({"Api-Key": KEY}, "/pipelines/chat/queries", 403),
        ({"Api-Key": KEY}, "/pipelines/no-such/queries", 403),
        ({"Api-Key": KEY}, "/pipelines/do-no-such/queries", 404),
    ],
)
async def test_keys_open_what_they_are_for(
    session: aiohttp.ClientSession, headers: dict[str, str], path: str, status: int
) -> None:
    body = {"request": "x"} if path.endswith("queries") else {"text": "x"}
    async with session.post(path, json=body, headers=headers) as response:
        assert response.status == status
        if status != 200:
            kind = "name" if path.endswith("queries") else "code"
            assert set(await response.json()) == {kind, "message"}


async def test_the_list_shows_only_what_the_key_opens(session: aiohttp.ClientSession) -> None:
    async with session.get("/v1/pipelines", headers={"X-API-Key": KEY}) as response:
        listed = await response.json()
    assert [entry["pipelineId"] for entry in listed] == ["doc"]
    async with session.get("/v1/pipelines") as response:
        assert response.status == 401


async def test_a_pipeline_is_described(session: aiohttp.ClientSession) -> None:
    headers = {"X-API-Key": KEY}
    async with session.get("/v1/pipelines/doc", headers=headers) as response:
        described = await response.json()
    assert described == {
        "pipeline": {
            "pipelineId": "doc",
            "name": "doc",
            "description": "Reads",
            "tag": "t",
            "status": "READY",
            "version": 3,
        },
        "pipelineDefinition": {"nodes": [{"modelId": "m"}], "edges": []},
    }
    async with session.get("/v1/pipelines/doc/definition", headers=headers) as response:
        assert await response.json() == described["pipelineDefinition"]


async def test_the_clients_key_goes_nowhere(
    session: aiohttp.ClientSession,
    upstreams: tuple[Remote, Remote],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = ""
    for headers in ({"X-API-Key": KEY}, {"Api-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        for path in ("doc", "chat", KEY):
            async with session.post(
                f"/v1/pipelines/{path}/executeSync", json={"text": "x"}, headers=headers
            ) as response:
                if path != KEY:
                    seen += await response.text()
    async with session.get("/metrics") as response:
        seen += await response.text()
    seen += "".join(
        str(vars(record)) for record in caplog.records if record.name == "gateway.request"
    )
    assert len(upstreams[0].seen) == 3
    for request in upstreams[0].seen:
        assert request.headers["x-api-key"] == "upstream-key"
        assert "authorization" not in request.headers
        assert "api-key" not in request.headers
        assert KEY not in str(request)
    assert KEY not in seen


@pytest.mark.parametrize("connection", [["keep-alive, X-Tenant"], ["keep-alive", "X-Tenant"]])
async def test_only_allowed_headers_go_upstream(
    session: aiohttp.ClientSession, upstreams: tuple[Remote, Remote], connection: list[str]
) -> None:
    given = {
        "X-API-Key": KEY,
        "X-Request-Id": "r-42",
        "X-Tenant": "acme",
        "X-Other": "no",
        "User-Agent": "old-client/1",
        "Cookie": "a=b",
        "TE": "trailers",
        "Proxy-Authorization": "Basic x",
        "Keep-Alive": "timeout=5",
    }
    lines = [*given.items(), *(("Connection", each) for each in connection)]
    async with session.post(
        "/v1/pipelines/doc/executeSync", json={"text": "x"}, headers=lines
    ) as response:
        assert response.headers["X-Request-Id"] == "r-42"
        for name in ("Keep-Alive", "Proxy-Authenticate", "Trailer", "Upgrade"):
            assert name not in response.headers
    sent = upstreams[0].seen[0].headers
    assert sent["x-request-id"] == "r-42"
    assert sent["user-agent"] == "old-client/1"
    for name in ("x-other", "cookie", "te", "proxy-authorization", "keep-alive"):
        assert name not in sent
    # Named in Connection, it concerned the connection to the gateway alone.
    assert "x-tenant" not in sent


FAMILIES = [
    "gateway_requests_total",
    "gateway_request_duration_seconds",
    "gateway_first_event_seconds",
    "gateway_overhead_seconds",
    "gateway_stream_events_total",
    "gateway_streams_open",
    "gateway_upstream_requests_total",
    "gateway_upstream_duration_seconds",
    "gateway_upstream_first_event_seconds",
    "gateway_transform_duration_seconds",
    "gateway_transform_errors_total",
    "gateway_request_bytes",
    "gateway_response_bytes",
]


async def series(session: aiohttp.ClientSession) -> list[str]:
    async with session.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        return (await response.text()).splitlines()


async def test_every_family_is_there_with_its_help(session: aiohttp.ClientSession) -> None:
    lines = await series(session)
    for family in FAMILIES:
        assert any(line.startswith(f"# HELP {family} ") for line in lines), family


async def test_invented_names_and_headers_add_no_series(session: aiohttp.ClientSession) -> None:
    async def invent(number: int) -> None:
        headers = {"X-API-Key": KEY, "X-Tenant": f"t{number}", "X-Request-Id": f"r{number}"}
        path = f"/v1/pipelines/do-{number}/executeSync"
        async with session.post(path, json={"text": "x"}, headers=headers) as response:
            assert response.status == 404
        async with session.get(f"/invented/{number}", headers=headers) as response:
            assert response.status == 404

    await invent(0)
    before = [line.rpartition(" ")[0] for line in await series(session)]
    for number in range(1, 5000):  # two invented names each
        await invent(number)
    after = [line.rpartition(" ")[0] for line in await series(session)]
    # The first look at /metrics is itself counted by the second.
    assert len(after) - len(before) <= 60
    assert {line for line in after if "metrics" not in line and 'mode="other"' not in line} == {
        line for line in before if "metrics" not in line and 'mode="other"' not in line
    }


async def test_a_request_is_counted_once_with_its_outcome(session: aiohttp.ClientSession) -> None:
    headers = {"X-API-Key": KEY}
    for _ in range(3):
        async with session.post(
            "/v1/pipelines/doc/executeSync", json={"text": "x"}, headers=headers
        ) as response:
            await response.read()
    lines = await series(session)
    labels = 'dialect="cambrion",mode="execute",'
    assert f'gateway_requests_total{{{labels}outcome="complete",pipeline="doc"}} 3.0' in lines
    assert f'gateway_request_duration_seconds_count{{{labels}pipeline="doc"}} 3.0' in lines
    assert f'gateway_overhead_seconds_count{{{labels}pipeline="doc"}} 3.0' in lines
    assert (
        'gateway_upstream_requests_total{kind="cambrion",outcome="complete",upstream="docs"} 3.0'
        in lines
    )


async def test_readiness_names_the_upstream_that_does_not_answer() -> None:
    async with remote(cambrion_script) as cambrion:
        config = CONFIG.format(cambrion=cambrion.url, pupau="http://127.0.0.1:1")
        async with gateway(config) as base, client(base) as session:
            async with session.get("/readyz") as response:
                assert response.status == 503
                answer = await response.json()
            assert answer["ready"] is False
            assert list(answer["failing"]) == ["talk"]
            assert "cannot be reached" in answer["failing"]["talk"]
            async with session.get("/healthz") as response:
                assert response.status == 200


async def test_readiness_is_counted_as_it_was_told_last() -> None:
    async with remote(cambrion_script) as cambrion:
        config = CONFIG.format(cambrion=cambrion.url, pupau="http://127.0.0.1:1")
        async with gateway(config) as base, client(base) as session:
            # Who is never asked is not unready.
            assert not any(line.startswith("gateway_ready ") for line in await series(session))
            async with session.get("/readyz") as response:
                assert response.status == 503
            assert "gateway_ready 0.0" in await series(session)


async def test_what_an_upstream_rejects_is_its_callers_mistake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="gateway.request")
    refusing = answering(b'{"message": "the file is no image"}', "400 Bad Request")
    async with remote(refusing) as cambrion:
        config = CONFIG.format(cambrion=cambrion.url, pupau="http://127.0.0.1:1")
        async with gateway(config) as base, client(base) as session:
            headers = {"X-API-Key": KEY}
            path = "/v1/pipelines/doc/executeSync"
            async with session.post(path, json={"text": "x"}, headers=headers) as response:
                assert response.status == 400
            lines = await series(session)
    labels = 'dialect="cambrion",mode="execute",'
    assert f'gateway_requests_total{{{labels}outcome="rejected",pipeline="doc"}} 1.0' in lines
    assert f'gateway_requests_total{{{labels}outcome="upstream_error",pipeline="doc"}} 0.0' in lines
    (logged,) = [vars(record)["fields"] for record in caplog.records if "fields" in vars(record)][
        :1
    ]
    assert (logged["outcome"], logged["code"]) == ("rejected", "upstream_rejected")
    assert "the file is no image" in logged["error"]


async def test_readiness_needs_only_the_required_upstreams(
    session: aiohttp.ClientSession,
) -> None:
    async with session.get("/readyz") as response:
        assert (response.status, await response.json()) == (200, {"ready": True, "failing": {}})


async def test_the_log_has_one_line_a_request_without_bodies(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="gateway.request")
    headers = {"X-API-Key": KEY, "X-Request-Id": "r-7"}
    body = {"text": "private words"}
    async with session.post(
        "/v1/pipelines/doc/executeSync", json=body, headers=headers
    ) as response:
        await response.read()
    async with session.get("/v1/pipelines/doc/executeSync", headers=headers) as response:
        await response.read()
    lines = [vars(r)["fields"] for r in caplog.records if r.name == "gateway.request"]
    assert [(line["status"], line["outcome"]) for line in lines] == [
        (200, "complete"),
        (405, "rejected"),
    ]
    assert lines[0]["request_id"] == "r-7"
    assert lines[0]["pipeline"] == "doc"
    assert lines[0]["key"] == "team"
    assert lines[0]["request_bytes"] == len(json.dumps(body))
    assert "private" not in str(lines)


async def test_probes_and_scrapes_are_logged_only_where_they_find_something_wrong(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="gateway.request")
    for path in ("/healthz", "/readyz", "/metrics"):
        async with session.get(path) as response:
            assert response.status == 200
    async with session.post("/healthz") as response:
        assert response.status == 405
    lines = [vars(r)["fields"] for r in caplog.records if r.name == "gateway.request"]
    assert [line["status"] for line in lines] == [405]


async def test_a_log_that_nobody_takes_costs_no_caller_an_answer(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG.format(cambrion="http://127.0.0.1:1", pupau="http://127.0.0.1:1"))
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        try:
            for text in process.stdout:
                line = json.loads(text)
                if line["event"] == "listening":
                    break
            process.stdout.close()
            async with raw(f"http://127.0.0.1:{line['port']}") as caller, patience():
                # So many lines that they are written while requests are answered, too.
                await caller.send(written("/openapi.json") * 59)
                await caller.send(written("/openapi.json", None, "Connection: close"))
                answers = await caller.read_all()
        finally:
            process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert answers.count(b"HTTP/1.1 ") == answers.count(b"HTTP/1.1 200 OK") == 60
    assert said.count(b"the log cannot be written: [Errno 32] Broken pipe") == 1
