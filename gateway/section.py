"""What all sections of the configuration have in common.

Owns: their base class, and units that their bounds are written in.
Does not know: any section.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
DAY_S: Final = 86_400


class Section(BaseModel):
    """What all sections have in common."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    #: The key whose value alone may stand for the whole section; ``""``: there is none.
    short: ClassVar[str] = ""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The section, or the value of its short key alone."""
        schema = handler(core_schema)
        if cls.short:
            section = handler.resolve_ref_schema(schema)
            full = dict(section)
            section.clear()
            section["anyOf"] = [full["properties"][cls.short], full]
        return schema
