"""A gateway to which everything happens that its metrics tell of: two workers, all that can be
configured, upstreams that answer, fail and are silent.

Owns: its configuration, and what is done to it.
Does not know: what is made of its metrics.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.limited import key_line
from tests.support.redis_server import redis_server
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.scripts import cambrion_script, pupau_script
from tests.support.serving import Serving, serving
from tests.support.timing import until

_CONFIG = """
server: {{port: 0, workers: 2, watch: false, pre_stop_s: 0, drain_s: 0}}
transforms: {{client: {{processes: 1}}, large: {{processes: 1}}}}
limits: {{store: "{redis}"}}
tracing: {{endpoint: "http://127.0.0.1:1/v1/traces"}}
keys: [{free}, {modest}]
executions:
  store: "sqlite:{folder}/executions.db"
  concurrency: 1
  hooks: {{allow_networks: [127.0.0.0/8]}}
upstreams:
  docs: {{kind: cambrion, url: "{behind}/v1"}}
  talk: {{kind: pupau, url: "{behind}"}}
  silent: {{kind: pupau, url: "{behind}", concurrency: {{running_max: 1, waiting_max: 1}}}}
  far:
    kind: cambrion
    url: http://127.0.0.1:1
    required: false
    retries: {{backoff_s: 0.01}}
    breaker: {{failures: 2, open_s: 3600}}
pipelines:
  doc: {{upstream: docs}}
  chat: {{upstream: talk}}
  lost: {{upstream: far}}
  full: {{upstream: silent}}
  either: {{upstreams: [far, docs], policy: fallback}}
  wrong: {{upstream: docs, transform: {{request: '$number("x")'}}}}
  report:
    layers:
      - actors: [{{actor: here, upstream: docs}}, {{actor: there, upstream: far}}]
        on_error: continue
"""
_STREAM = {"Accept": "text/event-stream"}


async def _behind(seen: Seen, peer: Peer) -> None:
    if "/full/" in seen.path:
        await seen.gone.wait()
    elif seen.path == "/hook":
        await peer.answer(b"")
    elif seen.path.startswith("/v1"):
        await cambrion_script(seen, peer)
    else:
        await pupau_script(seen, peer)


class _Happening:
    """What is done to the gateway at ``base``."""

    def __init__(self, session: aiohttp.ClientSession, base: str, behind: Remote) -> None:
        self._session = session
        self._base = base
        self._behind = behind

    async def call(self, path: str, body: Any = None, key: str = "free", **headers: str) -> int:
        """The status of an answer that has been read to its end."""
        method = "GET" if body is None else "POST"
        headers["X-API-Key"] = key
        async with self._session.request(
            method, self._base + path, json=body, headers=headers
        ) as response:
            await response.read()
            return response.status

    def silence(self) -> asyncio.Task[int]:
        """A stream of which nothing comes."""
        path = "/pipelines/full/queries?sse=true"
        return asyncio.create_task(self.call(path, {"request": "x"}))

    async def all(self) -> None:
        """Everything that comes to an end."""
        silence = self.silence()
        await until(lambda: self._behind.seen)
        silence.cancel()
        execute = "/v1/pipelines/{}/executeSync"
        text = {"text": "x"}
        for _ in range(2):
            assert await self.call(execute.format("doc"), text) == 200
            assert await self.call(execute.format("chat"), text, **_STREAM) == 200
            assert await self.call("/pipelines/chat/queries?sse=true", {"request": "x"}) == 200
            assert await self.call("/pipelines/chat/queries", {"request": "x"}) == 200
            assert await self.call(execute.format("lost"), text) in (502, 503)
            assert await self.call(execute.format("either"), text) == 200
            assert await self.call(execute.format("wrong"), text) == 500
            assert await self.call(execute.format("report"), text) == 200
            assert await self.call("/readyz") in (200, 503)
        wrong = {"text": "x", "transform": "$number('x')"}
        assert await self.call(execute.format("doc") + "/transform", wrong) == 400
        assert await self.call(execute.format("doc"), text, "unknown") == 401
        modest = [await self.call(execute.format("doc"), text, "modest") for _ in range(2)]
        assert modest == [200, 429]
        await self._executions()

    async def _executions(self) -> None:
        hook = {"eventType": "STATUS_CHANGE", "endpoint": f"{self._behind.url}/hook"}
        headers = {"X-API-Key": "free"}
        async with self._session.post(
            f"{self._base}/v1/hooks", json=hook, headers=headers
        ) as response:
            made = await response.json()
        begun = {"executionId": "e-1", "hookIds": [made["hookId"]]}
        assert await self.call("/v1/executions", begun) == 200
        run = {"executionId": "e-1", "text": "x"}
        assert await self.call("/v1/pipelines/doc/executeAsync", run) == 200
        for _ in range(3):  # more than run at once: the third one waits
            assert await self.call("/v1/pipelines/full/executeAsync", {"text": "x"}) == 200


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Serving]:
    """The gateway, when everything has happened to it. A stream and two queued runs go on."""
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(remote(_behind))
        kept = folder / "redis"
        kept.mkdir()
        redis = await stack.enter_async_context(redis_server(kept))
        config = folder / "gateway.yaml"
        config.write_text(
            _CONFIG.format(
                behind=behind.url,
                redis=redis.url,
                folder=folder,
                free=key_line("free"),
                modest=key_line("modest", "{requests_per_minute_max: 1}"),
            )
        )
        gateway = await stack.enter_async_context(serving(config))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        happening = _Happening(session, gateway.base, behind)
        await happening.all()
        stack.callback(happening.silence().cancel)
        config.write_text("upstreams: 7")
        gateway.tell(signal.SIGHUP)
        await gateway.said("configuration refused; the one before stays live")
        yield gateway
