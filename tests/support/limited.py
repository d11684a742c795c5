"""A gateway whose keys have limits, and calls with its keys.

Owns: its configuration.
Does not know: what any test shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.support.gated import Reader, Talker
from tests.support.remote import remote
from tests.support.running import client, gateway

SYNC = "/v1/pipelines/doc/executeSync"
CHAT = "/v1/pipelines/chat/executeSync"
QUERY = "/pipelines/chat/queries"
STREAM = {"Accept": "text/event-stream"}


def key_line(name: str, limits: str = "") -> str:
    """The entry of a key whose text is its name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{{name: {name}, sha256: '{digest}'{', limits: ' * bool(limits)}{limits}}}"


def configuration(docs: str, talk: str, keys: dict[str, str], more: str = "") -> str:
    """A configuration with these ``keys``, each with its limits."""
    lines = "".join(f"\n  - {key_line(name, limits)}" for name, limits in keys.items())
    return f"""
{more}
executions: {{}}
keys: {lines}
upstreams:
  docs: {{kind: cambrion, url: "{docs}/v1", required: false, retries: {{retries_max: 0}}}}
  talk: {{kind: pupau, url: "{talk}", required: false}}
pipelines:
  doc: {{upstream: docs}}
  chat: {{upstream: talk}}
"""


@dataclass
class Limited:
    """A gateway and what is behind it."""

    session: aiohttp.ClientSession
    docs: Reader
    talk: Talker

    async def call(
        self, key: str, path: str = SYNC, method: str = "POST", **asked: object
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, head and body of an answer to the key that is called so."""
        headers = {"X-API-Key": key}
        if method == "POST" and not asked:
            asked = {"json": {"text": "a"}}
        async with self.session.request(method, path, headers=headers, **asked) as response:  # type: ignore[arg-type]
            return response.status, dict(response.headers), await response.read()

    def stream(self, key: str, path: str = CHAT) -> aiohttp.client._RequestContextManager:
        """A stream, to be entered."""
        headers = {"X-API-Key": key, **STREAM}
        if path.startswith("/v1/executions"):
            return self.session.get(path, headers=headers)
        json = {"text": "a"} if path == CHAT else {"request": "a"}
        return self.session.post(path, headers=headers, json=json)

    async def metric(self, line: str) -> bool:
        """Whether /metrics has this line."""
        async with self.session.get("/metrics") as response:
            return line in (await response.text()).splitlines()


@asynccontextmanager
async def limited(more: str = "", **keys: str) -> AsyncIterator[Limited]:
    """A gateway with these ``keys``."""
    docs, talk = Reader(), Talker()
    async with remote(docs) as first, remote(talk) as second:
        config = configuration(first.url, second.url, keys, more)
        async with gateway(config) as base, client(base) as session:
            yield Limited(session, docs, talk)
