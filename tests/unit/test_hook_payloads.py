"""The body of a message to a webhook, by its payload type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest

from gateway.errors import RequestRejected, TransformFailed
from gateway.executions.hook_definitions import Definition, definition_of, parse_hook
from gateway.executions.hook_payloads import body_of
from gateway.model import Media
from gateway.upstreams.outgoing import Body

OBSERVATION = b'{"executionId":"e","mediaContents":[],"documents":[{"a":"\xc3\xbc"}]}'
MEDIA = (
    Media("media-1", b"%PDF-1.7 \xff\x00", "application/pdf"),
    Media("media-2", b"text", "text/plain", filename='a"b\r\nc.txt'),
)


def definition(payload_type: str, **fields: Any) -> Definition:
    body = {"eventType": "SUBMIT", "endpoint": "http://x/", "payloadType": payload_type} | fields
    return definition_of(parse_hook(json.dumps(body).encode(), owner="", now=0.0))


async def as_json(observation: bytes) -> bytes:
    return b'{"view":%b}' % observation


async def evaluate(expression: str, observation: bytes) -> bytes | None:
    if expression == "nothing":
        return None
    return b'{"%b":%b}' % (expression.encode(), observation)


async def media() -> Sequence[Media]:
    return MEDIA


async def no_media() -> Sequence[Media]:
    raise AssertionError("nobody needs them")


async def made(payload_type: str, **fields: Any) -> Body:
    files = media if payload_type.startswith("FORM") else no_media
    given = definition(payload_type, **fields)
    return await body_of(given, OBSERVATION, files, as_json=as_json, evaluate=evaluate)


def parts(body: Body) -> list[Message]:
    head = f"Content-Type: {body.content_type}\r\n\r\n".encode()
    return message_from_bytes(body.after(head)).get_payload()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("payload_type", "transform", "sent"),
    [
        ("RAW", None, OBSERVATION),
        ("RAW", "unused", OBSERVATION),
        ("JSON", None, b'{"view":%b}' % OBSERVATION),
        ("TRANSFORM", "x", b'{"x":%b}' % OBSERVATION),
        ("TRANSFORM", "nothing", b"null"),
    ],
)
async def test_one_json_text_is_sent_as_it_is(
    payload_type: str, transform: str | None, sent: bytes
) -> None:
    body = await made(payload_type, transform=transform)
    assert body.content_type == "application/json"
    assert body.after(b"") == sent
    assert body.length == len(sent)


@pytest.mark.parametrize(
    ("payload_type", "sent"),
    [("FORM", b'{"view":%b}' % OBSERVATION), ("FORM_TRANSFORM", b'{"x":%b}' % OBSERVATION)],
)
async def test_a_form_has_the_payload_and_every_file(payload_type: str, sent: bytes) -> None:
    body = await made(payload_type, transform="x")
    assert body.length == len(body.after(b""))
    payload, first, second = parts(body)
    assert payload["Content-Disposition"] == 'form-data; name="payload"'
    assert payload["Content-Type"] == "application/json"
    assert payload.get_payload(decode=True) == sent
    assert first["Content-Disposition"] == ('form-data; name="documents"; filename="media-1.pdf"')
    assert first["Content-Type"] == "application/pdf"
    assert first.get_payload(decode=True) == MEDIA[0].data
    assert second["Content-Disposition"] == (
        'form-data; name="documents"; filename="a%22b%0D%0Ac.txt"'
    )
    assert second.get_payload(decode=True) == b"text"


async def test_a_form_names_its_parts_as_it_was_told_to() -> None:
    body = await made("FORM", formPayloadKey='résult"', formDocumentKey="files")
    dispositions = [part["Content-Disposition"] for part in parts(body)]
    assert 'name="files"; filename="media-1.pdf"' in dispositions[1]
    assert 'name="résult%22"'.encode() in body.after(b"")


async def test_a_file_name_holds_nothing_that_could_end_its_line() -> None:
    named = Media("m", b"x", "text/plain", filename='a\r\nX: y\0\x1b[31m"\x7f')

    async def one() -> Sequence[Media]:
        return (named,)

    body = await body_of(definition("FORM"), OBSERVATION, one, as_json=as_json, evaluate=evaluate)
    sent = body.after(b"")
    assert b'filename="a%0D%0AX: y%00%1B[31m%22%7F"\r\n' in sent


async def test_no_two_forms_share_a_boundary() -> None:
    assert len({(await made("FORM")).content_type for _ in range(20)}) == 20


async def test_a_transform_that_fails_fails_the_message() -> None:
    async def failing(expression: str, observation: bytes) -> bytes | None:
        raise TransformFailed("it does not", reason="evaluation", by_client=True)

    for payload_type in ("TRANSFORM", "FORM_TRANSFORM"):
        with pytest.raises(TransformFailed, match="it does not"):
            await body_of(
                definition(payload_type, transform="x"),
                OBSERVATION,
                media,
                as_json=as_json,
                evaluate=failing,
            )


def test_a_payload_that_is_made_by_a_transform_cannot_be_without() -> None:
    with pytest.raises(RequestRejected, match="transform: missing"):
        definition("TRANSFORM")
