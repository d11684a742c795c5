"""aiohttp's server, with this project's answer to what is not HTTP.

Owns: the connection's protocol, where aiohttp's own would differ from what callers are promised.
Does not know: what a well-formed request is answered.
"""

from __future__ import annotations

from typing import cast

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import RequestRejected


class _Protocol(RequestHandler):
    """A connection. No dialect is known yet where a request is malformed, so the error has the
    fields of both."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See aiohttp. Only malformed requests get here: the gateway's handler raises nothing."""
        error = RequestRejected("the request is not well-formed HTTP/1.1", status=status)
        body = {"code": error.code, "name": error.name, "message": error.message}
        response = web.Response(
            status=status, body=msgspec.json.encode(body), content_type="application/json"
        )
        response.force_close()
        return response


class HttpServer(web.Server):
    """The server. Bodies are inflated by ``body``, not by it."""

    def __call__(self) -> RequestHandler:
        """The protocol of one new connection."""
        return cast("RequestHandler", _Protocol(self, loop=self._loop, **self._kwargs))
