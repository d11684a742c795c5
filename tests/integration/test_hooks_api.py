"""The calls on webhooks: how one is made, shown, changed and removed, and that it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.support.kept import SYNC, Api, running
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.timing import until

OPEN = "{hooks: {allow_networks: [127.0.0.0/8]}}"
FIELDS: dict[str, Any] = {
    "name": "mine",
    "eventType": "STATUS_CHANGE",
    "endpoint": "http://127.0.0.1:9/there?a=1",
    "headers": {"X-Of-Mine": "yes"},
    "statusFilter": ["COMPLETED", "FAILED"],
    "payloadType": "TRANSFORM",
    "transform": "$count(mediaContents)",
    "formPayloadKey": "p",
    "formDocumentKey": "d",
    "enabled": False,
}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A gateway whose webhooks may lead to this machine."""
    async with running(OPEN) as api:
        yield api


@pytest.fixture
async def receiver() -> AsyncIterator[Remote]:
    """Whoever is told; it takes everything."""

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.answer(b"", "204 No Content")

    async with remote(script) as receiver:
        yield receiver


async def test_a_webhook_is_made_shown_and_removed_and_its_secret_told_once(api: Api) -> None:
    made = await api.call("POST", "/v1/hooks", json=FIELDS)
    assert made.pop("secret").startswith("whsec_")
    assert made.pop("createdAt").endswith("Z")
    hook_id = made.pop("hookId")
    assert made == FIELDS | {"hookType": "WEBHOOK"}
    shown = await api.call("GET", f"/v1/hooks/{hook_id}")
    assert "secret" not in shown
    assert shown.items() >= FIELDS.items()
    assert await api.call("GET", "/v1/hooks") == [shown]
    assert await api.call("DELETE", f"/v1/hooks/{hook_id}", 204) == b""
    gone = await api.call("GET", f"/v1/hooks/{hook_id}", 404)
    assert gone == {"code": "not_found", "message": f'there is no webhook "{hook_id}"'}
    assert await api.call("DELETE", f"/v1/hooks/{hook_id}", 404) == gone
    assert await api.call("GET", "/v1/hooks") == []


async def test_what_was_shown_may_come_back_and_changes_nothing(api: Api) -> None:
    made = await api.call("POST", "/v1/hooks", json=FIELDS)
    path = f"/v1/hooks/{made['hookId']}"
    shown = await api.call("GET", path)
    assert await api.call("PUT", path, json=shown) == shown
    assert await api.call("GET", path) == shown
    changed = await api.call("PUT", path, json=shown | {"enabled": True, "name": "other"})
    assert changed == shown | {"enabled": True, "name": "other"}
    await api.call("PUT", "/v1/hooks/none", 404, json=FIELDS)


async def test_a_new_secret_is_told_to_who_sets_it(api: Api) -> None:
    made = await api.call("POST", "/v1/hooks", json=FIELDS)
    path, secret = f"/v1/hooks/{made['hookId']}", "whsec_" + "A" * 32
    assert (await api.call("PUT", path, json=FIELDS | {"secret": secret}))["secret"] == secret
    assert "secret" not in await api.call("PUT", path, json=FIELDS)


async def test_a_webhook_of_an_id_that_is_taken_is_not_made_again(api: Api) -> None:
    made = await api.call("POST", "/v1/hooks", json=FIELDS | {"hookId": "h-1"})
    other = FIELDS | {"hookId": "h-1", "name": "other"}
    assert (await api.call("POST", "/v1/hooks", 409, json=other))["code"] == "conflict"
    assert (await api.call("GET", "/v1/hooks/h-1"))["name"] == made["name"]


async def test_there_are_only_so_many_webhooks() -> None:
    section = "{hooks: {allow_networks: [127.0.0.0/8], hooks_max: 1}}"
    async with running(section) as api:
        made = await api.call("POST", "/v1/hooks", json=FIELDS)
        refused = await api.call("POST", "/v1/hooks", 409, json=FIELDS)
        assert "executions.hooks.hooks_max" in refused["message"]
        await api.call("PUT", f"/v1/hooks/{made['hookId']}", json=FIELDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoint": "http://10.0.0.1/"}, "endpoint: its host is at an address that is private"),
        ({"endpoint": "http://169.254.169.254/latest"}, "endpoint: "),
        ({"endpoint": "http://[::1]/"}, "endpoint: "),
        ({"endpoint": "file:///etc/passwd"}, "endpoint: "),
        ({"endpoint": "http://me:secret@127.0.0.1/"}, "endpoint: "),
        ({"eventType": "NOTHING"}, "eventType: "),
        ({"headers": {"Host": "x"}}, "headers.Host: "),
        ({"transform": "$["}, ""),
        ({"transform": None}, "transform: missing"),
        ({"other": 1}, "unknown field `other`"),
    ],
)
async def test_a_webhook_that_cannot_work_is_refused_when_it_is_made_and_changed(
    api: Api, changes: dict[str, Any], message: str
) -> None:
    made = await api.call("POST", "/v1/hooks", json=FIELDS)
    for method, path in (("POST", "/v1/hooks"), ("PUT", f"/v1/hooks/{made['hookId']}")):
        refused = await api.call(method, path, 400, json=FIELDS | changes)
        assert message in refused["message"]
    assert len(await api.call("GET", "/v1/hooks")) == 1


async def test_an_execution_can_be_made_only_with_webhooks_that_there_are(api: Api) -> None:
    made = await api.call("POST", "/v1/hooks", json=FIELDS)
    hook_ids = [made["hookId"]]
    execution_id = await api.new(hookIds=hook_ids)
    shown = await api.call("GET", f"/v1/executions/{execution_id}")
    assert shown["hookIds"] == hook_ids
    unknown = {"hookIds": [*hook_ids, "none"]}
    refused = await api.call("POST", "/v1/executions", 400, json=unknown)
    assert refused["message"] == 'hookIds: there is no webhook "none"'


async def test_a_webhook_is_told_of_runs_of_merged_observations_and_of_submissions(
    api: Api, receiver: Remote
) -> None:
    hooks = {}
    for event in ("STATUS_CHANGE", "OBSERVATION_UPDATE", "SUBMIT"):
        fields = {"eventType": event, "endpoint": f"{receiver.url}/{event}"}
        hooks[event] = await api.call("POST", "/v1/hooks", json=fields)
    execution_id = await api.submit(text="x", hookIds=[each["hookId"] for each in hooks.values()])
    await api.ended(execution_id)
    path = f"/v1/executions/{execution_id}"
    await api.call("POST", f"{path}/observation", 204, json={"documents": [{"tag": "a"}]})
    assert await api.call("POST", f"{path}/submit", 204) == b""
    expected = {("/STATUS_CHANGE", "COMPLETED"), ("/OBSERVATION_UPDATE", "COMPLETED")}
    expected |= {("/SUBMIT", "COMPLETED")}

    def told() -> set[tuple[str, str]]:
        return {(each.path, each.headers.get("x-execution-status", "")) for each in receiver.seen}

    await until(lambda: told() >= expected)
    for seen in receiver.seen:
        secret = hooks[seen.path[1:]]["secret"]
        Webhook(secret).verify(seen.body, seen.headers)
        assert seen.headers["x-execution-id"] == execution_id
        assert json.loads(seen.body)["executionId"] == execution_id
    await api.call("POST", "/v1/executions/none/submit", 404)


async def test_a_direct_call_tells_the_webhooks_that_it_names(api: Api, receiver: Remote) -> None:
    fields = {
        "eventType": "STATUS_CHANGE",
        "statusFilter": ["COMPLETED"],
        "endpoint": receiver.url,
    }
    made = await api.call("POST", "/v1/hooks", json=fields)
    answer = await api.call("POST", SYNC, json={"text": "x", "hookIds": [made["hookId"]]})
    await until(lambda: receiver.seen)
    assert json.loads(receiver.seen[0].body) == answer["observation"]
