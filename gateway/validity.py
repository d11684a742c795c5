"""From when until when a certificate is valid.

Owns: finding that in a certificate's bytes (X.509 in DER, within PEM): Python's own library tells
it of certificates that others show, and not of one's own.
Does not know: where the certificate lies, what time it is, whom to trust.
"""

from __future__ import annotations

import re
from base64 import b64decode
from datetime import UTC, datetime
from typing import Final

_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----"
)
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_TIMES: Final = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}


def validity(pem: str) -> tuple[float, float]:
    """When the first certificate in ``pem`` begins to be valid, and when it ends: Unix seconds.

    Raises ValueError, in words that go on from its file's name."""
    found = _CERTIFICATE.search(pem)
    if found is None:
        raise ValueError("holds no certificate (-----BEGIN CERTIFICATE-----)")
    try:
        certificate, _ = _inside(b64decode(found[1]), _SEQUENCE)
        signed, _ = _inside(certificate, _SEQUENCE)
        if signed[0] == _VERSION:
            _, signed = _inside(signed, _VERSION)
        for _ in ("serial number", "algorithm", "issuer"):
            _, signed = _inside(signed, signed[0])
        times, _ = _inside(signed, _SEQUENCE)
        begins, rest = _inside(times, times[0])
        ends, _ = _inside(rest, rest[0])
        return _time(times[0], begins), _time(rest[0], ends)
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError("holds a certificate that cannot be read") from error


def _inside(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """What the element at the start of ``data`` holds, and what follows it."""
    if data[0] != tag:
        raise ValueError
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    if len(data) < start + length:
        raise ValueError
    return data[start : start + length], data[start + length :]


def _time(tag: int, text: bytes) -> float:
    moment = datetime.strptime(text.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC)
    # Two digits of a year are 1950 to 2049; strptime takes them for 1969 to 2068.
    if tag == 0x17 and moment.year >= 2050:
        moment = moment.replace(year=moment.year - 100)
    return moment.timestamp()
