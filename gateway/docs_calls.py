"""The calls that say what can be called: the document for programs, the page for people.

Owns: these handlers, when either has not changed for who has it, what the page may do in a browser.
Does not know: what the document says (``openapi``), how the page shows it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import hdrs

from gateway.answering import JSON, Action, Answering
from gateway.exchange import Exchange
from gateway.openapi.describing import Shape, described, etag
from gateway.outlet import Written
from gateway.routing import Target

_PAGE: Final = Path(__file__).parent / "openapi" / "page"
#: Whoever has it asks whether it has changed: a reload changes it at once.
_ASKED: Final = "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n"


class _Page(NamedTuple):
    """The page whole, the lines of its head, and its ETag."""

    text: bytes
    fields: str
    etag: str


class DocsCalls:
    """The handlers, as ``actions``. ``keeps``: whether there are executions."""

    def __init__(self, answering: Answering, *, keeps: Callable[[], bool]) -> None:
        self._answering = answering
        self._keeps = keeps
        self.actions: dict[str, Action] = {"openapi.json": self._document, "docs": self._docs}

    async def _document(self, exchange: Exchange, target: Target) -> Written:
        site = exchange.site
        shape = Shape(
            keeps=self._keeps(),
            keys=not site.keyring.open,
            metrics=site.server.admin is None,
            names=tuple(site.routes) if site.keyring.open else (),
        )
        made = described(shape)
        return await self._send(exchange, made.text, JSON, _ASKED, made.etag)

    async def _docs(self, exchange: Exchange, target: Target) -> Written:
        page = _page()
        return await self._send(
            exchange, page.text, "text/html; charset=utf-8", page.fields, page.etag
        )

    async def _send(
        self, exchange: Exchange, body: bytes, content_type: str, fields: str, tag: str
    ) -> Written:
        fields += f"ETag: {tag}\r\n"
        if tag in exchange.request.headers.get(hdrs.IF_NONE_MATCH, ""):
            return await self._answering.send(exchange, 304, None, content_type, fields)
        return await self._answering.send(exchange, 200, body, content_type, fields)


@cache
def _page() -> _Page:
    """The page, its style and its script in one, so that nothing else has to be fetched.

    Only these two, known by their hashes, are in force in a browser; the page may talk to the
    gateway that it came from and to nobody else, and nobody may show it within another.
    """
    style, script = (_PAGE / name for name in ("page.css", "page.js"))
    text = (_PAGE / "page.html").read_bytes()
    text = text.replace(b"/* style */", style.read_bytes())
    text = text.replace(b"/* script */", script.read_bytes())
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    fields = f"{_ASKED}Content-Security-Policy: {policy}\r\nReferrer-Policy: no-referrer\r\n"
    return _Page(text, fields, etag(text))


def _hash(file: Path) -> str:
    digest = hashlib.sha256(file.read_bytes()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
