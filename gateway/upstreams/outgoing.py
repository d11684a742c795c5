"""A request of HTTP/1.1 as the bytes that are sent.

Owns: the request line and header lines, which of them are written once and which for each request,
what no header line may hold, and the body in pieces that are sent one after the other.
Does not know: sockets, time, what a body means.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway import __version__
from gateway.errors import RequestRejected
from gateway.model import Media

USER_AGENT: Final = f"pipeline-gateway/{__version__}"
_AGENT: Final = f"User-Agent: {USER_AGENT}\r\n"
#: A body of at most so many bytes is written together with its head.
SMALL_BYTES: Final = 64 * 1024
# A multiple of 3: base64 of a piece needs no padding until the last.
_PIECE_BYTES: Final = 3 * 64 * 1024
#: Request lines that are kept ready, at most.
_KEPT_MAX: Final = 4096
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(slots=True)
class Body:
    """A request body as segments that are sent one after the other and, where they are large, never
    joined.

    A ``Media`` among the segments is sent as it is, or as base64 text where ``base64`` is set.
    """

    content_type: str
    segments: Sequence[bytes | Media]
    base64: bool = False

    @property
    def length(self) -> int:
        """The body's length on the wire, bytes."""
        segments = self.segments
        if len(segments) == 1 and isinstance(segments[0], bytes):  # nearly always
            return len(segments[0])
        return sum([self._size(segment) for segment in segments])

    def _size(self, segment: bytes | Media) -> int:
        if isinstance(segment, bytes):
            return len(segment)
        return -(-len(segment.data) // 3) * 4 if self.base64 else len(segment.data)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The body in pieces small enough to be made and written without holding up others."""
        for segment in self.segments:
            data = memoryview(segment if isinstance(segment, bytes) else segment.data)
            encode = self.base64 and isinstance(segment, Media)
            for start in range(0, len(data), _PIECE_BYTES):
                piece = data[start : start + _PIECE_BYTES]
                yield binascii.b2a_base64(piece, newline=False) if encode else piece

    def after(self, head: bytes) -> bytes:
        """``head`` and the body in one, for a body that is small."""
        segments = self.segments
        if len(segments) == 1 and isinstance(segments[0], bytes):
            return head + segments[0]
        return b"".join((head, *self.pieces()))


class Origin:
    """Where an API is: ``https`` or not, ``host`` without brackets, ``port``, and ``path``, the
    beginning of each request's path, without a slash at its end."""

    __slots__ = ("host", "https", "path", "port", "written")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.https = parts.scheme == "https"
        self.host = (parts.hostname or "").replace("%25", "%")
        self.port = parts.port or (443 if self.https else 80)
        self.path = parts.path.rstrip("/")
        # A zone is of this machine alone.
        host = self.host.partition("%")[0]
        host = f"[{host}]" if ":" in host else host
        usual = self.port == (443 if self.https else 80)
        #: As the Host header has it.
        self.written = host if usual else f"{host}:{self.port}"


class Heads:
    """The heads of requests to one API.

    Args:
        key_header, key: how the API is given its key; nothing is sent where there is none.
    """

    __slots__ = ("_kept", "_origin", "_own")

    def __init__(self, origin: Origin, *, key_header: str, key: str | None) -> None:
        self._origin = origin
        self._own = f"Host: {origin.written}\r\nAccept-Encoding: identity\r\n"
        if key is not None:
            self._own += f"{key_header}: {_checked(key, key_header)}\r\n"
        self._kept: dict[tuple[str, str, str], str] = {}

    def get(self, path: str, *, request_id: str) -> bytes:
        """The head of a request without a body, with the empty line that ends it.

        Raises:
            RequestRejected: a value with a control character, which could end its line.
        """
        lines = self._lines("GET", path, "application/json")
        return (
            f"{lines}X-Request-Id: {_checked(request_id, 'X-Request-Id')}\r\n{_AGENT}\r\n".encode()
        )

    def post(
        self,
        path: str,
        *,
        accept: str,
        request_id: str,
        content_type: str,
        length: int,
        headers: Mapping[str, str],
    ) -> bytes:
        """As ``get``, for a request whose body has ``length`` bytes.

        ``headers``, with names in lower case, are the caller's: they take the place of what is sent
        otherwise, which is ``User-Agent`` alone.
        """
        lines = self._lines("POST", path, accept)
        given = _AGENT
        if headers:
            given = "" if "user-agent" in headers else _AGENT
            for name, value in headers.items():
                given += f"{name}: {_checked(value, name)}\r\n"
        return (
            f"{lines}X-Request-Id: {_checked(request_id, 'X-Request-Id')}\r\n"
            f"Content-Type: {_checked(content_type, 'Content-Type')}\r\n"
            f"Content-Length: {length}\r\n{given}\r\n"
        ).encode("utf-8", "replace")

    def _lines(self, method: str, path: str, accept: str) -> str:
        """The lines that are the same for all requests like this one."""
        kept = self._kept.get((method, path, accept))
        if kept is not None:
            return kept
        if len(self._kept) >= _KEPT_MAX:
            self._kept.clear()
        target = _checked(self._origin.path + path, "the path")
        lines = f"{method} {target} HTTP/1.1\r\n{self._own}Accept: {accept}\r\n"
        self._kept[method, path, accept] = lines
        return lines


def _checked(value: str, what: str) -> str:
    """``value``, which cannot end its line."""
    if not (value.isascii() and value.isprintable()) and _CONTROL.search(value):
        raise RequestRejected(f"{what} holds a control character, which no header can carry")
    return value
