"""``python -m tests.bench.steady``: how quickly refusals are answered, and whether streams notice.

A gateway process with an upstream whose breaker is open, and one that is full: 50 paced streams run
on it while 1,000 more requests come, some 300 a second, and are refused. Printed are the times of
the refusals and the gaps between the streams' events, before and meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import aiohttp

from tests.bench.processes import Cores, free_port, running
from tests.support.remote import Peer, Seen, remote

STREAMS = 50
REFUSED = 1000
CONCURRENCY = 5
PAUSE_S = 0.015
PACE_S = 0.05

CONFIG = """
server: {{port: {port}, pre_stop_s: 0, drain_s: 0}}
upstreams:
  dead: {{kind: pupau, url: "http://127.0.0.1:1", breaker: {{failures: 1, open_s: 3600}}}}
  full: {{kind: pupau, url: "{url}", concurrency: {{running_max: {streams}, waiting_max: 0}}}}
pipelines:
  dead: {{upstream: dead}}
  full: {{upstream: full}}
"""


async def paced(seen: Seen, peer: Peer) -> None:
    """A stream that goes on until nobody reads it."""
    piece = {"type": "STREAMING_RESPONSE", "actorId": "a", "message": "word ", "layerId": "0"}
    frame = f"data: {json.dumps(piece)}\n\n".encode()
    await peer.open_stream()
    while not seen.gone.is_set():
        await peer.chunk(frame)
        await asyncio.sleep(PACE_S)


async def watch(session: aiohttp.ClientSession, base: str, gaps: list[float]) -> None:
    """Read one stream, and note the time between what arrives."""
    async with session.post(f"{base}/pipelines/full/queries?sse=true", data='{"request":"x"}') as r:
        assert r.status == 200, await r.text()
        before = perf_counter()
        async for _ in r.content.iter_any():
            now = perf_counter()
            gaps.append(now - before)
            before = now


async def refusals(session: aiohttp.ClientSession, base: str, pipeline: str) -> list[float]:
    """The times of ``REFUSED`` answers, each of which is a 503 with Retry-After, seconds."""
    times: list[float] = []
    left = iter(range(REFUSED))

    async def worker() -> None:
        for _ in left:
            began = perf_counter()
            url = f"{base}/pipelines/{pipeline}/queries"
            async with session.post(url, data='{"request":"x"}') as response:
                assert response.status == 503, await response.text()
                assert "Retry-After" in response.headers
                await response.read()
            times.append(perf_counter() - began)
            await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return times


def show(what: str, times: list[float]) -> None:
    """Print the median, the 99th percentile and the longest of ``times``, in milliseconds."""
    cuts = statistics.quantiles(times, n=100)
    print(
        f"{what:44} {statistics.median(times) * 1e3:8.2f} {cuts[98] * 1e3:8.2f} "
        f"{max(times) * 1e3:8.2f}",
        flush=True,
    )


async def measure(base: str) -> None:
    """Print every line."""
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        async with session.post(f"{base}/pipelines/dead/queries", data='{"request":"x"}') as r:
            assert r.status == 502, await r.text()
        print(f"{'milliseconds':44} {'median':>8} {'p99':>8} {'max':>8}")
        show("breaker open: answer", await refusals(session, base, "dead"))
        gaps: list[float] = []
        streams = [asyncio.create_task(watch(session, base, gaps)) for _ in range(STREAMS)]
        await asyncio.sleep(1)
        gaps.clear()
        await asyncio.sleep(3)
        show(f"gap of {STREAMS} streams, every {PACE_S * 1e3:g} ms, before", list(gaps))
        gaps.clear()
        show("upstream full: answer", await refusals(session, base, "full"))
        show("gap of the streams meanwhile", list(gaps))
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)


async def main() -> None:
    """Start the gateway, measure, end it."""
    port = free_port()
    async with remote(paced) as upstream:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "gateway.yaml")
            config.write_text(CONFIG.format(port=port, url=upstream.url, streams=STREAMS))
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
            log, cores = Path(folder, "output.log"), {*Cores.here().all}
            async with running(command, port, cores, log=log):
                await measure(f"http://127.0.0.1:{port}")
                async with asyncio.timeout(10):
                    while upstream.open_connections:  # until the gateway has let go of all
                        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
