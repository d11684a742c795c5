"""A real Prometheus that scrapes a gateway and evaluates the rules of ``deploy/watch``.

Owns: its process, its port, how it is asked.
Does not know: what is scraped, what is asked.
"""

from __future__ import annotations

import asyncio
import json
import socket
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from deploy.watch.rules import ALERTS
from tests.support.debian import binary
from tests.support.timing import PATIENCE_S

#: The labels that a Prometheus in Kubernetes gives what it scrapes.
LABELS = {"namespace": "here", "job": "pipeline-gateway"}
_CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: {job}
    scheme: {scheme}
    tls_config: {{insecure_skip_verify: true}}
    static_configs: [{{targets: ["{target}"], labels: {{namespace: {namespace}}}}}]
"""


class Prometheus:
    """A server that runs at ``url``."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers; an error is one of the caller's."""
        async with self._session.get(f"{self.url}/api/v1/{path}", params=parameters) as response:
            answer = json.loads(await response.read())
            assert answer["status"] == "success", (parameters, answer)
            return answer["data"]

    async def series(self, expression: str) -> list[Any]:
        """What an expression comes to now."""
        found = await self.ask("query", query=expression)
        assert found["resultType"] in ("vector", "scalar"), (expression, found)
        return list(found["result"])


def promtool() -> Path:
    """The program that checks and tests rules."""
    return binary("prometheus", "usr/bin/promtool")


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """One that keeps what it knows in ``folder`` and scrapes ``target``, a URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parts = urlsplit(target)
    config, rules = folder / "prometheus.yml", folder / "rules.yml"
    rules.write_text(ALERTS.read_text().replace("    interval: 1m\n", ""))  # nobody waits for that
    config.write_text(
        _CONFIG.format(rules=rules, target=parts.netloc, scheme=parts.scheme, **LABELS)
    )
    process = await asyncio.create_subprocess_exec(
        binary("prometheus", "usr/bin/prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(PATIENCE_S):
                while not await _ready(session, url):
                    await asyncio.sleep(0.05)
            yield Prometheus(url, session)
    finally:
        process.kill()
        await process.wait()


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/-/ready") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False
