"""Long base64 strings lifted out of a text in pieces: what is lifted, and the way back."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.dialects import cambrion
from gateway.dialects.wire import Origin
from gateway.errors import RequestRejected
from gateway.lifting import LIFTED_BYTES_MIN, LiftedText, Lifter
from gateway.model import Request

ORIGIN = Origin("p", "r")
LARGE = bytes(range(256)) * 1024
BASE64 = base64.b64encode(LARGE)
ESCAPED = BASE64.replace(b"/", b"\\/")


def lifted(pieces: Iterable[bytes]) -> bytes | LiftedText:
    lifter = Lifter("nonce")
    for piece in pieces:
        lifter.feed(piece)
    return lifter.finish()


def cut(text: bytes, size: int) -> list[bytes]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def media(*strings: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    return b'{%b"media": ["%b"]%b}' % (before, b'", "'.join(strings), after)


def outcome(body: bytes | LiftedText) -> Request | str:
    try:
        return cambrion.parse_request(ORIGIN, body)
    except RequestRejected as error:
        return error.message


@pytest.mark.parametrize("size", [1 << 20, 65_536, 65_521, 4099])
@pytest.mark.parametrize("string", [BASE64, ESCAPED, BASE64[:-4] + b"AA==", BASE64[:-4] + b"AAA="])
def test_a_long_string_of_base64_is_decoded_and_out_of_the_text(string: bytes, size: int) -> None:
    text = lifted(cut(media(string, before=b'"text": "x", '), size))
    if size == 1 << 20:  # it came at once, and there is nothing to be won
        assert text == media(string, before=b'"text": "x", ')
        return
    assert isinstance(text, LiftedText)
    assert text.text == b'{"text": "x", "media": ["nonce-0-"]}'
    assert [each.data for each in text.strings] == [base64.b64decode(string)]
    assert len(text) == len(media(string, before=b'"text": "x", '))


LEFT_ALONE = {
    "short": BASE64[: LIFTED_BYTES_MIN // 3 * 4 - 4],
    "empty": b"",
    "not base64 from its first character": b"!" + BASE64,
    "padding in the middle": b"AA==" * 40_000,
    "cut short": BASE64[:80_000] + b"AAA",
    "with a bit behind its end": b"AAAA" * 15_000 + b"AB==",
    "with a line break": b"\\n".join(cut(BASE64, 76)),
    "with another escape": BASE64[:1000] + b"\\u0041" + BASE64,
    "with some slashes escaped": ESCAPED[:8192] + BASE64,
    "an escaped quote": BASE64[:6] + b'\\"' + BASE64[:6],
    "two bytes of a character": "é".encode() * 50_000,
}


@pytest.mark.parametrize("size", [65_521, 4099, 1024])
@pytest.mark.parametrize("string", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_any_other_string_is_in_the_text_as_it_came_when_it_is_whole_again(
    string: bytes, size: int
) -> None:
    text = media(string, before=b'"text": "a", ', after=b', "tag": "t"')
    read = lifted(cut(text, size))
    assert len(read) == len(text)
    assert (read.whole() if isinstance(read, LiftedText) else read) == text


def test_padding_before_the_last_characters_of_a_piece_ends_what_is_base64() -> None:
    assert lifted([b'["AAAAAA==BBBB', b'"]']) == b'["AAAAAA==BBBB"]'


@given(
    st.lists(
        st.sampled_from(
            [
                BASE64,
                ESCAPED,
                BASE64[:70_000],
                BASE64[:5],
                b'"',
                b"\\",
                b"/",
                b"\\/",
                b"=",
                b"A",
                b"",
            ]
        )
        | st.binary(max_size=8),
        max_size=8,
    ),
    st.lists(st.integers(500, 100_000), min_size=1, max_size=5),
)
@settings(max_examples=30)
def test_a_text_of_anything_in_pieces_of_any_size_is_whole_again(
    parts: list[bytes], sizes: list[int]
) -> None:
    text = b"".join(parts)
    pieces, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(text):
            break
        pieces.append(text[at : at + size])
        at += size
    read = lifted(pieces)
    assert (read.whole() if isinstance(read, LiftedText) else read) == text


LONG = BASE64.decode()
BODIES: list[Any] = [
    {"media": [LONG]},
    {"media": [LONG, "aGk=", LONG]},
    {"text": LONG},
    {"text": "x", "media": [LONG], "tag": LONG},
    {"media": [LONG], "observation": {"mediaContents": [{"id": "a", "rawText": LONG}]}},
    {"media": [LONG], "runtimeParameters": {LONG: 1, "context": LONG}},
    {"media": [LONG, "?"]},
    {"media": ["?", LONG]},
    {"media": [[LONG]]},
    {"media": LONG},
    {"media": [LONG], "unknown": 1},
    {"media": [LONG], "executionId": "e"},
    {"media": [LONG], LONG: 1},
    [LONG],
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(list(body))[:40])
@pytest.mark.parametrize("size", [65_536, 10_000])
def test_a_request_is_the_same_read_whole_and_lifted(body: Any, size: int) -> None:
    text = json.dumps(body).encode()
    assert outcome(lifted(cut(text, size))) == outcome(text)


@pytest.mark.parametrize(
    "text",
    [
        media(BASE64)[:-1],
        media(BASE64)[:-2] + b"x]}",
        media(BASE64) + b"{}",
        b'{"media": ["' + BASE64,
        media(BASE64, before=b'"text": "\xff", '),
        media(BASE64, before=b'"text": "\\ud800", '),
        media(BASE64, before=b'"media": ["' + BASE64 + b'"], '),
        media(BASE64, after=b', "media": []'),
        media(BASE64, after=b', "observation": {"a": 1, "a": 2}'),
        media(BASE64 + b"\\u0041AAA"),
        media(BASE64, b"\xc3\xa9" + BASE64),
        b'{"media": ["a"' + BASE64 + b'"]}',
        b'{"text": "\\"' + BASE64 + b'"}',
    ],
    ids=range(13),
)
def test_what_cannot_be_read_is_refused_in_the_same_words_read_whole_and_lifted(
    text: bytes,
) -> None:
    for size in (65_536, 9_999):
        assert outcome(lifted(cut(text, size))) == outcome(text)


JSON = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", "aGk=", "/", LONG, LONG[:-1], "é" + LONG]),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.sampled_from(["media", "text", "tag", "observation"]), values)
    ),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries({}, optional={"media": st.lists(JSON), "text": JSON, "observation": JSON})
    | JSON,
    st.booleans(),
    st.integers(5_000, 200_000),
)
@example({"media": [LONG, LONG]}, True, 65_536)
@settings(max_examples=40)
def test_every_request_is_the_same_read_whole_and_lifted(
    body: Any, escaped: bool, size: int
) -> None:
    text = json.dumps(body, ensure_ascii=escaped).encode()
    if escaped:
        text = text.replace(b"/", b"\\/")
    assert outcome(lifted(cut(text, size))) == outcome(text)
