"""The command line and a gateway that keeps executions, which is stopped, killed and reloaded."""

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

from tests.support.commands import ended, run, start
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.running import gateway
from tests.support.scripts import EVENTS, frames, pupau_script
from tests.support.serving import Serving, serving
from tests.support.timing import patience, until

LINES = ["a: one", "b: two", "c: Hello wörld"]
VOID = "--- the run begins again; what stands above of it is void ---"
CONFIG = """
server: {{port: 0, pre_stop_s: 0, drain_s: 0.1, watch: false{server}}}
transforms: {{client: {{processes: 1}}}}
upstreams: {{u: {{kind: pupau, url: "{url}", retries: {{retries_max: 0}}}}}}
pipelines: {{chat: {{upstream: u}}}}
executions: {{lease_s: 1{executions}}}
"""


class Upstream:
    """It answers all but the first ``stalled`` queries; those get a piece of a text, no more."""

    def __init__(self, stalled: int) -> None:
        self.stalled = stalled

    async def __call__(self, seen: Seen, peer: Peer) -> None:
        if self.stalled == 0:
            await pupau_script(seen, peer)
            return
        self.stalled -= 1
        await peer.open_stream()
        await peer.chunk(frames([EVENTS[0], {**EVENTS[1], "message": "half\n"}]))
        await seen.gone.wait()


@pytest.fixture
async def upstream() -> AsyncIterator[Remote]:
    async with remote(Upstream(stalled=1)) as one:
        yield one


def configured(folder: Path, upstream: Remote, *, server: str = "", executions: str = "") -> Path:
    path = folder / "gateway.yaml"
    path.write_text(CONFIG.format(url=upstream.url, server=server, executions=executions))
    return path


async def queued(base: str) -> str:
    code, out, err = await run("call", "chat", "--async", "--request", "x", "--url", base)
    assert (code, err) == (0, "")
    return out.strip()


async def shown(execution_id: str, base: str) -> dict[str, Any]:
    code, out, err = await run("executions", "show", execution_id, "--url", base)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


@asynccontextmanager
async def watching(execution_id: str, base: str) -> AsyncIterator[Process]:
    """A watch that has shown the half line, as a process."""
    started = await start("executions", "watch", execution_id, "--url", base)
    async with ended(started) as process, patience():
        assert process.stdout is not None
        assert await process.stdout.readline() == b"a: half\n"
        yield process


async def rest_of(process: Process) -> tuple[int | None, list[str], list[str]]:
    out, err = await process.communicate()
    return process.returncode, out.decode().splitlines(), err.decode().splitlines()


def port_of(gateway: Serving) -> str:
    return gateway.base.rpartition(":")[2]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_watch_goes_on_when_the_gateway_is_ended_and_started_anew(
    number: signal.Signals, upstream: Remote, tmp_path: Path
) -> None:
    config, state = configured(tmp_path, upstream), ("--state", str(tmp_path / "kept.db"))
    async with serving(config, *state) as first:
        execution_id = await queued(first.base)
        async with watching(execution_id, first.base) as process:
            first.tell(number)
            await first.ended()
            async with serving(config, *state, "--port", port_of(first)) as second:
                code, out, err = await rest_of(process)
                now = await shown(execution_id, second.base)
    assert (code, out) == (0, [VOID, *LINES])
    assert err.count("connected again") == 1
    assert err[-1] == f"execution {execution_id}: COMPLETED"
    assert now["status"] == "COMPLETED"


async def test_an_interrupted_watch_ends_nothing_and_a_cancel_does(
    upstream: Remote, tmp_path: Path
) -> None:
    async with serving(configured(tmp_path, upstream)) as served:
        execution_id = await queued(served.base)
        async with watching(execution_id, served.base) as process:
            process.send_signal(signal.SIGINT)
            assert (await rest_of(process))[0] == 130
        assert not upstream.seen[0].gone.is_set()
        async with watching(execution_id, served.base) as process:
            cancelled = await run("executions", "cancel", execution_id, "--url", served.base)
            code, out, err = await rest_of(process)
        await asyncio.wait_for(upstream.seen[0].gone.wait(), 60)
    assert cancelled[0] == 0
    assert (code, out) == (3, [])
    assert err[-1] == f"execution {execution_id}: CANCELLED"


async def test_a_watch_of_a_log_that_lost_its_beginning_says_so(tmp_path: Path) -> None:
    async def talkative(seen: Seen, peer: Peer) -> None:
        await peer.open_stream()
        for number in range(50):
            await peer.chunk(frames([{**EVENTS[1], "message": f"{number}\n"}]))
        await peer.chunk(frames([{**EVENTS[-1], "layerId": "0"}]))
        await peer.end()

    async with (
        remote(talkative) as upstream,
        serving(configured(tmp_path, upstream, executions=", events_max: 10")) as served,
    ):
        execution_id = await queued(served.base)
        async with patience():
            while (await shown(execution_id, served.base)).get("status") != "COMPLETED":
                await asyncio.sleep(0.05)
        code, out, err = await run("executions", "watch", execution_id, "--url", served.base)
    assert code == 0
    assert out.splitlines()[-2:] == ["a: 49", "c: Hello wörld"]
    assert "a: 0" not in out
    assert err.startswith("events before 1-")
    assert err.endswith(f"are no longer kept\nexecution {execution_id}: COMPLETED\n")


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_state_names_holds_across_reloads_and_in_every_worker(
    workers: int, upstream: Remote, tmp_path: Path
) -> None:
    upstream.script = pupau_script
    server, state = f", workers: {workers}", tmp_path / "kept.db"
    config = configured(tmp_path, upstream, server=server)
    async with serving(config, "--state", str(state)) as served:
        before = await queued(served.base)
        configured(tmp_path, upstream, server=server, executions=", store: 'sqlite:other.db'")
        served.tell(signal.SIGHUP)
        await served.said("configuration loaded")
        after = await queued(served.base)
        code, out, _ = await run("executions", "list", "--url", served.base)
        assert served.times("executions takes a restart to change") == 0
    assert code == 0
    assert {line.split("\t")[0] for line in out.splitlines()} == {before, after}
    assert state.exists()
    assert not (tmp_path / "other.db").exists()
    assert not (tmp_path / "executions.db").exists()


async def test_state_is_enough_to_keep_executions(upstream: Remote, tmp_path: Path) -> None:
    upstream.script = pupau_script
    config = configured(tmp_path, upstream)
    config.write_text("\n".join(config.read_text().splitlines()[:-1]))
    async with serving(config) as without:
        code, _, err = await run("call", "chat", "--async", "--url", without.base)
    assert code == 1
    assert "keeps no executions" in err
    async with serving(config, "--state", str(tmp_path / "kept.db")) as served:
        result = await run(
            "call", "chat", "--async", "--watch", "--request", "x", "--url", served.base
        )
    assert (result[0], result[1].splitlines()) == (0, LINES)


async def test_a_webhook_that_was_added_is_told_and_can_be_fired() -> None:
    told: list[Seen] = []

    async def receiver(seen: Seen, peer: Peer) -> None:
        told.append(seen)
        await peer.answer(b"")

    config = """
upstreams: {{u: {{kind: pupau, url: "{url}"}}}}
pipelines: {{chat: {{upstream: u}}}}
executions: {{hooks: {{allow_networks: [127.0.0.0/8]}}}}
"""
    async with (
        remote(pupau_script) as upstream,
        remote(receiver) as far,
        gateway(config.format(url=upstream.url)) as base,
    ):
        place = ("--url", base)
        added = ("hooks", "add", far.url + "/done", "--status", "COMPLETED", "--header", "X-A: b")
        done = (await run(*added, *place))[1].split("\t")[0]
        added = ("hooks", "add", far.url + "/fired", "--event", "SUBMIT", "--payload", "JSON")
        code, out, _ = await run(*added, *place)
        submit, secret = out.strip().split("\t")
        assert (code, secret[:6]) == (0, "whsec_")
        listed = await run("hooks", "list", *place)
        assert [line.split("\t")[0] for line in listed[1].splitlines()] == [done, submit]
        assert secret not in listed[1]
        queuing = ("call", "chat", "--async", "--watch", "--request", "x")
        code, _, err = await run(*queuing, "--hook", done, "--hook", submit, *place)
        execution_id = err.splitlines()[0]
        assert code == 0
        fired = await run("hooks", "test", submit, "--execution", execution_id, *place)
        assert fired == (0, f"{submit}\t{far.url}/fired\n", "")
        await until(lambda: len(told) == 2)
        assert (await run("hooks", "remove", done, *place))[0] == 0
        assert submit in (await run("hooks", "list", *place))[1]
    by_path = {seen.path: seen for seen in told}
    assert by_path["/done"].headers["x-a"] == "b"
    assert json.loads(by_path["/fired"].body) == {"c": "Hello wörld"}
