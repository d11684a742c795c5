"""What is made of a configuration, and let go of again, however many pipelines it has."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic, process_time

import aiohttp
from prometheus_client import CollectorRegistry

from gateway.assembly import Assembly
from gateway.config import Config, load
from gateway.metrics import Metrics
from gateway.sampling import series
from tests.support.timing import uncollected


async def test_thousands_of_pipelines_are_let_go_of_in_less_time_than_they_were_made_in(
    tmp_path: Path,
) -> None:
    path = tmp_path / "gateway.yaml"
    pipelines = "".join(f"  p{number}: {{upstream: u}}\n" for number in range(2000))
    path.write_text(
        "upstreams: {u: {kind: pupau, url: 'http://127.0.0.1:9'}}\n"
        f"transforms: {{client: {{processes: 1}}}}\npipelines:\n{pipelines}"
    )
    config = load(path, {})
    metrics = Metrics(CollectorRegistry())
    with uncollected():
        # What is looked through for each pipeline, rather than once, takes many times as long.
        made_s, shut_s = await _made_and_shut(config, metrics)
        assert shut_s < made_s
    assert not any("p1" in labels for each in series(metrics).values() for labels in each)


async def _made_and_shut(config: Config, metrics: Metrics) -> tuple[float, float]:
    """What making and letting go take of the processor, seconds."""
    async with aiohttp.ClientSession() as session:
        began = process_time()
        site = await Assembly(session=session, metrics=metrics, clock=monotonic).assemble(config)
        made = process_time()
        assert sum(map(len, series(metrics).values())) > 2000
        shutting = process_time()
        await asyncio.wait_for(site.shut(), timeout=60)
        return made - began, process_time() - shutting
