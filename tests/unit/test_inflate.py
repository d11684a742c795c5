"""Bounded decompression."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.inflate import PIECE_BYTES, InflateError, Inflater


@given(st.binary(max_size=300_000), st.integers(1, 5000), st.sampled_from(["gzip", "deflate"]))
def test_what_was_compressed_comes_back_in_bounded_pieces(
    data: bytes, step: int, coding: str
) -> None:
    packed = gzip.compress(data) if coding == "gzip" else zlib.compress(data)
    inflater = Inflater(coding)
    pieces = [
        piece
        for start in range(0, len(packed), step)
        for piece in inflater.feed(packed[start : start + step])
    ]
    assert b"".join(pieces) == data
    assert all(len(piece) <= PIECE_BYTES for piece in pieces)
    assert inflater.finished


def test_a_bomb_is_inflated_only_as_far_as_the_reader_goes() -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    pieces = Inflater("gzip").feed(bomb)
    assert len(next(pieces)) == PIECE_BYTES
    assert len(next(pieces)) == PIECE_BYTES


def test_a_body_cut_short_is_not_finished() -> None:
    inflater = Inflater("gzip")
    assert b"".join(inflater.feed(gzip.compress(b"hello")[:-4])) == b"hello"
    assert not inflater.finished


@pytest.mark.parametrize("body", [b"not compressed", gzip.compress(b"a", mtime=0) + b"more"])
def test_what_is_not_one_compressed_body_is_refused(body: bytes) -> None:
    with pytest.raises(InflateError):
        list(Inflater("gzip").feed(body))


def test_an_unknown_coding_is_refused_by_name() -> None:
    with pytest.raises(InflateError, match='"br"'):
        Inflater("br")
