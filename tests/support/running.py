"""A running gateway in the test's own loop, listening on a real port."""

from __future__ import annotations

import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from gateway import app
from gateway.config import load


@asynccontextmanager
async def gateway(
    config: str,
    *,
    files: dict[str, str] | None = None,
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[str]:
    """Run the gateway of a YAML text; yields its base URL. The port is always a free one.

    ``files`` are written into ``transforms/`` beside the configuration's folder. ``wall`` is the
    clock on its wall, Unix seconds.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "config", "gateway.yaml")
        path.parent.mkdir()
        text = textwrap.dedent(config)
        if "server:" not in text:
            text = "server: {port: 0}\n" + text
        if "\ntransforms:" not in text:  # one child is enough, and two take longer to start
            text = "transforms: {client: {processes: 1}}\n" + text
        path.write_text(text)
        for name, content in (files or {}).items():
            file = Path(folder, "transforms", name)
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
        async with app.running(load(path, {}), wall=wall) as (host, port):
            yield f"http://{host}:{port}"


@asynccontextmanager
async def client(base: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the gateway that inflates nothing and follows nothing by itself."""
    async with aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session
