"""Signatures of messages, as Standard Webhooks has them (v1: HMAC-SHA256).

Owns: what is signed and how it is written.
Does not know: whose a secret is, where a message goes.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from gateway.executions.hook_definitions import SECRET_PREFIX
from gateway.upstreams.outgoing import SMALL_BYTES, Body


def signatures(secrets: Sequence[str], message_id: str, timestamp: int, body: Body) -> str:
    """The value of ``webhook-signature``: a signature by each of ``secrets``, a space between.

    ``timestamp``: Unix seconds, as in ``webhook-timestamp``. ``body`` is signed as it is sent.
    """
    text = _small_text(body)
    if text is not None:
        return " ".join(_of_text(each, message_id, timestamp, text) for each in secrets)
    return " ".join(_of_pieces(each, message_id, timestamp, body) for each in secrets)


def _small_text(body: Body) -> str | None:
    if len(body.segments) != 1 or body.length > SMALL_BYTES:
        return None
    (segment,) = body.segments
    try:
        return segment.decode() if isinstance(segment, bytes) else None
    except UnicodeDecodeError:
        return None


def _of_text(secret: str, message_id: str, timestamp: int, text: str) -> str:
    return Webhook(secret).sign(message_id, datetime.fromtimestamp(timestamp, UTC), text)


def _of_pieces(secret: str, message_id: str, timestamp: int, body: Body) -> str:
    """The same for what is no text, or so long that it should not be copied: the library takes
    texts alone."""
    key = b64decode(secret.removeprefix(SECRET_PREFIX) + "==")
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode(), "sha256")
    for piece in body.pieces():
        digest.update(piece)
    return f"v1,{b64encode(digest.digest()).decode()}"
