"""What a webhook is told of, where and how, as its owner defines it.

A definition is kept as JSON with its secrets. A secret that was replaced signs on beside the new
one for a while, so that whoever verifies can change over without losing a message.

Owns: the fields of a definition, what each may hold, how it is shown; which of an execution's
webhooks fire for what.
Does not know: which addresses may be connected to (``hook_addresses``), what is sent
(``hook_payloads``), whether a transform can be compiled.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from gateway.dialects.wire import decode
from gateway.errors import RequestRejected
from gateway.executions.records import Delivery, Hook, HookEvent, Key, Status, checked_id

#: What a secret begins with; base64 of 24 to 64 bytes follows.
SECRET_PREFIX: Final = "whsec_"  # noqa: S105
ENDPOINT_CHARS_MAX: Final = 2048
_SECRET_BYTES: Final = (24, 64)
_TEXT_CHARS_MAX: Final = 256
_HEADERS_MAX: Final = 32
_HEADERS_BYTES_MAX: Final = 8192
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]")
_HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
     "te", "trailer", "transfer-encoding", "upgrade")
)  # fmt: skip
_OWN_HEADERS: Final = frozenset(
    ("host", "content-length", "content-type", "content-encoding", "accept-encoding", "expect",
     "x-execution-id", "x-execution-status", "x-hook-id", "x-hook-event")
)  # fmt: skip


class PayloadType(StrEnum):
    """What a webhook is sent: the observation, its JSON view, or the result of ``transform``; with
    FORM the JSON view, or that result, in a form beside the execution's media."""

    RAW = "RAW"
    JSON = "JSON"
    TRANSFORM = "TRANSFORM"
    FORM = "FORM"
    FORM_TRANSFORM = "FORM_TRANSFORM"

    @property
    def transforms(self) -> bool:
        """Whether it needs an expression."""
        return self in (PayloadType.TRANSFORM, PayloadType.FORM_TRANSFORM)


class HookType(StrEnum):
    """The only kind there is."""

    WEBHOOK = "WEBHOOK"


class Definition(Struct, frozen=True, rename="camel"):
    """What ``Hook.definition`` holds. ``status_filter``: empty for all. ``old_secret`` signs too
    until ``old_secret_until``, Unix seconds."""

    event_type: HookEvent
    endpoint: str
    secret: str
    name: str | None = None
    headers: dict[str, str] = {}
    status_filter: tuple[Status, ...] = ()
    payload_type: PayloadType = PayloadType.RAW
    transform: str | None = None
    form_payload_key: str = "payload"
    form_document_key: str = "documents"
    enabled: bool = True
    old_secret: str | None = None
    old_secret_until: float = 0.0


class Changed(NamedTuple):
    """A webhook as it is from now on; ``new_secret``: its owner has to be shown the secret."""

    hook: Hook
    new_secret: bool


class _Body(Struct, rename="camel", forbid_unknown_fields=True):
    """What is sent to make or change one. What GET shows may come back."""

    hook_id: str | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    event_type: HookEvent | UnsetType = UNSET
    hook_type: HookType | UnsetType | None = UNSET
    endpoint: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType | None = UNSET
    status_filter: list[Status] | UnsetType | None = UNSET
    payload_type: PayloadType | UnsetType | None = UNSET
    transform: str | UnsetType | None = UNSET
    form_payload_key: str | UnsetType | None = UNSET
    form_document_key: str | UnsetType | None = UNSET
    enabled: bool | UnsetType | None = UNSET
    created_at: str | UnsetType | None = UNSET
    secret: str | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(_Body)
_definitions = msgspec.json.Decoder(Definition)


def parse_hook(body: bytes, *, owner: str, now: float) -> Hook:
    """A new webhook of ``owner`` as ``body`` defines it; ``now``: Unix seconds. ID and secret are
    made where the body gives none.

    Neither the endpoint's address (``hook_addresses.checked_endpoint``) nor the transform's syntax
    has been checked. Raises RequestRejected (400), naming the field.
    """
    fields = decode(_decoder, body)
    hook_id = checked_id(fields.hook_id, "hookId") if fields.hook_id else secrets.token_hex(16)
    definition = _definition(fields, _given_secret(fields) or new_secret())
    return Hook(owner, hook_id, now, msgspec.json.encode(definition))


def changed_hook(old: Hook, body: bytes, now: float, rotation_s: float) -> Changed:
    """``old`` as ``body`` defines it now: whole, but for a secret that is left out, which stays.

    A secret that is replaced goes on signing until ``rotation_s`` after ``now``. Checked as by
    ``parse_hook``; raises RequestRejected (400), naming the field.
    """
    fields = decode(_decoder, body)
    if fields.hook_id and fields.hook_id != old.id:
        raise RequestRejected("hookId: it cannot be changed")
    before = definition_of(old)
    secret = _given_secret(fields) or before.secret
    definition = _definition(fields, secret)
    new = secret != before.secret
    if new:
        definition = replace(
            definition, old_secret=before.secret, old_secret_until=now + rotation_s
        )
    else:
        definition = replace(
            definition, old_secret=before.old_secret, old_secret_until=before.old_secret_until
        )
    return Changed(replace(old, definition=msgspec.json.encode(definition)), new)


def disabled_hook(hook: Hook) -> Hook:
    """``hook``, fired by nothing from now on."""
    definition = replace(definition_of(hook), enabled=False)
    return replace(hook, definition=msgspec.json.encode(definition))


def definition_of(hook: Hook) -> Definition:
    """What is kept of ``hook``, decoded."""
    return _definitions.decode(hook.definition)


def render_hook(hook: Hook, *, with_secret: bool = False) -> bytes:
    """``hook`` as JSON; its secret only in the answer to who has just made or changed it."""
    definition = definition_of(hook)
    shown: dict[str, Any] = {"hookId": hook.id}
    if definition.name is not None:
        shown["name"] = definition.name
    shown |= {
        "eventType": definition.event_type,
        "hookType": HookType.WEBHOOK,
        "endpoint": definition.endpoint,
        "headers": definition.headers,
        "statusFilter": definition.status_filter,
        "payloadType": definition.payload_type,
    }
    if definition.transform is not None:
        shown["transform"] = definition.transform
    shown |= {
        "formPayloadKey": definition.form_payload_key,
        "formDocumentKey": definition.form_document_key,
        "enabled": definition.enabled,
        "createdAt": _time(hook.created_at),
    }
    if with_secret:
        shown["secret"] = definition.secret
    return msgspec.json.encode(shown)


def secrets_of(definition: Definition, now: float) -> tuple[str, ...]:
    """The secrets that sign what is sent at ``now``, Unix seconds; the newest first."""
    if definition.old_secret is None or now >= definition.old_secret_until:
        return (definition.secret,)
    return (definition.secret, definition.old_secret)


def new_secret() -> str:
    """A secret that nobody has had."""
    return SECRET_PREFIX + b64encode(secrets.token_bytes(32)).decode()


def deliveries_for(
    hooks: Iterable[Hook],
    key: Key,
    event: HookEvent,
    status: Status | None,
    *,
    now: float,
    observation: bytes | None = None,
) -> tuple[Delivery, ...]:
    """A delivery, due at ``now`` (Unix seconds), for each of an execution's ``hooks`` that fires.

    ``status``: what the execution's is from then on. ``observation``: what it holds, only where it
    will be gone by the time of the delivery."""
    return tuple(
        Delivery(
            id=f"msg_{secrets.token_hex(16)}",
            hook_id=hook.id,
            key=key,
            event=event,
            status=status,
            created_at=now,
            due_at=now,
            observation=observation,
        )
        for hook in hooks
        if _fires(definition_of(hook), event, status)
    )


def _fires(definition: Definition, event: HookEvent, status: Status | None) -> bool:
    if not definition.enabled or definition.event_type is not event:
        return False
    if event is not HookEvent.STATUS_CHANGE or not definition.status_filter:
        return True
    return status in definition.status_filter


def _definition(fields: _Body, secret: str) -> Definition:
    if isinstance(fields.event_type, UnsetType):
        raise RequestRejected(f"eventType: missing; expected one of {', '.join(HookEvent)}")
    if isinstance(fields.endpoint, UnsetType):
        raise RequestRejected("endpoint: missing; expected a URL")
    if len(fields.endpoint) > ENDPOINT_CHARS_MAX:
        raise RequestRejected(f"endpoint: longer than {ENDPOINT_CHARS_MAX} characters")
    payload_type = fields.payload_type or PayloadType.RAW
    transform = fields.transform or None
    if payload_type.transforms and (transform is None or not transform.strip()):
        raise RequestRejected(f"transform: missing; a payloadType of {payload_type} needs one")
    statuses = fields.status_filter or ()
    return Definition(
        event_type=fields.event_type,
        endpoint=fields.endpoint,
        secret=secret,
        name=_text(fields.name or None, "name"),
        headers=_checked_headers(fields.headers or {}),
        status_filter=tuple(status for status in Status if status in statuses),
        payload_type=payload_type,
        transform=transform,
        form_payload_key=_text(fields.form_payload_key or None, "formPayloadKey") or "payload",
        form_document_key=_text(fields.form_document_key or None, "formDocumentKey") or "documents",
        enabled=fields.enabled is not False,
    )


def _text(given: str | None, name: str) -> str | None:
    if given is not None and (len(given) > _TEXT_CHARS_MAX or _UNPRINTABLE.search(given)):
        raise RequestRejected(
            f"{name}: expected at most {_TEXT_CHARS_MAX} characters, none of them a control one"
        )
    return given


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    if len(headers) > _HEADERS_MAX:
        raise RequestRejected(f"headers: at most {_HEADERS_MAX} are allowed")
    if sum(len(name) + len(value) for name, value in headers.items()) > _HEADERS_BYTES_MAX:
        raise RequestRejected(f"headers: at most {_HEADERS_BYTES_MAX} bytes are allowed in all")
    seen = set()
    for name, value in headers.items():
        lower = name.lower()
        if _HEADER_NAME.fullmatch(name) is None:
            raise RequestRejected("headers: one of the names is no name of a header")
        if lower in _HOP_BY_HOP:
            raise RequestRejected(f"headers.{name}: it concerns one connection only (hop by hop)")
        if lower in _OWN_HEADERS or lower.startswith("webhook-"):
            raise RequestRejected(f"headers.{name}: the gateway writes its own")
        if lower in seen:
            raise RequestRejected(f"headers.{name}: there more than once")
        if value and _HEADER_VALUE.fullmatch(value) is None:
            raise RequestRejected(
                f"headers.{name}: expected one line of ASCII without spaces around it"
            )
        seen.add(lower)
    return dict(headers)


def _given_secret(fields: _Body) -> str | None:
    secret = fields.secret
    if not isinstance(secret, str):
        return None
    low, high = _SECRET_BYTES
    try:
        # Whoever made it may have left its padding out, which its readers do not need.
        encoded = secret.removeprefix(SECRET_PREFIX)
        length = len(b64decode(encoded + "=" * (-len(encoded) % 4), validate=True))
    except (NotBase64, ValueError):
        length = 0
    if not secret.startswith(SECRET_PREFIX) or not low <= length <= high:
        raise RequestRejected(
            f"secret: expected {SECRET_PREFIX} and the base64 of {low} to {high} bytes"
        )
    return secret


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
