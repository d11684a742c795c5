"""A client of the gateway in nothing but the standard library, as any user could write it.

Owns: sending JSON and multipart forms, reading answers and event streams as they arrive.
Does not know: what the answers mean.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import msgspec

TIMEOUT_S: Final = 60.0
_BOUNDARY: Final = "demo-boundary-9f2c41"


class AnswerError(Exception):
    """The gateway did not answer as the caller needs it. The message says what came instead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer read to its end; ``seconds`` from sending to the last byte."""

    status: int
    body: bytes
    seconds: float

    def json(self) -> Any:
        """The body as JSON. Raises AnswerError unless the status is 200 and the body is JSON."""
        if self.status != 200:
            raise AnswerError(f"status {self.status}: {self.body[:500].decode('utf-8', 'replace')}")
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as cause:
            raise AnswerError(f"not JSON ({cause}): {self.body[:500]!r}") from cause


@dataclass(frozen=True, slots=True)
class Arrived:
    """One event of a stream; ``after_s``: seconds from sending the request. ``id``: its place in
    an execution's log, where it has one."""

    after_s: float
    event: dict[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body and its content type."""

    content_type: str
    data: bytes


def json_body(value: Any) -> Body:
    """``value`` as a JSON body."""
    return Body("application/json", msgspec.json.encode(value))


def form_body(fields: Mapping[str, str], files: Mapping[str, tuple[str, bytes]]) -> Body:
    """A multipart form: text fields, then one ``file`` part for each of ``files``, which maps a
    file name to its content type and bytes."""
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in fields.items()
    ]
    for filename, (content_type, data) in files.items():
        head = (
            f'Content-Disposition: form-data; name="file"; filename="{filename}"\r\n'
            f"Content-Type: {content_type}\r\n\r\n"
        )
        parts.append(head.encode() + data)
    opening = f"--{_BOUNDARY}\r\n".encode()
    closing_line = f"--{_BOUNDARY}--\r\n".encode()
    data = b"".join(opening + part + b"\r\n" for part in parts) + closing_line
    return Body(f"multipart/form-data; boundary={_BOUNDARY}", data)


def send(url: str, body: Body | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """POST ``body`` (GET where there is none) and read the whole answer.

    Raises:
        AnswerError: no HTTP answer came.
    """
    started = time.monotonic()
    connection, path = _connect(url)
    with closing(connection):
        try:
            response = _request(connection, path, body, headers)
            return Answer(response.status, response.read(), time.monotonic() - started)
        except (OSError, http.client.HTTPException) as cause:
            raise AnswerError(f"no answer from {url}: {cause!r}") from cause


def stream(
    url: str, body: Body | None, headers: Mapping[str, str]
) -> Generator[Arrived, None, None]:
    """POST ``body`` (GET where there is none) and yield the answer's events as they arrive.

    Raises:
        AnswerError: the answer is no event stream, or broke off.
    """
    started = time.monotonic()
    connection, path = _connect(url)
    with closing(connection):
        try:
            response = _request(connection, path, body, headers)
            kind = response.headers.get_content_type()
            if response.status != 200 or kind != "text/event-stream":
                text = response.read(500).decode("utf-8", "replace")
                raise AnswerError(f"status {response.status}, {kind}: {text}")
            event_id = ""
            for line in response:
                if line.startswith(b"id:"):
                    event_id = line.removeprefix(b"id:").decode().strip()
                if line.startswith(b"data:"):
                    event = msgspec.json.decode(line.removeprefix(b"data:"), type=dict[str, Any])
                    yield Arrived(time.monotonic() - started, event, event_id)
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as cause:
            raise AnswerError(f"the stream from {url} broke: {cause!r}") from cause


def _connect(url: str) -> tuple[http.client.HTTPConnection, str]:
    host, _, path = url.removeprefix("http://").partition("/")
    return http.client.HTTPConnection(host, timeout=TIMEOUT_S), f"/{path}"


def _request(
    connection: http.client.HTTPConnection,
    path: str,
    body: Body | None,
    headers: Mapping[str, str] | None,
) -> http.client.HTTPResponse:
    if body is None:
        connection.request("GET", path, headers=dict(headers or {}))
    else:
        kind = {"Content-Type": body.content_type}
        connection.request("POST", path, body.data, {**kind, **(headers or {})})
    return connection.getresponse()
