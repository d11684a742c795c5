"""What Schemathesis cannot know from a document alone; it loads this by SCHEMATHESIS_HOOKS.

Owns: texts that are JSONata and addresses that webhooks may have, refusals of requests that only
what the gateway holds makes wrong.
Does not know: any call.
"""

from __future__ import annotations

import re
from typing import Any

import schemathesis
from hypothesis import strategies

schemathesis.openapi.format(
    "jsonata",
    strategies.sampled_from(["$", "text", "mediaContents.rawText", "[1, 2]", '{"a": 1}', "$x"]),
)
schemathesis.openapi.format(
    "uri", strategies.sampled_from(["http://127.0.0.1:9/told", "http://127.0.0.1:9/?a=b"])
)

#: Of these no schema can tell that they will be refused.
_HELD = re.compile(
    rb"there is no (webhook|such execution)|hookId: it cannot be changed|"
    rb"can only be said of a new execution|holds no media and no observation|"
    rb"trySimpleText: pipeline \w+ runs on"
)


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure is one of the gateway."""
    kind = type(failure).__name__
    if kind == "RejectedPositiveData":
        return _HELD.search(response.content) is None
    # The parts of a form have no types: whatever is sent as a file is one.
    return not (kind == "AcceptedNegativeData" and case.media_type == "multipart/form-data")
