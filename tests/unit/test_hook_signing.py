"""Signatures of messages to webhooks, held to the vectors of the Standard Webhooks libraries."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.executions.hook_definitions import new_secret, parse_hook
from gateway.executions.hook_signing import signatures
from gateway.model import Media
from gateway.upstreams.outgoing import SMALL_BYTES, Body

# The libraries' own test, and what its cases must come to.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
PAYLOAD = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
TOLERANCE = timedelta(seconds=300)


def text(payload: bytes) -> Body:
    return Body("application/json", [payload])


def in_pieces(payload: bytes) -> Body:
    return Body("multipart/form-data", [payload[:3], Media("m", payload[3:], "text/plain")])


def sent(
    payload: bytes = PAYLOAD,
    *,
    age: timedelta = timedelta(),
    secrets: Sequence[str] = (SECRET,),
) -> dict[str, str]:
    """The head of a message that was sent so long ago."""
    timestamp = int((datetime.now(UTC) - age).timestamp())
    return {
        "webhook-id": ID,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signatures(secrets, ID, timestamp, text(payload)),
    }


def verified(headers: dict[str, str], secret: str = SECRET) -> Any:
    return Webhook(secret).verify(PAYLOAD, headers)


@pytest.mark.parametrize("body", [text(PAYLOAD), in_pieces(PAYLOAD)])
def test_the_published_signature_is_made(body: Body) -> None:
    assert signatures([SECRET], ID, TIMESTAMP, body) == SIGNATURE


@pytest.mark.parametrize("prefix", ["whsec_", ""])
def test_a_message_is_verified_by_the_library(prefix: str) -> None:
    secret = prefix + SECRET.removeprefix("whsec_")
    assert verified(sent(), secret) == json.loads(PAYLOAD)


@pytest.mark.parametrize("age", [TOLERANCE + timedelta(seconds=2), -TOLERANCE * 2])
def test_one_too_old_or_from_the_future_is_not(age: timedelta) -> None:
    with pytest.raises(WebhookVerificationError):
        verified(sent(age=age))


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_each_of_the_headers_is_needed(missing: str) -> None:
    headers = sent()
    del headers[missing]
    with pytest.raises(WebhookVerificationError):
        verified(headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [("webhook-timestamp", "hello"), ("webhook-signature", SIGNATURE.replace("OE=", "OA="))],
)
def test_one_that_was_tampered_with_is_not_verified(name: str, value: str) -> None:
    with pytest.raises(WebhookVerificationError):
        verified(sent() | {name: value})


def test_one_right_signature_among_several_is_enough() -> None:
    headers = sent()
    wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
    right = headers["webhook-signature"]
    both = f"{wrong} {wrong.replace('v1', 'v2')} {right} {wrong}"
    assert verified(headers | {"webhook-signature": both})


def test_the_old_and_the_new_secret_both_verify_while_they_rotate() -> None:
    new = new_secret()
    headers = sent(secrets=[new, SECRET])
    assert headers["webhook-signature"].count(" ") == 1
    for secret in (new, SECRET):
        assert verified(headers, secret) == json.loads(PAYLOAD)


@pytest.mark.parametrize("length", [24, 25, 26])
def test_a_secret_without_padding_signs_as_the_same_with_it(length: int) -> None:
    padded = "whsec_" + base64.b64encode(bytes(range(length))).decode()
    bare = padded.rstrip("=")
    for body in (text(PAYLOAD), in_pieces(PAYLOAD)):
        assert signatures([padded], ID, TIMESTAMP, body) == signatures([bare], ID, TIMESTAMP, body)


@pytest.mark.parametrize("secret", ["", "whsec_"])
def test_an_empty_secret_can_neither_sign_nor_be_kept(secret: str) -> None:
    with pytest.raises(Exception, match="empty"):
        signatures([secret], ID, TIMESTAMP, text(PAYLOAD))
    body = {"eventType": "SUBMIT", "endpoint": "http://x/", "secret": secret}
    with pytest.raises(Exception, match="secret: expected"):
        parse_hook(json.dumps(body).encode(), owner="", now=0.0)


@given(st.text().map(str.encode), st.integers(0, 4_000_000_000))
def test_what_the_library_makes_of_text_is_what_is_made_of_its_bytes(
    payload: bytes, timestamp: int
) -> None:
    by_library = signatures([SECRET], ID, timestamp, text(payload))
    assert signatures([SECRET], ID, timestamp, in_pieces(payload)) == by_library


@pytest.mark.parametrize("payload", [b"\xff\xfe\x00", b"x" * (SMALL_BYTES + 1)])
def test_bytes_that_are_no_text_or_many_are_signed_by_the_same_rule(payload: bytes) -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = b"%s.%d.%s" % (ID.encode(), TIMESTAMP, payload)
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert signatures([SECRET], ID, TIMESTAMP, text(payload)) == f"v1,{expected}"


def test_a_file_alone_is_signed_as_its_bytes() -> None:
    body = Body("application/pdf", [Media("m", PAYLOAD, "application/pdf")])
    assert signatures([SECRET], ID, TIMESTAMP, body) == SIGNATURE
