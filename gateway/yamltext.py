"""YAML text as a tree that remembers where everything stands.

Every scalar stays the text that was written: what it means (a number, a switch, a name) is for the
schema to say, so a pipeline may be called ``no`` and a pipeline ID may look like a number.

Owns: reading one YAML document with its positions, and refusing what a configuration needs no part
of: tags, merge keys, repeated keys, unbounded nesting and aliases that multiply.
Does not know: any key, any schema, any environment variable.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import yaml

from gateway.errors import ConfigError

#: Files that were read, in their order: the SHA-256 of each, ``b""`` of one that is not there.
Files = dict[Path, bytes]

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
DEPTH_MAX: Final = 32
#: Nodes of a document with every alias written out.
NODES_MAX: Final = 1_000_000
#: libyaml's parser where PyYAML was built with it (20 times as fast), else the one in Python.
PARSER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_ESCAPES: Final = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f",
    "r": "\r", "e": "\x1b", " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85", "_": "\xa0",
    "L": "\u2028", "P": "\u2029",
}  # fmt: skip
_HEX_ESCAPES: Final = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as text. ``start`` and ``end`` are character offsets of its source, quotes and
    block header included; ``style`` is ``""`` (plain), ``'``, ``"``, ``|`` or ``>``."""

    text: str
    start: int
    end: int
    style: str

    @property
    def null(self) -> bool:
        """Whether nothing was written, or ``null``."""
        return self.style == "" and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping: each key's text, the offset where the key stands, and its value."""

    start: int
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    start: int
    items: list[Node] = field(default_factory=list)


Node = Scalar | Section | Items


@dataclass(frozen=True, eq=False)
class Document:
    """One file's text and its tree. ``file`` is what messages call it. Where another file's tree
    is part of it, that one's text follows its own, from the offset ``part_start`` on."""

    file: str
    text: str
    root: Node
    part: Document | None = None
    part_start: int = 0

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(index + 1 for index, char in enumerate(self.text) if char == "\n")]

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, from 1, of the character at ``offset``."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def at(self, offset: int) -> str:
        """``file:line:column`` of the character at ``offset``."""
        if self.part is not None and offset >= self.part_start:
            return self.part.at(offset - self.part_start)
        line, column = self.position(offset)
        return f"{self.file}:{line}:{column}"

    def with_part(self, key: str, part: Document) -> Document:
        """This document with the tree of another file as the value of its top-level ``key``."""
        if not isinstance(self.root, Section):
            raise TypeError("the document is no section")
        start = len(self.text) + 1
        entries = self.root.entries | {key: _moved(part.root, start)}
        root = Section(self.root.start, entries, self.root.keys)
        return Document(self.file, f"{self.text}\n{part.text}", root, part, start)


def _moved(node: Node, by: int) -> Node:
    """``node`` as it stands behind another text of the length ``by``."""
    match node:
        case Scalar():
            return Scalar(node.text, node.start + by, node.end + by, node.style)
        case Items():
            return Items(node.start + by, [_moved(each, by) for each in node.items])
        case Section():
            entries = {key: _moved(each, by) for key, each in node.entries.items()}
            keys = {key: start + by for key, start in node.keys.items()}
            return Section(node.start + by, entries, keys)


@dataclass(frozen=True, eq=False)
class Written:
    """A scalar together with the document it stands in, for a type that must point into it."""

    document: Document
    scalar: Scalar

    def offset(self, offset: int) -> int:
        """Where in the document the character at ``offset`` of the scalar's text was written."""
        return source_offset(self.document, self.scalar, offset)

    def cut_by_comment(self) -> bool:
        """Whether a plain scalar ends at ``#$``: JSONata's ``#$i``, which YAML made a comment."""
        rest = self.document.text[self.scalar.end : self.scalar.end + 80].lstrip(" ")
        return self.scalar.style == "" and rest.startswith("#$")


def read_text(path: Path, *, bytes_max: int, what: str = "file", files: Files | None = None) -> str:
    """The text of ``path`` without byte order mark, every line break a ``\\n``.

    It is noted in ``files``.

    Raises:
        ValueError: in one sentence without the path: missing, unreadable, too long, not UTF-8.
    """
    files = {} if files is None else files
    files[path] = b""
    try:
        with path.open("rb") as source:
            data = source.read(bytes_max + 1)
        files[path] = sha256(data).digest()
    except FileNotFoundError:
        raise ValueError(f"there is no such {what}") from None
    except OSError as error:
        raise ValueError(f"the {what} cannot be read: {error.strerror or error}") from error
    if len(data) > bytes_max:
        raise ValueError(f"the {what} is longer than {bytes_max} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the {what} is not UTF-8 text (byte {error.start})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read(path: Path, files: Files | None = None) -> Document:
    """The document in the file ``path``, which is noted in ``files``. Raises ConfigError."""
    file = str(path)
    try:
        text = read_text(path, bytes_max=FILE_BYTES_MAX, files=files)
    except ValueError as error:
        raise ConfigError([f"{file}: {error}"]) from error
    return parse(text, file)


def parse(text: str, file: str, *, parser: Any = PARSER) -> Document:
    """The document in ``text``; ``file`` is what messages call it. ``parser`` is a PyYAML loader.

    Raises:
        ConfigError: what is no YAML (the first such place only: nothing after it can be trusted),
            or every part that this reader refuses.
    """
    builder = _Builder(Document(file, text, Section(0)))
    try:
        for event in yaml.parse(text, Loader=parser):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        builder.refuse(_mark_offset(error, text), _syntax_words(error, text))
    except yaml.reader.ReaderError as error:
        # Its position counts bytes or characters, by parser; the character itself is certain.
        offset = max(text.find(_reader_character(error)), 0)
        builder.refuse(offset, "a control character stands here, which YAML does not allow")
    except _Stop:
        pass  # the refusal that stopped the reading is on the list
    if builder.problems:
        raise ConfigError([problem for _, problem in sorted(builder.problems)])
    return Document(file, text, builder.root or Section(0))


def _mark_offset(error: yaml.MarkedYAMLError, text: str) -> int:
    mark = error.problem_mark or error.context_mark
    return min(mark.index, len(text)) if mark is not None else 0


def _syntax_words(error: yaml.MarkedYAMLError, text: str) -> str:
    offset = _mark_offset(error, text)
    words = ", ".join(part for part in (error.context, error.problem) if part)
    if text[offset : offset + 1] == "\t":
        words += "; YAML is indented with spaces, not tabs"
    elif "mapping values are not allowed" in words:
        words += '; text with ": " in it needs quotes, or a block ("|")'
    return f"this is not YAML: {words}"


def _reader_character(error: yaml.reader.ReaderError) -> str:
    character: Any = error.character  # a code point from one parser, text from the other
    return chr(character) if isinstance(character, int) else str(character)


class _Stop(Exception):
    """Reading on would serve nobody; what is wrong has been noted."""


class _Builder:
    """Takes the parser's events one by one, with a stack of its own instead of recursion."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._open: list[tuple[Section | Items, str | None, int]] = []
        self._keys: list[tuple[str, int] | None] = []
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._nodes = 0
        self.root: Node | None = None
        self.problems: list[tuple[int, str]] = []

    def refuse(self, offset: int, words: str) -> None:
        """Note what is wrong at ``offset``."""
        self.problems.append((offset, f"{self._document.at(offset)}: {words}"))

    def take(self, event: yaml.Event) -> None:
        """Take one event. Raises _Stop when nothing after it matters."""
        start = event.start_mark.index if event.start_mark is not None else 0
        end = event.end_mark.index if event.end_mark is not None else start
        if getattr(event, "tag", None) is not None:
            self.refuse(start, "tags (!name) are not used here; quote a value to make it text")
        match event:
            case yaml.ScalarEvent():
                style = event.style if event.style in ("'", '"', "|", ">") else ""
                self._scalar(Scalar(event.value, start, end, style), event.anchor)
            case yaml.MappingStartEvent():
                self._push(Section(start), event.anchor)
            case yaml.SequenceStartEvent():
                self._push(Items(start), event.anchor)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._pop()
            case yaml.AliasEvent():
                self._alias(str(event.anchor), start)
            case yaml.DocumentStartEvent() if self.root is not None:
                self.refuse(start, "a second document starts here; one file holds one")
                raise _Stop
            case _:
                pass  # stream and document bounds carry nothing

    def _scalar(self, scalar: Scalar, anchor: str | None) -> None:
        self._count(1, scalar.start)
        if anchor is not None:
            self._anchors[anchor] = (scalar, 1)
        parent = self._open[-1][0] if self._open else None
        if isinstance(parent, Section) and self._keys[-1] is None:
            self._key(scalar, parent)
        else:
            self._add(scalar)

    def _key(self, scalar: Scalar, section: Section) -> None:
        if scalar.text == "<<" and scalar.style == "":
            self.refuse(scalar.start, 'merge keys ("<<") are not used here; write the keys out')
        elif scalar.text in section.entries:
            line, _ = self._document.position(section.keys[scalar.text])
            self.refuse(scalar.start, f"the key {quoted(scalar.text)} stands here again; it is "
                        f"already on line {line}")  # fmt: skip
        self._keys[-1] = (scalar.text, scalar.start)

    def _push(self, node: Section | Items, anchor: str | None) -> None:
        self._count(1, node.start)
        self._value_only(node.start)
        if len(self._open) >= DEPTH_MAX:
            self.refuse(node.start, f"this is nested more than {DEPTH_MAX} deep")
            raise _Stop
        if anchor is not None:
            self._anchors[anchor] = None  # not complete before its end
        self._open.append((node, anchor, self._nodes - 1))
        self._keys.append(None)

    def _pop(self) -> None:
        node, anchor, nodes_before = self._open.pop()
        self._keys.pop()
        if anchor is not None:
            self._anchors[anchor] = (node, self._nodes - nodes_before)
        self._add(node)

    def _alias(self, anchor: str, start: int) -> None:
        self._value_only(start)
        if anchor not in self._anchors:
            self.refuse(start, f"there is no anchor &{anchor} before this alias")
            raise _Stop
        anchored = self._anchors[anchor]
        if anchored is None:
            self.refuse(start, f"the alias *{anchor} stands inside what it names")
            raise _Stop
        node, nodes = anchored
        self._count(nodes, start)
        self._add(node)

    def _value_only(self, start: int) -> None:
        if self._open and isinstance(self._open[-1][0], Section) and self._keys[-1] is None:
            self.refuse(start, "a key must be plain text")
            raise _Stop

    def _count(self, nodes: int, start: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            self.refuse(start, f"with its aliases written out, this has over {NODES_MAX} values")
            raise _Stop

    def _add(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1][0]
        if isinstance(parent, Items):
            parent.items.append(node)
            return
        key = self._keys[-1]
        if key is not None and key[0] not in parent.entries:
            parent.entries[key[0]] = node
            parent.keys[key[0]] = key[1]
        self._keys[-1] = None


def quoted(text: str) -> str:
    """``text`` in double quotes for a one-line message: short, and without control characters."""
    shown = text if len(text) <= 60 else text[:57] + "…"
    return '"' + "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}"
                         for char in shown) + '"'  # fmt: skip


def source_offset(document: Document, scalar: Scalar, offset: int) -> int:
    """Where in the document the character at ``offset`` of ``scalar.text`` was written.

    YAML folds, indents and escapes; text that differs from its source is laid beside it: what is
    not white space is the same on both sides, in the same order. White space that folding made up
    points to the white space it was made from.
    """
    written = list(_written(document.text, scalar))
    value = scalar.text
    if offset >= len(value) > 0:
        return source_offset(document, scalar, len(value) - 1) + 1
    here = 0
    placed = written[0][1] if written else scalar.start
    index = 0
    while index < len(value):
        end = index
        while end < len(value) and value[end].isspace():
            end += 1
        stop = here
        while stop < len(written) and written[stop][0].isspace():
            stop += 1
        if offset < end:
            return _white_offset(value[index:end], written[here:stop], offset - index, placed)
        if stop == len(written):
            break  # the two do not fit together: as near as it gets
        if offset == end:
            return written[stop][1]
        placed = written[stop][1] + 1
        here, index = stop + 1, end + 1
    return placed


def _white_offset(value: str, written: list[tuple[str, int]], wanted: int, before: int) -> int:
    """The place of ``value[wanted]``, one of a run of white space; both runs end at one place."""
    stand = len(written)
    for index in range(len(value) - 1, wanted - 1, -1):
        found = stand - 1
        while found >= 0 and written[found][0] != value[index]:
            found -= 1
        stand = found if found >= 0 else max(stand - 1, 0)
    return written[stand][1] if stand < len(written) else before


def _written(text: str, scalar: Scalar) -> Iterator[tuple[str, int]]:
    """The characters of the source that can become part of the value, each with its offset."""
    start, end = scalar.start, scalar.end
    match scalar.style:
        case "'":
            index = start + 1
            while index < end - 1:
                yield text[index], index
                index += 2 if text.startswith("''", index) else 1
        case '"':
            yield from _unescaped(text, start + 1, end - 1)
        case "|" | ">":
            first = text.find("\n", start, end) + 1
            yield from ((text[index], index) for index in range(first or end, end))
        case _:
            yield from ((text[index], index) for index in range(start, end))


def _unescaped(text: str, index: int, end: int) -> Iterator[tuple[str, int]]:
    while index < end:
        char = text[index]
        if char != "\\":
            yield char, index
            index += 1
            continue
        kind = text[index + 1]
        digits = _HEX_ESCAPES.get(kind, 0)
        if digits:
            yield chr(int(text[index + 2 : index + 2 + digits], 16)), index
        elif kind != "\n":  # an escaped line break joins its lines without a trace
            yield _ESCAPES[kind], index
        index += 2 + digits
