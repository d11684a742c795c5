"""A client of a running gateway, for ``pipeline-gateway call`` and all that asks one.

Owns: asking in either dialect, reading the answer as it arrives, the words for what went wrong.
Does not know: how an answer is shown, what the gateway does with the request, executions that go
on after it (``managing``, ``following``).

To this client the gateway is its upstream: whatever goes wrong is ``UpstreamFailed``, and the
message says what to do where that is known.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote

import aiohttp
import msgspec

from gateway.errors import Code, EventTooLarge, UpstreamFailed
from gateway.sse import Decoder, Frame, is_event_stream

CONNECT_S: Final = 10.0
EVENT_BYTES_MAX: Final = 256 * 1024 * 1024
ERROR_BYTES_MAX: Final = 64 * 1024
_SECONDS: Final = re.compile(r"[0-9]{1,6}")
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway is: its base URL, and the key to it."""

    url: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask of which pipeline of the gateway at ``place``."""

    place: Place
    pipeline: str
    files: tuple[Path, ...] = ()
    text: str | None = None
    context: str | None = None


async def stream(question: Question) -> AsyncGenerator[bytes, None]:
    """Ask in the Pupau dialect; yields each event's JSON text as it arrives.

    Raises UpstreamFailed."""
    async with AsyncExitStack() as stack:
        form = aiohttp.FormData(default_to_multipart=True)
        for name, value in (("request", question.text), ("context", question.context)):
            if value is not None:
                form.add_field(name, value)
        for path in question.files:
            file = stack.enter_context(_opened(path))
            form.add_field("file", file, filename=path.name)
        target = f"/pipelines/{quote(question.pipeline, safe='')}/queries?sse=true"
        response = await stack.enter_async_context(
            answered(question.place, "POST", target, data=form)
        )
        async with aclosing(frames(question.place, response)) as all_frames:
            async for frame in all_frames:
                yield frame.data


async def frames(
    place: Place, response: aiohttp.ClientResponse, last_event_id: str = ""
) -> AsyncGenerator[Frame, None]:
    """The events of an answer as they arrive, up to its end.

    Raises UpstreamFailed where it is no event stream, or does not end where an event does."""
    if not is_event_stream(response.headers.get("Content-Type", "")):
        raise UpstreamFailed(
            f"{place.url} answered with no event stream; is it the gateway?",
            code=Code.UPSTREAM_INVALID,
        )
    decoder = Decoder(EVENT_BYTES_MAX, last_event_id=last_event_id)
    try:
        async for chunk in response.content.iter_any():
            for frame in decoder.feed(chunk):
                yield frame
    except EventTooLarge as error:
        raise UpstreamFailed(error.message, status=500) from error
    except TimeoutError as error:
        raise UpstreamFailed("nothing came for too long, not even a sign of life") from error
    except aiohttp.ClientError as error:
        raise UpstreamFailed("the answer broke off in the middle") from error
    if decoder.pending:
        raise UpstreamFailed("the answer broke off in the middle of an event")


async def execute(question: Question, view: str = "", transform: str | None = None) -> bytes:
    """Ask in the Cambrion dialect, executeSync; returns the answer's body.

    ``view`` is ``""``, ``"/json"`` or ``"/transform"``, the latter with its ``transform``.

    Raises UpstreamFailed."""
    more = {} if transform is None else {"transform": transform}
    target = f"/v1/pipelines/{quote(question.pipeline, safe='')}/executeSync{view}"
    return await asked(question.place, "POST", target, execute_body(question, **more))


def execute_body(question: Question, **more: Any) -> bytes:
    """The body of an execute call in the Cambrion dialect, ``more`` of its fields included.

    Raises UpstreamFailed where a file cannot be read."""
    body: dict[str, Any] = {}
    if question.files:
        body["media"] = [base64.b64encode(_bytes_of(path)).decode() for path in question.files]
    if question.text is not None:
        body["text"] = question.text
    if question.context is not None:
        body["runtimeParameters"] = {"context": question.context}
    return msgspec.json.encode(body | more)


async def asked(
    place: Place,
    method: str,
    target: str,
    body: bytes | None = None,
    *,
    content_type: str = "application/json",
    silent_s: float | None = None,
) -> bytes:
    """The body of the answer to one request; see ``answered``. Raises UpstreamFailed."""
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = content_type
    asking = answered(place, method, target, data=body, headers=headers, silent_s=silent_s)
    async with asking as response:
        try:
            return await response.read()
        except aiohttp.ClientError as error:
            raise UpstreamFailed("the answer broke off in the middle") from error


@asynccontextmanager
async def answered(
    place: Place,
    method: str,
    target: str,
    *,
    data: Any = None,
    headers: dict[str, str] | None = None,
    silent_s: float | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The gateway's answer to one request, a good one; it may be silent for ``silent_s`` seconds.

    Raises UpstreamFailed: ``retryable`` where asking again may help, with the answer's status if
    there was one."""
    credentials = {} if place.key is None else {"Api-Key": place.key}
    base = place.url.rstrip("/")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silent_s)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        asking = session.request(
            method,
            base + target,
            data=data,
            headers={**credentials, **(headers or {})},
            allow_redirects=False,
        )
        try:
            response = await stack.enter_async_context(asking)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise UpstreamFailed(f"{base} is not a URL that can be called", status=400) from error
        except aiohttp.ClientConnectorDNSError as error:
            raise UpstreamFailed(f"the host name in {base} does not resolve") from error
        except aiohttp.ClientConnectorError as error:
            number = error.os_error.errno
            why = os.strerror(number) if number else str(error.os_error)
            raise UpstreamFailed(
                f"nobody answers at {base} ({why}); start the gateway with: pipeline-gateway serve"
            ) from error
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            # ValueError: a key that no header can hold.
            raise UpstreamFailed(f"{base} gave no answer: {_clean(str(error), place)}") from error
        if response.status // 100 != 2:
            raise await _refusal(response, place)
        yield response


async def _refusal(response: aiohttp.ClientResponse, place: Place) -> UpstreamFailed:
    """What the gateway says in an error's body, in either dialect, and its status."""
    body = b""
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > ERROR_BYTES_MAX:
                break
        error = msgspec.json.decode(body, type=dict[str, Any])
        message, code = str(error["message"]), str(error.get("name") or error.get("code") or "")
        said = f"{_clean(message, place)} ({_clean(code, place)}, status {response.status})"
    except (aiohttp.ClientError, msgspec.DecodeError, KeyError):
        said = f"{place.url} answered with status {response.status}; is it the gateway?"
    after = response.headers.get("Retry-After", "")
    retry_after_s = float(after) if _SECONDS.fullmatch(after) else None
    return UpstreamFailed(said, status=response.status, retry_after_s=retry_after_s)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UpstreamFailed(f"{path} cannot be read: {error.strerror or error}") from error


def _bytes_of(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


def _clean(text: str, place: Place) -> str:
    """``text`` for a terminal: without control characters, and never with the key."""
    return clean(text.replace(place.key, "[key]") if place.key else text)


def clean(text: str) -> str:
    """``text`` without the control characters by which it could steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
