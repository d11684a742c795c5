"""What handlers that stand beside the server's own need of it.

Owns: the names of these calls.
Does not know: who answers, or what is answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

from gateway.errors import GatewayError
from gateway.eventstream import EventStream
from gateway.exchange import Exchange
from gateway.keys import Caller
from gateway.model import Request, Result
from gateway.outlet import Written
from gateway.pipeline import Run
from gateway.route import Route
from gateway.routing import Target

JSON: Final = "application/json"
Action: TypeAlias = Callable[[Exchange, Target], Awaitable[Written]]


class Answering(Protocol):
    """Who is calling, and the writing of answers. All raise GatewayError."""

    def identify(self, exchange: Exchange) -> Caller:
        """Who is calling."""
        ...

    def admit(self, exchange: Exchange, target: Target) -> tuple[Route, Caller]:
        """The pipeline and the caller, once it is certain that the one is open to the other."""
        ...

    def new_run(self, exchange: Exchange, route: Route, request: Request) -> Run:
        """A run that the exchange is told of."""
        ...

    async def run(self, exchange: Exchange, run: Run) -> Written:
        """Run it, and answer with what it comes to or, where that was asked for, its events."""
        ...

    async def send_result(self, exchange: Exchange, result: Result) -> Written:
        """Answer an execute call that is not streamed."""
        ...

    async def send(
        self,
        exchange: Exchange,
        status: int,
        body: bytes | None,
        content_type: str = JSON,
        fields: str = "",
    ) -> Written:
        """Answer with ``body``; ``None``: there is none, and nothing is said of its length.
        ``fields``: further lines of the head, each with its line end."""
        ...

    async def send_error(self, exchange: Exchange, error: GatewayError) -> Written:
        """Answer with an error."""
        ...

    def streaming(self, exchange: Exchange, fields: str = "") -> EventStream:
        """A stream of events to the client, counted as open while it is entered."""
        ...

    async def finish(self, exchange: Exchange, stream: EventStream) -> Written:
        """End such a stream."""
        ...

    def internal(self, exchange: Exchange) -> GatewayError:
        """Log the fault being handled; returns what the caller learns of it."""
        ...
