"""Targets that take what is said of executions, of traces, and of places in a log.

Owns: what must hold of their readers.
Does not know: where inputs come from.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress

from gateway import tracing_context
from gateway.errors import RequestRejected
from gateway.executions.bodies import (
    media_fields,
    parse_given,
    parse_media,
    parse_observation,
)
from gateway.executions.records import checked_id, event_id
from gateway.observation import append

_MEDIA_BYTES = 1500


def execution(data: bytes) -> None:
    """An execution's fields, its observation, its files: RequestRejected, or what can be kept."""
    try:
        given = parse_given(data)
    except RequestRejected:
        pass
    else:
        assert isinstance(json.loads(given.meta), dict)
        assert all(checked_id(each, "") == each for each in given.hook_ids)
    try:
        observation = parse_observation(data)
    except RequestRejected:
        pass
    else:
        with suppress(RequestRejected):  # its lists may be none, which is told when they are met
            assert append(append(b"{}", observation), observation, replace=True)
    try:
        media = parse_media(data, "m", bytes_max=_MEDIA_BYTES)
    except RequestRejected:
        return
    assert 0 < len(media.data) <= _MEDIA_BYTES
    for line in media_fields(media).split("\r\n"):
        assert line.isprintable()
        assert line.isascii()


def places(data: bytes) -> None:
    """The headers of a trace and the place in a log: nothing, or what is written as it was read."""
    text = data.decode("utf-8", "surrogateescape")
    parent, _, state = text.partition("\n")
    context = tracing_context.parsed([parent], [state] if state else [])
    if context is not None:
        assert re.fullmatch("[0-9a-f]{32}", context.trace_id)
        assert context.trace_id.strip("0")
    for value in tracing_context.passed_on([parent], [state]).values():
        assert value.isascii()
        assert value.isprintable()
    try:
        place = event_id(text)
    except RequestRejected:
        return
    assert event_id(f"{place.turn}-{place.number}") == place
