"""What was found in documents, as the document describes it.

Owns: the schemas of observations and their parts.
Does not know: the calls that they are sent and answered with.
"""

from __future__ import annotations

from typing import Final

from gateway.openapi.parts import Json, many, optional_text, record, ref, text

_SHARE: Final[Json] = {"type": "number", "description": "A share of the page, from 0 to 1."}
_NUMBER: Final[Json] = {"type": ["number", "null"]}
_MEDIA_ID: Final = optional_text(
    "The file that it was found in. With `idempotent` an entry takes the place of those with the "
    "same one."
)

#: An observation is kept and passed on as it came: what its parts are called is known, what else
#: stands in them is not looked at.
SCHEMAS: Final[dict[str, Json]] = {
    "Observation": record(
        {
            "executionId": {
                "description": "The execution that it belongs to, as text; what a request has here "
                "is passed over."
            },
            "mediaContents": {
                "type": ["array", "null"],
                "items": ref("MediaContent"),
                "description": "What was found in each file; grows with each run.",
            },
            "documents": {
                "type": ["array", "null"],
                "items": ref("FoundDocument"),
                "description": "What was made of several files together.",
            },
        },
        description="What runs have found on an execution, with where it stands on which page.",
    ),
    "MediaContent": record(
        {
            "mediaId": _MEDIA_ID,
            "id": {},
            "rawText": {"description": "Its whole text, without structure."},
            "documentPages": {"description": "A list of Page."},
            "codes": {"description": "Bar codes and the like."},
            "label": {"description": "What the file as a whole was taken for."},
        },
        description="What was found in one file. Fields that are not listed may be there too, and "
        "all but mediaId are as who found them wrote them.",
        examples=[
            {
                "id": "media-1",
                "mediaId": "media-1",
                "rawText": "Total 12.50",
                "documentPages": [
                    {
                        "page": 1,
                        "document": {
                            "id": "page-1",
                            "entities": [
                                {
                                    "id": "e-1",
                                    "block": {"text": "12.50"},
                                    "label": "total",
                                    "type": "NUMBER",
                                    "data": {"numberValue": 12.5},
                                }
                            ],
                        },
                    }
                ],
            }
        ],
    ),
    "FoundDocument": record(
        {"mediaId": _MEDIA_ID}, description="What was made of several files together."
    ),
    "Page": record(
        {
            "page": {"type": "integer", "description": "From 1."},
            "document": record(
                {
                    "id": text(),
                    "entities": many(ref("Entity")),
                    "tables": many(record({}, description="Rows of cells; may hold more tables.")),
                    "keyValueSet": record({}, description="Pairs of a key and a value."),
                }
            ),
        },
        description="One page as readers write it.",
    ),
    "Entity": record(
        {
            "id": text(),
            "label": optional_text("Its key in the plain JSON; without one it is left out there."),
            "type": optional_text("Which of its data counts: NUMBER, DATE, QUANTITY …"),
            "confidence": _NUMBER,
            "block": record(
                {
                    "text": optional_text("As it was read."),
                    "geometry": record({"boundingBox": ref("Box")}),
                }
            ),
            "data": record(
                {"textValue": optional_text(), "numberValue": _NUMBER, "dateValue": {}},
                description="What was understood, by kind; `…Data` before `…Value`.",
            ),
        },
        description="Something that was found on a page.",
    ),
    "Box": record(
        {"left": _SHARE, "top": _SHARE, "width": _SHARE, "height": _SHARE},
        description="Where something stands on its page.",
    ),
    "PlainJson": {
        "description": "An observation as plain JSON: labels become keys, and what they stand "
        "beside their values. A label that occurs more than once becomes a list, a table a list "
        "of objects. Pipelines can be configured to answer with other JSON.",
        "examples": [{"total": 12.5}],
    },
}
