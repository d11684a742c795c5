"""Whoever leaves, stalls, dies or stops reading: the work upstream ends, and nothing is left over.

Each test is a row of the table: what happens, for one kind of upstream; within it every policy and
form of call meets it side by side. The upstream's own side tells whether its work has ended: its
connection is closed, or its model was told to stop.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.client import read_events
from tests.support.faultproxy import FaultProxy, fault_proxy
from tests.support.leftovers import Connectable, nothing_left
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.running import client, gateway
from tests.support.scripts import EVENTS, cambrion_script, frames, pupau_script
from tests.support.serving import serving
from tests.support.timing import patience, promised, until
from tests.triton_server import Triton

#: How long a client may take nothing, seconds.
WRITE_TIMEOUT_S = 1.0
#: How soon the upstream must see that nobody waits any more, seconds.
SEEN_S = 1.0

POLICIES = {
    "single": ["a"],
    "fallback": ["down", "a"],
    "race": ["a", "b"],
    "hedge": ["a", "b"],
    "weighted": ["a", "b"],
    "least_busy": ["a", "b"],
    "layers": ["a", "b"],  # two actors side by side, each on one of them
}
#: What an upstream does, and how a model of Triton's is made to do it.
BEHAVIOURS: dict[str, dict[str, str]] = {
    "good": {"TEXT": '"one two"'},
    "silent": {"TEXT": '"one two"', "FIRST_DELAY_S": "30"},
    "stalls": {"TEXT": '"one two"', "DELAY_S": "20"},
    "dies": {"TEXT": '"one two"', "FAIL_AFTER": "1"},
    # More than all buffers on the way hold, and for longer than any client is borne with.
    "floods": {
        "TEXT": '$pad("", 65536, "x")',
        "PIECE_BYTES": "65536",
        "REPEAT": "10000",
        "DELAY_S": "0.01",
    },
}
FORMS: dict[str, tuple[str, str, str]] = {
    "query-stream": ("/pipelines/{}/queries?sse=true", "request", "*/*"),
    "execute-stream": ("/v1/pipelines/{}/executeSync", "text", "text/event-stream"),
    "query": ("/pipelines/{}/queries", "request", "*/*"),
    "execute": ("/v1/pipelines/{}/executeSync", "text", "*/*"),
}
STREAMS, PLAIN = ["query-stream", "execute-stream"], ["query", "execute"]


#: A piece of a last layer: earlier ones' are not passed on where layers are configured here.
PIECE = EVENTS[6]


async def script(seen: Seen, peer: Peer) -> None:
    """A remote of either dialect that does what the name of its pipeline says."""
    behaviour = seen.path.split("/pipelines/")[1].split("/")[0]
    pupau = "/queries" in seen.path
    if behaviour == "good":
        await (pupau_script if pupau else cambrion_script)(seen, peer)
        return
    if behaviour in ("stalls", "dies", "floods") and "sse=true" in seen.path:
        await peer.open_stream()
        await peer.chunk(frames([EVENTS[0], PIECE]))
    if behaviour == "dies":
        await peer.send(b"5\r\ndata:")
        peer.cut()
        return
    while behaviour == "floods" and not seen.gone.is_set():
        await peer.chunk(frames([{**PIECE, "message": "x" * 65536}]))
    await seen.gone.wait()


def pipelines(kind: str, timeouts: str) -> Iterator[str]:
    """A pipeline for each behaviour and policy, as lines of YAML."""
    for behaviour, inputs in BEHAVIOURS.items():
        for policy, names in POLICIES.items():
            pipeline = "stream" if kind == "triton" else behaviour
            if policy == "layers":
                actors = [
                    f"{{actor: {name}, upstream: {name}, pipeline: {pipeline}"
                    f"{_target(kind, name, inputs)}}}"
                    for name in names
                ]
                yield (
                    f"  {behaviour}-layers: "
                    f"{{layers: [[{', '.join(actors)}]], timeouts: {timeouts}}}"
                )
                continue
            targets = [f"{{upstream: {name}{_target(kind, name, inputs)}}}" for name in names]
            yield (
                f"  {behaviour}-{policy}: {{upstreams: [{', '.join(targets)}], "
                f"pipeline: {pipeline}, timeouts: {timeouts}, "
                f"policy: {'fallback' if policy == 'single' else policy}"
                f"{', hedge_after_s: 0.1' if policy == 'hedge' else ''}}}"
            )


def _target(kind: str, name: str, inputs: dict[str, str]) -> str:
    if kind != "triton" or name == "down":
        return ""
    tensors = {**inputs, "MARKER": f"text & '.{name}'"}
    return ", inputs: " + json.dumps(tensors)


def asked(behaviour: str, policy: str) -> int:
    """How many of the upstreams work on a call before anybody has answered."""
    return 2 if behaviour == "silent" and policy in ("race", "hedge", "layers") else 1


class Side(ABC):
    """The upstream's side of what is asked of it."""

    def __init__(self, ends: list[Connectable]) -> None:
        self.ends = ends

    @abstractmethod
    async def asked(self, request_id: str, count: int) -> None:
        """Wait until ``count`` upstreams work on the request."""

    @abstractmethod
    async def stopped(self, request_id: str, *, answering: bool) -> None:
        """Wait until all that began to have seen that they need not go on. ``answering``: they had
        begun to answer."""

    @abstractmethod
    async def hang_up(self) -> None:
        """Close the connections that are kept for the next call, where they are counted."""


class RemoteSide(Side):
    """Two scripted remotes: the connection of the request is closed."""

    def __init__(self, remotes: list[Remote]) -> None:
        super().__init__(list(remotes))
        self._remotes = remotes

    def _seen(self, request_id: str) -> list[Seen]:
        return [
            seen
            for each in self._remotes
            for seen in each.seen
            if seen.headers["x-request-id"] == request_id
        ]

    async def asked(self, request_id: str, count: int) -> None:
        while len(self._seen(request_id)) < count:
            await asyncio.sleep(0.005)

    async def stopped(self, request_id: str, *, answering: bool) -> None:
        await asyncio.gather(*(seen.gone.wait() for seen in self._seen(request_id)))

    async def hang_up(self) -> None:
        return  # a remote's kept connections end with it


class TritonSide(Side):
    """One Triton behind two proxies: the model finds its request cancelled.

    Over HTTP, Triton looks at a connection only when it writes to it: of a model that has not
    answered yet, the proxies alone see that nobody waits (``notices`` is false).
    """

    def __init__(self, proxies: list[FaultProxy], folder: Path, *, notices: bool) -> None:
        super().__init__(list(proxies))
        self._proxies = proxies
        self._folder = folder
        self._notices = notices

    def _begun(self, request_id: str) -> list[Path]:
        return list(self._folder.glob(f"{request_id}.[ab].begun"))

    async def asked(self, request_id: str, count: int) -> None:
        while len(self._begun(request_id)) < count:
            await asyncio.sleep(0.005)

    async def stopped(self, request_id: str, *, answering: bool) -> None:
        if not answering and not self._notices:
            return
        for begun in self._begun(request_id):
            ended = begun.with_suffix("")
            while not ended.exists() or not (how := ended.read_text()):
                await asyncio.sleep(0.01)
            assert how in ("cancelled", "failed")

    async def hang_up(self) -> None:
        for proxy in self._proxies:
            await proxy.reset_all()


@dataclass(slots=True)
class Table:
    """A gateway, its upstreams, and who calls it."""

    base: str
    side: Side
    folder: Path
    written: list[asyncio.StreamWriter] = field(default_factory=list)

    def combinations(self, forms: list[str]) -> Iterator[tuple[str, str, str]]:
        """Policy, form, and an ID for their request."""
        for policy in POLICIES:
            for form in forms:
                yield policy, form, f"{policy}.{form}"

    async def _call(
        self, behaviour: str, policy: str, form: str, request_id: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request over a connection of its own, which holds little that is not read."""
        path, field_name, accept = FORMS[form]
        host, port = self.base.removeprefix("http://").split(":")
        body = json.dumps({field_name: str(self.folder / request_id)}).encode()
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
        writer.write(
            f"POST {path.format(f'{behaviour}-{policy}')} HTTP/1.1\r\nHost: x\r\n"
            f"Accept: {accept}\r\nX-Request-Id: {request_id}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return reader, writer

    async def leaving(
        self, behaviour: str, policy: str, form: str, request_id: str, after: bytes
    ) -> None:
        """Call, go away once ``after`` has been read, and see that the upstreams see it."""
        reader, writer = await self._call(behaviour, policy, form, request_id)
        await self.side.asked(request_id, asked(behaviour, policy))
        if after:
            await reader.readuntil(after)
        if form.startswith("execute"):
            writer.transport.abort()  # a reset, or
        writer.close()  # an orderly end: either way nobody is there
        async with promised(SEEN_S):
            await self.side.stopped(request_id, answering=bool(after))

    async def not_reading(self, policy: str, form: str, request_id: str) -> None:
        """Call an upstream that floods, and read nothing until its work has ended; then see that
        the gateway has hung up."""
        reader, writer = await self._call("floods", policy, form, request_id)
        await reader.readuntil(b"\r\n\r\n")
        async with patience():
            # The reader holds twice its limit at most, then the connection stands still.
            await self.side.stopped(request_id, answering=True)
            # What is still on its way comes at once only where there is room for it.
            room = writer.get_extra_info("socket")
            room.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            with suppress(ConnectionError):  # what the gateway threw away may end in a reset
                while await reader.read(1 << 20):
                    pass
        writer.close()

    async def answered(
        self, session: aiohttp.ClientSession, behaviour: str, policy: str, form: str, name: str
    ) -> tuple[int, Any]:
        """Call, and wait for the answer: its status, and its events or its JSON."""
        path, field_name, accept = FORMS[form]
        async with session.post(
            path.format(f"{behaviour}-{policy}"),
            json={field_name: str(self.folder / name)},
            headers={"Accept": accept, "X-Request-Id": name},
        ) as response:
            if response.content_type == "text/event-stream":
                return response.status, await read_events(response)
            return response.status, await response.json()


PATIENT = "{first_event_s: 30, idle_s: 30}"


@asynccontextmanager
async def upstreams(
    kind: str, triton: Triton, folder: Path, timeouts: str = PATIENT, server: str = ""
) -> AsyncIterator[tuple[str, Side]]:
    """Two upstreams of the kind, and the configuration of a gateway before them. Triton's models
    write into ``folder`` how they ended."""
    async with AsyncExitStack() as stack:
        side: Side
        if kind in ("cambrion", "pupau"):
            remotes = [await stack.enter_async_context(remote(script)) for _ in "ab"]
            side = RemoteSide(remotes)
            urls = [each.url + ("/v1" if kind == "cambrion" else "") for each in remotes]
        else:
            port = triton.grpc_port if kind == "triton-grpc" else triton.http_port
            proxies = [await stack.enter_async_context(fault_proxy(port)) for _ in "ab"]
            side = TritonSide(proxies, folder, notices=kind == "triton-grpc")
            urls = [each.grpc_url if kind == "triton-grpc" else each.url for each in proxies]
        name = kind.partition("-")[0]
        # What one row does to an upstream is not to change what the next one meets there.
        steady = "breaker: {failures: 0, calls_min: 1000000}, retries: {retries_max: 0}"
        steady += ", check_every_s: 3600" if name == "triton" else ""
        lines = [
            f"server: {{port: 0, write_timeout_s: {WRITE_TIMEOUT_S}, {server}}}",
            "upstreams:",
            *(
                f"  {which}: {{kind: {name}, url: '{url}', {steady}}}"
                for which, url in zip("ab", urls, strict=True)
            ),
            f"  down: {{kind: {name}, url: 'http://127.0.0.1:1', required: false, {steady}}}",
            "pipelines:",
            *pipelines(name, timeouts),
        ]
        yield "\n".join(lines), side


@asynccontextmanager
async def table(
    kind: str, triton: Triton, folder: Path, timeouts: str = PATIENT
) -> AsyncIterator[Table]:
    """A gateway before two upstreams of the kind, warm: each has been called."""
    async with (
        upstreams(kind, triton, folder, timeouts) as (config, side),
        gateway(config) as base,
        client(base) as session,
    ):
        made = Table(base, side, folder)
        for policy in ("race", "single"):
            status, answer = await made.answered(session, "good", policy, "query", policy)
            assert status == 200, answer
        yield made


KINDS = ["cambrion", "pupau", "triton-grpc", "triton-http"]
#: Those whose answers come in pieces.
IN_PIECES = KINDS[1:]


async def side_by_side(rows: Iterator[tuple[str, Awaitable[Any]]]) -> list[Any]:
    """Await every row; a failure names its row."""

    async def named(name: str, row: Awaitable[Any]) -> Any:
        try:
            return await row
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{name}: {error!r}") from error

    return await asyncio.gather(*(named(name, row) for name, row in rows))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_before_the_first_byte_ends_the_work_upstream(
    kind: str, triton: Triton, tmp_path: Path
) -> None:
    async with table(kind, triton, tmp_path) as made, nothing_left(made.base, *made.side.ends):
        await side_by_side(
            (name, made.leaving("silent", policy, form, name, b""))
            for policy, form, name in made.combinations(STREAMS)
        )


@pytest.mark.parametrize("kind", IN_PIECES)
async def test_a_client_that_leaves_while_the_upstream_is_silent_ends_the_work_upstream(
    kind: str, triton: Triton, tmp_path: Path
) -> None:
    async with table(kind, triton, tmp_path) as made, nothing_left(made.base, *made.side.ends):
        await side_by_side(
            (name, made.leaving("stalls", policy, form, name, b'"STREAMING_RESPONSE"'))
            for policy, form, name in made.combinations(STREAMS)
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_during_a_plain_call_ends_the_work_upstream(
    kind: str, triton: Triton, tmp_path: Path
) -> None:
    async with table(kind, triton, tmp_path) as made, nothing_left(made.base, *made.side.ends):
        await side_by_side(
            (name, made.leaving("silent", policy, form, name, b""))
            for policy, form, name in made.combinations(PLAIN)
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_an_upstream_that_stalls_is_left(kind: str, triton: Triton, tmp_path: Path) -> None:
    behaviour = "stalls" if kind in IN_PIECES else "silent"
    timeouts = f"{{first_event_s: {30 if kind in IN_PIECES else 0.5}, idle_s: 0.5}}"
    async with (
        table(kind, triton, tmp_path, timeouts) as made,
        nothing_left(made.base, *made.side.ends),
        client(made.base) as session,
    ):

        async def row_of(policy: str, form: str, name: str) -> None:
            status, answer = await made.answered(session, behaviour, policy, form, name)
            if behaviour == "silent":
                assert status == 504
                assert "(first_event_s)" in answer["message"]
            else:
                (error,) = [e for each in answer[-1]["responses"] for e in each["errors"]]
                assert error["name"] == "UpstreamTimeout"
                assert "(idle_s)" in error["message"]
            async with promised(SEEN_S):
                await made.side.stopped(name, answering=behaviour == "stalls")

        await side_by_side((row[-1], row_of(*row)) for row in made.combinations(STREAMS))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_upstream_that_dies_in_mid_event_ends_the_stream_with_the_error(
    kind: str, triton: Triton, tmp_path: Path
) -> None:
    async with (
        table(kind, triton, tmp_path) as made,
        nothing_left(made.base, *made.side.ends),
        client(made.base) as session,
    ):

        async def row_of(policy: str, form: str, name: str) -> None:
            status, answer = await made.answered(session, "dies", policy, form, name)
            if kind in IN_PIECES:
                assert status == 200
                assert "".join(event.get("message", "") for event in answer if "actorId" in event)
                assert answer[-1]["last"] is True
                (error,) = [e for each in answer[-1]["responses"] for e in each["errors"]]
                assert error["name"].startswith("Upstream")
            else:
                assert status == 502

        await side_by_side((row[-1], row_of(*row)) for row in made.combinations(STREAMS))
        await made.side.hang_up()


@pytest.mark.parametrize("kind", IN_PIECES)
async def test_a_client_that_stops_reading_is_dropped_and_the_upstream_closed(
    kind: str, triton: Triton, tmp_path: Path
) -> None:
    forms = STREAMS if kind == "pupau" else ["query-stream"]
    async with table(kind, triton, tmp_path) as made:
        async with nothing_left(made.base, *made.side.ends):
            await side_by_side(
                (name, made.not_reading(policy, form, name))
                for policy, form, name in made.combinations(forms)
            )
            await made.side.hang_up()
        async with client(made.base) as session, session.get("/metrics") as response:
            counted = await response.text()
    for policy, form, _ in made.combinations(forms):
        mode = form.replace("-", "_")
        gone = f'mode="{mode}",outcome="client_gone",pipeline="floods-{policy}"}} 1.0'
        assert gone in counted


PRE_STOP_S, DRAIN_S = 0.3, 0.5
#: What the end may take beyond these, seconds.
MARGIN_S = 4.0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_gateway_that_is_told_to_stop_ends_the_work_upstream(
    kind: str, triton: Triton, tmp_path: Path
) -> None:
    server = f"pre_stop_s: {PRE_STOP_S}, drain_s: {DRAIN_S}"
    async with upstreams(kind, triton, tmp_path, server=server) as (config, side):
        path = tmp_path / "gateway.yaml"
        path.write_text(config)
        async with serving(path) as process, client(process.base) as session:
            made = Table(process.base, side, tmp_path)

            async def row_of(behaviour: str, policy: str, form: str, name: str) -> None:
                status, answer = await made.answered(session, behaviour, policy, form, name)
                if behaviour == "stalls":
                    (error,) = answer[-1]["responses"][-1]["errors"]
                    assert (answer[-1]["last"], error["name"]) == (True, "ShuttingDown")
                else:
                    said = "ShuttingDown" if form.startswith("query") else "shutting_down"
                    assert (status, answer.get("name") or answer.get("code")) == (503, said)

            rows = [
                (behaviour, policy, form, f"{behaviour}.{name}")
                for behaviour in ("silent", "stalls")
                for policy, form, name in made.combinations(
                    [*STREAMS, *PLAIN] if behaviour == "silent" else STREAMS
                )
                if behaviour == "silent" or kind in IN_PIECES
            ]
            answers = asyncio.create_task(side_by_side((row[-1], row_of(*row)) for row in rows))
            async with patience():
                for behaviour, policy, _, name in rows:
                    await side.asked(name, asked(behaviour, policy))
            process.tell(signal.SIGTERM)
            async with promised(PRE_STOP_S + DRAIN_S + MARGIN_S):
                await answers
                async with promised(SEEN_S):
                    for behaviour, _, _, name in rows:
                        await side.stopped(name, answering=behaviour == "stalls")
                assert await process.ended() == 0
        await until(lambda: not any(end.open_connections for end in side.ends))
