"""Errors, as the document and README.md describe them.

Owns: what each code means, under which statuses it comes, and the answers that say so.
Does not know: which call can fail in which way (``describing``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.errors import STATUS, Code, GatewayError
from gateway.openapi.parts import JSON, Json, record, ref, text

#: What happened, and what to do.
MEANINGS: Final = {
    "bad_request": "the request is not as the dialect has it; the message says where",
    "unauthorized": "no key, or an unknown one",
    "forbidden": "the key does not open this pipeline",
    "not_found": "no such path, pipeline, execution, file or webhook",
    "method_not_allowed": "`Allow` names the method",
    "request_timeout": "the request's head or body came too slowly",
    "too_large": "over `body_bytes_max`, `parts_max` or `executions.media_bytes_max`",
    "unsupported_media_type": "compressed in a way that is not gzip or deflate, or a form where "
    "the call takes none",
    "not_supported": "a field or model that this route cannot honour, or a call on executions "
    "where none are kept",
    "transform_invalid": "the client's expression does not parse; the message has line and column",
    "transform_limit": "the client's expression went over a bound",
    "transform_failed": "an expression failed on the data: the client's own (400), or the route's "
    "(500, naming pipeline and stage)",
    "upstream_unreachable": "no connection to the upstream",
    "upstream_failed": "it failed, broke off, or refused the gateway's own key",
    "upstream_invalid": "its answer cannot be read, or is too long",
    "upstream_rejected": "it finds fault with the request itself",
    "upstream_busy": "it asks to come back later; `Retry-After` is passed on",
    "upstream_unavailable": "it has failed too often and is left alone for a moment; "
    "`Retry-After` says how long",
    "upstream_timeout": "one of the route's `timeouts` ran out; the message names it",
    "rate_limited": "the key has reached a limit of its own, which the message names; "
    "`Retry-After` says when to come back",
    "overloaded": "a queue of the gateway's own is full; `Retry-After` says when to come back",
    "conflict": "what is asked for does not go with what the execution holds or does now",
    "gone": "the events after `Last-Event-ID` are not all kept any more: attach from the "
    "beginning, or read the observation; or what a transient execution found",
    "store_unavailable": "where executions are kept does not answer; `Retry-After` says when to "
    "try again",
    "store_full": "where executions are kept is full",
    "shutting_down": "the gateway was told to stop before the request was done; ask another "
    "replica",
    "internal": "a fault of the gateway; its log says more under the request's ID",
}
#: Codes that come with other statuses than their usual one, too.
_ALSO: Final = {
    Code.BAD_REQUEST: (417,),
    Code.TRANSFORM_FAILED: (400,),
    Code.UPSTREAM_REJECTED: (413,),
    Code.UPSTREAM_BUSY: (429,),
}
_TITLES: Final = {
    400: "The request cannot be served as it is.",
    401: "No key, or an unknown one.",
    403: "The key does not open this pipeline.",
    404: "There is no such thing, or not for this key.",
    405: "The path is there, but not with this method.",
    408: "The request came too slowly.",
    409: "It does not go with what is there.",
    410: "It is not kept any more.",
    413: "The request is too long.",
    415: "The request is of a kind that this call does not take.",
    417: "`Expect` asks for what is not understood.",
    429: "Too much was asked for; come back later.",
    500: "The gateway, or an expression of its configuration, has failed.",
    502: "The upstream has failed.",
    503: "Not now; come back later.",
    504: "The upstream did not answer in time.",
    507: "There is no room to keep it.",
}
_WAIT: Final = (429, 503)


def statuses(code: Code) -> tuple[int, ...]:
    """The statuses that a code comes with, the lowest first."""
    return tuple(sorted({STATUS[code], *_ALSO.get(code, ())}))


def codes(status: int) -> list[Code]:
    """The codes that a status comes with."""
    return [code for code in Code if status in statuses(code)]


def _name(code: Code) -> str:
    return GatewayError("", code=code).name


def _cambrion(listed: Iterable[Code]) -> Json:
    return record(
        {
            "code": {"enum": list(listed)},
            "message": text("What is wrong, and where; one sentence."),
            "name": text("Only where no dialect was known yet."),
        },
        "code",
        "message",
    )


def _pupau(listed: Iterable[Code]) -> Json:
    return record(
        {
            "name": {"enum": [_name(code) for code in listed]},
            "message": text("What is wrong, and where; one sentence."),
            "code": text("Only where no dialect was known yet."),
        },
        "name",
        "message",
    )


#: The schema of errors, by the dialect that tells them.
SCHEMAS: Final[dict[str, Json]] = {
    "CambrionError": _cambrion(Code)
    | {
        "description": "An error in Cambrion's dialect.",
        "examples": [{"code": "not_found", "message": 'there is no pipeline "invoices"'}],
    },
    "PupauError": _pupau(Code)
    | {
        "description": "An error in Pupau's dialect: the name is the code in capitals.",
        "examples": [{"name": "NotFound", "message": 'there is no pipeline "invoices"'}],
    },
}


def _answer(status: int, *, pupau: bool) -> Json:
    listed = codes(status)
    lines = [_TITLES[status], ""]
    lines += [f"- `{_name(code) if pupau else code}`: {MEANINGS[code]}" for code in listed]
    schema = _pupau(listed) if pupau else _cambrion(listed)
    headers = {"X-Request-Id": ref("X-Request-Id", "headers")}
    if status == 401:
        headers["WWW-Authenticate"] = ref("WWW-Authenticate", "headers")
    if status == 405:
        headers["Allow"] = ref("Allow", "headers")
    if status in _WAIT:
        headers["Retry-After"] = ref("Retry-After", "headers")
    if status == 429:
        headers |= {name: ref(name, "headers") for name in ("RateLimit-Policy", "RateLimit")}
    return {
        "description": "\n".join(lines),
        "headers": headers,
        "content": {JSON: {"schema": schema}},
    }


def answers() -> dict[str, Json]:
    """Every error as a component, ``Cambrion404`` and ``Pupau404``."""
    return {
        f"{dialect}{status}": _answer(status, pupau=dialect == "Pupau")
        for dialect in ("Cambrion", "Pupau")
        for status in _TITLES
        if codes(status)
    }


def failing(operation: Json, dialect: str, listed: Iterable[int]) -> Json:
    """``operation`` with the errors of these statuses among its answers."""
    errors = {
        str(status): ref(f"{dialect}{status}", "responses")
        for status in sorted(listed)
        if codes(status)
    }
    return operation | {"responses": operation["responses"] | errors}
