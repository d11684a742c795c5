"""The events of executions: read, resumed, watched by many, gone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from tests.support.kept import CHAT, STREAM, SYNC, Api, numbered, running
from tests.support.raw import raw
from tests.support.scripts import EVENTS
from tests.support.timing import patience, until


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A gateway whose executions are as they are unless configured otherwise."""
    async with running() as api:
        yield api


# Events


async def test_a_log_has_every_event_with_an_id_that_it_can_be_resumed_from(api: Api) -> None:
    execution_id = await api.submit(CHAT, text="hello")
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
            await api.submit(CHAT, executionId=execution_id, text="hello")
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
    execution_id = await api.submit(CHAT, text="hello")
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


async def test_who_watches_what_is_removed_is_let_go(api: Api) -> None:
    execution_id = await api.new()
    url = f"/v1/executions/{execution_id}/events"
    async with patience(), api.session.get(url) as response:
        await response.content.readline()
        await api.call("DELETE", f"/v1/executions/{execution_id}", 204)
        assert numbered(await response.read()) == []
    await api.call("GET", url, 404)


async def test_the_time_that_a_watcher_waits_is_not_the_gateways_own(api: Api) -> None:
    url = f"/v1/executions/{await api.new()}/events"
    async with api.session.get(url) as response:
        await response.content.readline()
        await asyncio.sleep(0.3)

    async def seconds(family: str) -> float:
        text = (await api.call("GET", "/metrics")).decode()
        found = re.findall(rf'^{family}_sum{{.*mode="watch".*}} (.*)$', text, re.MULTILINE)
        return sum(map(float, found))

    async with patience():
        while await seconds("gateway_request_duration_seconds") < 0.3:
            await asyncio.sleep(0.01)
    assert await seconds("gateway_overhead_seconds") < 0.1


async def test_a_watcher_who_reads_nothing_is_dropped_and_holds_up_nobody() -> None:
    async with running(server="write_timeout_s: 1") as api:
        execution_id = await api.submit(text="x" * 3_000_000)
        await api.ended(execution_id)
        async with raw(api.base) as sleeper:
            head = f"GET /v1/executions/{execution_id}/events HTTP/1.1"
            await sleeper.send(f"{head}\r\nHost: x\r\n\r\n".encode())
            assert (await api.log(execution_id))[-1][1]["status"] == "COMPLETED"

            async def open_streams() -> str:
                text = (await api.call("GET", "/metrics")).decode()
                (count,) = re.findall(r"^gateway_streams_open{.*} (.*)$", text, re.MULTILINE)
                return str(count)

            assert await open_streams() == "1.0"
            async with patience():
                while await open_streams() != "0.0":
                    await asyncio.sleep(0.05)


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
    assert (await api.ended(execution_id))["status"] == "FAILED"
