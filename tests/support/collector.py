"""A collector of traces on a real socket, and the trees that its spans make.

Owns: the reading of OTLP as those who define it read it; what is missing of what a span must have.
Does not know: what is traced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent

from tests.support.remote import Peer, Remote, Script, Seen, remote
from tests.support.timing import until


@dataclass(slots=True)
class Traced:
    """A span as it arrived; ``parts`` are its children, in the order of their beginnings."""

    sent: Sent
    said: dict[str, Any]
    resource: dict[str, Any]
    parts: list[Traced] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name."""
        return self.sent.name

    @property
    def trace_id(self) -> str:
        """Its trace, in hexadecimal digits."""
        return self.sent.trace_id.hex()

    @property
    def span_id(self) -> str:
        """Its own ID, likewise."""
        return self.sent.span_id.hex()

    @property
    def fault(self) -> str | None:
        """Why its status is an error; ``None``: it is none."""
        status = self.sent.status
        return status.message if status.code == status.STATUS_CODE_ERROR else None

    @property
    def events(self) -> list[str]:
        """The names of its events."""
        return [event.name for event in self.sent.events]

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.sent.end_time_unix_nano - self.sent.start_time_unix_nano) / 1e9

    def tree(self) -> Any:
        """Its name; with parts, a pair of it and theirs."""
        return (self.name, [part.tree() for part in self.parts]) if self.parts else self.name

    def every(self) -> list[Traced]:
        """It and all that is in it."""
        return [self, *(each for part in self.parts for each in part.every())]

    def named(self, name: str) -> list[Traced]:
        """Those in it that are called so."""
        return [each for each in self.every() if each.name == name]


class Collector:
    """Takes spans. ``answers`` does with each request what a test says; left out: takes it."""

    def __init__(self, server: Remote) -> None:
        self.server = server
        self.spans: list[Traced] = []
        self.requests = 0

    @property
    def endpoint(self) -> str:
        """Where it takes them."""
        return f"{self.server.url}/v1/traces"

    def take(self, seen: Seen) -> None:
        """Note what a request brings."""
        self.requests += 1
        assert (seen.method, seen.path) == ("POST", "/v1/traces")
        assert seen.headers["content-type"] == "application/x-protobuf"
        for group in ExportTraceServiceRequest.FromString(seen.body).resource_spans:
            resource = _said(group.resource.attributes)
            for scope in group.scope_spans:
                for sent in scope.spans:
                    self.spans.append(Traced(sent, _said(sent.attributes), resource))

    def roots(self) -> list[Traced]:
        """The spans that have come which are nobody's part here, with all that is in them."""
        known = {each.span_id: each for each in self.spans}
        roots: list[Traced] = []
        for each in self.spans:
            each.parts = []
        for each in sorted(self.spans, key=lambda one: one.sent.start_time_unix_nano):
            parent = known.get(each.sent.parent_span_id.hex())
            (roots if parent is None else parent.parts).append(each)
        return roots

    async def trees(self, number: int = 1, spans: int = 0) -> list[Traced]:
        """The first ``number`` requests' spans, once those and ``spans`` in all have come."""
        await until(lambda: self._ended() >= number and len(self.spans) >= spans)
        roots = self.roots()
        for each in self.spans:
            assert each.sent.end_time_unix_nano >= each.sent.start_time_unix_nano > 0
            assert (len(each.sent.trace_id), len(each.sent.span_id)) == (16, 8)
        return roots

    def _ended(self) -> int:
        return sum(each.sent.kind in (2, 5) for each in self.spans)


def _said(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in attributes
    }


@asynccontextmanager
async def collector(answers: Script | None = None) -> AsyncIterator[Collector]:
    """A collector on a free port of the loopback."""

    async def script(seen: Seen, peer: Peer) -> None:
        if answers is not None:
            await answers(seen, peer)
            return
        made.take(seen)
        await peer.answer(b"", content_type="application/x-protobuf")

    async with remote(script) as server:
        made = Collector(server)
        yield made


async def refusing(seen: Seen, peer: Peer) -> None:
    """A collector that is too busy."""
    await peer.answer(b"", "503 Service Unavailable")


async def halted(seen: Seen, peer: Peer) -> None:
    """A collector that never answers."""
    await asyncio.wait((asyncio.create_task(seen.gone.wait()),))
