"""The short way of a call for which nothing has to be made or changed between client and upstream.

Most calls are such: executeSync of a pipeline that is one upstream of Cambrion's kind, with neither
transforms nor mappings of its own. Its request goes out as it came in, and its answer is the
upstream's. ``pipeline`` and ``actor`` would come to the same by way of everything that there might
be to do in other runs, which costs more than the call itself.

Owns: the one call that it comes to (which routes are so, ``route`` says).
Does not know: how the call is kept steady (``guard``), streams, views, what failures are told as.
"""

from __future__ import annotations

import sys
import uuid
from typing import cast

from gateway.fanout import Waited
from gateway.guard import Fate
from gateway.mapping import cambrion_fields
from gateway.model import ObservationReady, Request, Result
from gateway.route import Route
from gateway.services import Services
from gateway.tracing import Span, actor_span
from gateway.upstreams.base import Call


async def execute(
    route: Route, request: Request, services: Services, waited: Waited, trace: Span | None = None
) -> Result:
    """What ``Run.call`` comes to for a ``route`` that is ``direct``, in ``Mode.EXECUTE``. Raises
    GatewayError."""
    target = route.layers[0].actors[0].targets[0]
    began = services.clock()
    call = Call(
        request=request,
        pipeline=target.pipeline,
        actor=route.name,
        connect_s=route.config.timeouts.connect_s,
        body=cambrion_fields(request),
        trace=None if trace is None else actor_span(trace, route.name, route.name, "0"),
    )
    try:
        limits = route.limits(began, stream=False, execute=True)
        event = await target.guard.call(call, limits, Fate())
    finally:
        waited.upstream_s += services.clock() - began
        if call.trace is not None:
            call.trace.attributes["gateway.upstream.name"] = target.guard.name
            call.trace.end_with(sys.exception())
    ready = cast("ObservationReady", event)  # upstreams of this kind say nothing else
    return Result(ready.execution_id or str(uuid.uuid4()), observation=ready.observation)
