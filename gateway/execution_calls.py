"""The calls on executions and webhooks: read a request, ask the store or the runner, answer.

Owns: these handlers.
Does not know: what the bodies mean (``dialects.executions``), how anything is kept or run.
"""

from __future__ import annotations

from gateway.errors import Code, RequestRejected
from gateway.exchange import Exchange
from gateway.outlet import Written
from gateway.routing import Target


async def kept_nowhere(exchange: Exchange, target: Target) -> Written:
    """Refuse a call that is about what this gateway does not keep."""
    raise RequestRejected(
        "this gateway keeps no executions; its configuration has no executions: section",
        code=Code.NOT_SUPPORTED,
    )
