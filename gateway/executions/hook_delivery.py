"""One sending of a message to its webhook, and what the other side says to it.

Owns: the client and its limits, the request's head, what an answer or a failure means.
Does not know: what is in a message, when it is sent again.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final, NamedTuple

import aiohttp
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar

from gateway.executions.hook_addresses import AddressRefused, Lookup, PermittedConnector
from gateway.executions.hook_definitions import Definition, secrets_of
from gateway.executions.hook_signing import signatures
from gateway.executions.records import Delivery
from gateway.section import DAY_S
from gateway.sections import HooksConfig
from gateway.upstreams.outgoing import SMALL_BYTES, USER_AGENT, Body

#: How much of an answer is read, bytes, and for how long, seconds: so much that the other side can
#: say it in peace. Nothing in it counts.
_ANSWER_BYTES_MAX: Final = 64 * 1024
_ANSWER_S: Final = 2.0
_DIGITS: Final = re.compile(r"[0-9]{1,9}")


class Meaning(StrEnum):
    """What came of a sending: the other side has the message, may have it later, wants none any
    more, or is where nothing may be sent."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"
    REFUSED = "refused"


class Answer(NamedTuple):
    """How a sending ended; ``why`` in words for the log. ``retry_after_s``: for how long the other
    side wants to be left alone, a day at most."""

    meaning: Meaning
    why: str
    retry_after_s: float = 0.0


class Courier:
    """Sends messages. One for each process; made in a running loop.

    Args:
        wall: Unix seconds.
        tls: whom to trust; left out: as this machine does.
    """

    def __init__(
        self,
        section: HooksConfig,
        *,
        lookup: Lookup,
        wall: Callable[[], float],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_s = section.timeout_s
        self._wall = wall
        self._session = ClientSession(
            connector=PermittedConnector(section.allow_networks, lookup, tls=tls),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
            headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
            trust_env=False,
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the client."""
        await self._session.close()

    async def send(self, definition: Definition, delivery: Delivery, body: Body) -> Answer:
        """Send it once; never raises for what the other side does, or fails to do."""
        answer = None
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._session.post(
                    definition.endpoint,
                    data=_data(body),
                    headers=await self._headers(definition, delivery, body),
                    allow_redirects=False,
                ) as response:
                    answer = self._answer(response)
                    await _let_finish(response)
        except TimeoutError:
            return answer or Answer(Meaning.FAILED, f"no answer within {self._timeout_s:g} s")
        except (ClientError, OSError, ValueError) as error:
            return answer or _failure(error)
        return answer

    async def _headers(
        self, definition: Definition, delivery: Delivery, body: Body
    ) -> dict[str, str]:
        now = self._wall()
        signed_by = secrets_of(definition, now)
        if body.length <= SMALL_BYTES:
            signature = signatures(signed_by, delivery.id, int(now), body)
        else:
            signature = await asyncio.to_thread(signatures, signed_by, delivery.id, int(now), body)
        headers = definition.headers | {
            "Content-Type": body.content_type,
            "Content-Length": str(body.length),
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": signature,
            "X-Execution-Id": delivery.key.id,
            "X-Hook-Id": delivery.hook_id,
            "X-Hook-Event": delivery.event,
        }
        if delivery.status is not None:
            headers["X-Execution-Status"] = delivery.status
        return headers

    def _answer(self, response: ClientResponse) -> Answer:
        status = response.status
        why = f"answered {status}"
        if 200 <= status < 300:
            return Answer(Meaning.DELIVERED, why)
        if status == 410:
            return Answer(Meaning.GONE, why)
        if status in (429, 503):
            return Answer(Meaning.FAILED, why, self._retry_after_s(response))
        return Answer(Meaning.FAILED, why)

    def _retry_after_s(self, response: ClientResponse) -> float:
        """Seconds, from either form of the header; a date counts from the other side's own, where
        it tells it: its clock and this one may differ. 0 where there is none."""
        value = response.headers.get("Retry-After", "").strip()
        if _DIGITS.fullmatch(value):
            return min(float(value), DAY_S)
        until = _moment(value)
        now = _moment(response.headers.get("Date", "")) or self._wall()
        return 0.0 if until is None else min(max(0.0, until - now), DAY_S)


def _data(body: Body) -> bytes | AsyncIterator[bytes | memoryview]:
    if body.length <= SMALL_BYTES:
        return body.after(b"")

    async def pieces() -> AsyncIterator[bytes | memoryview]:
        for piece in body.pieces():
            yield piece

    return pieces()


async def _let_finish(response: ClientResponse) -> None:
    left = _ANSWER_BYTES_MAX
    with suppress(ClientError, OSError, TimeoutError):
        async with asyncio.timeout(_ANSWER_S):
            async for piece in response.content.iter_any():
                left -= len(piece)
                if left <= 0:
                    return


def _failure(error: Exception) -> Answer:
    """What ``error`` means. The endpoint's path is left out, which may hold a secret."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressRefused):
            return Answer(Meaning.REFUSED, f"its host is {cause}")
        cause = cause.__cause__
    match error:
        case aiohttp.ClientConnectorDNSError():
            why = "its host cannot be found"
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            why = "its certificate does not hold"
        case aiohttp.ClientConnectorError():
            why = f"cannot be reached: {error.os_error.strerror or 'no connection'}"
        case aiohttp.InvalidURL():
            why = "its URL cannot be used"
        case aiohttp.ClientResponseError():
            why = "its answer is not HTTP"
        case _:
            why = f"broke off ({type(error).__name__})"
    return Answer(Meaning.FAILED, why)


def _moment(text: str) -> float | None:
    """An HTTP date as Unix seconds."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
