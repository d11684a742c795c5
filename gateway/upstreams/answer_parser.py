"""One answer of HTTP/1.1 at a time, from bytes to its head, its body and its end.

Owns: which answers are taken for HTTP, how long their heads may be, and where they end. The grammar
itself is llhttp's, strict but for spaces after a chunk's size, which old servers pad it with.
Does not know: sockets, time, compression, what any answer means.
"""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

#: The status line and all header lines of an answer, with those of the 1xx before it, bytes.
HEAD_BYTES_MAX: Final = 64 * 1024
#: Header lines of an answer, and of its trailers.
FIELDS_MAX: Final = 128
#: Answers of 1xx before the one that counts.
INFORMATIONAL_MAX: Final = 8
#: What may arrive of chunk extensions and trailers without a byte of the body, bytes.
_FRAMING_BYTES_MAX: Final = 64 * 1024
_VERSIONS: Final = ("1.1", "1.0")


class NotHttp(ValueError):
    """What arrived is no answer of HTTP/1.1, or goes over a bound. The message says which."""


class Head:
    """An answer's status and header fields."""

    __slots__ = ("_fields", "coding", "keep_alive", "status")

    def __init__(self, status: int, fields: dict[bytes, bytes], *, keep_alive: bool) -> None:
        self.status = status
        #: How the body is compressed, in lower case; empty where it is not.
        self.coding = ""
        if b"content-encoding" in fields:
            coding = fields[b"content-encoding"].decode("utf-8", "replace").strip(" \t").lower()
            self.coding = "" if coding == "identity" else coding
        #: Whether the connection may carry another exchange after this one.
        self.keep_alive = keep_alive
        self._fields = fields

    def get(self, name: str, default: str = "") -> str:
        """The value of the field ``name``, which is in lower case; several of a name are joined
        with commas."""
        value = self._fields.get(name.encode())
        return default if value is None else value.decode("utf-8", "replace").strip(" \t")


class AnswerParser:
    """Takes in the bytes of a connection, one answer after the other.

    ``begin`` before each answer, then ``feed`` what arrives and ``take`` what it held of the body;
    ``eof`` where nothing more will. Bytes may be cut anywhere. ``on_…`` are called by llhttp.
    """

    __slots__ = (
        "_count", "_fields", "_framing_bytes", "_head_bytes", "_informational", "_llhttp",
        "_until_close", "complete", "head", "on_body", "pieces", "surplus",
    )  # fmt: skip

    def __init__(self) -> None:
        #: What has come of the body since the last ``take``, each chunk by itself.
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append  # without a step through Python for each chunk
        self.begin()
        self._llhttp = HttpResponseParser(self)
        self._llhttp.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)

    def begin(self) -> None:
        """The next answer is awaited."""
        #: Set once the head of the answer that counts, not a 1xx, has come.
        self.head: Head | None = None
        #: Whether the answer has come to its end.
        self.complete = False
        #: Whether something other than line breaks came after that.
        self.surplus = False
        self._fields: dict[bytes, bytes] = {}
        self._count = 0
        self._head_bytes = 0
        self._framing_bytes = 0
        self._informational = 0
        self._until_close = False

    @property
    def received(self) -> bool:
        """Whether any byte of the answer has come."""
        return self._head_bytes > 0

    def close(self) -> None:
        """Let go of llhttp's part, which refers back to this one. It is of no more use."""
        del self._llhttp

    def feed(self, data: bytes | memoryview) -> None:
        """Take in bytes as they arrived.

        Raises:
            NotHttp: what came before the fault has been taken in, and can be asked for.
        """
        if self.complete:
            self.surplus |= bool(bytes(data).strip(b"\r\n"))
        elif self.head is None:
            length, room = len(data), HEAD_BYTES_MAX - self._head_bytes
            self._head_bytes += length
            if length <= room:
                self._execute(data)
                return
            self._execute(data[:room])
            if self.head is None:
                raise NotHttp(f"its head is longer than {HEAD_BYTES_MAX} bytes")
            self.feed(data[room:])
        else:
            try:  # as ``_execute``, with one step less for each event of a stream
                self._llhttp.feed_data(data)
            except (HttpParserError, HttpParserUpgrade) as error:
                self._fault(error)
            if self.pieces:
                self._framing_bytes = 0
                return
            self._framing_bytes += len(data)
            if self._framing_bytes > _FRAMING_BYTES_MAX:
                raise NotHttp(f"over {_FRAMING_BYTES_MAX} bytes came without one of the body")

    def take(self) -> bytes:
        """What has come of the body since the last time."""
        pieces = self.pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    def eof(self) -> bool:
        """The connection has ended. Whether that leaves the answer complete."""
        if self._until_close:
            self.complete = True
        return self.complete

    def _execute(self, data: bytes | memoryview) -> None:
        try:
            self._llhttp.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fault(error)

    def _fault(self, error: Exception) -> None:
        if not self.complete:
            raise NotHttp(str(error.__context__ or error)) from error
        self.surplus = True

    def on_message_begin(self) -> None:
        """Something other than a line break came where an answer may begin."""
        if self.complete:
            raise NotHttp("bytes follow its answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line, or one of the trailers, which say nothing that is asked for here."""
        self._count += 1
        if self._count > FIELDS_MAX:
            raise NotHttp(f"it has more than {FIELDS_MAX} header lines")
        if self.head is None:
            name = name.lower()
            given = self._fields.get(name)
            self._fields[name] = value if given is None else b"%b, %b" % (given, value)

    def on_headers_complete(self) -> None:
        """The head of an answer, or of a 1xx before it, is complete."""
        llhttp, fields = self._llhttp, self._fields
        status = llhttp.get_status_code()
        if status < 200:
            self._skip(status)
            return
        keep_alive = llhttp.should_keep_alive()
        coding = fields.get(b"transfer-encoding")
        if not keep_alive and llhttp.get_http_version() not in _VERSIONS:
            raise NotHttp("its version is not HTTP/1.1")
        if coding is not None:
            if coding.strip().lower() != b"chunked":
                raise NotHttp("its transfer coding is not chunked")
            # HTTP/1.0 knows no such coding: what comes after the answer cannot be trusted.
            keep_alive = keep_alive and llhttp.get_http_version() == "1.1"
        self._until_close = not keep_alive and coding is None and b"content-length" not in fields
        self.head = Head(status, fields, keep_alive=keep_alive)

    def on_message_complete(self) -> None:
        """An answer, or a 1xx before it, has come to its end."""
        if self.head is not None:
            self.complete = True

    def _skip(self, status: int) -> None:
        self._informational += 1
        if status == 101 or self._informational > INFORMATIONAL_MAX:
            raise NotHttp(f"it answered {status}, once too often")
        self._fields, self._count = {}, 0
