"""Webhooks as their owner has them: made and changed over the API, told of what executions do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from standardwebhooks import Webhook

from tests.support.client import PNG
from tests.support.gated import Reader
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.running import client, gateway
from tests.support.timing import patience, until

CONFIG = """
executions: {{hooks: {{allow_networks: [127.0.0.0/8], retry_s: 0.05}}}}
upstreams:
  docs: {{kind: cambrion, url: "{docs}/v1", retries: {{retries_max: 0}}}}
pipelines:
  doc: {{upstream: docs}}
"""


class Owner:
    """Whoever has webhooks: a client of the gateway, and what its receiver was told."""

    def __init__(self, session: aiohttp.ClientSession, receiver: Remote) -> None:
        self._session = session
        self.receiver = receiver
        self.refusals = 0

    async def receive(self, seen: Seen, peer: Peer) -> None:
        """Take a message, or refuse it where some are to be refused."""
        status = "500 No" if self.refusals else "200 OK"
        self.refusals = max(0, self.refusals - 1)
        await peer.answer(b"", status)

    async def call(self, method: str, path: str, status: int = 200, **asked: Any) -> Any:
        """The JSON of an answer that has this status; ``None`` where there is none."""
        async with self._session.request(method, path, **asked) as response:
            body = await response.read()
            assert response.status == status, body
            return json.loads(body) if body else None

    async def hook(self, event: str = "STATUS_CHANGE", **fields: Any) -> dict[str, Any]:
        """A new webhook, as it is shown to who has made it."""
        body = {"eventType": event, "endpoint": f"{self.receiver.url}/hook"} | fields
        made: dict[str, Any] = await self.call("POST", "/v1/hooks", json=body)
        return made

    async def execution(self, *hooks: dict[str, Any], **fields: Any) -> str:
        """A new execution that these are told of."""
        body = {"hookIds": [each["hookId"] for each in hooks]} | fields
        return str((await self.call("POST", "/v1/executions", json=body))["executionId"])

    async def run(self, execution_id: str, **fields: Any) -> None:
        """Run the pipeline on it."""
        path = "/v1/pipelines/doc/executeAsync"
        await self.call("POST", path, json={"executionId": execution_id, "text": "x"} | fields)

    async def told(self, times: int) -> list[Seen]:
        """The messages, once so many have come."""
        await until(lambda: len(self.receiver.seen) >= times)
        return self.receiver.seen


@pytest.fixture
async def owner() -> AsyncIterator[Owner]:
    async with owning() as made:
        yield made


@asynccontextmanager
async def owning(config: str = CONFIG) -> AsyncIterator[Owner]:
    """A gateway of that configuration, and an owner of webhooks there."""

    async def receive(seen: Seen, peer: Peer) -> None:
        await made.receive(seen, peer)

    async with (
        remote(Reader()) as docs,
        remote(receive) as receiver,
        gateway(config.format(docs=docs.url)) as base,
        client(base) as session,
        patience(),
    ):
        made = Owner(session, receiver)
        yield made


async def test_a_webhook_is_told_of_each_status_of_a_run(owner: Owner) -> None:
    hook = await owner.hook()
    execution = await owner.execution(hook)
    await owner.run(execution)
    messages = {seen.headers["x-execution-status"]: seen for seen in await owner.told(3)}
    assert messages.keys() == {"QUEUED", "RUNNING", "COMPLETED"}
    assert len({seen.headers["webhook-id"] for seen in messages.values()}) == 3
    found = await owner.call("GET", f"/v1/executions/{execution}/observation")
    for seen in messages.values():
        said = Webhook(hook["secret"]).verify(seen.body, seen.headers)
        assert said["executionId"] == execution
        assert seen.headers["x-execution-id"] == execution
        assert seen.headers["x-hook-id"] == hook["hookId"]
        assert seen.headers["x-hook-event"] == "STATUS_CHANGE"
    assert json.loads(messages["COMPLETED"].body) == found


async def test_a_filter_leaves_only_the_statuses_that_it_names(owner: Owner) -> None:
    hook = await owner.hook(statusFilter=["COMPLETED", "FAILED"])
    for number in range(3):
        await owner.run(await owner.execution(hook, executionId=f"e-{number}"))
    seen = await owner.told(3)
    assert {each.headers["x-execution-status"] for each in seen} == {"COMPLETED"}
    assert {each.headers["x-execution-id"] for each in seen} == {"e-0", "e-1", "e-2"}


async def test_an_observation_that_is_added_to_is_told_by_a_run_or_by_hand(owner: Owner) -> None:
    hook = await owner.hook("OBSERVATION_UPDATE", payloadType="RAW")
    execution = await owner.execution(hook)
    path = f"/v1/executions/{execution}/observation"
    await owner.call("POST", path, 204, json={"documents": [{"id": "given"}]})
    [given] = await owner.told(1)
    assert json.loads(given.body)["documents"] == [{"id": "given"}]
    await owner.run(execution)
    _, found = await owner.told(2)
    assert json.loads(found.body) == await owner.call("GET", path)
    assert {seen.headers["x-hook-event"] for seen in owner.receiver.seen} == {"OBSERVATION_UPDATE"}


async def test_submit_fires_what_waits_for_it_and_nothing_else(owner: Owner) -> None:
    submit, change = await owner.hook("SUBMIT"), await owner.hook("OBSERVATION_UPDATE")
    execution = await owner.execution(submit, change)
    await owner.call("POST", f"/v1/executions/{execution}/submit", 204)
    [seen] = await owner.told(1)
    assert seen.headers["x-hook-id"] == submit["hookId"]
    assert seen.headers["x-hook-event"] == "SUBMIT"
    assert "x-execution-status" not in seen.headers


async def test_a_form_brings_the_payload_and_the_execution_s_files(owner: Owner) -> None:
    hook = await owner.hook(
        "SUBMIT",
        payloadType="FORM_TRANSFORM",
        transform='{"id": executionId}',
        formPayloadKey="what",
        formDocumentKey="files",
    )
    execution = await owner.execution(hook)
    media = f"/v1/executions/{execution}/observation/media"
    await owner.call("POST", media, data=PNG, headers={"Content-Type": "image/png"})
    await owner.call("POST", f"/v1/executions/{execution}/submit", 204)
    [seen] = await owner.told(1)
    assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="what"\r\n' in seen.body
    assert f'{{"id":"{execution}"}}'.encode() in seen.body
    assert b'name="files"; filename="' in seen.body
    assert PNG in seen.body


async def test_what_the_receiver_refuses_is_sent_again_as_the_same_message(owner: Owner) -> None:
    owner.refusals = 2
    hook = await owner.hook(statusFilter=["COMPLETED"])
    await owner.run(await owner.execution(hook))
    seen = await owner.told(3)
    assert len({each.headers["webhook-id"] for each in seen}) == 1
    for each in seen:
        Webhook(hook["secret"]).verify(each.body, each.headers)


async def test_the_secret_is_shown_once_and_again_only_when_it_changes(owner: Owner) -> None:
    hook = await owner.hook("SUBMIT", secret="whsec_" + "A" * 32)
    assert hook["secret"] == "whsec_" + "A" * 32
    path = f"/v1/hooks/{hook['hookId']}"
    shown = await owner.call("GET", path)
    assert "secret" not in shown
    assert shown == {name: value for name, value in hook.items() if name != "secret"}
    assert await owner.call("GET", "/v1/hooks") == [shown]
    renamed = await owner.call("PUT", path, json=shown | {"name": "n"})
    assert renamed == shown | {"name": "n"}
    changed = await owner.call("PUT", path, json=shown | {"secret": "whsec_" + "B" * 32})
    assert changed["secret"] == "whsec_" + "B" * 32
    # Whoever verifies may change over at its own time.
    execution = await owner.execution(hook)
    await owner.call("POST", f"/v1/executions/{execution}/submit", 204)
    [seen] = await owner.told(1)
    for secret in (hook["secret"], changed["secret"]):
        Webhook(secret).verify(seen.body, seen.headers)


async def test_a_webhook_that_is_removed_is_told_nothing_more(owner: Owner) -> None:
    gone, kept = await owner.hook("SUBMIT"), await owner.hook("SUBMIT")
    execution = await owner.execution(gone, kept)
    await owner.call("DELETE", f"/v1/hooks/{gone['hookId']}", 204)
    await owner.call("GET", f"/v1/hooks/{gone['hookId']}", 404)
    await owner.call("POST", f"/v1/executions/{execution}/submit", 204)
    [seen] = await owner.told(1)
    assert seen.headers["x-hook-id"] == kept["hookId"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"endpoint": "http://169.254.169.254/latest/meta-data"}, "link-local"),
        ({"endpoint": "http://[fd00:ec2::254]/"}, "private"),
        ({"endpoint": "http://10.0.0.1/"}, "executions.hooks.allow_networks"),
        ({"endpoint": "http://0x7f.1/"}, "no address as they are usually written"),
        ({"endpoint": "http://nothing.invalid/"}, "its host cannot be found"),
        ({"endpoint": "ftp://127.0.0.1/"}, "http:// or https://"),
        ({"endpoint": "http://a:b@127.0.0.1/"}, "no user and password"),
        ({"headers": {"X": "a\r\nHost: b"}}, "headers.X"),
        ({"payloadType": "TRANSFORM", "transform": "$$$("}, "line 1"),
    ],
)
async def test_a_definition_that_cannot_work_is_refused(
    owner: Owner, fields: dict[str, Any], said: str
) -> None:
    body = {"eventType": "SUBMIT", "endpoint": "http://127.0.0.1:9/"} | fields
    refused = await owner.call("POST", "/v1/hooks", 400, json=body)
    assert said in refused["message"]
    hook = await owner.hook("SUBMIT")
    refused = await owner.call("PUT", f"/v1/hooks/{hook['hookId']}", 400, json=body)
    assert said in refused["message"]


async def test_without_an_allowed_network_nothing_of_this_machine_can_be_reached() -> None:
    config = CONFIG.replace("hooks: {{allow_networks: [127.0.0.0/8], retry_s: 0.05}}", "")
    async with owning(config) as owner:
        port = owner.receiver.port
        for host in ("127.0.0.1", "localhost", "localhost.", "[::1]", "[::ffff:127.0.0.1]"):
            body = {"eventType": "SUBMIT", "endpoint": f"http://{host}:{port}/"}
            refused = await owner.call("POST", "/v1/hooks", 400, json=body)
            # Not every machine knows the name with its last dot.
            unknown = host == "localhost." and "cannot be found" in refused["message"]
            assert unknown or "allow_networks" in refused["message"]
