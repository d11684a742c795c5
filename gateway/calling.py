"""A client of a running gateway, for ``pipeline-gateway call``.

Owns: asking in either dialect, reading the answer as it arrives, the words for what went wrong.
Does not know: how an answer is shown, or what the gateway does with the request.

To this client the gateway is its upstream: whatever goes wrong is ``UpstreamFailed``, and the
message says what to do where that is known.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote

import aiohttp
import msgspec

from gateway.errors import EventTooLarge, UpstreamFailed
from gateway.sse import Decoder, is_event_stream

CONNECT_S: Final = 10.0
EVENT_BYTES_MAX: Final = 256 * 1024 * 1024
ERROR_BYTES_MAX: Final = 64 * 1024
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask of which pipeline. ``url`` is the gateway's base URL."""

    url: str
    pipeline: str
    key: str | None = None
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
        response = await stack.enter_async_context(_post(question, target, data=form))
        if not is_event_stream(response.headers.get("Content-Type", "")):
            raise UpstreamFailed(
                f"{question.url} answered with no event stream; is it the gateway?"
            )
        decoder = Decoder(EVENT_BYTES_MAX)
        try:
            async for chunk in response.content.iter_any():
                for frame in decoder.feed(chunk):
                    yield frame.data
        except EventTooLarge as error:
            raise UpstreamFailed(error.message) from error
        except aiohttp.ClientError as error:
            raise UpstreamFailed("the answer broke off in the middle") from error
        if decoder.pending:
            raise UpstreamFailed("the answer broke off in the middle of an event")


async def execute(question: Question, view: str = "", transform: str | None = None) -> bytes:
    """Ask in the Cambrion dialect, executeSync; returns the answer's body.

    ``view`` is ``""``, ``"/json"`` or ``"/transform"``, the latter with its ``transform``.

    Raises UpstreamFailed."""
    body: dict[str, Any] = {}
    if question.files:
        body["media"] = [base64.b64encode(_bytes_of(path)).decode() for path in question.files]
    if question.text is not None:
        body["text"] = question.text
    if question.context is not None:
        body["runtimeParameters"] = {"context": question.context}
    if transform is not None:
        body["transform"] = transform
    target = f"/v1/pipelines/{quote(question.pipeline, safe='')}/executeSync{view}"
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    data = msgspec.json.encode(body)
    async with _post(question, target, data=data, headers=headers) as response:
        try:
            return await response.read()
        except aiohttp.ClientError as error:
            raise UpstreamFailed("the answer broke off in the middle") from error


@asynccontextmanager
async def _post(
    question: Question, target: str, *, data: Any, headers: dict[str, str] | None = None
) -> AsyncIterator[aiohttp.ClientResponse]:
    """POST to the gateway; the answer is a good one. Raises UpstreamFailed."""
    credentials = {} if question.key is None else {"Api-Key": question.key}
    base = question.url.rstrip("/")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        posting = session.post(
            base + target,
            data=data,
            headers={**credentials, **(headers or {})},
            allow_redirects=False,
        )
        try:
            response = await stack.enter_async_context(posting)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise UpstreamFailed(f"{base} is not a URL that can be called") from error
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
            raise UpstreamFailed(
                f"{base} gave no answer: {_clean(str(error), question)}"
            ) from error
        if response.status != 200:
            raise UpstreamFailed(await _refusal(response, question))
        yield response


async def _refusal(response: aiohttp.ClientResponse, question: Question) -> str:
    """What the gateway says in an error's body, in either dialect, and its status."""
    body = b""
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > ERROR_BYTES_MAX:
                break
        error = msgspec.json.decode(body, type=dict[str, Any])
        message, code = str(error["message"]), str(error.get("name") or error.get("code") or "")
    except (aiohttp.ClientError, msgspec.DecodeError, KeyError):
        return f"{question.url} answered with status {response.status}; is it the gateway?"
    return f"{_clean(message, question)} ({_clean(code, question)}, status {response.status})"


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UpstreamFailed(f"{path} cannot be read: {error.strerror or error}") from error


def _bytes_of(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


def _clean(text: str, question: Question) -> str:
    """``text`` for a terminal: without control characters, and never with the key."""
    return clean(text.replace(question.key, "[key]") if question.key else text)


def clean(text: str) -> str:
    """``text`` without the control characters by which it could steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
