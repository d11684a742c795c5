"""The span of a request to the gateway: one for each, but for those of whoever watches it.

Owns: what such a span is called and says, in the words of OpenTelemetry's semantic conventions
where those have one.
Does not know: what is traced within it, how a request is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from gateway.errors import Code, Outcome, RequestRejected
from gateway.protocol import Incoming
from gateway.routing import resolve
from gateway.tracing import Span, Tracing, Value

#: Asked for all the time, by probes and scrapers.
_UNTRACED: Final = ("/healthz", "/readyz", "/metrics")
_METHODS: Final = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
)  # fmt: skip
_OTHER: Final = "_OTHER"
_PATH_CHARS_MAX: Final = 512


def begin(tracing: Tracing, request: Incoming) -> tuple[Span | None, Mapping[str, str] | None]:
    """The span of a request that has just come, where it is sampled; and the headers that go on to
    upstreams for it."""
    if request.path in _UNTRACED:
        return None, None
    span, carried = tracing.begin(request.headers, request.method)
    if span is not None:
        transport = request.protocol.transport
        secure = transport is not None and transport.get_extra_info("sslcontext") is not None
        span.attributes["url.scheme"] = "https" if secure else "http"
    return span, carried


def end(
    span: Span,
    request: Incoming,
    *,
    outcome: Outcome,
    code: Code | None,
    status: int | None,
    told: Mapping[str, Value | None],
) -> None:
    """The request has ended; ``told`` is what else is known of it, ``None`` for nothing."""
    method = request.method if request.method in _METHODS else _OTHER
    attributes = span.attributes
    attributes["http.request.method"] = method
    attributes["url.path"] = request.path[:_PATH_CHARS_MAX]
    route = _route(request)
    if route is None:
        span.name = method if method != _OTHER else "HTTP"
    else:
        span.name = f"{method} {route}"
        attributes["http.route"] = route
    if status is not None:
        attributes["http.response.status_code"] = status
    attributes.update((name, value) for name, value in told.items() if value is not None)
    span.told(outcome, code)
    span.end()


def _route(request: Incoming) -> str | None:
    """The path with ``{id}`` in the place of what callers name; ``None``: there is no such."""
    try:
        target = resolve(request.method, request.path)
    except RequestRejected:
        return None
    parts = [unquote(part) for part in request.path.rstrip("/").split("/")]
    if target.pipeline or target.id:
        parts[3 if parts[1] == "v1" else 2] = "{id}"
    if target.media_id:
        parts[-1] = "{mediaId}"
    return "/".join(parts)
