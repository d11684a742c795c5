"""What callers send, read strictly: JSON bodies and base64."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.dialects import wire
from gateway.errors import RequestRejected


class Body(msgspec.Struct, forbid_unknown_fields=True):
    text: str | msgspec.UnsetType = msgspec.UNSET
    items: list[int] | msgspec.UnsetType = msgspec.UNSET
    nested: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


DECODER = msgspec.json.Decoder(Body)

BAD_BODIES = [
    (b"", "is empty"),
    (b"{", "not valid JSON"),
    (b'{"text": NaN}', "not valid JSON"),
    (b'{"text": "a"} {}', "trailing characters"),
    (b'\xef\xbb\xbf{"text": "a"}', "not valid JSON"),
    (b'{"text": "\xff"}', "not UTF-8"),
    (b'{"text": "\\ud800"}', "half of a surrogate pair"),
    (b'{"nested": "\\udc00"}', "half of a surrogate pair"),
    (b'{"text": 5}', "text: expected `str`, got `int`"),
    (b'{"items": [1, "x"]}', "items[1]: expected `int`, got `str`"),
    (b'{"txt": "a"}', "unknown field `txt`"),
    (b"[]", "expected `object`, got `array`"),
    (b'{"text": "a", "text": "b"}', 'the key "text" more than once'),
    (b'{"nested": {"a": {"b": 1, "b": 1}}}', 'the key "b" more than once'),
    (b'{"nested": {"a": 1, "\\u0061": 2}}', 'the key "a" more than once'),
    (b'{"nested": ' + b"[" * 1_000_000, "nested too deeply"),
    (b'{"nested": ' + b'{"a":' * 1_000_000, "nested too deeply"),
]


@pytest.mark.parametrize(("body", "message"), BAD_BODIES, ids=lambda v: str(v)[:40])
def test_a_bad_body_is_refused_with_its_reason(body: bytes, message: str) -> None:
    with pytest.raises(RequestRejected, match=r"request body") as caught:
        wire.decode(DECODER, body)
    assert message in caught.value.message
    assert caught.value.status == 400


def test_a_text_that_looks_like_a_key_is_not_one() -> None:
    assert wire.decode(DECODER, b'{"text": "\\"text\\": 1"}').text == '"text": 1'


def test_a_second_reading_refuses_what_is_not_utf8() -> None:
    with pytest.raises(RequestRejected, match="not UTF-8"):
        wire.decode(DECODER, b'{"nested": {"a": "\xff"}}')


def test_a_second_reading_that_runs_too_deep_is_refused() -> None:
    with pytest.raises(RequestRejected, match="nested too deeply"):
        wire.check_unique_keys(b'{"a":' * 100_000, 0)


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.integers() | st.text(),
            lambda values: st.lists(values) | st.dictionaries(st.text(max_size=3), values),
            max_leaves=10,
        ),
        max_size=5,
    )
)
@example({"a": '":'})
def test_an_object_with_each_key_once_is_never_refused(value: dict[str, object]) -> None:
    wire.check_unique_keys(json.dumps(value).encode(), len(value))


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


BAD_BASE64 = [
    ('"aGk"', "padding is wrong"),
    ('"aGk=="', "padding is wrong"),
    ('"aG=k"', "padding is wrong"),
    ('"a_-k"', "at position 1, '_' belongs to the URL-safe alphabet"),
    ('"aG-k"', "at position 2, '-' belongs to the URL-safe alphabet"),
    ('"aG k"', "at position 2, white space"),
    ('"aGk=\\n"', "at position 4, white space"),
    ('"aG\\u00e9k"', "at position 2, a character that base64 does not have"),
    ('"data:image/png;base64,aGk="', "data: URL"),
    ('""', "is empty"),
    ("null", "expected a string of base64, got null"),
    ("true", "got a boolean"),
    ("17", "got a number"),
    ("[]", "got a list"),
    ("{}", "got an object"),
]


@pytest.mark.parametrize(("text", "message"), BAD_BASE64)
def test_bad_base64_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RequestRejected, match=r"^media\[3\]: ") as caught:
        wire.decode_base64(raw(text), "media[3]")
    assert message in caught.value.message


@given(st.binary(min_size=1, max_size=100))
def test_what_was_encoded_is_decoded(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert wire.decode_base64(raw(f'"{text}"'), "media[0]") == data
    escaped = text.replace("/", "\\/")
    assert wire.decode_base64(raw(f'"{escaped}"'), "media[0]") == data


@pytest.mark.parametrize("extra", [0, 1, 2, 3, 786_432])
def test_a_large_file_decodes_in_pieces_to_the_same_bytes(extra: int) -> None:
    data = bytes(range(256)) * 4096 + b"x" * extra
    text = base64.b64encode(data).decode()
    assert wire.decode_base64(raw(f'"{text}"'), "media[0]") == data


def test_padding_between_the_pieces_of_a_large_file_is_refused() -> None:
    text = "A" * ((1 << 20) - 4) + "AAA=" + "AAAA"
    with pytest.raises(RequestRejected, match="padding is wrong"):
        wire.decode_base64(raw(f'"{text}"'), "media[0]")


def test_files_are_numbered_in_their_order_and_typed_by_their_bytes() -> None:
    media = wire.make_media([(b"%PDF-1.7 x", "a.pdf"), (b"hello", None)], 2)
    assert [(m.id, m.content_type, m.filename) for m in media] == [
        ("media-1", "application/pdf", "a.pdf"),
        ("media-2", "text/plain", None),
    ]


def test_more_files_than_allowed_are_refused() -> None:
    with pytest.raises(RequestRejected, match="3 files in one request; at most 2"):
        wire.make_media([(b"x", None)] * 3, 2)


@pytest.mark.usefixtures("usual_stack")
def test_what_can_be_read_can_be_written_again_by_whoever_is_called_much_later() -> None:
    def written(calls: int, value: Any) -> bytes:
        return written(calls - 1, value) if calls else msgspec.json.encode(value)

    class Anything(msgspec.Struct):
        a: Any

    decoder, read = msgspec.json.Decoder(Anything), 0
    for depth in range(800, 1050):
        try:
            fields = wire.decode(decoder, b'{"a":%b}' % (b"[" * depth + b"]" * depth))
        except RequestRejected:
            continue
        read += 1
        assert written(30, fields)
    assert 0 < read < 250
