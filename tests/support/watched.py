"""A gateway to which everything happens that its metrics tell of: two workers, all that can be
configured, upstreams that answer, fail and are silent.

Owns: its configuration, and what is done to it.
Does not know: what is made of its metrics.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import trustme

from tests.support.limited import key_line
from tests.support.redis_server import redis_server
from tests.support.remote import Peer, Remote, Seen, remote
from tests.support.scripts import cambrion_script, pupau_script
from tests.support.serving import serving
from tests.support.timing import until

_CONFIG = """
server:
  port: 0
  workers: 2
  watch: false
  pre_stop_s: 0
  drain_s: 0
  tls: {{certificate: "{folder}/certificate.pem", key: "{folder}/key.pem"}}
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
    breaker: {{failures: 2, open_s: 1}}
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
EXECUTE = "/v1/pipelines/{}/executeSync"
TEXT = {"text": "x"}


async def _behind(seen: Seen, peer: Peer) -> None:
    if "/full/" in seen.path:
        await seen.gone.wait()
    elif seen.path == "/hook":
        await peer.answer(b"")
    elif seen.path.startswith("/v1"):
        await cambrion_script(seen, peer)
    else:
        await pupau_script(seen, peer)


class Watched:
    """The gateway at ``base``, and what is done to it."""

    def __init__(self, session: aiohttp.ClientSession, base: str, behind: Remote) -> None:
        self._session = session
        self.base = base
        self._behind = behind
        self._streams: list[asyncio.Task[int]] = []

    async def call(self, path: str, body: Any = None, key: str = "free", **headers: str) -> int:
        """The status of an answer that has been read to its end."""
        method = "GET" if body is None else "POST"
        headers["X-API-Key"] = key
        async with self._session.request(
            method, self.base + path, json=body, headers=headers
        ) as response:
            await response.read()
            return response.status

    async def often(self) -> None:
        """What comes to an end, and may happen again and again."""
        with suppress(aiohttp.ClientError):
            await self._session.get(self.base.replace("https:", "http:"))
        for _ in range(2):
            assert await self.call(EXECUTE.format("doc"), TEXT) == 200
            assert await self.call(EXECUTE.format("chat"), TEXT, **_STREAM) == 200
            assert await self.call("/pipelines/chat/queries?sse=true", {"request": "x"}) == 200
            assert await self.call("/pipelines/chat/queries", {"request": "x"}) == 200
            assert await self.call(EXECUTE.format("lost"), TEXT) in (502, 503)
            assert await self.call(EXECUTE.format("either"), TEXT) == 200
            assert await self.call(EXECUTE.format("wrong"), TEXT) == 500
            assert await self.call(EXECUTE.format("report"), TEXT) == 200
            assert await self.call("/readyz") in (200, 503)

    async def once(self) -> None:
        """What goes on, or happens once."""
        silence = self._silence()
        self._streams.append(silence)
        await until(lambda: any("/full/" in seen.path for seen in self._behind.seen))
        silence.cancel()
        wrong = TEXT | {"transform": "$number('x')"}
        assert await self.call(EXECUTE.format("doc") + "/transform", wrong) == 400
        assert await self.call(EXECUTE.format("doc"), TEXT, "unknown") == 401
        modest = [await self.call(EXECUTE.format("doc"), TEXT, "modest") for _ in range(2)]
        assert modest == [200, 429]
        await self._executions()

    async def _executions(self) -> None:
        hook = {"eventType": "STATUS_CHANGE", "endpoint": f"{self._behind.url}/hook"}
        headers = {"X-API-Key": "free"}
        async with self._session.post(
            f"{self.base}/v1/hooks", json=hook, headers=headers
        ) as response:
            made = await response.json()
        begun = {"executionId": "e-1", "hookIds": [made["hookId"]]}
        assert await self.call("/v1/executions", begun) == 200
        run = TEXT | {"executionId": "e-1"}
        assert await self.call("/v1/pipelines/doc/executeAsync", run) == 200
        for _ in range(3):  # more than run at once: the third one waits
            assert await self.call("/v1/pipelines/full/executeAsync", TEXT) == 200
        self._streams.append(self._silence())

    async def end(self) -> None:
        """End what goes on."""
        for each in self._streams:
            each.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    def _silence(self) -> asyncio.Task[int]:
        """A stream of which nothing comes."""
        path = "/pipelines/full/queries?sse=true"
        return asyncio.create_task(self.call(path, {"request": "x"}))


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    """The gateway, when everything has happened to it. A stream and three queued runs go on."""
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
        shown = trustme.CA().issue_cert("localhost")
        shown.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
        shown.private_key_pem.write_to_path(folder / "key.pem")
        gateway = await stack.enter_async_context(serving(config))
        connector = aiohttp.TCPConnector(ssl=False)  # who that is makes no difference here
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        made = Watched(session, gateway.base.replace("http:", "https:"), behind)
        await made.often()
        await made.once()
        config.write_text("upstreams: 7")
        gateway.tell(signal.SIGHUP)
        await gateway.said("configuration refused; the one before stays live")
        try:
            yield made
        finally:
            await made.end()
