"""The port on which the gateway is watched, apart from where it serves.

What is asked here does not count among the requests that the gateway waits for when it stops, and
is answered until nothing else is open any more.

Owns: which calls there are, the way of one of them.
Does not know: what they answer (``own_calls``), who listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from gateway.answering import Action, Answering
from gateway.errors import Code, GatewayError, RequestRejected
from gateway.exchange import Exchange
from gateway.heads import request_id
from gateway.metrics import Dialect, Metrics
from gateway.outlet import CLOSED, Outlet, Written
from gateway.protocol import Incoming
from gateway.routing import MethodNotAllowed, Target
from gateway.site import Site


class Admin:
    """Answers requests by ``actions``: the path ``/NAME`` is that of the action NAME.

    Args:
        site: gives the configuration that is live.
        clock: monotonic seconds, the running loop's own.
    """

    def __init__(
        self,
        answering: Answering,
        actions: Mapping[str, Action],
        *,
        site: Callable[[], Site],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._answering = answering
        self._actions = actions
        self._site = site
        self._metrics = metrics
        self._clock = clock

    async def handle(self, request: Incoming) -> Written:
        """Answer one request; never raises but for cancellation, which is the client's leaving."""
        site, answering = self._site(), self._answering
        exchange = Exchange(
            request,
            site,
            request_id(request.headers),
            self._clock(),
            Dialect.CAMBRION,
            Outlet(request, site.server.write_timeout_s),
        )
        site.users += 1
        try:
            try:
                return await self._answer(exchange)
            except GatewayError as error:
                exchange.fail(error)
                return await answering.send_error(exchange, error)
            except ConnectionError:
                raise
            except Exception:  # noqa: BLE001  told and logged
                return await answering.send_error(exchange, answering.internal(exchange))
        except asyncio.CancelledError:
            exchange.leave()
            exchange.outlet.drop()
            raise
        except ConnectionError:  # nobody is there to be told
            exchange.leave()
            exchange.outlet.drop()
            return CLOSED
        finally:
            site.leave()
            exchange.account(self._metrics, self._clock())

    async def _answer(self, exchange: Exchange) -> Written:
        method, path = exchange.request.method, exchange.request.path
        name = path.removeprefix("/")
        action = self._actions.get(name)
        if action is None:
            there = ", ".join(f"/{each}" for each in self._actions)
            raise RequestRejected(
                f"there is no {method[:20]} {path[:200]} on this port; it has {there}",
                code=Code.NOT_FOUND,
            )
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(method, path, "GET")
        return await action(exchange, Target(name, Dialect.CAMBRION))
