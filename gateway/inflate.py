"""Bounded decompression of HTTP bodies, one way in and one way out.

Owns: gzip and deflate, inflated piece by piece so that a small body cannot become a large one in
one step.
Does not know: whose body it is; the caller turns ``InflateError`` into an error of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

#: The content codings that can be read; every other one is refused.
CODINGS: Final = ("gzip", "x-gzip", "deflate")
PIECE_BYTES: Final = 64 * 1024


class InflateError(ValueError):
    """The body is not what its Content-Encoding says."""


class Inflater:
    """One compressed body. ``feed`` yields pieces of at most ``PIECE_BYTES``."""

    def __init__(self, coding: str) -> None:
        if coding not in CODINGS:
            raise InflateError(f'content coding "{coding[:40]}" is not one of gzip, deflate')
        # 32 + 15 reads both gzip's and zlib's header.
        self._stream = zlib.decompressobj(32 + zlib.MAX_WBITS)

    @property
    def finished(self) -> bool:
        """Whether the compressed body reached its end."""
        return self._stream.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Inflate ``data``. The consumer may stop at any piece; no more is inflated then.

        Raises:
            InflateError: not compressed in this way, or bytes follow its end.
        """
        while data:
            if self._stream.eof:
                raise InflateError("bytes follow the end of the compressed body")
            try:
                piece = self._stream.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise InflateError("the body is not compressed as its header says") from error
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece
