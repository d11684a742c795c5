"""The calls on the gateway itself: whether it lives and is ready, what it has counted, what it goes
by.

Owns: these handlers.
Does not know: what is counted, which upstreams are asked how they are, who stops the gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from aiohttp import hdrs

from gateway import __version__
from gateway.answering import Action, Answering
from gateway.config_view import shown
from gateway.errors import Code, RequestRejected
from gateway.exchange import Exchange
from gateway.exposition import Exposition
from gateway.metrics import Metrics
from gateway.outlet import Written
from gateway.routing import Target
from gateway.vitals import Lately


class OwnCalls:
    """The handlers, as ``actions``.

    Args:
        exposition: what /metrics answers.
        stopping: whether the gateway is about to stop.
    """

    def __init__(
        self,
        answering: Answering,
        exposition: Exposition,
        *,
        metrics: Metrics,
        stopping: Callable[[], bool],
    ) -> None:
        self._answering = answering
        self._ready = Lately(metrics.ready)
        self._exposition = exposition
        self._stopping = stopping
        self.actions: dict[str, Action] = {
            "healthz": self._healthz,
            "readyz": self._readyz,
            "metrics": self._metrics,
        }
        #: Those that there are on the port for watching: what they tell is not for everyone.
        self.watching = self.actions | {"config": self._config}

    async def _healthz(self, exchange: Exchange, target: Target) -> Written:
        exchange.routine = True
        return await self._answering.send(exchange, 200, b'{"alive":true}')

    async def _readyz(self, exchange: Exchange, target: Target) -> Written:
        if self._stopping():
            self._ready.say(0.0)
            body = b'{"ready":false,"failing":{},"stopping":true}'
            return await self._answering.send(exchange, 503, body)
        failures = await exchange.site.health.failures()
        self._ready.say(float(not failures))
        exchange.routine = not failures
        body = msgspec.json.encode({"ready": not failures, "failing": failures})
        return await self._answering.send(exchange, 503 if failures else 200, body)

    async def _metrics(self, exchange: Exchange, target: Target) -> Written:
        text, content_type = await self._exposition(exchange.request.headers.get(hdrs.ACCEPT, ""))
        exchange.routine = True
        return await self._answering.send(exchange, 200, text, content_type)

    async def _config(self, exchange: Exchange, target: Target) -> Written:
        site = exchange.site
        told = {
            "version": __version__,
            "hash": site.hash,
            "live_since": datetime.fromtimestamp(site.since, UTC),
            "files": site.files,
            "config": shown(site.config),
        }
        body = msgspec.json.format(msgspec.json.encode(told), indent=2)
        return await self._answering.send(exchange, 200, body)


async def elsewhere(exchange: Exchange, target: Target) -> Written:
    """Refuse a call that is answered on the port for watching alone."""
    request = exchange.request
    raise RequestRejected(f"there is no {request.method} {request.path}", code=Code.NOT_FOUND)
