"""The command line's calls on executions and webhooks: what is asked, shown, and survived."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import PNG
from tests.support.commands import ended, on_terminal, run, start
from tests.support.remote import Peer, Script, Seen, remote
from tests.support.scripts import EVENTS, answering

ID = "5e0c"
Numbered = tuple[str, dict[str, Any]]


def status(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "EXECUTION_STATUS", "executionId": ID, "status": value, **more}


def turn(number: int, *events: dict[str, Any]) -> list[Numbered]:
    """The events of one turn with their IDs."""
    return [(f"{number}-{place}", event) for place, event in enumerate(events, 1)]


def sse(events: Sequence[Numbered]) -> bytes:
    return b"".join(
        f"id: {place}\ndata: {json.dumps(event)}\n\n".encode() for place, event in events
    )


#: An execution that went well.
WELL = turn(1, status("RUNNING"), *EVENTS, status("COMPLETED"))
LINES = "a: one\nb: two\nc: Hello wörld\n"


class Scripted:
    """A gateway that has the execution ``ID``; each time its events are asked for, the next of
    ``streams`` writes them, the last one again and again. ``now`` is how the execution is then."""

    def __init__(self, *streams: Script, now: dict[str, Any] | None = None) -> None:
        self.streams = list(streams)
        self.now = {"executionId": ID, "status": "COMPLETED"} if now is None else now
        #: With which Last-Event-ID each of the streams was asked for.
        self.resumed: list[str | None] = []

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        if seen.path == f"/v1/executions/{ID}/events":
            self.resumed.append(seen.headers.get("last-event-id"))
            await self.streams[min(len(self.resumed), len(self.streams)) - 1](seen, peer)
        elif seen.path == f"/v1/executions/{ID}":
            await peer.answer(json.dumps(self.now).encode())
        else:
            await refused(404, "not_found", "nothing is here")(seen, peer)


def refused(number: int, code: str, message: str) -> Script:
    body = json.dumps({"code": code, "message": message}).encode()
    return answering(body, f"{number} Refused")


def whole(events: Sequence[Numbered]) -> Script:
    """Those events, and a good end."""

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(b": hello\n\n" + sse(events))
        await peer.end()

    return script


def cut(events: Sequence[Numbered], half: bytes = b"") -> Script:
    """Those events and a ``half`` of another, and then the connection is reset."""

    async def script(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(sse(events) + half)
        await asyncio.sleep(0.1)  # a reset must not overtake what was sent
        peer.cut()

    return script


async def watch(gateway: Scripted, *arguments: str) -> tuple[int | None, str, str]:
    async with remote(gateway) as upstream:
        return await run("executions", "watch", ID, "--url", upstream.url, *arguments)


@pytest.mark.parametrize(
    ("last", "code", "told"),
    [
        (status("COMPLETED"), 0, "COMPLETED"),
        (status("FAILED", message="no \x1b[2J"), 1, "FAILED: no \N{REPLACEMENT CHARACTER}[2J"),
        (status("CANCELLED"), 3, "CANCELLED"),
    ],
)  # fmt: skip
async def test_watch_prints_what_happens_and_its_exit_code_is_how_it_ended(
    last: dict[str, Any], code: int, told: str
) -> None:
    events = turn(1, status("RUNNING"), *EVENTS, last)
    gateway = Scripted(whole(events), now={"status": last["status"]})
    err = f"execution {ID}: RUNNING\nexecution {ID}: {told}\n"
    assert await watch(gateway) == (code, LINES, err)
    assert gateway.resumed == [None]


async def test_watch_prints_each_event_as_it_came_for_programs() -> None:
    code, out, err = await watch(Scripted(whole(WELL)), "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [event for _, event in WELL]


async def test_watch_goes_on_behind_the_last_event_when_the_connection_breaks() -> None:
    gateway = Scripted(
        cut(WELL[:4], half=sse(WELL[4:5])[:-1]),
        refused(503, "shutting_down", "the gateway is stopping"),
        cut(WELL[2:7]),  # what was told already comes once more
        whole(WELL[7:]),
    )
    code, out, err = await watch(gateway)
    assert (code, out) == (0, LINES)
    assert err == (
        f"execution {ID}: RUNNING\n"
        "the answer broke off in the middle; trying again\n"
        "connected again\n"
        "the answer broke off in the middle; trying again\n"
        "connected again\n"
        f"execution {ID}: COMPLETED\n"
    )
    assert gateway.resumed == [None, "1-4", "1-4", "1-7"]


async def test_watch_goes_on_where_a_gateway_that_stops_has_ended_the_stream() -> None:
    goodbye = b'data: {"type": "LAYER_RESPONSE", "responses": [], "last": true}\n\n'
    gateway = Scripted(now={"status": "RUNNING"})

    async def stop(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(sse(WELL[:3]) + goodbye)
        await peer.end()

    async def rest(seen: Seen, peer: Peer) -> None:
        gateway.now = {"status": "COMPLETED"}
        await whole(WELL[3:])(seen, peer)

    gateway.streams = [stop, rest]
    code, out, err = await watch(gateway, "--json")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [event for _, event in WELL]
    assert err.splitlines() == [
        "the gateway has ended the stream, not the execution; trying again",
        "connected again",
    ]


async def test_watch_leaves_nothing_out_where_all_has_ended_between_two_connections() -> None:
    gateway = Scripted(whole(WELL[:3]), whole(WELL[3:]))
    code, out, _ = await watch(gateway, "--json")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [event for _, event in WELL]


async def test_watch_takes_an_end_that_no_event_has_told() -> None:
    now = {"status": "FAILED", "message": "gone"}
    code, out, err = await watch(Scripted(whole([]), now=now))
    assert (code, out, err) == (1, "", f"execution {ID}: FAILED: gone\n")


@pytest.mark.parametrize("again", [status("RUNNING", attempt=2), status("RUNNING")])
async def test_watch_says_so_where_a_run_begins_again(again: dict[str, Any]) -> None:
    events = [
        *turn(1, status("RUNNING"), {**EVENTS[1], "message": "half a li"}),
        *turn(2, again, *EVENTS, status("COMPLETED")),
    ]
    code, out, err = await watch(Scripted(whole(events)))
    assert code == 0
    assert out == (
        "a: half a li\n--- the run begins again; what stands above of it is void ---\n" + LINES
    )
    assert err.splitlines() == [f"execution {ID}: {each}" for each in
                                ("RUNNING", "RUNNING", "COMPLETED")]  # fmt: skip


async def test_watch_says_which_events_are_missing() -> None:
    code, out, err = await watch(Scripted(whole([*WELL[1:2], *WELL[9:]])))
    assert (code, out) == (0, "c: Hello wörld\n")
    assert err.splitlines()[:2] == [
        "events before 1-2 are no longer kept",
        "events between 1-2 and 1-10 are no longer kept",
    ]


async def test_a_second_run_of_an_execution_is_none_that_begins_again() -> None:
    events = [*WELL, *turn(2, *(event for _, event in WELL))]
    assert (await watch(Scripted(whole(events))))[:2] == (0, LINES * 2)


async def test_watch_takes_what_is_still_kept_where_not_all_is() -> None:
    gone = refused(410, "gone", "not all events behind 1-2 are kept any more")
    gateway = Scripted(cut(WELL[:2]), gone, whole(WELL[9:]))
    code, out, err = await watch(gateway)
    assert (code, out) == (0, "c: Hello wörld\n")
    assert err.splitlines()[1:] == [
        "the answer broke off in the middle; trying again",
        "connected again",
        "events between 1-2 and 1-10 are no longer kept",
        f"execution {ID}: COMPLETED",
    ]
    assert gateway.resumed == [None, "1-2", None]


async def test_watch_needs_no_more_events_to_know_that_there_are_none() -> None:
    gateway = Scripted(cut(WELL), answering(b"", "204 No Content"))
    code, out, err = await watch(gateway)
    assert (code, out) == (0, LINES)
    assert err.endswith("\nconnected again\n")
    assert gateway.resumed == [None, WELL[-1][0]]


async def test_watch_gives_up_where_the_gateway_never_comes_back() -> None:
    async with remote(Scripted(whole(WELL[:3]), now={"status": "RUNNING"})) as upstream:
        url = upstream.url
        started = await start("executions", "watch", ID, "--url", url, "--give-up", "1")
        async with ended(started) as process, asyncio.timeout(60):
            assert process.stderr is not None
            await process.stderr.readline()
            upstream.script = refused(503, "store_unavailable", "no store")
            out, err = await process.communicate()
    assert (process.returncode, out) == (4, b"a: on\n")
    assert b"given up, and the execution may go on" in err.splitlines()[-1]


async def test_watch_believes_an_end_that_it_was_told_when_the_gateway_goes_then() -> None:
    gone = refused(503, "store_unavailable", "no store")
    async with remote(Scripted(cut(WELL), gone)) as upstream:
        result = await run("executions", "watch", ID, "--url", upstream.url, "--give-up", "0.5")
    assert result[:2] == (0, LINES)


async def test_watch_says_what_the_gateway_refuses() -> None:
    gateway = Scripted(refused(404, "not_found", f'there is no execution "{ID}"'))
    assert await watch(gateway) == (
        1, "", f'there is no execution "{ID}" (not_found, status 404)\n',
    )  # fmt: skip


async def test_watch_ends_where_asking_again_cannot_help() -> None:
    gateway = Scripted(cut(WELL[:2]), refused(401, "unauthorized", "the key is unknown"))
    code, _, err = await watch(gateway)
    assert code == 1
    assert err.endswith("\nthe key is unknown (unauthorized, status 401)\n")


@pytest.mark.parametrize(
    "data",
    [b"id: x\ndata: {}\n\n", b'id: 1-1\ndata: {"type": "EXECUTION_STATUS", "status": "ODD"}\n\n'],
)
async def test_watch_explains_a_stream_that_it_cannot_read(data: bytes) -> None:
    gateway = Scripted(answering(data, content_type="text/event-stream"))
    code, _, err = await watch(gateway)
    assert code == 1
    assert "Traceback" not in err
    assert err.count("\n") == 1


async def stall(seen: Seen, peer: Peer) -> None:
    await peer.open_stream()
    await peer.chunk(sse(WELL[:1]))
    await seen.gone.wait()


async def test_an_interrupted_watch_leaves_the_execution_going() -> None:
    async with remote(Scripted(stall)) as upstream:
        started = await start("executions", "watch", ID, "--url", upstream.url)
        async with ended(started) as process, asyncio.timeout(60):
            assert process.stderr is not None
            await process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert err.decode() == (
        f"the execution goes on; to end it: pipeline-gateway executions cancel {ID}\n"
    )
    assert [seen.method for seen in upstream.seen] == ["GET"]


async def test_on_a_terminal_watch_shows_progress_and_the_end() -> None:
    events = [
        *turn(1, status("RUNNING"), {**EVENTS[1], "message": "half"}),
        *turn(2, status("RUNNING", attempt=2), *EVENTS, {"type": "OBSERVATION", "observation": {}},
              status("COMPLETED")),
    ]  # fmt: skip
    async with remote(Scripted(cut(events[:1]), whole(events[1:]))) as upstream:
        code, shown = await on_terminal("executions", "watch", ID, "--url", upstream.url)
    assert code == 0
    assert "connected again" in shown
    assert "the run begins again" in shown
    assert "Hello wörld\r\n" in shown
    assert f"execution {ID}: COMPLETED" in shown
    assert "OBSERVATION" not in shown


def book(answers: dict[str, Any]) -> Script:
    """A gateway that answers ``METHOD /path`` with what stands there as JSON, else 404."""

    async def script(seen: Seen, peer: Peer) -> None:
        key = f"{seen.method} {seen.path}"
        if key not in answers:
            await refused(404, "not_found", f"no {key}")(seen, peer)
        else:
            await peer.answer(json.dumps(answers[key]).encode())

    return script


QUEUED = book({"POST /v1/pipelines/p%2Fq/executeAsync": {"executionId": ID}})


async def test_call_async_queues_and_prints_the_id(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    arguments = ("--file", str(file), "--request", "what", "--context", "why", "--tag", "t")
    more = ("--execution", "e-1", "--hook", "h1", "--hook", "h2", "--key", "k")
    async with remote(QUEUED) as upstream:
        result = await run(
            "call", "p/q", "--async", *arguments, *more, "--url", upstream.url
        )  # fmt: skip
    assert result == (0, f"{ID}\n", "")
    (seen,) = upstream.seen
    body = json.loads(seen.body)
    assert seen.headers["api-key"] == "k"
    assert len(body.pop("media")) == 1
    assert body == {
        "text": "what", "runtimeParameters": {"context": "why"}, "tag": "t",
        "executionId": "e-1", "hookIds": ["h1", "h2"],
    }  # fmt: skip


async def test_call_async_can_watch_what_it_has_queued() -> None:
    gateway = Scripted(refused(503, "overloaded", "later"), whole(WELL))

    async def script(seen: Seen, peer: Peer) -> None:
        await (QUEUED if seen.method == "POST" else gateway)(seen, peer)

    async with remote(script) as upstream:
        code, out, err = await run(
            "call", "p/q", "--async", "--watch", "--request", "x", "--url", upstream.url
        )
    assert (code, out) == (0, LINES)
    assert err.splitlines()[:3] == [
        ID, "later (overloaded, status 503); trying again", "connected again",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [("--watch",), ("--tag", "t"), ("--async", "--json"), ("--async", "--view"),
     ("--async", "--watch", "--observation")],
)  # fmt: skip
async def test_call_refuses_options_that_do_not_go_together(arguments: tuple[str, ...]) -> None:
    code, out, err = await run("call", "p", *arguments)
    assert (code, out) == (2, "")
    assert "--async" in err


NEWEST = {"executionId": "e-3", "tag": "a\tb\x1b[2J", "createdAt": "2026-01-01T00:00:00.000Z",
          "status": "FAILED", "duration": 1.5, "message": "bad\nluck", "metaData": {}}  # fmt: skip
LIST = [NEWEST, {"executionId": "e-2", "createdAt": "2025-01-01T00:00:00.000Z"}]


async def test_executions_are_listed_a_line_each() -> None:
    answers = {
        "GET /v1/executions?limit=101&tag=a+%26": LIST,
        "GET /v1/executions?limit=99&tag=a+%26&after=e-2": [],
    }
    async with remote(book(answers)) as upstream:
        arguments = ("executions", "list", "--tag", "a &", "--url", upstream.url)
        plain = await run(*arguments)
        as_json = await run(*arguments, "--json")
    assert plain == (
        0,
        "e-3\tFAILED\ta b\N{REPLACEMENT CHARACTER}[2J\t2026-01-01T00:00:00.000Z\t1.500\tbad luck\n"
        "e-2\t\t\t2025-01-01T00:00:00.000Z\n",
        "",
    )
    assert [json.loads(line) for line in as_json[1].splitlines()] == LIST


async def test_a_list_is_asked_for_in_pieces_and_says_when_there_is_more() -> None:
    def some(first: int, count: int) -> list[dict[str, str]]:
        return [{"executionId": f"e-{number}"} for number in range(first, first + count)]

    answers = {
        "GET /v1/executions?limit=1000": some(0, 1000),
        "GET /v1/executions?limit=501&after=e-999": some(1000, 300),
        "GET /v1/executions?limit=201&after=e-1299": some(1300, 201),
        "GET /v1/executions?limit=3": some(0, 3),
    }
    async with remote(book(answers)) as upstream:
        arguments = ("executions", "list", "--url", upstream.url)
        long = await run(*arguments, "--limit", "1500")
        short = await run(*arguments, "--limit", "2")
    assert (long[0], len(long[1].splitlines())) == (0, 1500)
    assert long[1].splitlines()[-1] == "e-1499"
    assert short == (0, "e-0\ne-1\n", "there are more than these 2; see --limit\n")


async def test_an_execution_is_shown_and_what_it_has_found() -> None:
    answers = {
        f"GET /v1/executions/{ID}": NEWEST,
        f"GET /v1/executions/{ID}/observation": {"mediaContents": []},
        f"GET /v1/executions/{ID}/observation/json": {"total": 12.5},
        f"POST /v1/executions/{ID}/observation/transform": [1],
    }
    async with remote(book(answers)) as upstream:
        for arguments, shown in [
            ((), NEWEST),
            (("--observation",), {"mediaContents": []}),
            (("--view",), {"total": 12.5}),
            (("--transform", "$count(x)"), [1]),
        ]:
            code, out, err = await run("executions", "show", ID, *arguments, "--url", upstream.url)
            assert (code, json.loads(out), err) == (0, shown, "")
    assert upstream.seen[-1].body == b"$count(x)"


async def test_a_cancelled_execution_is_shown_as_it_is_then() -> None:
    answers = {
        f"POST /v1/executions/{ID}/cancel": None,
        f"GET /v1/executions/{ID}": {"executionId": ID, "status": "RUNNING"},
    }
    async with remote(book(answers)) as upstream:
        assert await run("executions", "cancel", ID, "--url", upstream.url) == (
            0, f"{ID}\tRUNNING\n", "",
        )  # fmt: skip
        code, out, err = await run("executions", "cancel", "../other", "--url", upstream.url)
    assert (code, out) == (1, "")
    assert err == "no POST /v1/executions/..%2Fother/cancel (not_found, status 404)\n"


HOOK = {"hookId": "h1", "name": "mine", "eventType": "SUBMIT", "hookType": "WEBHOOK",
        "endpoint": "https://example.org/x", "payloadType": "RAW", "enabled": True}  # fmt: skip


async def test_a_new_webhook_shows_its_secret_once() -> None:
    made = HOOK | {"secret": "whsec_c2VjcmV0"}
    async with remote(book({"POST /v1/hooks": made, "GET /v1/hooks": [HOOK]})) as upstream:
        place = ("--url", upstream.url)
        added = await run(
            "hooks", "add", "https://example.org/x", "--status", "FAILED", "--status", "COMPLETED",
            "--payload", "TRANSFORM", "--transform", "$.a", "--name", "mine",
            "--header", "X-A: b: c", *place,
        )  # fmt: skip
        least = await run("hooks", "add", "https://example.org/x", "--json", *place)
        listed = await run("hooks", "list", *place)
        as_json = await run("hooks", "list", "--json", *place)
    assert added == (
        0,
        "h1\twhsec_c2VjcmV0\n",
        "the secret is shown this once; keep it where its messages arrive\n",
    )
    assert json.loads(upstream.seen[0].body) == {
        "endpoint": "https://example.org/x", "eventType": "STATUS_CHANGE",
        "statusFilter": ["FAILED", "COMPLETED"], "payloadType": "TRANSFORM", "transform": "$.a",
        "name": "mine", "headers": {"X-A": "b: c"},
    }  # fmt: skip
    assert (least[0], json.loads(least[1]), least[2]) == (0, made, "")
    assert listed == (0, "h1\tSUBMIT\tRAW\thttps://example.org/x\tmine\n", "")
    assert json.loads(as_json[1]) == HOOK


async def test_a_header_of_a_webhook_needs_a_name() -> None:
    code, _, err = await run("hooks", "add", "https://example.org", "--header", "x")
    assert code == 2
    assert "write NAME: VALUE" in err


async def test_a_test_fires_a_webhook_for_submit_and_says_which_others() -> None:
    other, idle = HOOK | {"hookId": "h2"}, HOOK | {"hookId": "h3", "enabled": False}
    status_hook = HOOK | {"hookId": "h4", "eventType": "STATUS_CHANGE"}
    answers = {
        "GET /v1/hooks": [HOOK, other, idle, status_hook, HOOK | {"hookId": "h5"}],
        "GET /v1/hooks/h1": HOOK,
        "GET /v1/hooks/h3": idle,
        "GET /v1/hooks/h4": status_hook,
        "GET /v1/hooks/h5": HOOK | {"hookId": "h5"},
        f"GET /v1/executions/{ID}": {"executionId": ID, "hookIds": ["h1", "h2", "h3", "h4"]},
        f"POST /v1/executions/{ID}/submit": None,
    }
    async with remote(book(answers)) as upstream:
        rest = ("--execution", ID, "--url", upstream.url)
        for hook, why in [
            ("h3", "hook h3 is not enabled\n"),
            ("h4", "hook h4 is for STATUS_CHANGE; only those for SUBMIT can be fired\n"),
            ("h5", f"hook h5 is none of execution {ID}'s hooks\n"),
            ("h6", "no GET /v1/hooks/h6 (not_found, status 404)\n"),
        ]:
            assert await run("hooks", "test", hook, *rest) == (1, "", why)
        assert not any(seen.method == "POST" for seen in upstream.seen)
        assert await run("hooks", "test", "h1", *rest) == (
            0, "h1\thttps://example.org/x\nh2\thttps://example.org/x\n", "",
        )  # fmt: skip
    assert sum(seen.method == "POST" for seen in upstream.seen) == 1


async def test_a_webhook_is_removed_without_a_word() -> None:
    async with remote(book({"DELETE /v1/hooks/h1": None})) as upstream:
        assert await run("hooks", "remove", "h1", "--url", upstream.url) == (0, "", "")


@pytest.mark.parametrize(
    "arguments", [("executions", "list"), ("executions", "show", ID), ("hooks", "list")]
)
async def test_an_answer_of_another_kind_is_explained(arguments: tuple[str, ...]) -> None:
    async with remote(answering(b"<p>", content_type="text/html")) as upstream:
        code, out, err = await run(*arguments, "--url", upstream.url)
    assert (code, out) == (1, "")
    assert err.startswith("the answer cannot be read")
