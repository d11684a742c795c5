"""``make bench``: CPU per request of the gateway and of a bare aiohttp proxy, interleaved.

Each scenario runs in rounds, gateway and bare proxy in turn, against the same instant upstream; CPU
is the processes' own accounting. Only the ratios mean anything: the machines are noisy.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import aiohttp

ROUNDS = 5
CONCURRENCY = 8
TICKS = os.sysconf("SC_CLK_TCK")

CONFIG = """
server: {{port: {port}, pre_stop_s: 0}}
upstreams:
  docs: {{kind: cambrion, url: "http://127.0.0.1:{upstream}/v1"}}
  talk: {{kind: pupau, url: "http://127.0.0.1:{upstream}"}}
pipelines:
  small: {{upstream: docs}}
  large: {{upstream: docs}}
  large-totals:
    upstream: docs
    pipeline: large
    transform: {{observation: "$sum(**.numberValue)"}}
  stream: {{upstream: talk}}
  stream-upper: {{upstream: talk, pipeline: stream, transform: {{event: "$"}}}}
"""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the table: what is asked of the gateway, and of the bare proxy beside it."""

    name: str
    path: str
    bare: str
    requests: int


SCENARIOS = [
    Scenario("small JSON", "/v1/pipelines/small/executeSync", "", 2000),
    Scenario("25 KB", "/v1/pipelines/large/executeSync", "", 1000),
    Scenario(
        "25 KB, observation transform",
        "/v1/pipelines/large-totals/executeSync",
        "/v1/pipelines/large/executeSync",
        1000,
    ),
    Scenario(
        "dialect changed", "/pipelines/small/queries", "/v1/pipelines/small/executeSync", 1000
    ),
    Scenario("stream of 201 events", "/pipelines/stream/queries?sse=true", "", 300),
    Scenario(
        "stream, event transform",
        "/pipelines/stream-upper/queries?sse=true",
        "/pipelines/stream/queries?sse=true",
        100,
    ),
]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def drive(base: str, path: str, requests: int) -> None:
    """Send ``requests`` of them, ``CONCURRENCY`` at a time; every answer is checked."""
    body = b'{"request":"x"}' if "/queries" in path else b'{"text":"x"}'
    left = iter(range(requests))

    async def worker(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(base + path, data=body) as response:
                assert response.status == 200, await response.text()
                async for _ in response.content.iter_any():
                    pass

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(worker(session) for _ in range(CONCURRENCY)))


async def ready(port: int) -> None:
    """Wait until something listens."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def measure(gateway: tuple[int, int], bare: tuple[int, int]) -> None:
    """Run every scenario and print its line. The pairs are process ID and port."""
    wanted = os.environ.get("SCENARIO", "")
    print(f"{platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    print(f"{'scenario':32} {'gateway µs':>12} {'bare µs':>10} {'ratio':>7}  range")
    for scenario in SCENARIOS:
        if wanted not in scenario.name:
            continue
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS):
            for (pid, port), path, results in (
                (gateway, scenario.path, ours),
                (bare, scenario.bare or scenario.path, theirs),
            ):
                base = f"http://127.0.0.1:{port}"
                await drive(base, path, 20)
                before = cpu_s(pid)
                await drive(base, path, scenario.requests)
                results.append((cpu_s(pid) - before) / scenario.requests * 1e6)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(
            f"{scenario.name:32} {statistics.median(ours):12.0f} {statistics.median(theirs):10.0f} "
            f"{statistics.median(ratios):7.2f}  {min(ratios):.2f}–{max(ratios):.2f}",
            flush=True,
        )


async def main() -> None:
    """Start the three processes, measure, end them."""
    upstream, gateway, bare = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "gateway.yaml")
        config.write_text(CONFIG.format(port=gateway, upstream=upstream))
        commands = [
            ["tests.bench.upstream", str(upstream)],
            ["gateway", "serve", "--config", str(config)],
            ["tests.bench.bare", str(bare), f"http://127.0.0.1:{upstream}"],
        ]
        processes = [
            subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)
            for command in commands
        ]
        try:
            await asyncio.gather(*map(ready, (upstream, gateway, bare)))
            await measure((processes[1].pid, gateway), (processes[2].pid, bare))
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(15)


if __name__ == "__main__":
    asyncio.run(main())
