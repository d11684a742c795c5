"""Whether a key may ask for more, before anything is done for a request and its body is read.

Counted is every call that a key authenticates, whatever becomes of it: also one that reads, or that
is refused later. A refusal for a limit's sake counts for nothing. Health and metrics need no key.

Owns: which requests count, and as what.
Does not know: how it is counted (``quotas``, ``limit_redis``), what a caller is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.exchange import Exchange
from gateway.heads import accepts
from gateway.keys import Caller
from gateway.metrics import Mode
from gateway.quotas import fields, refusal
from gateway.routing import Target

_EVENT_STREAM: Final = "text/event-stream"


async def limit(exchange: Exchange, target: Target, identify: Callable[[Exchange], Caller]) -> None:
    """Count a request of a key that has limits; its answer's head tells what is left.

    Raises:
        RequestRejected: the key is not known (401), or a limit of it is reached (429).
        StoreFailed: nobody can know, and that refuses it (503).
    """
    site = exchange.site
    route = site.routes.get(target.pipeline)
    if route is not None:
        exchange.pipeline, exchange.upstream = route.name, route.upstreams
    caller = exchange.caller = identify(exchange)
    quota = caller.quota
    if quota is None or site.limiting is None:
        return
    stream = quota.streams is not None and _is_stream(exchange, target)
    taken = await site.limiting.take(quota, stream=stream)
    if taken is None:
        exchange.limits = quota.policy
        return
    usage = taken.usage
    exchange.limits = fields(quota, usage)
    if usage.refused is not None:
        site.services.metrics.limited.labels(quota.key, usage.refused).inc()
        raise refusal(quota, usage)
    exchange.taken = taken


def _is_stream(exchange: Exchange, target: Target) -> bool:
    """Whether the answer goes on for as long as what it tells of."""
    request = exchange.request
    match target.mode:
        case Mode.EXECUTE:
            return accepts(request, _EVENT_STREAM)
        case Mode.QUERY:
            # Where it is neither true nor false, the request counts all the same, and is refused.
            return request.query.get("sse", "").lower() == "true"
        case mode:
            return mode is Mode.WATCH and request.method != "HEAD"
