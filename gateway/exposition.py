"""The text of /metrics.

Owns: in which form a registry is written out, by what the scraper accepts.
Does not know: what is measured, or who answers the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

#: Takes an ``Accept`` header, gives the text and its content type.
Exposition: TypeAlias = Callable[[str], Awaitable[tuple[bytes, str]]]


def exposition_of(registry: Collector) -> Exposition:
    """The exposition of what ``registry`` holds whenever it is asked for."""

    async def expose(accept: str) -> tuple[bytes, str]:
        # Many pipelines make many lines: written in a thread, so that streams go on meanwhile.
        return await asyncio.to_thread(written, registry, accept)

    return expose


def written(registry: Collector, accept: str) -> tuple[bytes, str]:
    """What ``registry`` holds now, in the form that ``accept`` asks for, and its content type."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none; the classic form will do
        encode, content_type = choose_encoder("")
    return encode(registry), content_type
