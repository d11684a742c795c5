"""Pipelines of layers: actors side by side, each on its own upstream, streamed together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from tests.support.client import check_stream, read_events
from tests.support.remote import Peer, Script, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import answering, frames
from tests.support.timing import promised

CONFIG = """
upstreams:
  left: {{kind: pupau, url: "{left}", retries: {{retries_max: 0}}}}
  right: {{kind: pupau, url: "{right}", retries: {{retries_max: 0}}}}
  docs: {{kind: cambrion, url: "{docs}", retries: {{retries_max: 0}}}}
pipelines:
  two:
    layers:
      - - {{actor: a, upstream: left}}
        - {{actor: b, upstream: right}}
  chain:
    layers:
      - - {{actor: ocr, upstream: docs}}
        - {{actor: a, upstream: left}}
      - - actor: sum
          upstream: right
          transform:
            request: |
              {{
                "text": "Sum up: " & layers[0].observations[actorId = "ocr"]
                  .observation.mediaContents.rawText,
                "context": request.text & " / " & $join(layers[0].responses.actorId, " ")
              }}
        - {{actor: archive, upstream: docs}}
  plainchain:
    layers:
      - - {{actor: a, upstream: left}}
      - - {{actor: b, upstream: right}}
  lenient:
    layers:
      - actors:
          - {{actor: a, upstream: left}}
          - {{actor: b, upstream: right}}
        on_error: continue
  quorum:
    layers:
      - actors:
          - {{actor: a, upstream: left}}
          - {{actor: b, upstream: right}}
          - {{actor: c, upstream: docs}}
        need: 2
"""

Say = Callable[[Seen, Peer], Awaitable[None]]
SSE = {"Accept": "text/event-stream"}


def piece(text: str, *, finished: bool = False, actor: str = "r") -> dict[str, Any]:
    event = {
        "type": "STREAMING_RESPONSE",
        "actorId": actor,
        "message": text,
        "layerId": "7",
        "lastLayer": True,
    }
    return {**event, "finished": True} if finished else event


def ending(text: str, actor: str = "r", **errors: Any) -> dict[str, Any]:
    response = {"actorId": actor, "message": text, "errors": [], "info": [], **errors}
    return {"type": "LAYER_RESPONSE", "layerId": "7", "responses": [response], "last": True}


def speaking(*texts: str, before: asyncio.Event | None = None) -> Script:
    """A remote Pupau that says ``texts`` piece by piece, after ``before`` is set."""

    async def script(seen: Seen, peer: Peer) -> None:
        if before is not None:
            await before.wait()
        whole = "".join(texts)
        if "sse=true" not in seen.path:
            await peer.answer(json.dumps(ending(whole)["responses"]).encode())
            return
        await peer.open_stream()
        for text in texts:
            await peer.chunk(frames([piece(text)]))
        await peer.chunk(frames([ending(whole)]))
        await peer.end()

    return script


def observing(*texts: str) -> Script:
    """A remote Cambrion: one media content for each of ``texts``; the given observation first."""

    async def script(seen: Seen, peer: Peer) -> None:
        given = json.loads(seen.body).get("observation", {}).get("mediaContents", [])
        contents = [{"id": text, "mediaId": "media-1", "rawText": text} for text in texts]
        observation = {"mediaContents": given + contents, "documents": []}
        await peer.answer(json.dumps({"executionId": "r", "observation": observation}).encode())

    return script


def failing(status: str = "500 Oops", body: bytes = b'{"message":"broken"}') -> Script:
    return answering(body, status)


async def stream(base: str, pipeline: str, dialect: str = "pupau") -> list[dict[str, Any]]:
    async with client(base) as session:
        if dialect == "pupau":
            path, body, headers = f"/pipelines/{pipeline}/queries?sse=true", {"request": "hi"}, {}
        else:
            path, body, headers = f"/v1/pipelines/{pipeline}/executeSync", {"text": "hi"}, SSE
        async with session.post(path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            return await read_events(response)


async def test_the_pieces_of_a_layers_actors_interleave_as_they_come() -> None:
    turns = {name: asyncio.Queue[str]() for name in ("left", "right")}
    turns["left"].put_nowait("1")  # the answer's head comes with the first piece

    def told(name: str) -> Script:
        async def script(seen: Seen, peer: Peer) -> None:
            await peer.open_stream()
            whole = ""
            while text := await turns[name].get():
                whole += text
                await peer.chunk(frames([piece(text)]))
            await peer.chunk(frames([ending(whole)]))
            await peer.end()

        return script

    async with (
        remote(told("left")) as left,
        remote(told("right")) as right,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=right.url)) as base,
        client(base) as session,
        session.post("/pipelines/two/queries?sse=true", json={"request": "hi"}) as response,
    ):
        said = [("left", "a", "1"), ("right", "b", "2"), ("left", "a", "3"), ("right", "b", "4")]
        seen = b""
        for turn, (upstream, actor, text) in enumerate(said):
            if turn:
                turns[upstream].put_nowait(text)
            wanted = f'"actorId":"{actor}","message":"{text}","layerId":"0","lastLayer":true'
            while wanted.encode() not in seen:
                arrived = await response.content.readany()
                assert arrived, f"the stream ended before {wanted}"
                seen += arrived
        for queue in turns.values():
            queue.put_nowait("")
        async for more in response.content.iter_any():
            seen += more
    events = [json.loads(line[6:]) for line in seen.split(b"\n\n") if line.startswith(b"data: ")]
    assert events[0] == {
        "type": "LAYER_MESSAGE",
        "message": "Executing layer 0...",
        "layerId": "0",
        "executionCount": 1,
    }
    assert [event["message"] for event in events[1:5]] == ["1", "2", "3", "4"]
    assert {event["actorId"] for event in events if event.get("finished")} == {"a", "b"}
    assert events[-1] == {
        "type": "LAYER_RESPONSE",
        "layerId": "0",
        "responses": [
            {"actorId": "a", "message": "13", "errors": [], "info": []},
            {"actorId": "b", "message": "24", "errors": [], "info": []},
        ],
        "last": True,
    }
    check_stream(events)


async def test_observations_append_in_the_order_of_the_file_whoever_is_first() -> None:
    second_is_done = asyncio.Event()

    async def slow(seen: Seen, peer: Peer) -> None:
        await speaking("from a", before=second_is_done)(seen, peer)

    async def fast(seen: Seen, peer: Peer) -> None:
        await speaking("from b")(seen, peer)
        second_is_done.set()

    async with (
        remote(slow) as left,
        remote(fast) as right,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=right.url)) as base,
        client(base) as session,
    ):
        async with session.post("/v1/pipelines/two/executeSync", json={"text": "hi"}) as response:
            answer = await response.json()
        second_is_done.clear()
        events = await stream(base, "two", "cambrion")
    texts = [content["rawText"] for content in answer["observation"]["mediaContents"]]
    assert texts == ["from a", "from b"]
    assert answer["observation"]["executionId"] == answer["executionId"]
    check_stream(events[:-1])
    assert events[-1]["type"] == "OBSERVATION"
    contents = events[-1]["observation"]["mediaContents"]
    assert [content["mediaId"] for content in contents] == ["a", "b"]


@pytest.mark.parametrize("dialect", ["pupau", "cambrion"])
async def test_the_next_layer_sees_what_the_one_before_found(dialect: str) -> None:
    async with (
        remote(speaking("from ", "a")) as left,
        remote(speaking("short")) as right,
        remote(observing("Total 12.50")) as docs,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=docs.url)) as base,
    ):
        events = await stream(base, "chain", dialect)
        (asked,) = right.seen
        assert json.loads(asked.body) == {
            "request": "Sum up: Total 12.50",
            "context": "hi / ocr a",
        }
        first, archived = docs.seen
        assert json.loads(first.body) == {"text": "hi"}
        # Without a transform of its own, an actor gets what was said as the context of the request.
        assert json.loads(archived.body) == {
            "text": "hi",
            "runtimeParameters": {"context": "Total 12.50\n\nfrom a"},
        }
    if dialect == "cambrion":
        contents = events.pop()["observation"]["mediaContents"]
        assert [content["rawText"] for content in contents] == [
            "Total 12.50",
            "from a",
            "short",
            "Total 12.50",
        ]
    assert check_stream(events) == {"sum": "short", "archive": "Total 12.50"}
    kinds = [(event["type"], event["layerId"]) for event in events]
    assert kinds.index(("LAYER_RESPONSE", "0")) < kinds.index(("LAYER_MESSAGE", "1"))
    for event in events:
        if event["type"] == "STREAMING_RESPONSE":
            assert event.get("lastLayer", False) == (event["layerId"] == "1")
    assert [event.get("last") for event in events if event["type"] == "LAYER_RESPONSE"] == [
        None,
        True,
    ]


async def test_plain_answers_are_those_of_the_last_layer() -> None:
    async with (
        remote(speaking("one")) as left,
        remote(speaking("two")) as right,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=right.url)) as base,
        client(base) as session,
    ):
        form = aiohttp.FormData()
        form.add_field("file", b"x", filename="x.txt")
        async with session.post("/pipelines/plainchain/queries", data=form) as response:
            assert await response.json() == [
                {"actorId": "b", "message": "two", "errors": [], "info": []}
            ]
        async with session.post(
            "/v1/pipelines/plainchain/executeSync/json", json={"text": "hi"}
        ) as response:
            assert await response.json() == {"a": "one", "b": "two"}
        async with session.get("/v1/pipelines/plainchain/definition") as response:
            graph = await response.json()
        async with session.get("/v1/pipelines") as response:
            listed = {each["pipelineId"]: each for each in await response.json()}
    assert [node["modelId"] for node in graph["nodes"]] == ["a", "b"]
    assert [(edge["source"], edge["target"]) for edge in graph["edges"]] == [("a", "b")]
    assert listed["plainchain"]["status"] == "READY"
    assert "one" in right.seen[0].body.decode()  # it had no text of its own
    assert json.loads(right.seen[1].body) == {"request": "hi", "context": "one"}


async def test_a_given_observation_is_appended_to_once() -> None:
    given = {"mediaContents": [{"id": "g", "mediaId": "media-1", "rawText": "given"}]}
    async with (
        remote(speaking("x")) as left,
        remote(observing("found")) as docs,
        gateway(CONFIG.format(left=left.url, right=left.url, docs=docs.url)) as base,
        client(base) as session,
    ):
        for body, expected in (
            ({"text": "hi", "observation": given}, ["given", "x", "x", "found"]),
            ({"text": "hi", "observation": given, "idempotent": True}, ["found", "x", "x"]),
            ({"observation": given}, ["given", "x", "x", "found"]),
        ):
            path = "/v1/pipelines/quorum/executeSync"
            async with session.post(path, json=body) as response:
                answer = await response.json()
            contents = answer["observation"]["mediaContents"]
            assert sorted(c["rawText"] for c in contents) == sorted(expected)
        sent = [json.loads(seen.body).get("observation") for seen in docs.seen]
    assert sent == [None, None, given]


async def test_an_actor_that_fails_ends_the_run_and_the_others_work() -> None:
    began = asyncio.Event()

    async def waiting(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames([piece("so far")]))
        began.set()
        await seen.gone.wait()

    async def late_failure(seen: Seen, peer: Peer) -> None:
        await began.wait()
        await asyncio.sleep(0.05)
        await failing()(seen, peer)

    async with (
        remote(waiting) as left,
        remote(late_failure) as right,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=right.url)) as base,
    ):
        events = await stream(base, "two")
        async with promised(1):
            await left.seen[0].gone.wait()
    last = events[-1]
    assert last["last"] is True
    assert [(r["actorId"], r["message"], len(r["errors"])) for r in last["responses"]] == [
        ("a", "so far", 0),
        ("b", "", 1),
    ]
    assert last["responses"][1]["errors"][0]["name"] == "UpstreamFailed"


@pytest.mark.parametrize("dialect", ["pupau", "cambrion"])
async def test_a_failure_before_anything_was_sent_has_its_status(dialect: str) -> None:
    never = asyncio.Event()
    async with (
        remote(speaking("never", before=never)) as left,
        remote(failing("429 Slow down")) as right,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=right.url)) as base,
        client(base) as session,
    ):
        path = "/pipelines/two/queries?sse=true"
        body, headers = {"request": "hi"}, {}
        if dialect == "cambrion":
            path, body, headers = "/v1/pipelines/two/executeSync", {"text": "hi"}, SSE
        async with session.post(path, json=body, headers=headers) as response:
            assert response.status == 429
            assert "right" in (await response.json())["message"]
        async with promised(1):
            await left.seen[0].gone.wait()


@pytest.mark.parametrize("dialect", ["pupau", "cambrion"])
async def test_a_lenient_layer_reports_the_error_and_goes_on(dialect: str) -> None:
    async with (
        remote(failing()) as left,
        remote(speaking("fine")) as right,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=right.url)) as base,
        client(base) as session,
    ):
        events = await stream(base, "lenient", dialect)
        async with session.post("/pipelines/lenient/queries", json={"request": "x"}) as response:
            assert response.status == 200
            responses = await response.json()
        async with session.post("/v1/pipelines/lenient/executeSync", json={"text": "x"}) as sync:
            contents = (await sync.json())["observation"]["mediaContents"]
    assert [content["mediaId"] for content in contents] == ["b"]
    if dialect == "cambrion":
        assert [c["mediaId"] for c in events.pop()["observation"]["mediaContents"]] == ["b"]
    assert check_stream(events) == {"a": "", "b": "fine"}
    assert events[-1]["responses"][0]["errors"][0]["name"] == "UpstreamFailed"
    assert responses == events[-1]["responses"]


@pytest.mark.parametrize("dialect", ["pupau", "cambrion"])
async def test_a_lenient_layer_in_which_all_fail_ends_the_run(dialect: str) -> None:
    async with (
        remote(failing()) as left,
        remote(failing("503 Busy")) as right,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=right.url)) as base,
        client(base) as session,
    ):
        path, body = "/pipelines/lenient/queries", {"request": "hi"}
        if dialect == "cambrion":
            path, body = "/v1/pipelines/lenient/executeSync", {"text": "hi"}
        async with session.post(path, json=body) as response:
            assert response.status == 502
            assert "left" in (await response.json())["message"]


@pytest.mark.parametrize(("broken", "ends"), [(["left"], False), (["left", "docs"], True)])
async def test_a_run_ends_when_too_few_can_still_succeed(broken: list[str], ends: bool) -> None:
    async with (
        remote(failing() if "left" in broken else speaking("l")) as left,
        remote(speaking("r")) as right,
        remote(failing() if "docs" in broken else observing("d")) as docs,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=docs.url)) as base,
    ):
        events = await stream(base, "quorum")
    failed = [r["actorId"] for r in events[-1]["responses"] if r["errors"]]
    assert failed == (["a", "c"] if ends else ["a"])
    assert events[-1]["last"] is True


async def test_a_remote_pipeline_of_many_actors_is_one_actors_text() -> None:
    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        thinking = {**piece("hmm", actor="x"), "lastLayer": False, "layerId": "0"}
        for event in (
            {"type": "LAYER_MESSAGE", "message": "…", "layerId": "0", "executionCount": 1},
            thinking,
            piece("one", actor="x"),
            piece("two", actor="y"),
            piece(" more", actor="x", finished=True),
            ending("one more", "x"),
        ):
            await peer.chunk(frames([event]))
        await peer.end()

    async with (
        remote(script) as left,
        remote(speaking("other")) as right,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=right.url)) as base,
    ):
        events = await stream(base, "two")
    assert check_stream(events) == {"a": "one more\n\ntwo", "b": "other"}


@pytest.mark.parametrize("pipeline", ["two", "alone"])
async def test_a_character_that_a_remote_cuts_in_two_arrives_whole(pipeline: str) -> None:
    config = CONFIG + "  alone: {{upstream: left}}\n"
    async with (
        remote(speaking("Hi \ud83d", "\ude00!")) as left,
        remote(speaking("other")) as right,
        gateway(config.format(left=left.url, right=right.url, docs=right.url)) as base,
    ):
        events = await stream(base, pipeline, "cambrion")
    contents = events[-1]["observation"]["mediaContents"]
    assert contents[0]["rawText"] == "Hi 😀!"


async def test_an_observation_that_cannot_be_made_is_the_only_end() -> None:
    config = (
        CONFIG
        + """
  odd:
    layers: [[{{actor: a, upstream: left}}, {{actor: odd, upstream: right}}]]
    transform: {{observation: '$error("no")'}}
"""
    )
    async with (
        remote(speaking("x")) as left,
        remote(speaking("y")) as right,
        gateway(config.format(left=left.url, right=right.url, docs=right.url)) as base,
    ):
        events = await stream(base, "odd", "cambrion")
    ends = [event for event in events if event["type"] == "LAYER_RESPONSE"]
    assert len(ends) == 1
    assert ends[0]["last"] is True
    assert [response["message"] for response in ends[0]["responses"]][:2] == ["x", "y"]
    assert [e["name"] for r in ends[0]["responses"] for e in r["errors"]] == ["TransformFailed"]


async def test_a_remote_actor_that_reports_a_failure_fails() -> None:
    error = {"message": "Invalid PDF structure.", "name": "InvalidPDFException"}

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames([ending("", errors=[error])]))
        await peer.end()

    async with (
        remote(script) as left,
        remote(speaking("fine")) as right,
        gateway(CONFIG.format(left=left.url, right=right.url, docs=right.url)) as base,
    ):
        events = await stream(base, "lenient")
        async with client(base) as session, session.get("/metrics") as response:
            shown = await response.text()
    failures = (
        'gateway_actor_failures_total{actor="a",code="upstream_failed",pipeline="lenient"} 1.0'
    )
    assert failures in shown
    (reported,) = events[-1]["responses"][0]["errors"]
    assert "Invalid PDF structure." in reported["message"]
    assert "left" in reported["message"]


async def test_what_a_transform_does_wrong_names_its_actor() -> None:
    config = """
    upstreams: {{left: {{kind: pupau, url: "{left}"}}}}
    pipelines:
      p:
        layers:
          - - {{actor: fine, upstream: left}}
          - - {{actor: odd, upstream: left, transform: {{request: '{{"request": "hi"}}'}}}}
          - - {{actor: never, upstream: left}}
    """
    async with (
        remote(speaking("x")) as left,
        gateway(config.format(left=left.url)) as base,
        client(base) as session,
    ):
        async with session.post("/pipelines/p/queries", json={"request": "hi"}) as response:
            assert response.status == 500
            message = (await response.json())["message"]
        assert len(left.seen) == 1
    assert message.startswith("pipeline p, request transform of actor odd: its result does not fit")
    assert "request" in message


async def test_a_layer_that_needs_only_one_bears_with_another_actors_transform() -> None:
    config = """
    upstreams: {{left: {{kind: pupau, url: "{left}"}}}}
    pipelines:
      p:
        layers:
          - need: any
            actors:
              - {{actor: odd, upstream: left, transform: {{request: '$error("no")'}}}}
              - {{actor: fine, upstream: left}}
    """
    async with remote(speaking("x")) as left, gateway(config.format(left=left.url)) as base:
        events = await stream(base, "p")
    odd, fine = events[-1]["responses"]
    assert odd["errors"][0]["name"] == "TransformFailed"
    assert (fine["message"], fine["errors"]) == ("x", [])


async def test_the_whole_view_may_come_back_from_an_actors_transform() -> None:
    config = """
    upstreams: {{left: {{kind: pupau, url: "{left}"}}}}
    pipelines:
      p:
        layers:
          - - actor: a
              upstream: left
              transform: {{request: '$ ~> |$|{{"text": "changed " & request.text}}|'}}
    """
    async with remote(speaking("x")) as left, gateway(config.format(left=left.url)) as base:
        await stream(base, "p")
        assert json.loads(left.seen[0].body) == {"request": "changed hi"}


async def test_a_total_for_calls_does_not_cut_a_stream() -> None:
    config = """
    upstreams: {{left: {{kind: pupau, url: "{left}"}}}}
    pipelines:
      p: {{upstream: left, timeouts: {{total_s: 0.2}}}}
      q: {{upstream: left, timeouts: {{stream_total_s: 0.2}}}}
    """

    async def slow(seen: Seen, peer: Peer) -> None:
        await peer.open_stream("text/event-stream" if "sse=true" in seen.path else "text/plain")
        for _ in range(6):
            await peer.chunk(frames([piece("x")]))
            await asyncio.sleep(0.1)
        await peer.chunk(frames([ending("xxxxxx")]))
        await peer.end()

    async with (
        remote(slow) as left,
        gateway(config.format(left=left.url)) as base,
        client(base) as session,
    ):
        whole = await stream(base, "p")
        cut = await stream(base, "q")
        async with session.post("/pipelines/p/queries", json={"request": "hi"}) as response:
            assert response.status == 504
            assert "total_s" in (await response.json())["message"]
    assert whole[-1]["responses"][0]["errors"] == []
    (error,) = cut[-1]["responses"][0]["errors"]
    assert "(stream_total_s)" in error["message"]
