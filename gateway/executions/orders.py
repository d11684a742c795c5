"""What a run was asked for, as the bytes that a store keeps until it has ended.

Owns: their form.
Does not know: where they are kept; the media beside them, which are never part of them.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.model import Media, Request

#: What callers may put anything into is JSON of its own: there are whole numbers of any size in it.
_READ: Final = msgspec.msgpack.Decoder(tuple[Request, bytes, bytes])


def written(request: Request) -> bytes:
    """``request`` without its media."""
    bare = replace(request, media=(), parameters={}, meta={}, headers=dict(request.headers))
    anything = (dict(request.parameters), dict(request.meta))
    return msgspec.msgpack.encode((bare, *map(msgspec.json.encode, anything)))


def read(payload: bytes, media: tuple[Media, ...]) -> Request:
    """The request that ``written`` made ``payload`` of, with ``media``."""
    bare, parameters, meta = _READ.decode(payload)
    return replace(
        bare,
        media=media,
        parameters=msgspec.json.decode(parameters),
        meta=msgspec.json.decode(meta),
    )
