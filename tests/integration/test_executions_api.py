"""The calls on executions, as a client of Cambrion's API makes them."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from gateway.sse import Decoder
from tests.support.client import PNG, read_events
from tests.support.gated import Reader, Talker, page
from tests.support.remote import Remote, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS
from tests.support.timing import patience, until

CONFIG = """
executions: {executions}
upstreams:
  docs: {{kind: cambrion, url: "{docs}/v1", retries: {{retries_max: 0}}}}
  talk: {{kind: pupau, url: "{talk}"}}
pipelines:
  doc: {{upstream: docs}}
  chat: {{upstream: talk}}
"""
SYNC = "/v1/pipelines/doc/executeSync"
ASYNC = "/v1/pipelines/doc/executeAsync"
STREAM = {"Accept": "text/event-stream"}


@dataclass
class Api:
    """A gateway that keeps executions, what is behind it, and its client."""

    session: aiohttp.ClientSession
    docs: Reader
    talk: Talker
    behind: Remote

    async def call(self, method: str, path: str, status: int = 200, **asked: Any) -> Any:
        """The JSON of an answer that has this status; its bytes where it is no JSON."""
        async with self.session.request(method, path, **asked) as response:
            body = await response.read()
            assert response.status == status, body
            if response.content_type != "application/json" or status == 204:
                return body
            return json.loads(body)

    async def new(self, **fields: Any) -> str:
        """The ID of a new execution."""
        made = await self.call("POST", "/v1/executions", json=fields)
        return str(made["executionId"])

    async def submit(self, path: str = ASYNC, **fields: Any) -> str:
        """The ID of the execution that a queued run is of."""
        return str((await self.call("POST", path, json=fields))["executionId"])

    async def ended(self, execution_id: str) -> dict[str, Any]:
        """The execution, once its runs have ended."""
        async with patience():
            while True:
                shown: dict[str, Any] = await self.call("GET", f"/v1/executions/{execution_id}")
                if shown.get("status") in ("COMPLETED", "FAILED", "CANCELLED"):
                    return shown
                await asyncio.sleep(0.01)

    async def status(self, execution_id: str) -> str | None:
        """How far the execution has come."""
        shown = await self.call("GET", f"/v1/executions/{execution_id}")
        status: str | None = shown.get("status")
        return status

    async def texts(self, execution_id: str) -> list[str]:
        """What the pages of its observation say."""
        found = await self.call("GET", f"/v1/executions/{execution_id}/observation")
        assert found["executionId"] == execution_id
        return [each["rawText"] for each in found["mediaContents"]]

    async def log(self, execution_id: str, **headers: str) -> list[tuple[str, dict[str, Any]]]:
        """Its events with their IDs, once it has ended."""
        url = f"/v1/executions/{execution_id}/events"
        async with patience(), self.session.get(url, headers=headers) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            return numbered(await response.read())


def numbered(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, each with its ID."""
    frames = Decoder(1 << 26).feed(body)
    return [(frame.last_event_id, json.loads(frame.data)) for frame in frames]


@asynccontextmanager
async def running(executions: str = "{}") -> AsyncIterator[Api]:
    """A gateway with that section."""
    docs, talk = Reader(), Talker()
    async with remote(docs) as first, remote(talk) as second:
        config = CONFIG.format(executions=executions, docs=first.url, talk=second.url)
        async with gateway(config) as base, client(base) as session:
            yield Api(session, docs, talk, first)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A gateway whose executions are as they are unless configured otherwise."""
    async with running() as api:
        yield api


# Executions


async def test_an_execution_is_made_once_shown_and_removed(api: Api) -> None:
    given = {"executionId": "e-1", "tag": "t", "metaData": {"a": [1, None]}}
    made = await api.call("POST", "/v1/executions", json=given)
    assert made.pop("createdAt").endswith("Z")
    assert made == given | {"hookIds": []}
    assert await api.call("POST", "/v1/executions", 204, json={"executionId": "e-1"}) == b""
    shown = await api.call("GET", "/v1/executions/e-1")
    assert (shown["tag"], shown["metaData"]) == ("t", {"a": [1, None]})
    assert "status" not in shown
    await api.call("DELETE", "/v1/executions/e-1", 204)
    gone = await api.call("GET", "/v1/executions/e-1", 404)
    assert gone == {"code": "not_found", "message": 'there is no execution "e-1"'}
    assert await api.call("DELETE", "/v1/executions/e-1", 404) == gone


async def test_an_execution_may_be_made_without_a_body_and_gets_an_id(api: Api) -> None:
    made = await api.call("POST", "/v1/executions")
    assert len(made["executionId"]) == 36
    assert await api.call("GET", f"/v1/executions/{made['executionId']}") == made


async def test_a_list_has_the_newest_first_and_says_where_it_goes_on(api: Api) -> None:
    for number in range(5):
        await api.new(executionId=f"e-{number}", tag="even" if number % 2 == 0 else "odd")
    even = await api.call("GET", "/v1/executions?tag=even")
    assert [each["executionId"] for each in even] == ["e-4", "e-2", "e-0"]
    url: str | None = "/v1/executions?limit=2"
    pages = []
    while url is not None:
        async with api.session.get(url) as response:
            pages.append([each["executionId"] for each in await response.json()])
            following = response.links.get("next")
        url = None if following is None else str(following["url"])
    assert pages == [["e-4", "e-3"], ["e-2", "e-1"], ["e-0"]]
    assert await api.call("GET", "/v1/executions?tag=none") == []
    assert (await api.call("GET", "/v1/executions?limit=0", 400))["code"] == "bad_request"


# Media


@pytest.mark.parametrize("content_type", ["image/png", "text/plain", "application/pdf", ""])
async def test_a_file_comes_back_as_what_it_is_whatever_it_was_sent_as(
    api: Api, content_type: str
) -> None:
    path = f"/v1/executions/{await api.new()}/observation/media"
    headers = {"Content-Type": content_type} if content_type else {}
    for body in (PNG, base64.b64encode(PNG), base64.encodebytes(PNG)):
        media_id = (await api.call("POST", path, data=body, headers=headers))["mediaId"]
        async with api.session.get(f"{path}/{media_id}") as response:
            assert await response.read() == PNG
            assert response.content_type == "image/png"


@pytest.mark.parametrize(
    ("body", "content_type", "attached"),
    [
        (b"<html><script>alert(1)</script>", "text/plain", False),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "text/plain", False),
        (b"%PDF-1.7\n", "application/pdf", True),
        (b"\0\1\2", "application/octet-stream", True),
    ],
)
async def test_nothing_that_was_uploaded_runs_in_a_browser(
    api: Api, body: bytes, content_type: str, attached: bool
) -> None:
    path = f"/v1/executions/{await api.new()}/observation/media"
    added = await api.call("POST", path, data=body, headers={"Content-Type": "text/html"})
    async with api.session.get(f"{path}/{added['mediaId']}") as response:
        assert await response.read() == body
        assert response.content_type == content_type
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert ("Content-Disposition" in response.headers) is attached


async def test_files_are_bounded_in_size_and_number() -> None:
    async with running("{media_bytes_max: 100, media_max: 2}") as api:
        path = f"/v1/executions/{await api.new()}/observation/media"
        assert (await api.call("POST", path, 400, data=b""))["code"] == "bad_request"
        too_large = await api.call("POST", path, 413, data=b"x" * 101)
        assert "executions.media_bytes_max" in too_large["message"]
        for _ in range(2):
            await api.call("POST", path, data=b"x" * 100)
        assert (await api.call("POST", path, 409, data=b"x"))["code"] == "conflict"


async def test_a_file_that_is_not_there_is_not_found(api: Api) -> None:
    path = f"/v1/executions/{await api.new()}/observation/media"
    assert "has no media" in (await api.call("GET", f"{path}/m-1", 404))["message"]
    assert (await api.call("GET", f"{path}/a%20b", 400))["code"] == "bad_request"
    await api.call("GET", "/v1/executions/e/observation/media/m-1", 404)
    await api.call("POST", "/v1/executions/e/observation/media", 404, data=PNG)


# Runs


async def test_a_queued_run_is_acknowledged_at_once_and_its_result_read_later(api: Api) -> None:
    api.docs.gate.clear()
    execution_id = await api.submit(text="hello", tag="t")
    await until(lambda: api.docs.calls)
    assert await api.status(execution_id) == "RUNNING"
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
async def test_what_a_direct_call_found_is_kept(api: Api, stream: bool) -> None:
    asked = {"text": "hello", "tag": "t"}
    async with api.session.post(SYNC, json=asked, headers=STREAM if stream else {}) as response:
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


# The observation


async def test_an_observation_is_read_by_get_and_by_an_empty_post(api: Api) -> None:
    execution_id = await api.new()
    path = f"/v1/executions/{execution_id}/observation"
    empty = {"executionId": execution_id, "mediaContents": [], "documents": []}
    assert await api.call("GET", path) == await api.call("POST", path) == empty
    await api.call("POST", path, 204, json={"executionId": "other", "documents": [{"tag": "a"}]})
    await api.call("POST", path, 204, json={"documents": [{"tag": "b"}]})
    found = await api.call("POST", path)
    assert found == {"executionId": execution_id, "documents": [{"tag": "a"}, {"tag": "b"}]}
    assert await api.call("GET", path) == found


async def test_the_same_observation_merged_twice_counts_once_where_that_is_asked_for(
    api: Api,
) -> None:
    path = f"/v1/executions/{await api.new()}/observation"
    for _ in range(2):
        given = {"mediaContents": [page("x", 1)]}
        await api.call("POST", f"{path}?idempotent=true", 204, json=given)
    assert (await api.call("GET", path))["mediaContents"] == [page("x", 1)]


@pytest.mark.parametrize(
    "body", [b"null", b"[]", b"{", b'{"mediaContents":{}}', b'{"a":1,"a":2}', b'{"a":"\xff"}']
)
async def test_what_is_no_observation_is_not_merged(api: Api, body: bytes) -> None:
    path = f"/v1/executions/{await api.new()}/observation"
    assert (await api.call("POST", path, 400, data=body))["code"] == "bad_request"
    assert (await api.call("GET", path))["documents"] == []


async def test_an_observation_has_views_as_json_and_by_an_expression(api: Api) -> None:
    execution_id = await api.new()
    path = f"/v1/executions/{execution_id}/observation"
    entity = {"label": "total", "type": "NUMBER", "data": {"numberValue": 12.5}}
    document = {"documentPages": [{"page": 1, "document": {"entities": [entity]}}]}
    await api.call("POST", path, 204, json={"mediaContents": [document]})
    for method in ("GET", "POST"):
        assert await api.call(method, f"{path}/json") == {"total": 12.5}
    expression = "mediaContents.documentPages.document.entities.data.numberValue"
    assert await api.call("POST", f"{path}/transform", data=expression) == 12.5
    text = {"Accept": "text/plain"}
    assert await api.call("POST", f"{path}/transform", data="executionId", headers=text) == (
        f'"{execution_id}"'.encode()
    )
    assert await api.call("POST", f"{path}/transform", data="nothing") is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_request"),
        (b" \n", "bad_request"),
        (b"\xff", "bad_request"),
        (b"$[", "transform_invalid"),
        (b'$error("no")', "transform_failed"),
        (b"($f := function($x){$f($x)}; $f(1))", "transform_limit"),
    ],
)
async def test_an_expression_that_fails_is_the_clients_error(
    api: Api, body: bytes, code: str
) -> None:
    path = f"/v1/executions/{await api.new()}/observation/transform"
    assert (await api.call("POST", path, 400, data=body))["code"] == code


# Events


async def test_a_log_has_every_event_with_an_id_that_it_can_be_resumed_from(api: Api) -> None:
    execution_id = await api.submit("/v1/pipelines/chat/executeAsync", text="hello")
    await api.ended(execution_id)
    log = await api.log(execution_id)
    assert [event_id for event_id, _ in log] == [f"1-{n + 1}" for n in range(len(EVENTS) + 3)]
    status = {"type": "EXECUTION_STATUS", "executionId": execution_id}
    assert log[0][1] == status | {"status": "RUNNING"}
    assert [event for _, event in log[1:-2]] == EVENTS
    assert (log[-2][1]["type"], log[-2][1]["executionId"]) == ("OBSERVATION", execution_id)
    assert log[-1][1] == status | {"status": "COMPLETED"}
    for number, (event_id, _) in enumerate(log[:-1]):
        assert await api.log(execution_id, **{"Last-Event-ID": event_id}) == log[number + 1 :]
    url = f"/v1/executions/{execution_id}/events?lastEventId=1-2"
    assert numbered(await api.call("GET", url)) == log[2:]
    # A browser that attaches again sends both, and what it has by then counts.
    later = {"Last-Event-ID": log[-2][0]}
    assert numbered(await api.call("GET", url, headers=later)) == log[-1:]


async def test_who_has_had_all_of_a_log_is_told_to_ask_no_more(api: Api) -> None:
    execution_id = await api.submit(text="x")
    await api.ended(execution_id)
    last, _ = (await api.log(execution_id))[-1]
    path = f"/v1/executions/{execution_id}/events"
    assert await api.call("GET", path, 204, headers={"Last-Event-ID": last}) == b""


async def test_a_log_can_be_looked_for_without_being_read(api: Api) -> None:
    execution_id = await api.new()
    async with api.session.head(f"/v1/executions/{execution_id}/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
    async with api.session.head("/v1/executions/e-1/events") as response:
        assert response.status == 404


@pytest.mark.parametrize("last", ["x", "1", "-1-1", "1-1-1", "1-" + "9" * 13, "٣-1", "1-1 "])
async def test_an_event_id_that_can_be_none_is_refused(api: Api, last: str) -> None:
    path = f"/v1/executions/{await api.new()}/events"
    refused = await api.call("GET", path, 400, params={"lastEventId": last})
    assert refused["message"].startswith("Last-Event-ID")


async def test_events_that_are_kept_no_more_are_gone_but_the_rest_can_be_read() -> None:
    async with running("{events_max: 10}") as api:
        execution_id = await api.new()
        for _ in range(2):
            path = "/v1/pipelines/chat/executeAsync"
            await api.submit(path, executionId=execution_id, text="hello")
            await api.ended(execution_id)
        await until(lambda: api.talk.calls == 2)
        await api.ended(execution_id)
        path = f"/v1/executions/{execution_id}/events"
        gone = await api.call("GET", path, 410, headers={"Last-Event-ID": "1-1"})
        assert gone["code"] == "gone"
        log = await api.log(execution_id)
        assert len(log) == 10
        assert log[-1][1]["status"] == "COMPLETED"


async def test_any_number_of_clients_watch_a_run_as_it_goes(api: Api) -> None:
    api.talk.gate.clear()
    execution_id = await api.submit("/v1/pipelines/chat/executeAsync", text="hello")
    await until(lambda: api.talk.calls)
    watching = [asyncio.create_task(api.log(execution_id)) for _ in range(5)]
    url = f"/v1/executions/{execution_id}/events"
    async with patience(), api.session.get(url) as response:
        begun = b""
        while begun.count(b"\n\n") < 3:  # what there is so far comes before the run has ended
            begun += await response.content.readany()
        assert b"STREAMING_RESPONSE" in begun
        api.talk.gate.set()
        rest = await response.read()
    logs = await asyncio.gather(*watching)
    assert all(log == numbered(begun + rest) for log in logs)
    assert len(logs[0]) == len(EVENTS) + 3


async def test_who_watches_what_has_not_begun_hears_so_at_once(api: Api) -> None:
    execution_id = await api.new()
    url = f"/v1/executions/{execution_id}/events"
    async with patience(), api.session.get(url) as response:
        assert await response.content.readline() == b": ping\n"
        await api.submit(executionId=execution_id, text="x")
        events = numbered(await response.read())
    assert events[-1][1]["status"] == "COMPLETED"


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


# Streams that can be attached to again


async def test_a_direct_stream_that_was_cut_goes_on_in_its_log() -> None:
    async with running("{resume_s: 30}") as api:
        api.talk.gate.clear()
        url = "/v1/pipelines/chat/executeSync"
        async with api.session.post(url, json={"text": "x"}, headers=STREAM) as response:
            execution_id = response.headers["X-Execution-Id"]
            begun = b""
            async with patience():
                while begun.count(b"\n\n") < 2:
                    begun += await response.content.readany()
        # The client has gone, and the run has not.
        first = numbered(begun[: begun.rindex(b"\n\n") + 2])
        api.talk.gate.set()
        rest = await api.log(execution_id, **{"Last-Event-ID": first[-1][0]})
        assert [event for _, event in [*first, *rest]][:-2] == EVENTS
        assert rest[-1][1]["status"] == "COMPLETED"
        assert await api.texts(execution_id) == ["Hello wörld"]


async def test_a_query_that_was_cut_goes_on_in_its_log() -> None:
    async with running("{resume_s: 30}") as api:
        api.talk.gate.clear()
        url = "/pipelines/chat/queries?sse=true"
        async with api.session.post(url, json={"request": "x"}) as response:
            execution_id = response.headers["X-Execution-Id"]
            async with patience():
                begun = await response.content.readany()
        first = numbered(begun[: begun.rindex(b"\n\n") + 2])
        api.talk.gate.set()
        rest = await api.log(execution_id, **{"Last-Event-ID": first[-1][0]})
        assert [event for _, event in [*first, *rest]][:-1] == EVENTS


async def test_a_direct_stream_on_an_execution_carries_ids_and_adds_to_it(api: Api) -> None:
    execution_id = await api.new()
    asked = {"executionId": execution_id, "text": "x"}
    async with api.session.post(SYNC, json=asked, headers=STREAM) as response:
        assert response.headers["X-Execution-Id"] == execution_id
        told = numbered(await response.read())
    assert told[-1][1]["type"] == "OBSERVATION"
    log = await api.log(execution_id)
    assert log[1:-1] == told
    assert await api.texts(execution_id) == ["x"]


async def test_a_direct_stream_that_fails_before_it_began_has_the_status_that_says_so(
    api: Api,
) -> None:
    execution_id = await api.new()
    asked = {"executionId": execution_id, "text": "fail"}
    async with api.session.post(SYNC, json=asked, headers=STREAM) as response:
        assert response.status == 502
    assert await api.status(execution_id) == "FAILED"


# What is wrong


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ASYNC),
        ("POST", "/v1/executions"),
        ("GET", "/v1/executions/e-1/events"),
        ("GET", "/v1/hooks"),
    ],
)
async def test_a_gateway_that_keeps_no_executions_says_so(method: str, path: str) -> None:
    async with remote(Reader()) as docs:
        config = CONFIG.format(executions="", docs=docs.url, talk=docs.url)
        async with (
            gateway(config) as base,
            client(base) as session,
            session.request(method, path) as response,
        ):
            assert response.status == 400
            assert (await response.json())["code"] == "not_supported"


async def test_another_method_is_told_which_there_are(api: Api) -> None:
    async with api.session.put("/v1/executions/e-1") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, DELETE"


async def test_calls_are_counted_by_what_they_are(api: Api) -> None:
    execution_id = await api.submit(text="x")
    await api.log(execution_id)
    await api.call("GET", "/v1/hooks")
    text = (await api.call("GET", "/metrics")).decode()
    for mode in ("execute_async", "watch", "hooks"):
        assert re.search(rf'^gateway_requests_total{{.*mode="{mode}".*}} 1.0$', text, re.MULTILINE)
