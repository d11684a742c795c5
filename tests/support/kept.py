"""A gateway that keeps executions, what is behind it, and its client.

Owns: how it is configured, the calls that tests make again and again.
Does not know: what any test shows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from gateway.sse import Decoder
from tests.support.gated import Reader, Talker
from tests.support.remote import Remote, remote
from tests.support.running import client, gateway
from tests.support.timing import patience

CONFIG = """
executions: {executions}
upstreams:
  docs: {{kind: cambrion, url: "{docs}/v1", retries: {{retries_max: 0}}}}
  talk: {{kind: pupau, url: "{talk}"}}
pipelines:
  doc: {{upstream: docs}}
  chat: {{upstream: talk}}
"""

#: The calls that run the pipeline on the ``Reader``, and those on the ``Talker``.
SYNC = "/v1/pipelines/doc/executeSync"
ASYNC = "/v1/pipelines/doc/executeAsync"
CHAT = "/v1/pipelines/chat/executeAsync"
STREAM = {"Accept": "text/event-stream"}


@dataclass
class Api:
    """A gateway that keeps executions, what is behind it, and its client."""

    base: str
    session: aiohttp.ClientSession
    docs: Reader
    talk: Talker
    behind: Remote

    async def call(self, method: str, path: str, status: int = 200, **asked: Any) -> Any:
        """The JSON of an answer that has this status; its bytes where it is no JSON."""
        async with self.session.request(method, path, **asked) as response:
            body = await response.read()
            assert response.status == status, body
            if response.content_type != "application/json" or status == 204:
                return body
            return json.loads(body)

    async def new(self, **fields: Any) -> str:
        """The ID of a new execution."""
        made = await self.call("POST", "/v1/executions", json=fields)
        return str(made["executionId"])

    async def submit(self, path: str = ASYNC, **fields: Any) -> str:
        """The ID of the execution that a queued run is of."""
        return str((await self.call("POST", path, json=fields))["executionId"])

    async def ended(self, execution_id: str) -> dict[str, Any]:
        """The execution, once its runs have ended."""
        async with patience():
            while True:
                shown: dict[str, Any] = await self.call("GET", f"/v1/executions/{execution_id}")
                if shown.get("status") in ("COMPLETED", "FAILED", "CANCELLED"):
                    return shown
                await asyncio.sleep(0.01)

    async def runs(self, execution_id: str) -> None:
        """Return once it is shown that the execution runs, which may be written while its upstream
        is at work already."""
        async with patience():
            while (status := await self.status(execution_id)) != "RUNNING":
                assert status == "QUEUED"
                await asyncio.sleep(0.01)

    async def status(self, execution_id: str) -> str | None:
        """How far the execution has come."""
        shown = await self.call("GET", f"/v1/executions/{execution_id}")
        status: str | None = shown.get("status")
        return status

    async def texts(self, execution_id: str) -> list[str]:
        """What the pages of its observation say."""
        found = await self.call("GET", f"/v1/executions/{execution_id}/observation")
        assert found["executionId"] == execution_id
        return [each["rawText"] for each in found["mediaContents"]]

    async def log(self, execution_id: str, **headers: str) -> list[tuple[str, dict[str, Any]]]:
        """Its events with their IDs, once it has ended."""
        url = f"/v1/executions/{execution_id}/events"
        async with patience(), self.session.get(url, headers=headers) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            return numbered(await response.read())


def numbered(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, each with its ID."""
    frames = Decoder(1 << 26).feed(body)
    return [(frame.last_event_id, json.loads(frame.data)) for frame in frames]


@asynccontextmanager
async def running(executions: str = "{}", *, server: str = "") -> AsyncIterator[Api]:
    """A gateway with these sections."""
    docs, talk = Reader(), Talker()
    async with remote(docs) as first, remote(talk) as second:
        config = f"server: {{port: 0, {server}}}\n" if server else ""
        config += CONFIG.format(executions=executions, docs=first.url, talk=second.url)
        async with gateway(config) as base, client(base) as session:
            yield Api(base, session, docs, talk, first)
