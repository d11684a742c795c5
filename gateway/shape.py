"""The shape of a configuration: which keys a pydantic model has, and what each takes, in words.

Owns: reading that off the models, and writing it down: the rows of the reference, the JSON Schema.
Does not know: which keys there are, any YAML, any value.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.yamltext import quoted

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
    one, the only variant is ``""``. ``short`` is the key whose value alone may stand for the whole
    section; ``""``: there is none."""

    tag: str | None
    variants: dict[str, dict[str, tuple[Shape, FieldInfo]]]
    short: str = ""

    def variant(self, name: str | None) -> dict[str, tuple[Shape, FieldInfo]]:
        """The keys of the variant ``name``; every variant's where that is none of them."""
        if name is not None and name in self.variants:
            return self.variants[name]
        return {key: value for keys in self.variants.values() for key, value in keys.items()}


Shape = Leaf | Names | Sequence | Keys

_TEXT: Final = Words("text")
ANY: Final = Leaf(_TEXT)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the configuration reference."""

    path: str
    type: str
    default: str
    meaning: str


def shape_of(model: type[BaseModel]) -> Keys:
    """The shape of ``model``."""
    return Keys(None, {"": _keys(model)}, getattr(model, "short", ""))


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
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        choices = tuple(str(choice.value) for choice in annotation)
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
        return f" from {_amount(low)} to {_amount(high)}"
    lower = f"at least {low}" if low is not None else f"over {above}" if above is not None else ""
    upper = f"at most {high}" if high is not None else ""
    both = " and ".join(part for part in (lower, upper) if part)
    return f", {both}" if both else ""


def rows(shape: Keys, prefix: str = "") -> Iterator[Row]:
    """The reference of every key below ``shape``, in the order of the models."""
    for name in shape.variant(None):
        holders = [kind for kind, keys in shape.variants.items() if name in keys]
        below, info = shape.variants[holders[0]][name]
        path = f"{prefix}{name}"
        meaning = info.description or ""
        if len(holders) < len(shape.variants):
            meaning = f"{meaning} Only with kind {', '.join(holders)}."
        yield Row(path, _types_words(name, holders, shape), _default_words(info), meaning)
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
        kinds.setdefault(type_words(shape.variants[kind][name][0]), []).append(kind)
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in kinds.items())


def type_words(shape: Shape) -> str:
    """What a value of ``shape`` must be, for the reference."""
    match shape:
        case Leaf(words=words):
            return words.words
        case Keys(short=""):
            return "a section"
        case Keys(short=short):
            return f"a section, or its {short} alone"
        case Names(value=value):
            return f"names, each {type_words(value)}"
        case Sequence(item=item):
            return f"list, each {type_words(item)}"


def _default_words(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "required"
    if default is None or isinstance(default, BaseModel) or default == {}:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return f"[{', '.join(quoted(str(item)) for item in default)}]"
    return str(default) if isinstance(default, str) else _amount(default)


def _amount(number: Any) -> str:
    """``number`` in digits; a round number of bytes also as one that can be read."""
    for unit, size in (("GiB", 1024 * _MIB), ("MiB", _MIB)):
        if number >= size and number % size == 0:
            return f"{number} ({number // size} {unit})"
    return f"{number:g}" if isinstance(number, float) else str(number)


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a file for ``model``: what is not any text may also be a ``${NAME}``."""
    schema = _schema(model.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in schema.items():
        # Below these, keys are names and not keywords.
        if key in ("properties", "patternProperties", "$defs"):
            changed[key] = {name: _schema(each) for name, each in value.items()}
        elif isinstance(value, dict) and key not in ("default", "propertyNames"):
            changed[key] = _schema(value)
        elif key in {"anyOf", "oneOf"}:
            changed[key] = [_schema(each) for each in value]
        elif key != "title":  # pydantic's titles only repeat the names
            changed[key] = value
    if "patternProperties" in changed:  # names of the user's own, which must be like that
        changed["additionalProperties"] = False
    narrow = changed.get("type") in ("integer", "number", "boolean")
    if narrow or "enum" in changed or "pattern" in changed:
        moved = {key: changed.pop(key) for key in list(changed) if key not in _NOTES}
        changed["anyOf"] = [moved, {"type": "string", "pattern": r"\$\{.+\}"}]
    return changed


_NOTES: Final = frozenset({"description", "default"})
