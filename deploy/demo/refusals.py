"""How both simulated APIs refuse a request, each in its own words.

Owns: the error that ends a request, and the middleware that writes it down.
Does not know: what is refused, nor the gateway; it shares no code with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware


class RefusedError(Exception):
    """The request cannot be served. ``word`` is what the API calls this kind of error."""

    def __init__(self, status: int, word: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.word = word
        self.message = message


def refusals(key: str, http_word: str) -> Middleware:
    """A middleware that answers every error as ``{key: word, message}``.

    ``http_word`` is the word for aiohttp's own errors: an unknown path, a wrong method.
    """

    @web.middleware
    async def render(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except RefusedError as refused:
            body = {key: refused.word, "message": refused.message}
            return json_response(body, status=refused.status)
        except web.HTTPError as error:
            body = {key: http_word, "message": error.reason}
            return json_response(body, status=error.status)

    return render


def json_response(value: Any, *, status: int = 200) -> web.Response:
    """``value`` as an answer in JSON."""
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type="application/json")
