"""Pipelines run on executions, queued or at once: what becomes of them and of what they find."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest

from tests.support.client import PNG, read_events
from tests.support.gated import page
from tests.support.kept import ASYNC, STREAM, SYNC, Api, running
from tests.support.timing import patience, until


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A gateway whose executions are as they are unless configured otherwise."""
    async with running() as api:
        yield api


# Runs


async def test_a_queued_run_is_acknowledged_at_once_and_its_result_read_later(api: Api) -> None:
    api.docs.gate.clear()
    execution_id = await api.submit(text="hello", tag="t")
    await until(lambda: api.docs.calls)
    await api.runs(execution_id)
    assert await api.texts(execution_id) == []
    api.docs.gate.set()
    shown = await api.ended(execution_id)
    assert (shown["status"], shown["tag"]) == ("COMPLETED", "t")
    assert shown["completedAt"] >= shown["createdAt"]
    assert shown["duration"] > 0
    assert await api.texts(execution_id) == ["hello"]


async def test_runs_on_an_execution_take_its_files_and_add_to_what_it_holds(api: Api) -> None:
    execution_id = await api.new()
    for _ in range(2):
        await api.call("POST", f"/v1/executions/{execution_id}/observation/media", data=PNG)
    first = await api.call("POST", SYNC, json={"executionId": execution_id})
    assert first["executionId"] == execution_id
    assert first["observation"]["mediaContents"] == [page("2 files", 1)]
    assert api.docs.calls[0]["media"] == [base64.b64encode(PNG).decode()] * 2
    await api.submit(executionId=execution_id, text="second")
    await api.ended(execution_id)
    await until(lambda: len(api.docs.calls) == 2)
    third = await api.call("POST", SYNC, json={"executionId": execution_id, "text": "third"})
    texts = [each["rawText"] for each in third["observation"]["mediaContents"]]
    assert texts == ["2 files", "second", "third"]
    assert await api.texts(execution_id) == texts


async def test_what_an_idempotent_run_finds_takes_the_place_of_what_is_the_same(api: Api) -> None:
    execution_id = await api.new()
    for text in ("one", "two"):
        asked = {"executionId": execution_id, "text": text, "idempotent": True}
        await api.call("POST", SYNC, json=asked)
    await api.submit(executionId=execution_id, text="three", idempotent=True)
    await api.ended(execution_id)
    assert await api.texts(execution_id) == ["three"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [SYNC, SYNC.replace("doc", "chat")])
async def test_what_a_direct_call_found_is_kept(api: Api, path: str, stream: bool) -> None:
    asked = {"text": "hello", "tag": "t"}
    async with api.session.post(path, json=asked, headers=STREAM if stream else {}) as response:
        answer = (await read_events(response))[-1] if stream else await response.json()
    execution_id = answer["executionId"]
    kept = await api.call("GET", f"/v1/executions/{execution_id}/observation")
    assert kept == answer["observation"]
    shown = await api.call("GET", f"/v1/executions/{execution_id}")
    assert (shown["status"], shown["tag"]) == ("COMPLETED", "t")
    assert [event["status"] for _, event in await api.log(execution_id)] == ["COMPLETED"]


async def test_nothing_is_kept_of_a_transient_call(api: Api) -> None:
    await api.call("POST", SYNC, json={"text": "x", "transient": True})
    assert await api.call("GET", "/v1/executions") == []
    execution_id = await api.submit(text="x", transient=True)
    assert (await api.ended(execution_id))["status"] == "COMPLETED"
    gone = await api.call("GET", f"/v1/executions/{execution_id}/observation", 410)
    assert gone["code"] == "gone"


async def test_a_direct_run_on_an_execution_has_the_views_of_all_that_it_holds(api: Api) -> None:
    execution_id = await api.new()
    asked = {"executionId": execution_id, "text": "x", "transform": "$count(mediaContents)"}
    for number in (1, 2):
        assert await api.call("POST", f"{SYNC}/transform", json=asked) == number
    assert await api.call("POST", f"{SYNC}/json", json=asked) == {}
    missing = {"executionId": execution_id, "text": "x"}
    refused = await api.call("POST", f"{SYNC}/transform", 400, json=missing)
    assert refused["message"].startswith("transform: missing")


@pytest.mark.parametrize("path", [SYNC, ASYNC])
async def test_a_run_on_what_is_not_there_is_refused(api: Api, path: str) -> None:
    unknown = await api.call("POST", path, 400, json={"executionId": "e-1", "text": "x"})
    assert unknown["message"] == "executionId: there is no such execution"
    execution_id = await api.new()
    empty = await api.call("POST", path, 400, json={"executionId": execution_id})
    assert "nothing to run on" in empty["message"]
    for field, value in (("transient", True), ("hookIds", ["h-1"])):
        asked = {"executionId": execution_id, "text": "x", field: value}
        refused = await api.call("POST", path, 400, json=asked)
        assert refused["code"] == "not_supported"
        assert refused["message"].startswith(field)
    for bad in ({"text": "x", "hookIds": ["h-1"]}, {"text": "x", "tag": "t" * 257}):
        assert (await api.call("POST", path, 400, json=bad))["code"] == "bad_request"
    assert api.docs.calls == []


async def test_an_expression_that_cannot_be_one_is_refused_before_anything_is_queued(
    api: Api,
) -> None:
    refused = await api.call("POST", ASYNC, 400, json={"text": "x", "transform": "$["})
    assert refused["code"] == "transform_invalid"
    assert await api.call("GET", "/v1/executions") == []


async def test_a_run_takes_the_observation_where_there_is_nothing_else(api: Api) -> None:
    execution_id = await api.new()
    given = {"mediaContents": [page("given", 0)]}
    await api.call("POST", f"/v1/executions/{execution_id}/observation", 204, json=given)
    await api.submit(executionId=execution_id)
    assert (await api.ended(execution_id))["status"] == "COMPLETED"
    assert api.docs.calls[0]["observation"]["mediaContents"] == [page("given", 0)]


async def test_a_run_that_fails_says_why(api: Api) -> None:
    execution_id = await api.submit(text="fail")
    shown = await api.ended(execution_id)
    assert shown["status"] == "FAILED"
    assert "upstream docs" in shown["message"]
    last = (await api.log(execution_id))[-1][1]
    assert (last["status"], last["message"]) == ("FAILED", shown["message"])


async def test_a_direct_run_that_fails_is_answered_and_seen_as_failed(api: Api) -> None:
    execution_id = await api.new()
    asked = {"executionId": execution_id, "text": "fail"}
    answer = await api.call("POST", SYNC, 502, json=asked)
    shown = await api.call("GET", f"/v1/executions/{execution_id}")
    assert (shown["status"], shown["message"]) == ("FAILED", answer["message"])


# Cancelling


async def test_a_run_that_is_cancelled_ends_its_work_upstream(api: Api) -> None:
    api.docs.gate.clear()
    execution_id = await api.submit(text="x")
    await until(lambda: api.docs.calls)
    path = f"/v1/executions/{execution_id}/cancel"
    assert await api.call("POST", path, 204) == b""
    assert (await api.ended(execution_id))["status"] == "CANCELLED"
    await until(lambda: api.docs.left == 1)
    assert (await api.log(execution_id))[-1][1]["status"] == "CANCELLED"
    for _ in range(2):  # there is nothing left to cancel, which is as good
        await api.call("POST", path, 204)
    assert await api.status(execution_id) == "CANCELLED"
    await api.call("POST", "/v1/executions/e-1/cancel", 404)


async def test_a_run_that_has_not_begun_is_cancelled_without_being_run() -> None:
    async with running("{concurrency: 1}") as api:
        api.docs.gate.clear()
        running_id = await api.submit(text="first")
        await until(lambda: api.docs.calls)
        waiting_id = await api.submit(text="second")
        assert await api.status(waiting_id) == "QUEUED"
        await api.call("POST", f"/v1/executions/{waiting_id}/cancel", 204)
        assert await api.status(waiting_id) == "CANCELLED"
        api.docs.gate.set()
        assert (await api.ended(running_id))["status"] == "COMPLETED"
        assert len(api.docs.calls) == 1


async def test_an_execution_that_is_removed_while_it_runs_is_given_up(api: Api) -> None:
    api.docs.gate.clear()
    execution_id = await api.submit(text="x")
    await until(lambda: api.docs.calls)
    await api.call("DELETE", f"/v1/executions/{execution_id}", 204)
    await until(lambda: api.docs.left == 1)
    await api.call("GET", f"/v1/executions/{execution_id}", 404)


@pytest.mark.parametrize("how", ["POST /cancel 409", "DELETE / 404"])
async def test_a_direct_run_is_ended_from_elsewhere_as_a_queued_one_is(api: Api, how: str) -> None:
    method, rest, status = how.split()
    api.docs.gate.clear()
    execution_id = await api.new()
    asked = {"executionId": execution_id, "text": "x"}
    answer = asyncio.create_task(api.call("POST", SYNC, int(status), json=asked))
    await until(lambda: api.docs.calls)
    await api.call(method, f"/v1/executions/{execution_id}{rest}", 204)
    async with patience():
        await answer
    await until(lambda: api.docs.left == 1)


async def test_a_direct_run_ends_with_the_client_who_asked_for_it(api: Api) -> None:
    api.docs.gate.clear()
    execution_id = await api.new()
    asked = {"executionId": execution_id, "text": "x"}
    answer = asyncio.create_task(api.call("POST", SYNC, json=asked))
    await until(lambda: api.docs.calls)
    answer.cancel()
    assert (await api.ended(execution_id))["status"] == "CANCELLED"
    await until(lambda: api.docs.left == 1)
