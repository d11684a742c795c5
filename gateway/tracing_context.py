"""The trace that a caller is in, as the headers of W3C Trace Context say it.

Owns: what a valid ``traceparent`` and ``tracestate`` are, and their bounds.
Does not know: what is traced, who decides what is sampled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

PARENT: Final = "traceparent"
STATE: Final = "tracestate"

#: What a ``tracestate`` may have, characters and members; a longer one goes no further.
_STATE_CHARS_MAX: Final = 2048
_MEMBERS_MAX: Final = 32
#: What is passed on unread where nothing is traced here.
_PARENT_CHARS_MAX: Final = 256
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER: Final = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_SAMPLED: Final = 1


class Context(Struct, frozen=True):
    """A span of somebody else's, by its IDs in hexadecimal digits. ``state`` is the ``tracestate``
    that goes with it, ``""`` for none."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""


def parsed(parents: Sequence[str], states: Sequence[str]) -> Context | None:
    """The context that these values of the two headers give; ``None``: they give none.

    A ``traceparent`` that is malformed, or is there twice, is as none; a ``tracestate`` that is
    malformed or too long is left out alone.
    """
    if len(parents) != 1:
        return None
    found = _PARENT.fullmatch(parents[0])
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # A later version may say more after a dash, the first may not.
    if version == "ff" or (version == "00" and more is not None):
        return None
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Context(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), _state(states))


def written(trace_id: str, span_id: str, *, sampled: bool) -> str:
    """A ``traceparent``."""
    return f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"


def passed_on(parents: Sequence[str], states: Sequence[str]) -> Mapping[str, str]:
    """The two headers as they came, for whoever comes next, where nothing is traced here."""
    if len(parents) != 1 or not _sendable(parents[0], _PARENT_CHARS_MAX):
        return {}
    state = ",".join(states)
    if not state or not _sendable(state, _STATE_CHARS_MAX):
        return {PARENT: parents[0]}
    return {PARENT: parents[0], STATE: state}


def _sendable(value: str, chars_max: int) -> bool:
    return 0 < len(value) <= chars_max and value.isascii() and value.isprintable()


def _state(states: Sequence[str]) -> str:
    state = ",".join(states)
    if not state or not _sendable(state.replace("\t", " "), _STATE_CHARS_MAX):
        return ""
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    if len(members) > _MEMBERS_MAX or not all(map(_MEMBER.fullmatch, members)):
        return ""
    if len({member.partition("=")[0] for member in members}) < len(members):
        return ""
    return ",".join(members)
