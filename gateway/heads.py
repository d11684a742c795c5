"""What a request's head asks for, beside its path.

Owns: the request's ID, what kinds of answer it accepts, flags in its query.
Does not know: what is done with any of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from aiohttp import hdrs
from multidict import MultiMapping, istr

from gateway.errors import RequestRejected
from gateway.protocol import Incoming

#: In a spelling that headers are found by without being changed first.
_X_REQUEST_ID: Final = istr("X-Request-Id")
_ID_BYTES: Final = 16
#: How many new IDs are drawn at a time.
_DRAWN: Final = 64
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_REFUSED: Final = re.compile(r"q=0(\.0*)?")


def _ids() -> Iterator[str]:
    """New IDs. The system is asked for many at a time: asking for each costs four times as much as
    all else that is done for one."""
    while True:
        drawn = os.urandom(_ID_BYTES * _DRAWN).hex()
        for start in range(0, len(drawn), _ID_BYTES * 2):
            yield drawn[start : start + _ID_BYTES * 2]


_new_ids: Final = _ids()


def request_id(headers: Mapping[str, str]) -> str:
    """The ID that the caller gave, if it can be one, else a new one."""
    given = headers.get(_X_REQUEST_ID)
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return next(_new_ids)


def accepts(request: Incoming, content_type: str) -> bool:
    """Whether ``Accept`` names this very type, and does not refuse it."""
    if hdrs.ACCEPT not in request.headers:
        return False
    accepted = ",".join(request.headers.getall(hdrs.ACCEPT)).lower()
    if content_type not in accepted:
        return False
    for part in accepted.split(","):
        name, *parameters = (item.strip() for item in part.split(";"))
        if name == content_type and not any(_REFUSED.fullmatch(item) for item in parameters):
            return True
    return False


def accepts_json(request: Incoming) -> bool:
    """Whether JSON will do."""
    return hdrs.ACCEPT not in request.headers or any(
        accepts(request, content_type)
        for content_type in ("application/json", "application/*", "*/*")
    )


def connection_headers(headers: MultiMapping[str]) -> set[str]:
    """What is named in Connection concerns this connection, and goes no further."""
    named = ",".join(headers.getall(hdrs.CONNECTION, ()))
    return {token.strip().lower() for token in named.split(",")}


def flag(request: Incoming, name: str) -> bool:
    """A query parameter that is true or false; false where it is missing.

    Raises:
        RequestRejected: it is anything else.
    """
    value = request.query.get(name, "false").lower()
    if value not in ("true", "false"):
        raise RequestRejected(f'query parameter {name}: expected true or false, got "{value[:40]}"')
    return value == "true"
