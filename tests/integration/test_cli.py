"""The command line as a process: calls of a running gateway, signals, terminals, pipes."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import PNG
from tests.support.commands import ended, on_terminal, run, start
from tests.support.remote import Peer, Seen, remote
from tests.support.running import gateway
from tests.support.scripts import (
    EVENTS,
    OBSERVATION,
    answering,
    cambrion_script,
    frames,
    pupau_script,
)

CONFIG = """
keys: [{{name: t, sha256: e5c4224ebc9128d62514e9289e8e299c92872e2590deb3afac3ca0b84afb26a8}}]
upstreams:
  pup: {{kind: pupau, url: "{pupau}"}}
  cam: {{kind: cambrion, url: "{cambrion}/v1"}}
pipelines:
  chat: {{upstream: pup}}
  scan: {{upstream: cam}}
"""


@asynccontextmanager
async def running() -> AsyncIterator[str]:
    """A real gateway before two scripted upstreams."""
    async with (
        remote(pupau_script) as pup,
        remote(cambrion_script) as cam,
        gateway(CONFIG.format(pupau=pup.url, cambrion=cam.url)) as base,
    ):
        yield base


KEY = ("--key", "team-key")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("chat", "--request", "hi"), "a: one\nb: two\nc: Hello wörld\n"),
        (("scan", "--request", "hi"), 'scan: {"total":12.5}\n'),
    ],
)
async def test_call_prints_the_answer_of_every_kind_of_upstream(
    arguments: tuple[str, ...], expected: str
) -> None:
    async with running() as base:
        assert await run("call", *arguments, "--url", base, *KEY) == (0, expected, "")


async def test_call_takes_url_and_key_from_the_environment() -> None:
    async with running() as base:
        env = {"PIPELINE_GATEWAY_URL": base, "PIPELINE_GATEWAY_KEY": "team-key"}
        code, out, err = await run("call", "chat", "--request", "hi", "--json", **env)
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == EVENTS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--observation",), OBSERVATION),
        (("--view",), {"total": 12.5}),
        (("--transform", "$count(mediaContents)"), 1),
    ],
)
async def test_call_prints_the_observation_and_its_views(
    arguments: tuple[str, ...], expected: Any, tmp_path: Path
) -> None:
    file = tmp_path / "scan.png"
    file.write_bytes(PNG)
    async with running() as base:
        code, out, err = await run("call", "scan", "--file", str(file), *arguments,
                                   "--url", base, *KEY)  # fmt: skip
    assert (code, err) == (0, "")
    shown = json.loads(out)
    if isinstance(shown, dict):
        shown.pop("executionId", None)
        expected = {key: value for key, value in expected.items() if key != "executionId"}
    assert shown == expected


async def test_call_shows_what_the_gateway_refuses() -> None:
    async with running() as base:
        refused = await run("call", "chat", "--request", "hi", "--url", base, "--key", "wrong-key")
        unknown = await run("call", "nosuch", "--request", "hi", "--url", base, *KEY)
        empty = await run("call", "scan", "--observation", "--url", base, *KEY)
    for (code, out, err), status in ((refused, 401), (unknown, 404), (empty, 400)):
        assert (code, out) == (1, "")
        assert err.endswith(f"status {status})\n")
        assert "wrong-key" not in err


async def test_call_sends_files_and_texts_as_a_form(tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.txt"]
    for file in files:
        file.write_bytes(file.name.encode() * 3)
    async with remote(pupau_script) as upstream:
        arguments = ("--file", str(files[0]), "--file", str(files[1]), "--context", "why")
        code, _, _ = await run(
            "call", "p/q", "--request", "what", *arguments, "--url", upstream.url
        )
    assert code == 0
    (seen,) = upstream.seen
    assert seen.path == "/pipelines/p%2Fq/queries?sse=true"
    assert "api-key" not in seen.headers
    for part in (b'name="request"\r\n\r\nwhat', b'name="context"\r\n\r\nwhy',
                 b'filename="a.png"\r\n\r\na.pnga.pnga.png', b'filename="b.txt"'):  # fmt: skip
        assert part in seen.body


async def test_call_says_how_to_start_a_gateway_that_is_not_there() -> None:
    async with remote(pupau_script) as upstream:
        url = upstream.url
    code, out, err = await run("call", "chat", "--url", url)
    assert (code, out) == (1, "")
    assert err == (
        f"nobody answers at {url} (Connection refused); "
        "start the gateway with: pipeline-gateway serve\n"
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "nonsense is not a URL that can be called"),
        ("ftp://127.0.0.1", "ftp://127.0.0.1 is not a URL that can be called"),
        ("http://nosuch.invalid", "the host name in http://nosuch.invalid does not resolve"),
    ],
)
async def test_call_names_a_url_that_cannot_be_called(url: str, words: str) -> None:
    code, out, err = await run("call", "chat", "--url", url)
    assert (code, out) == (1, "")
    assert err.startswith(words)


async def test_call_never_shows_the_key() -> None:
    async def repeat_the_key(seen: Seen, peer: Peer) -> None:
        key = seen.headers["api-key"]
        error = {"name": "Unauthorized", "message": f"bad key {key} \x1b[2J"}
        await peer.answer(json.dumps(error).encode(), "401 Unauthorized")

    async with remote(repeat_the_key) as upstream:
        code, out, err = await run("call", "chat", "--url", upstream.url, "--key", "s3cret")
        bad = await run("call", "chat", "--url", upstream.url, "--key", "s3cret\nX: y")
    assert (code, out) == (1, "")
    assert err == "bad key [key] \N{REPLACEMENT CHARACTER}[2J (Unauthorized, status 401)\n"
    assert bad[0] == 1
    assert "s3cret" not in bad[2]
    assert "Traceback" not in bad[2]


@pytest.mark.parametrize(
    ("body", "status", "content_type", "words"),
    [
        (b"<p>" * 100_000, "502 Bad Gateway", "text/html", "status 502; is it the gateway?"),
        (b"{}", "500 Oops", "application/json", "status 500; is it the gateway?"),
        (b"<p>", "200 OK", "text/html", "no event stream; is it the gateway?"),
        (b"data: {}\n", "200 OK", "text/event-stream", "broke off in the middle of an event"),
        (b"data: 3\n\n", "200 OK", "text/event-stream", "an event is no JSON object"),
    ],
)
async def test_call_explains_an_answer_that_is_none(
    body: bytes, status: str, content_type: str, words: str
) -> None:
    async with remote(answering(body, status, content_type)) as upstream:
        code, out, err = await run("call", "chat", "--url", upstream.url)
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


async def test_call_says_so_when_the_answer_breaks_off() -> None:
    async def cut_off(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:3]))
        peer.cut()

    async with remote(cut_off) as upstream:
        result = await run("call", "chat", "--url", upstream.url)
    assert result == (1, "a: on\nb: two\n", "the answer broke off in the middle\n")


async def test_call_fails_when_the_last_layer_reports_an_error() -> None:
    errors = [{"message": "Invalid PDF structure.", "name": "InvalidPDFException"}]
    event = {
        "type": "LAYER_RESPONSE", "layerId": "0", "last": True,
        "responses": [{"actorId": "a", "message": "", "errors": errors, "info": []}],
    }  # fmt: skip
    async with remote(answering(frames([event]), content_type="text/event-stream")) as upstream:
        result = await run("call", "chat", "--url", upstream.url)
    assert result == (1, "", "a: error: Invalid PDF structure. (InvalidPDFException)\n")


async def stall(seen: Seen, peer: Peer) -> None:
    """A first line, and then nothing until the caller has gone."""
    await peer.open_stream()
    event = {**EVENTS[1], "message": "begun\n"}
    await peer.chunk(frames([event]))
    await seen.gone.wait()


async def test_call_prints_each_line_at_once_and_ends_quietly_when_interrupted() -> None:
    async with remote(stall) as upstream:
        started = await start("call", "chat", "--url", upstream.url)
        async with ended(started) as process, asyncio.timeout(60):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"a: begun\n"
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
        await upstream.seen[0].gone.wait()
    assert (process.returncode, out, err) == (130, b"", b"")


async def test_call_is_quiet_when_nobody_reads_on() -> None:
    async def endless(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        while not seen.gone.is_set():
            await peer.chunk(frames([{**EVENTS[1], "message": "x\n" * 1000}]))

    async with remote(endless) as upstream:
        started = await start("call", "chat", "--url", upstream.url)
        async with ended(started) as process, asyncio.timeout(60):
            assert process.stdout is not None
            assert process.stderr is not None
            await process.stdout.readline()
            transport: Any = process.stdout
            transport._transport.close()
            err = await process.stderr.read()
            code = await process.wait()
    assert (code, err) == (1, b"")


async def test_on_a_terminal_call_shows_progress_and_then_the_texts() -> None:
    async with remote(pupau_script) as upstream:
        code, shown = await on_terminal("call", "chat", "--url", upstream.url)
    assert code == 0
    assert "waiting for the first event" in shown
    assert "Hello wörld\r\n" in shown
    assert "\x1b[1;36mc\x1b[0m" in shown


async def test_on_a_terminal_json_is_coloured_and_routes_are_a_table(tmp_path: Path) -> None:
    code, shown = await on_terminal("transform", '{"a": [1, "x"]}')
    assert code == 0
    assert '\x1b[1;34m"a"\x1b[0m: ' in shown
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "upstreams: {u: {kind: pupau, url: 'http://u'}}\n"
        "pipelines: {chat: {upstream: u, transform: {event: $}}}\n"
    )
    code, shown = await on_terminal("check", "--config", str(config))
    assert code == 0
    assert "chat" in shown
    assert "│ u (pupau) │" in shown


@asynccontextmanager
async def serving(config: Path, *arguments: str) -> AsyncIterator[tuple[Process, str]]:
    """``serve`` as a process of its own, and its base URL."""
    started = await start("serve", "--config", str(config), *arguments)
    async with ended(started) as process, asyncio.timeout(60):
        assert process.stdout is not None
        listening: dict[str, Any] = {}
        while listening.get("event") != "listening":
            line = await process.stdout.readline()
            assert line, "the gateway ended before it listened"
            listening = json.loads(line)
        yield process, f"http://{listening['host']}:{listening['port']}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_answers_until_it_is_told_to_stop(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with remote(pupau_script) as upstream:
        config = tmp_path / "gateway.yaml"
        config.write_text(
            "server: {port: 1, pre_stop_s: 0.1}\n"
            f"upstreams: {{u: {{kind: pupau, url: '{upstream.url}'}}}}\n"
            "pipelines: {chat: {upstream: u}}\n"
        )
        async with serving(config, "--host", "127.0.0.1", "--port", "0") as (process, base):
            code, out, _ = await run("call", "chat", "--request", "hi", "--url", base)
            assert (code, out) == (0, "a: one\nb: two\nc: Hello wörld\n")
            process.send_signal(number)
            _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_serve_refuses_a_port_that_is_taken(tmp_path: Path) -> None:
    async with remote(pupau_script) as upstream:
        config = tmp_path / "gateway.yaml"
        config.write_text(f"server: {{port: {upstream.port}}}\nupstreams: {{}}\npipelines: {{}}\n")
        code, _, err = await run("serve", "--config", str(config))
    assert code == 2
    assert f"cannot listen on 127.0.0.1:{upstream.port}" in err
    assert "Traceback" not in err


async def test_serve_names_every_mistake_at_once_as_check_does(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "server: {prot: 1}\n"
        "upstreams: {u: {kind: pupau, url: 'http://u'}}\n"
        "pipelines: {chat: {upstream: u, transform: {event: 'a +'}}}\n"
    )
    code, out, err = await run("serve", "--config", str(config))
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith(f"{config}:1:10: server.prot: ")
    assert second.startswith(f"{config}:3:56: pipelines.chat.transform.event: ")
    assert (await run("check", "--config", str(config)))[2] == err
