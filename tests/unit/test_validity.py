"""From when until when a certificate is valid, found in its own bytes."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gateway.validity import validity


def pem(data: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{b64encode(data).decode()}\n-----END CERTIFICATE-----\n"


def element(tag: int, *inside: bytes) -> bytes:
    data = b"".join(inside)
    return bytes((tag, 0x82)) + len(data).to_bytes(2) + data


def certificate(*times: bytes, version: bytes = b"\xa0\x03\x02\x01\x02") -> str:
    before = element(0x02, b"\x01") + element(0x30) + element(0x30)
    return pem(element(0x30, element(0x30, version, before, element(0x30, *times)), b"more"))


def seconds(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


def test_it_is_what_the_certificate_was_issued_for() -> None:
    begins, ends = datetime(2020, 2, 29, 12, tzinfo=UTC), datetime(2061, 1, 2, 3, 4, 5, tzinfo=UTC)
    made = trustme.CA().issue_cert("a.example", not_before=begins, not_after=ends)
    first, *others = [each.bytes().decode() for each in made.cert_chain_pems]
    assert validity("words before\n" + first + "".join(others)) == (
        begins.timestamp(),
        ends.timestamp(),
    )


@pytest.mark.parametrize(
    ("tag", "text", "meant"),
    [
        (0x17, b"491231235959Z", seconds(2049, 12, 31, 23, 59, 59)),
        (0x17, b"500101000000Z", seconds(1950, 1, 1)),
        (0x17, b"691231235959Z", seconds(1969, 12, 31, 23, 59, 59)),
        (0x18, b"99991231235959Z", seconds(9999, 12, 31, 23, 59, 59)),
    ],
)
def test_years_of_two_digits_are_those_from_1950_on(tag: int, text: bytes, meant: float) -> None:
    begins = element(0x17, b"000101000000Z")
    assert validity(certificate(begins, element(tag, text))) == (seconds(2000, 1, 1), meant)


def test_a_certificate_of_the_first_version_does_not_say_so() -> None:
    time = element(0x17, b"300101000000Z")
    assert validity(certificate(time, time, version=b"")) == (seconds(2030, 1, 1),) * 2


@pytest.mark.parametrize("text", ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n", "BEGIN CERTIFICATE"])
def test_text_without_a_certificate_is_said_to_hold_none(text: str) -> None:
    with pytest.raises(ValueError, match="holds no certificate"):
        validity(text)


@pytest.mark.parametrize(
    "text",
    [
        pem(b""),
        pem(b"\x30\x80"),
        pem(b"\x31\x00"),
        pem(b"\x30\x05\x30\x03"),
        certificate(element(0x17, b"yesterday"), element(0x17, b"300101000000Z")),
        certificate(element(0x02, b"300101000000Z"), element(0x17, b"300101000000Z")),
        certificate(element(0x17, b"300101000000Z")),
    ],
)
def test_a_damaged_certificate_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="a certificate that cannot be read"):
        validity(text)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(ValueError, match="certificate"):
        validity(pem(data))
