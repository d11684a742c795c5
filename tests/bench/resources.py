"""Scenarios of memory and of waiting: open streams that are idle, large media.

Owns: what is held open, what is sent, what others must not notice.
Does not know: how memory is read.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import resource
from typing import Any, Final

from tests.bench import answers, calls, peers, triton
from tests.bench.accounting import peak_bytes, reset_peak, resident_bytes
from tests.bench.harness import Bench, Take, Turn, post
from tests.bench.orders import Ordered
from tests.bench.processes import Program
from tests.bench.streams import streamed

OPEN: Final = (1000, 2500, 5000, 10_000)
HEARTBEAT_S: Final = 5.0
#: For how many heartbeats the streams are watched.
BEATS: Final = 3
#: Descriptors that a gateway needs beside those of its streams.
_OTHERS: Final = 200
#: How many of the open streams may have an upstream connection; more would take more descriptors
#: than a process may have.
_CONNECTED_MAX: Final = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OPEN[-1] - _OTHERS

MEDIA_BYTES: Final = 20_000_000
#: How long others ask meanwhile, seconds: longer than the call takes.
PINGS_S: Final = 1.5


def idle_config() -> dict[str, Any]:
    """A gateway whose streams may be idle for as long as they like, and as many as there can be."""
    room = {"running_max": min(OPEN[-1], _CONNECTED_MAX), "waiting_max": OPEN[-1], "wait_s": 3600}
    talk = {**calls.CONFIG["upstreams"]["talk"], "concurrency": room}
    timeouts = {"first_event_s": 3600, "idle_s": 3600, "stream_total_s": 3600}
    return {
        **calls.CONFIG,
        "server": {"heartbeat_s": HEARTBEAT_S},
        "upstreams": {"talk": talk},
        "pipelines": {"idle": {"upstream": "talk", "timeouts": timeouts}},
    }


async def idle_streams(bench: Bench) -> None:
    """Streams that are open and idle, each with its heartbeats: memory of each."""
    wanted = OPEN[:2] if bench.quick else OPEN
    gateway = await bench.start("gateway", peers.gateway(idle_config()))
    await bench.load.do("open", port=gateway.port, request=streamed("idle"), count=10)
    await bench.load.do("close")
    before, opened = resident_bytes(gateway.pid), 0
    for count in wanted:
        await bench.load.do(
            "open", port=gateway.port, request=streamed("idle"), count=count - opened
        )
        opened = count
        await asyncio.sleep(HEARTBEAT_S * 1.1)
        grown = resident_bytes(gateway.pid) - before
        bench.record(f"{count} open", "gateway", "KB each", [grown / count / 1000])
    await bench.load.do("mark")
    await asyncio.sleep(HEARTBEAT_S * BEATS)
    seen = await bench.load.do("mark")
    beats = seen["bytes"] / HEARTBEAT_BYTES
    bench.record(f"{opened} open", "gateway", "streams", [seen["streams"]])
    bench.record(f"{opened} open", "gateway", "× due heartbeats", [beats / opened / BEATS])
    if opened > _CONNECTED_MAX:
        bench.note(
            f"A process may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} descriptors here:"
            f" {_CONNECTED_MAX} of the streams have an upstream connection, the others wait for one"
            " and have only their heartbeats."
        )
    await bench.load.do("close")


#: ``: ping`` and a blank line, as a chunk.
HEARTBEAT_BYTES: Final = len(b"8\r\n: ping\n\n\r\n")


def _media() -> str:
    drawn = random.Random(1).randbytes(MEDIA_BYTES - 8)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + drawn).decode()


def _media_config(triton_url: str | None) -> dict[str, Any]:
    whole: dict[str, Any] = {
        **calls.CONFIG,
        "upstreams": {**calls.CONFIG["upstreams"]},
        "pipelines": {"obs-1": {"upstream": "docs"}, "talk-1": calls.CONFIG["pipelines"]["talk-1"]},
    }
    if triton_url is not None:
        whole["upstreams"]["triton"] = {"kind": "triton", "url": triton_url}
        whole["pipelines"]["weigh"] = {"upstream": "triton", "inputs": {"INPUT": "$media[0]"}}
    return whole


async def media(bench: Bench) -> None:
    """20 MB as base64 in a call: how long others wait, and how much memory it takes."""
    server = triton.serve(bench)
    url = server.grpc_url if server is not None else None
    gateway = await bench.start("gateway", peers.gateway(_media_config(url)))
    pinger = await bench.start_ordered("tests.bench.pinger", core=bench.cores.load)
    body = answers.compact({"media": [_media()]})
    turns = [Turn("nothing else", "gateway", _undisturbed(pinger, gateway))]
    for case, name in {"Triton": "weigh", "Cambrion": "obs-1", "Pupau": "talk-1"}.items():
        if case == "Triton" and server is None:
            continue
        request = post(f"/v1/pipelines/{name}/executeSync", body, headers=calls.KEYED)
        turns.append(
            Turn(f"to {case}", "gateway", _disturbed(bench, pinger, gateway, request, name))
        )
    await bench.in_turns(turns, rounds=3 if bench.quick else 5)


def _undisturbed(pinger: Ordered, gateway: Program) -> Take:
    async def take() -> dict[str, float]:
        told = await pinger.do("ping", port=gateway.port, seconds=0.5)
        return {"ms longest": max(told["latencies_us"]) / 1000}

    return take


def _disturbed(bench: Bench, pinger: Ordered, gateway: Program, request: str, name: str) -> Take:
    async def take() -> dict[str, float]:
        reset_peak(gateway.pid)
        before = peak_bytes(gateway.pid)
        pinging = asyncio.create_task(pinger.do("ping", port=gateway.port, seconds=PINGS_S))
        await asyncio.sleep(0.1)
        told = await bench.load.do("connect", port=gateway.port, requests=[request], count=1)
        await bench.load.do("hang up")
        if pinging.done():
            bench.note("The call took longer than it was watched.")
        waits = (await pinging)["latencies_us"]
        said = json.loads(told["samples"][0])["observation"]["mediaContents"][0]
        if name == "weigh" and said["rawText"] != f"{MEDIA_BYTES} bytes":
            raise RuntimeError(f"Triton was sent {said['rawText']}")
        return {
            "ms longest": max(waits) / 1000,
            "× its size": (peak_bytes(gateway.pid) - before) / MEDIA_BYTES,
        }

    return take
