"""Several workers on one port: what a client, a scraper and an operator see of them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.sse import Decoder
from tests.support.client import check_stream
from tests.support.leftovers import sums
from tests.support.remote import Peer, Seen, remote
from tests.support.running import client
from tests.support.scripts import EVENTS, frames, pupau_script
from tests.support.serving import ROOT, Serving, family, gone, serving
from tests.support.timing import patience

QUERY = "/pipelines/chat/queries"
LOADED = "configuration loaded"
REFUSED = "configuration refused; the one before stays live"
CONFIG = """\
server: {{port: 0, workers: 2, pre_stop_s: {pre_stop_s}, drain_s: {drain_s}}}
transforms: {{client: {{processes: 1}}}}
upstreams: {{u: {{kind: pupau, url: "{url}"}}}}
pipelines: {{{pipeline}: {{upstream: u, transform: {{event: '{event}'}}}}}}
"""


def written(
    folder: Path,
    url: str,
    *,
    pipeline: str = "chat",
    event: str = "$",
    pre_stop_s: float = 0,
    drain_s: float = 60,
) -> Path:
    """The file of a configuration, put in place in one step."""
    path = folder / "gateway.yaml"
    text = CONFIG.format(
        url=url, pipeline=pipeline, event=event, pre_stop_s=pre_stop_s, drain_s=drain_s
    )
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)
    return path


_COUNT = re.compile(r"^(\w+_(?:total|count|bucket|sum)(?:{.*})?) (\S+)$", re.MULTILINE)


class Held:
    """A remote Pupau that goes on with a stream when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        if "sse=true" not in seen.path:
            await pupau_script(seen, peer)
            return
        await peer.open_stream()
        await peer.chunk(frames(EVENTS[:3]))
        await self.go_on.wait()
        await peer.chunk(frames(EVENTS[3:]))
        await peer.end()


class Stream:
    """A stream to a client of its own connection, whose first events have come."""

    def __init__(self, response: aiohttp.ClientResponse, begun: bytes) -> None:
        self._response = response
        self._begun = begun

    async def messages(self) -> dict[str, str]:
        """The last layer's messages, once it has ended. Raises where it breaks off."""
        data = self._begun + await self._response.content.read()
        return check_stream([json.loads(frame.data) for frame in Decoder(1 << 20).feed(data)])


@asynccontextmanager
async def streams(gateway: Serving) -> AsyncIterator[dict[int, list[Stream]]]:
    """Streams that have begun, so many that each worker has one; by the worker's process ID."""
    found: dict[int, list[Stream]] = {pid: [] for pid in gateway.children()}
    async with AsyncExitStack() as stack:
        async with patience():
            while not all(found.values()):
                before = {pid: gateway.connections(pid) for pid in found}
                session = await stack.enter_async_context(client(gateway.base))
                response = await stack.enter_async_context(
                    session.post(QUERY + "?sse=true", json={"request": "x"})
                )
                begun = b""
                while b"\n\n" not in begun:
                    begun += await response.content.readany()
                (its,) = (pid for pid in found if gateway.connections(pid) > before[pid])
                found[its].append(Stream(response, begun))
        yield found


async def ask(base: str, path: str = QUERY) -> tuple[int, str]:
    """Status and text of a short call on a connection of its own."""
    async with client(base) as session:
        call = session.get(path) if path.startswith("/readyz") else None
        if call is None:
            call = session.post(path, json={"request": "x"})
        async with call as response:
            return response.status, await response.text()


class Scraper:
    """Scrapes whichever worker takes the connection; no count may ever be lower than before."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._counts: dict[str, float] = {}

    async def __call__(self) -> str:
        async with client(self._base) as session, session.get("/metrics") as response:
            assert response.status == 200
            text = await response.text()
        now = {}
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            if not line.startswith("#") and name.partition("{")[0].endswith(
                ("_total", "_count", "_bucket", "_sum")
            ):
                now[name] = float(value)
        lower = {name for name, value in self._counts.items() if now.get(name, -1.0) < value}
        assert not lower
        self._counts = now
        return text


async def test_a_worker_that_is_killed_is_replaced_and_the_others_streams_go_on(
    tmp_path: Path,
) -> None:
    held = Held()
    async with remote(held) as upstream, serving(written(tmp_path, upstream.url)) as gateway:
        scrape = Scraper(gateway.base)
        assert (await gateway.said("listening"))["workers"] == 2
        async with streams(gateway) as begun:
            number = sum(map(len, begun.values()))
            assert sums(await scrape())["gateway_streams_open"] == number
            (victim, broken), (other, whole) = begun.items()
            its = family(victim)
            os.kill(victim, signal.SIGKILL)
            ended = await gateway.said("a worker has ended")
            assert (ended["pid"], ended["ended_with"]) == (victim, "signal 9 (SIGKILL)")
            assert ended["restart_in_s"] == 0
            assert sums(await scrape())["gateway_streams_open"] == len(whole)
            for stream in broken:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await stream.messages()
            assert (await ask(gateway.base))[0] == 200
            started = await gateway.said("a worker is started")
            assert started["worker"] == ended["worker"]
            # Of what it had started, nothing is left, not even its name in the system's books.
            await gone(its)
            assert gateway.children() == {other, started["pid"]}
            held.go_on.set()
            for stream in whole:
                assert await stream.messages() == {"c": "Hello wörld"}
        # The one that has counted most is lost, too; what it told is not.
        calls = sums(await scrape())["gateway_requests_total"]
        os.kill(other, signal.SIGKILL)
        await gateway.said("a worker is started", 2)
        assert (await ask(gateway.base))[0] == 200
        shown = sums(await scrape())
        assert shown["gateway_requests_total"] > calls
        assert shown["gateway_worker_restarts_total"] == 2
        assert shown.get("gateway_streams_open", 0.0) == 0
        async with patience():
            while sums(await scrape())["gateway_workers"] != 2:
                await asyncio.sleep(0.05)
        left = family(gateway.process.pid)
        gateway.tell(signal.SIGTERM)
        assert await gateway.ended() == 0
        await gone(left)
    assert gateway.errors == b""


async def test_sigterm_drains_the_streams_of_all_workers(tmp_path: Path) -> None:
    held = Held()
    async with remote(held) as upstream:
        path = written(tmp_path, upstream.url, pre_stop_s=1, drain_s=60)
        async with serving(path) as gateway, streams(gateway) as begun:
            assert (await ask(gateway.base, "/readyz"))[0] == 200
            gateway.tell(signal.SIGTERM)
            for times in (1, 2, 3):  # the supervisor, and each worker
                await gateway.said("stopping", times)
            while gateway.times("draining") == 0:
                try:
                    status, text = await ask(gateway.base, "/readyz")
                except aiohttp.ClientConnectionError:
                    break  # it accepts no more
                assert (status, json.loads(text)["stopping"]) == (503, True)
            await gateway.said("draining", 2)
            with pytest.raises(aiohttp.ClientConnectorError):
                await ask(gateway.base)
            held.go_on.set()
            for stream in (each for some in begun.values() for each in some):
                assert await stream.messages() == {"c": "Hello wörld"}
            assert await gateway.ended() == 0
    assert gateway.log[-1]["event"] == "stopped"
    assert gateway.errors == b""


async def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    async with (
        remote(Held()) as upstream,
        serving(written(tmp_path, upstream.url)) as gateway,
        streams(gateway),
    ):
        left = family(gateway.process.pid)
        gateway.tell(signal.SIGINT)
        await gateway.said("draining", 2)
        gateway.tell(signal.SIGTERM)
        async with patience():
            assert await gateway.ended() == 128 + signal.SIGTERM
        await gone(left)


async def test_without_their_supervisor_workers_finish_what_was_begun_and_end(
    tmp_path: Path,
) -> None:
    held = Held()
    async with remote(held) as upstream:
        config = written(tmp_path, upstream.url, pre_stop_s=60)
        async with serving(config) as gateway, streams(gateway) as begun:
            left = family(gateway.process.pid)
            gateway.process.kill()
            await gateway.said("the supervisor has gone", 2)
            await gateway.said("draining", 2)
            held.go_on.set()
            for stream in (each for some in begun.values() for each in some):
                assert await stream.messages() == {"c": "Hello wörld"}
            await gateway.ended()  # the last that could write to its log has gone
            await gone(left)


async def test_a_reload_is_live_in_all_workers_or_in_none(tmp_path: Path) -> None:
    async with (
        remote(pupau_script) as upstream,
        serving(written(tmp_path, upstream.url)) as gateway,
    ):
        scrape = Scraper(gateway.base)
        victim = min(gateway.children())
        for _ in range(8):
            assert (await ask(gateway.base))[0] == 200
        await scrape()
        os.kill(victim, signal.SIGKILL)
        await gateway.said("a worker is started")

        # Only who compiles it can tell that it is wrong.
        written(tmp_path, upstream.url, pipeline="talk", event="$ ~> (")
        refused = await gateway.said(REFUSED)
        assert "pipelines.talk.transform.event" in refused["problems"][0]
        for _ in range(8):
            assert (await ask(gateway.base))[0] == 200
        assert 'pipeline="chat"' in await scrape()

        written(tmp_path, upstream.url, pipeline="talk")
        loaded = await gateway.said(LOADED)
        assert loaded["pipelines"] == {"added": 1, "removed": 1}
        for _ in range(8):
            assert (await ask(gateway.base, "/pipelines/talk/queries"))[0] == 200
            assert (await ask(gateway.base))[0] == 404
        await gateway.said("configuration retired", 2)
        # What is not configured any more is in no metric, whichever worker counted it.
        text = await Scraper(gateway.base)()
        assert 'pipeline="chat"' not in text
        assert 'pipeline="talk"' in text
        shown = sums(text)
        assert shown["gateway_config_loads_total"] == 3
        assert shown["gateway_config_hash"] == int(loaded["hash"], 16)
    assert len([line for line in gateway.log if line["event"] == LOADED]) == 1


async def ends(*command: str) -> tuple[int | None, bytes, list[str]]:
    """Exit code, output and lines of errors of a program, once nobody is left who could write
    there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    async with patience():
        out, errors = await process.communicate()
    return process.returncode, out, errors.decode().splitlines()


@pytest.mark.parametrize(
    ("event", "taken", "told"),
    [
        ("$ ~> (", False, "pipelines.chat.transform.event"),
        ("$", True, "cannot listen on 127.0.0.1:"),
    ],
)
async def test_what_is_wrong_with_a_configuration_is_told_once(
    event: str, taken: bool, told: str, tmp_path: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1] if taken else 0
        path = written(tmp_path, "http://127.0.0.1:1", event=event)
        path.write_text(path.read_text().replace("port: 0", f"port: {port}"))
        code, out, errors = await ends("-m", "gateway", "serve", "--config", str(path))
    assert (code, out, len(errors)) == (2, b"", 1)
    assert told in errors[0]


async def test_workers_that_end_before_they_serve_are_not_started_for_ever(tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "gateway"
    broken.mkdir(parents=True)
    (broken / "__init__.py").touch()
    (broken / "worker.py").write_text("raise SystemExit(3)\n")
    path = written(tmp_path, "http://127.0.0.1:1")
    # They look for their program where the supervisor would.
    program = (
        "import sys; import gateway.cli; sys.path.insert(0, sys.argv.pop(1)); gateway.cli.main()"
    )
    code, out, errors = await ends(
        "-c", program, str(broken.parent), "serve", "--config", str(path)
    )
    assert (code, out) == (1, b"")
    assert errors == ["a worker ended with exit code 3 before it served"]
