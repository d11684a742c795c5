"""What stands in a YAML document, laid beside the shape it should have.

Owns: replacing ``${NAME}``, unknown keys and the nearest known one, every sentence about a value
that does not fit.
Does not know: which keys there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from pydantic import ValidationError

from gateway.shape import ANY, Keys, Leaf, Names, Sequence, Shape, Words, type_words
from gateway.yamltext import Document, Items, Node, Scalar, Section, Written, quoted

KeyPath = tuple[str | int, ...]

_SHAPE_WORDS: Final[dict[type, str]] = {
    Names: "a section (names, each with its own keys below it)",
    Keys: "a section (lines of key: value)",
    Sequence: "a list ([a, b], or a line with a dash for each)",
}
#: Names of the user's own that one message lists.
_LISTED_MAX: Final = 12
_VARIABLE: Final = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")


@dataclass(slots=True)
class Problems:
    """What is wrong with one document: each problem once, in the order of the file."""

    document: Document
    _found: dict[tuple[int, str, str], str] = field(default_factory=dict)
    _spoilt: set[int] = field(default_factory=set)

    def add(self, offset: int, path: KeyPath, words: str) -> None:
        """Note that ``path``, written at ``offset``, is wrong. Only the first path is named of
        those that an alias brings to one place; nothing more is said of a value that was
        spoilt before."""
        if offset not in self._spoilt:
            where = f"{_shown(dotted(path))}: " if path else ""
            line = f"{self.document.at(offset)}: {where}{words}"
            self._found.setdefault((offset, str(path[-1:]), words), line)

    def spoil(self, offset: int, path: KeyPath, words: str) -> None:
        """Like ``add``; whatever else is found wrong with this value follows from this."""
        self.add(offset, path, words)
        self._spoilt.add(offset)

    def lines(self) -> list[str]:
        """Each problem, in the order of the file."""
        return [line for _, line in sorted(self._found.items(), key=lambda item: item[0][0])]


def dotted(path: KeyPath) -> str:
    """``("keys", 0, "name")`` as ``keys[0].name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(text: str) -> str:
    """``text``, which cannot end the line that it stands in."""
    return text if text.isprintable() else quoted(text)


def did_you_mean(word: str, known: list[str], suffix: str = "") -> str:
    """``; did you mean "x"?`` for the nearest of ``known``; nothing where none is near.

    ``suffix`` ends every known word, and counts for nothing when they are compared.
    """
    stems = [each.removesuffix(suffix) for each in known]
    near = get_close_matches(word.removesuffix(suffix), stems, n=1)
    return f"; did you mean {quoted(near[0] + suffix)}?" if near else ""


def nearest(word: str, known: list[str]) -> str:
    """``; did you mean "x"?``, and where no name is near: which names there are."""
    listed = ", ".join(known[:_LISTED_MAX]) + (", …" if len(known) > _LISTED_MAX else "")
    return did_you_mean(word, known) or (f"; there are: {listed}" if known else "; there are none")


def plain(shape: Shape, environ: Mapping[str, str], problems: Problems) -> Any:
    """The document as dicts, lists and strings for pydantic to validate.

    Variables are replaced, unknown keys and keys without a value are left out; what is wrong so
    far is in ``problems``.
    """
    return _Plain(environ, problems).node(problems.document.root, shape, ())


class Replaced(str):
    """Text in which variables were replaced. ``written``: how it stands in the file, which is all
    of it that a message may show."""

    written: str

    def __new__(cls, value: str, written: str) -> Replaced:
        """``value`` as text that remembers ``written``."""
        text = super().__new__(cls, value)
        text.written = written
        return text


def as_written(text: str) -> str:
    """``text`` as it stands in the file."""
    return text.written if isinstance(text, Replaced) else text


class _Plain:
    def __init__(self, environ: Mapping[str, str], problems: Problems) -> None:
        self._environ = environ
        self._problems = problems

    def node(self, node: Node, shape: Shape, path: KeyPath) -> Any:
        if isinstance(node, Scalar):
            if node.null:
                return None
            if isinstance(shape, Keys) and shape.short:
                return self._short(node, shape, path)
            if isinstance(shape, Leaf) and shape.words.literal:
                return Written(self._problems.document, node)
            return self._replaced(node, path)
        if isinstance(node, Items):
            if isinstance(shape, Keys) and shape.short:
                return self._short(node, shape, path)
            item = shape.item if isinstance(shape, Sequence) else ANY
            return [self.node(each, item, (*path, n)) for n, each in enumerate(node.items)]
        if isinstance(shape, Keys):
            return self._section(node, shape, path)
        value = shape.value if isinstance(shape, Names) else ANY
        return {key: self.node(each, value, (*path, key)) for key, each in node.entries.items()}

    def _short(self, node: Node, shape: Keys, path: KeyPath) -> dict[str, Any]:
        """A section of which only the value of its short key is written."""
        return {shape.short: self.node(node, shape.variant(None)[shape.short][0], path)}

    def _section(self, node: Section, shape: Keys, path: KeyPath) -> dict[str, Any]:
        tag = node.entries.get(shape.tag) if shape.tag is not None else None
        kind = replace(tag.text, self._environ)[0] if isinstance(tag, Scalar) else ""
        known = shape.variant(kind)
        values = {}
        for key, child in node.entries.items():
            if key not in known:
                self._problems.add(node.keys[key], (*path, key), _unknown(key, kind, shape))
            elif not (isinstance(child, Scalar) and child.null):
                values[key] = self.node(child, known[key][0], (*path, key))
        return values

    def _replaced(self, scalar: Scalar, path: KeyPath) -> str:
        value, wrong = replace(scalar.text, self._environ)
        if wrong:
            self._problems.spoil(scalar.start, path, wrong)
        return value if value == scalar.text else Replaced(value, scalar.text)


def replace(text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """``text`` with its variables replaced, and what is wrong with them in words (or ``""``)."""
    if "${" not in text:
        return text, ""
    unset: list[str] = []
    unreadable: list[str] = []

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, default = match[1], match[2]
        if name is None:
            unreadable.append(match[0])
        elif default is not None:
            return environ.get(name) or str(default)
        elif name in environ:
            return environ[name]
        else:
            unset.append(name)
        return match[0]

    replaced = _VARIABLE.sub(value, text)
    if unreadable:
        return text, "${…} is ${NAME} or ${NAME:-default}; for the two characters write $${"
    if unset:
        names = " and ".join(dict.fromkeys(unset))
        many = "variables" if len(set(unset)) > 1 else "variable"
        return text, f"the environment {many} {names} must be set (or write ${{NAME:-default}})"
    return replaced, ""


def _unknown(key: str, kind: str, shape: Keys) -> str:
    known = shape.variant(kind)
    others = [name for name, keys in shape.variants.items() if key in keys]
    if others:
        return f"an upstream of kind {quoted(kind)} takes no such key (only {', '.join(others)})"
    near = did_you_mean(key, list(known))
    if not near:
        deeper = [
            f"{name}.{key}"
            for name, (below, _) in known.items()
            if isinstance(below, Keys) and key in below.variant(None)
        ]
        near = f"; did you mean {quoted(deeper[0])}?" if deeper else ""
    return "unknown key" + (near or f"; known here: {', '.join(known)}")


def explain(error: ValidationError, shape: Shape, problems: Problems) -> None:
    """Put every error that pydantic found into ``problems``, in words, where it stands."""
    for each in error.errors(include_url=False, include_input=False):
        place = _find(problems.document.root, shape, each["loc"])
        offset, words = _sentence(each["type"], each.get("ctx", {}), place)
        problems.add(offset, place.path, words)


@dataclass(slots=True)
class _Place:
    """Where an error's location leads: ``key`` is the offset of the last key on the way."""

    node: Node | None
    shape: Shape | Words  # Words: the key itself is meant, not its value
    path: KeyPath
    key: int


def _find(root: Node, shape: Shape, loc: tuple[str | int, ...]) -> _Place:
    place = _Place(root, shape, (), 0)
    of_key = loc[-1:] == ("[key]",)
    for part in loc[:-1] if of_key else loc:
        node, around = place.node, place.shape
        if isinstance(around, Keys) and around.tag is not None and part in around.variants:
            # Pydantic names the variant on the way; the file does not.
            place.shape = Keys(None, {"": around.variants[str(part)]})
            continue
        if isinstance(around, Keys) and part == around.short and not isinstance(node, Section):
            place.shape = _below(around, part, of_key=False)  # nor does it name a short key
            continue
        place.path = (*place.path, part)
        place.shape = _below(around, part, of_key=of_key)
        place.node = None
        if isinstance(node, Section) and part in node.entries:
            place.node, place.key = node.entries[str(part)], node.keys[str(part)]
        elif isinstance(node, Items) and isinstance(part, int):
            place.node = node.items[part]
            place.key = place.node.start
    return place


def _below(shape: Shape | Words, part: str | int, *, of_key: bool) -> Shape | Words:
    match shape:
        case Keys() if str(part) in shape.variant(None):
            return shape.variant(None)[str(part)][0]
        case Names(name=name, value=value):
            return name if of_key else value
        case Sequence(item=item):
            return item
        case _:
            return ANY


def _sentence(kind: str, context: Mapping[str, Any], place: _Place) -> tuple[int, str]:
    """The offset and the words for pydantic's error type ``kind`` at ``place``."""
    node, shape = place.node, place.shape
    if isinstance(shape, Words):
        return place.key, f"must be {shape.words}"
    if isinstance(shape, Keys) and shape.tag is not None and kind.startswith("union_tag"):
        place.path = (*place.path, shape.tag)
        choices = shape.variant(None)[shape.tag][0]
        tag = node.entries.get(shape.tag) if isinstance(node, Section) else None
        if tag is None:
            return place.key, f"is missing; it is {type_words(choices)}"
        return tag.start, _unfit("literal_error", context, tag, choices)
    if node is None:
        return place.key, "is missing"
    if isinstance(node, Scalar) and node.null:
        return place.key, "has no value"
    return node.start, _unfit(kind, context, node, shape)


def _unfit(kind: str, context: Mapping[str, Any], node: Node, shape: Shape) -> str:
    """Why the value ``node`` does not fit ``shape``."""
    shown = isinstance(shape, Leaf) and shape.words.shown
    if kind == "value_error":
        value = f"{quoted(node.text)} " if shown and isinstance(node, Scalar) else ""
        return f"{value}{context['error']}"
    if kind == "string_too_short":
        return "must not be empty"
    if not isinstance(shape, Leaf):
        return f"must be {_SHAPE_WORDS[type(shape)]}"
    words = f"must be {shape.words.words}"
    if isinstance(node, Scalar) and shown:
        words += f", not {quoted(node.text)}"
        words += did_you_mean(node.text, list(shape.choices))
    return words
