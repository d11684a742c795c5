"""What stands in a YAML document, laid beside the pydantic models it should fit.

Owns: the shape of a configuration (its keys, what each takes), replacing ``${NAME}``, unknown keys
and the nearest known one, every sentence about a value that does not fit, the table of all keys.
Does not know: which keys there are.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.errors import ConfigError
from gateway.yamltext import Document, Items, Node, Scalar, Section, Written, quoted

KeyPath = tuple[str | int, ...]

_VARIABLE: Final = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Words:
    """Put on a type with ``Annotated``: what a value must be, in words that follow "must be".

    ``shown``: whether a message may repeat a wrong value. ``literal``: a scalar is handed to the
    type as ``Written``, variables not replaced.
    """

    words: str
    shown: bool = False
    literal: bool = False


@dataclass(frozen=True, slots=True)
class Leaf:
    """A single value."""

    words: Words
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Names:
    """A mapping from names that the user chooses, and what they must be, to values of one shape."""

    name: Words
    value: Shape


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of values of one shape."""

    item: Shape


@dataclass(frozen=True, slots=True)
class Keys:
    """A section of known keys, by variant: ``tag`` is the key that tells variants apart; without
    one, the only variant is ``""``."""

    tag: str | None
    variants: dict[str, dict[str, tuple[Shape, FieldInfo]]]

    def variant(self, name: str | None) -> dict[str, tuple[Shape, FieldInfo]]:
        """The keys of the variant ``name``; every variant's where that is none of them."""
        if name is not None and name in self.variants:
            return self.variants[name]
        return {key: value for keys in self.variants.values() for key, value in keys.items()}


Shape = Leaf | Names | Sequence | Keys

_TEXT: Final = Words("text")
_ANY: Final = Leaf(_TEXT)
_SHAPE_WORDS: Final[dict[type, str]] = {
    Names: "a section (names, each with its own keys below it)",
    Keys: "a section (lines of key: value)",
    Sequence: "a list ([a, b], or a line with a dash for each)",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the configuration reference."""

    path: str
    type: str
    default: str
    meaning: str


def shape_of(model: type[BaseModel]) -> Keys:
    """The shape of ``model``."""
    return Keys(None, {"": _keys(model)})


def _keys(model: type[BaseModel]) -> dict[str, tuple[Shape, FieldInfo]]:
    return {
        name: (_shape(info.annotation, tuple(info.metadata)), info)
        for name, info in model.model_fields.items()
    }


def _shape(annotation: Any, metadata: tuple[Any, ...]) -> Shape:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        tags = [part.discriminator for part in arguments[1:] if isinstance(part, FieldInfo)]
        if tags and tags[0] is not None:
            return _tagged(typing.get_args(arguments[0]), str(tags[0]))
        return _shape(arguments[0], (*metadata, *arguments[1:]))
    if origin in (typing.Union, types.UnionType):
        (some,) = (part for part in arguments if part is not type(None))
        return _shape(some, metadata)
    words = next((part for part in metadata if isinstance(part, Words)), None)
    if words is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return shape_of(annotation)
    if words is None and origin is dict:
        name = _shape(arguments[0], ())
        return Names(name.words if isinstance(name, Leaf) else _TEXT, _shape(arguments[1], ()))
    if words is None and origin is tuple:
        return Sequence(_shape(arguments[0], ()))
    choices = tuple(str(choice) for choice in arguments) if origin is Literal else ()
    if choices:
        words = Words(f"one of {', '.join(choices)}", shown=True)
    return Leaf(words or _scalar_words(annotation, metadata), choices)


def _tagged(models: tuple[type[BaseModel], ...], tag: str) -> Keys:
    variants = {}
    for model in models:
        keys = _keys(model)
        (choice,) = typing.get_args(model.model_fields[tag].annotation)
        variants[str(choice)] = keys
    kind = Leaf(Words(f"one of {', '.join(variants)}", shown=True), tuple(variants))
    return Keys(
        tag, {name: {tag: (kind, keys.pop(tag)[1]), **keys} for name, keys in variants.items()}
    )


def _scalar_words(annotation: Any, metadata: tuple[Any, ...]) -> Words:
    if annotation is bool:
        return Words("true or false", shown=True)
    if annotation in (int, float):
        noun = "a whole number" if annotation is int else "a number"
        return Words(noun + _range_words(metadata), shown=True)
    return _TEXT


def _range_words(metadata: tuple[Any, ...]) -> str:
    low, above, high = None, None, None
    for part in metadata:
        match part:
            case annotated_types.Ge(ge=bound):
                low = bound
            case annotated_types.Gt(gt=bound):
                above = bound
            case annotated_types.Le(le=bound):
                high = bound
            case _:
                pass  # says nothing of the range
    if low is not None and high is not None:
        return f" from {low} to {high}"
    lower = f"at least {low}" if low is not None else f"over {above}" if above is not None else ""
    upper = f"at most {high}" if high is not None else ""
    both = " and ".join(part for part in (lower, upper) if part)
    return f", {both}" if both else ""


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
            where = f"{dotted(path)}: " if path else ""
            line = f"{self.document.at(offset)}: {where}{words}"
            self._found.setdefault((offset, str(path[-1:]), words), line)

    def spoil(self, offset: int, path: KeyPath, words: str) -> None:
        """Like ``add``; whatever else is found wrong with this value follows from this."""
        self.add(offset, path, words)
        self._spoilt.add(offset)

    def raise_any(self) -> None:
        """Raise ConfigError if there is a problem."""
        if self._found:
            in_order = sorted(self._found.items(), key=lambda item: item[0][0])
            raise ConfigError([line for _, line in in_order])


def dotted(path: KeyPath) -> str:
    """``("keys", 0, "name")`` as ``keys[0].name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def did_you_mean(word: str, known: list[str]) -> str:
    """``; did you mean "x"?`` for the nearest of ``known``; nothing where none is near."""
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {quoted(near[0])}?" if near else ""


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
            if isinstance(shape, Leaf) and shape.words.literal:
                return Written(self._problems.document, node)
            return self._replaced(node, path)
        if isinstance(node, Items):
            item = shape.item if isinstance(shape, Sequence) else _ANY
            return [self.node(each, item, (*path, n)) for n, each in enumerate(node.items)]
        if isinstance(shape, Keys):
            return self._section(node, shape, path)
        value = shape.value if isinstance(shape, Names) else _ANY
        return {key: self.node(each, value, (*path, key)) for key, each in node.entries.items()}

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
            return _ANY


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
            return place.key, f"is missing; it is {_type_words(choices)}"
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


def rows(shape: Keys, prefix: str = "") -> Iterator[Row]:
    """The reference of every key below ``shape``, in the order of the models."""
    for name in shape.variant(None):
        holders = [kind for kind, keys in shape.variants.items() if name in keys]
        below, info = shape.variants[holders[0]][name]
        path = f"{prefix}{name}"
        meaning = info.description or ""
        if len(holders) < len(shape.variants):
            meaning = f"{meaning} Only with kind {', '.join(holders)}."
        yield Row(path, _types_words(name, holders, shape), _default_words(name, info), meaning)
        yield from _rows_below(below, path)


def _rows_below(shape: Shape, path: str) -> Iterator[Row]:
    match shape:
        case Keys():
            yield from rows(shape, f"{path}.")
        case Names(value=value):
            yield from _rows_below(value, f"{path}.<name>")
        case Sequence(item=item):
            yield from _rows_below(item, f"{path}[]")
        case Leaf():
            pass


def _types_words(name: str, holders: list[str], shape: Keys) -> str:
    kinds: dict[str, list[str]] = {}
    for kind in holders:
        kinds.setdefault(_type_words(shape.variants[kind][name][0]), []).append(kind)
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in kinds.items())


def _type_words(shape: Shape) -> str:
    match shape:
        case Leaf(words=words):
            return words.words
        case Keys():
            return "a section"
        case Names(value=value):
            return f"names, each {_type_words(value)}"
        case Sequence(item=item):
            return f"list, each {_type_words(item)}"


def _default_words(name: str, info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "required"
    if default is None or isinstance(default, BaseModel) or default == {}:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return f"[{', '.join(quoted(str(item)) for item in default)}]"
    if "bytes" in name and default % _MIB == 0:
        return f"{default} ({default // _MIB} MiB)"
    return str(default)


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a file for ``model``: numbers and switches may also be a ``${NAME}``."""
    schema = model.model_json_schema()
    _allow_variables(schema)
    return schema


def _allow_variables(schema: Any) -> None:
    if isinstance(schema, list):
        for item in schema:
            _allow_variables(item)
    elif isinstance(schema, dict):
        for item in list(schema.values()):
            _allow_variables(item)
        if schema.get("type") in ("integer", "number", "boolean"):
            moved = {key: schema.pop(key) for key in list(schema) if key not in _NOTES}
            schema["anyOf"] = [moved, {"type": "string", "pattern": r"\$\{.+\}"}]


_NOTES: Final = frozenset({"title", "description", "default"})
