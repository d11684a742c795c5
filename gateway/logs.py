"""One JSON object a line on standard output.

Owns: the form of a log line.
Does not know: what is logged; keys and bodies are kept out where lines are made.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from time import time_ns
from typing import Any, Final, TextIO

import msgspec

from gateway.loglines import divided

#: One line for each request that has ended.
requests: Final = logging.getLogger("gateway.request")
#: Everything else.
events: Final = logging.getLogger("gateway")


#: How long a request's line may wait for others to be written with it, seconds.
_WITHIN_S: Final = 0.02
#: What every pipe takes in one piece, bytes.
_PIPE_BYTES: Final = 4096
_ALONE_BYTES: Final = 64 * 1024


class JsonFormatter(logging.Formatter):
    """A record as JSON: ``time``, ``level``, ``event`` and the fields given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        return msgspec.json.encode(self.fields(record), enc_hook=str).decode()

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """All that the line says."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return line


class _Lines:
    """The lines of requests, on their way to ``stream``.

    A logger takes five times as long for one as all else that is counted and noted of a request.
    They are written a few at a time, soon after, and in pieces that a pipe takes as a whole, so
    that other processes which write to it do not break them.
    """

    def __init__(self, stream: TextIO, worker: dict[str, int] | None) -> None:
        self._stream = stream
        self._worker = worker
        # Nobody else writes where there are no workers: fewer and longer pieces will do.
        self._piece_bytes = _PIPE_BYTES if worker is not None else _ALONE_BYTES
        self._head = b'","level":"info","event":"request",'
        if worker:
            self._head += msgspec.json.encode(worker)[1:-1] + b","
        self._encode = msgspec.json.Encoder().encode
        self._held: list[bytes] = []
        self._held_bytes = 0
        #: How each line begins that is added within the same millisecond, and which that is.
        self._begin = b""
        self._now_ms = 0
        self._second = 0
        self._prefix = b""
        self._failing = False

    def add(self, fields: msgspec.Struct) -> None:
        """One line, to be written within ``_WITHIN_S``."""
        now_ms = time_ns() // 1_000_000
        if now_ms != self._now_ms:
            self._now_ms = now_ms
            second, ms = divmod(now_ms, 1000)
            if second != self._second:
                self._second = second
                moment = datetime.fromtimestamp(second, UTC)
                self._prefix = f'{{"time":"{moment:%Y-%m-%dT%H:%M:%S}.'.encode()
            self._begin = b"%b%03d+00:00%b" % (self._prefix, ms, self._head)
        line = b"%b%b\n" % (self._begin, self._encode(fields)[1:])
        if self._worker is not None and len(line) > _PIPE_BYTES:
            self._divide(msgspec.json.decode(line))
            return
        if self._held_bytes + len(line) > self._piece_bytes:
            self.flush()
        if not self._held:
            asyncio.get_running_loop().call_later(_WITHIN_S, self.flush)
        self._held.append(line)
        self._held_bytes += len(line)

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            text = b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            self._write(text)

    def _divide(self, line: dict[str, Any]) -> None:
        self.flush()
        for part in divided(line, _PIPE_BYTES - 1):
            self._write(part + b"\n")

    def _write(self, text: bytes) -> None:
        try:
            self._stream.buffer.write(text)
            self._stream.flush()
            self._failing = False
        except OSError as error:
            # A full disk, or a reader that has gone: whoever logs is not to suffer from it. It is
            # told once, where it still can be.
            if not self._failing:
                with suppress(OSError):
                    print(f"the log cannot be written: {error}", file=sys.stderr, flush=True)
            self._failing = True


class _Handler(logging.StreamHandler[TextIO]):
    """Keeps the order of what happened: lines of requests that are held come first."""

    def __init__(self, stream: TextIO, lines: _Lines) -> None:
        super().__init__(stream)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.flush()
        super().emit(record)


class _SharedHandler(_Handler):
    """The same for one process of several that write to one pipe. ``worker``: what each line says
    of who wrote it."""

    def __init__(self, stream: TextIO, lines: _Lines, worker: dict[str, int]) -> None:
        super().__init__(stream, lines)
        self._worker = worker
        self._form = JsonFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.flush()
        try:
            for part in divided(self._form.fields(record) | self._worker, _PIPE_BYTES - 1):
                self.stream.write(part.decode() + self.terminator)
                self.flush()
        except Exception:  # noqa: BLE001  as logging does: who logs is not to suffer from it
            self.handleError(record)


_lines: _Lines | None = None


def request(line: msgspec.Struct) -> None:
    """Say of a request that has ended what the fields of ``line`` hold."""
    if _lines is None:  # nothing was set up: whoever uses this listens to the logger
        requests.info("request", extra={"fields": msgspec.to_builtins(line)})
    else:
        _lines.add(line)


def flush() -> None:
    """Write every line that is held: before the process ends."""
    if _lines is not None:
        _lines.flush()


def setup(worker: int | None = None) -> None:
    """Send the gateway's own lines to standard output, and other libraries' warnings with them.

    ``worker`` is the number of this process where several write there, 0 for their supervisor."""
    global _lines  # noqa: PLW0603  a process has one standard output
    named = None if worker is None else {"worker": worker} if worker else {}
    _lines = _Lines(sys.stdout, named)
    atexit.register(_lines.flush)
    if named is None:
        handler = _Handler(sys.stdout, _lines)
        handler.setFormatter(JsonFormatter())
    else:
        handler = _SharedHandler(sys.stdout, _lines, named)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    events.setLevel(logging.INFO)
