"""The spans of calls to upstreams: one for each attempt.

Owns: what such a span is called and says of the upstream, in the words of OpenTelemetry's semantic
conventions where those have one; the headers that make what the upstream does a part of it.
Does not know: when an attempt is made, how it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from gateway.measured import Measured
from gateway.tracing import Evaluations, Kind, Span, Value
from gateway.transform import Transform
from gateway.upstreams.base import Call, Upstream

_PORTS: Final = {"http": 80, "https": 443, "grpc": 8001, "grpcs": 8001}


class AttemptSpans:
    """Makes the spans of one upstream's attempts. ``url``: where it is."""

    __slots__ = ("_name", "_same")

    def __init__(self, upstream: Upstream, url: str) -> None:
        parts = urlsplit(url)
        self._name = f"call {upstream.name}"
        same: dict[str, Value] = {
            "gateway.upstream.name": upstream.name,
            "gateway.upstream.kind": upstream.kind,
            "server.address": parts.hostname or "",
            "server.port": parts.port or _PORTS.get(parts.scheme, 0),
        }
        if parts.scheme.startswith("grpc"):
            same["rpc.system.name"] = "grpc"
        else:
            same["http.request.method"] = "POST"
        if upstream.kind == "pupau":
            # What it runs is known by its ID alone: neither a model's name nor tokens are told.
            same["gen_ai.operation.name"] = "invoke_workflow"
            same["gen_ai.provider.name"] = "pupau"
        self._same = same

    def attempt(self, call: Call, retries: int) -> Span | None:
        """The span of an attempt that begins now; ``retries`` were made before. ``None`` where the
        call is not traced."""
        if call.trace is None:
            return None
        attributes = dict(self._same)
        attributes["gateway.upstream.pipeline"] = call.pipeline
        if "gen_ai.operation.name" in attributes:
            attributes["gen_ai.workflow.name"] = call.pipeline
        if retries:
            attributes["http.request.resend_count"] = retries
        return call.trace.child(self._name, Kind.CLIENT, attributes)


def carried(call: Call, span: Span | None) -> Call:
    """``call`` with the headers that tell the upstream of ``span``, and expressions for tensors
    that are parts of it."""
    if span is None:
        return call
    request = call.request
    request = replace(request, headers=span.carried(request.headers))
    if not call.inputs and call.output is None:
        return replace(call, request=request)
    return replace(
        call,
        request=request,
        inputs={name: _traced(each, span) for name, each in call.inputs.items()},
        output=None if call.output is None else _traced(call.output, span),
    )


class _Traced:
    """A tensor's expression, all of whose evaluations in one attempt are one part of it."""

    __slots__ = ("_evaluations", "_inner", "_span")

    def __init__(self, inner: Measured, span: Span) -> None:
        self._inner = inner
        self._span = span
        self._evaluations: Evaluations | None = None

    def evaluate(self, text: str, bindings: Mapping[str, Any] | None = None) -> str | None:
        """See ``Transform.evaluate``."""
        if self._evaluations is None:
            self._evaluations = self._span.evaluations(self._inner.span(self._span))
        return self._evaluations.evaluate(self._inner.evaluate, text, bindings)

    def release(self) -> None:
        """See ``Transform.release``."""
        self._inner.release()


def _traced(transform: Transform, span: Span) -> Transform:
    return _Traced(transform, span) if isinstance(transform, Measured) else transform
