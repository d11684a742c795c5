"""The plain JSON of plain observations, made without the engine.

What it is says ``transforms/observation_to_json.jsonata``. Most observations have but entities with
a label and a scalar or a text, and of these it is the same, made here in a fraction of the time;
whatever is more than that is left to the expression.

Owns: which observations are so, and what their entities come to.
Does not know: when this is asked for, or who evaluates the expression.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

#: From this length on it is not worth holding up the loop for.
_BYTES_MAX: Final = 64 * 1024
#: The engine's numbers are doubles: beyond, it loses digits.
_INTEGER_MAX: Final = 2**53

_Scalar = str | int | float | bool | None


class _Data(Struct, rename="camel"):
    date_data: _Scalar = None
    number_data: _Scalar = None
    quantity_data: _Scalar = None
    unit_data: _Scalar = None
    text_data: _Scalar = None
    date_value: _Scalar = None
    number_value: _Scalar = None
    quantity_value: _Scalar = None
    unit_value: _Scalar = None
    text_value: _Scalar = None


class _Block(Struct):
    text: str | None = None


class _Entity(Struct):
    label: str | None = None
    type: str | None = None
    data: _Data | None = None
    block: _Block | None = None


class _Document(Struct, rename="camel"):
    entities: list[_Entity] | None = None
    key_value_set: None = None
    tables: None = None


class _Page(Struct):
    document: _Document | None = None


class _Content(Struct, rename="camel"):
    document_pages: list[_Page] | None = None


class _Observation(Struct, rename="camel"):
    media_contents: list[_Content] | None = None


_READ: Final = msgspec.json.Decoder(_Observation)
#: Which data counts first for each type of entity.
_OF_TYPE: Final = {
    "STRING": ("text_data", "text_value"),
    "NUMBER": ("number_data", "number_value"),
    "PERCENTAGE": ("number_data", "number_value"),
    "QUANTITY": ("quantity_data", "quantity_value"),
    "UNIT": ("unit_data", "unit_value"),
    "DATE": ("date_data", "date_value"),
}


def plain_json(observation: bytes) -> bytes | None:
    """The JSON view of ``observation``; ``None``: only the expression can tell it."""
    if len(observation) > _BYTES_MAX:
        return None
    try:
        contents = _READ.decode(observation).media_contents
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found: dict[str, Any] = {}
    several: set[str] = set()
    for content in contents or ():
        for page in content.document_pages or ():
            for entity in (page.document and page.document.entities) or ():
                if not (label := entity.label):
                    continue
                value = _value(entity)
                if value is None or (type(value) is int and abs(value) > _INTEGER_MAX):
                    return None
                if label not in found:
                    found[label] = value
                elif label in several:
                    found[label].append(value)
                else:
                    found[label] = [found[label], value]
                    several.add(label)
    return msgspec.json.encode(found)


def _value(entity: _Entity) -> _Scalar:
    """What the entity comes to; ``None``: nothing that is told here."""
    data = entity.data
    if data is not None:
        names = (*_OF_TYPE.get(entity.type or "", ()), *_Data.__struct_fields__)
        for name in names:
            if (value := getattr(data, name)) is not None:
                return value  # type: ignore[no-any-return]
    return None if entity.block is None else entity.block.text
