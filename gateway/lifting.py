"""Long base64 strings of a JSON text, decoded while the text arrives.

A request with 20 MB of media is 27 MB of text. Read whole, then scanned, then decoded, it stands in
memory more than twice over, and each step over all of it holds the interpreter for milliseconds.
Here no more than a piece of the text is ever held: a string of base64 is decoded as it comes, and
only what stands for it is left in the text.

Nothing is decided by that. What was lifted out can be put back, to the byte; so who reads the text
takes the strings where they are wanted and, in every other case, reads it as it was sent.

Owns: finding such strings in a text in pieces, decoding them, and the way back.
Does not know: what a text says, whether it is JSON at all, where media are wanted.
"""

from __future__ import annotations

import binascii
import io
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

#: Strings of fewer bytes, decoded, are left in the text.
LIFTED_BYTES_MIN: Final = 48 * 1024
# What is encoded at once on the way back, bytes; a multiple of 3, so that no padding comes between.
_PIECE_BYTES: Final = 3 * 256 * 1024


class Lifted(Struct):
    """A string that was lifted out. ``mark`` stands in the text for all of its characters;
    ``slashes``: they were written ``\\/``, as JSON may."""

    mark: bytes
    data: bytes
    slashes: bool

    def characters(self) -> Iterator[bytes]:
        """What ``mark`` stands for, in pieces."""
        view = memoryview(self.data)
        for start in range(0, len(view), _PIECE_BYTES):
            piece = binascii.b2a_base64(view[start : start + _PIECE_BYTES], newline=False)
            yield piece.replace(b"/", b"\\/") if self.slashes else piece


class LiftedText:
    """A text with its long strings lifted out: ``text`` with a mark for each of ``strings``."""

    def __init__(self, text: bytes, strings: list[Lifted], length: int) -> None:
        self.text = text
        self.strings = strings
        self._length = length

    def __len__(self) -> int:
        """How long the text was as it came, bytes."""
        return self._length

    def whole(self) -> bytes:
        """The text as it came. The strings are let go of: each stands in memory once."""
        whole = io.BytesIO()
        at = 0
        while self.strings:
            string = self.strings.pop(0)
            mark = self.text.index(string.mark, at)
            whole.write(self.text[at:mark])
            whole.writelines(string.characters())
            at = mark + len(string.mark)
        whole.write(self.text[at:])
        return whole.getvalue()


class Lifter:
    """One text, fed in pieces.

    Args:
        nonce: part of every mark. No text may hold it by chance, nor by design: at least 16 random
            bytes, written in hexadecimal digits.
    """

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._text = io.BytesIO()
        self._strings: list[Lifted] = []
        self._length = 0
        #: The string that is being decoded, if any.
        self._open: _String | None = None

    def feed(self, piece: bytes) -> None:
        """The next piece of the text."""
        self._length += len(piece)
        at = 0
        if self._open is not None:
            at = piece.find(b'"')
            if at < 0:
                if not self._open.feed(piece):
                    self._give_up(self._open)
                return
            self._close(self._open, piece[:at])
        # Only a string that reaches over the end of a piece can be a long one.
        quote = piece.rfind(b'"', at) + 1
        self._text.write(memoryview(piece)[at : quote or len(piece)])
        if quote:
            self._open = _String()
            if not self._open.feed(piece[quote:]):
                self._give_up(self._open)

    def finish(self) -> bytes | LiftedText:
        """The text; as it came, where nothing was lifted out."""
        if self._open is not None:
            self._give_up(self._open)
        if not self._strings:
            return self._text.getvalue()
        return LiftedText(self._text.getvalue(), self._strings, self._length)

    def _close(self, string: _String, rest: bytes) -> None:
        if string.feed(rest) and string.finish() and string.size >= LIFTED_BYTES_MIN:
            self._lift(string)
        else:
            self._give_up(string)
        self._open = None

    def _give_up(self, string: _String) -> None:
        """What was taken for base64 is not, or is too little: it goes back into the text. Where it
        is much, what is decoded of it stays lifted out, as there is time for it later."""
        if string.size < LIFTED_BYTES_MIN:
            self._text.writelines(string.lifted(b"").characters())
        else:
            self._lift(string)
        self._text.write(string.left)
        self._open = None

    def _lift(self, string: _String) -> None:
        mark = f"{self._nonce}-{len(self._strings)}-".encode()
        self._strings.append(string.lifted(mark))
        self._text.write(mark)


class _String:
    """A string of base64 as far as it has come. What is decoded can be encoded again to the same
    characters, ``left`` are those that are not decoded."""

    __slots__ = ("_data", "left", "size", "slashes")

    def __init__(self) -> None:
        self._data = io.BytesIO()
        self.left = b""
        self.size = 0
        #: Whether its slashes are written ``\/``; ``None`` as long as it has none.
        self.slashes: bool | None = None

    def lifted(self, mark: bytes) -> Lifted:
        return Lifted(mark, self._data.getvalue(), bool(self.slashes))

    def feed(self, characters: bytes) -> bool:
        """Decode ``characters``, but for the last few, which may be padding. Returns whether this
        is base64 so far; once it is not, it must not be fed again."""
        self.left = left = self.left + characters
        if b"/" in left:
            plain = left.replace(b"\\/", b"/")
            slashes = plain.count(b"/")
            escaped = len(left) - len(plain)
            if self.slashes is None:
                self.slashes = escaped > 0
            if escaped != (slashes if self.slashes else 0):
                return False
            left = plain
        # The last one may be half of a slash that goes on in the next piece.
        half = left[-1:] if left.endswith(b"\\") else b""
        usable = max(0, len(left) - len(half) - 1) & ~3
        try:
            data = binascii.a2b_base64(memoryview(left)[:usable], strict_mode=True)
        except binascii.Error:
            return False
        if len(data) * 4 != usable * 3:  # padding before the end
            return False
        self._add(data)
        rest = left[usable : len(left) - len(half)]
        self.left = (rest.replace(b"/", b"\\/") if self.slashes else rest) + half
        return True

    def finish(self) -> bool:
        """Decode the last few characters. Returns whether all of it was base64."""
        last = self.left.replace(b"\\/", b"/")
        try:
            data = binascii.a2b_base64(last, strict_mode=True)
        except binascii.Error:
            return False
        # Bits behind the end that are not zero would be lost.
        if binascii.b2a_base64(data, newline=False) != last:
            return False
        self._add(data)
        self.left = b""
        return True

    def _add(self, data: bytes) -> None:
        self._data.write(data)
        self.size += len(data)
