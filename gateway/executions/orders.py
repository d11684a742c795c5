"""What a run was asked for, as the bytes that a store keeps until it has ended.

Owns: their form.
Does not know: where they are kept; the media beside them, which are never part of them.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.model import Media, Request

_READ: Final = msgspec.msgpack.Decoder(Request)


def written(request: Request) -> bytes:
    """``request`` without its media."""
    return msgspec.msgpack.encode(replace(request, media=()))


def read(payload: bytes, media: tuple[Media, ...]) -> Request:
    """The request that ``written`` made ``payload`` of, with ``media``."""
    return replace(_READ.decode(payload), media=media)
