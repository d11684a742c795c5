"""What is sent to make an execution or to fill it, and what is shown of one."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gateway.errors import Code, RequestRejected
from gateway.executions import bodies
from gateway.executions.bodies import Given, Listing
from gateway.executions.records import Execution, Key, Status
from gateway.model import Media

PNG = b"\x89PNG\r\n\x1a\n" + bytes(200)
MADE_AT = 1_767_225_600.25  # 2026-01-01T00:00:00.250Z


def given(**fields: Any) -> Given:
    return bodies.parse_given(json.dumps(fields).encode())


def upload(body: bytes, bytes_max: int = 1000) -> Media:
    return bodies.parse_media(body, "m-1", bytes_max=bytes_max)


# Making one


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}"])
def test_an_execution_may_be_made_of_nothing(body: bytes) -> None:
    assert bodies.parse_given(body) == Given()


def test_every_field_finds_its_place_and_what_the_gateway_says_itself_is_passed_over() -> None:
    body = (
        b'{"executionId":"e-1","tag":"t","metaData":{"a": [1.50]},"hookIds":["h-2","h-1","h-2"],'
        b'"createdAt":"1999-01-01T00:00:00Z","completedAt":null,"duration":1.5,'
        b'"status":"COMPLETED","message":null}'
    )
    assert bodies.parse_given(body) == Given("e-1", "t", b'{"a": [1.50]}', ("h-2", "h-1"))


def test_null_is_as_good_as_absent() -> None:
    assert given(executionId=None, tag=None, metaData=None, hookIds=None) == Given()
    assert given(executionId="", tag="") == Given()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "expected `object`"),
        (b'{"executionId":"../x"}', "executionId: not a valid ID"),
        (b'{"executionId":5}', "executionId: expected"),
        (b'{"tag":"%s"}' % (b"t" * 257), "tag: longer than 256"),
        (b'{"metaData":[]}', "metaData: expected an object"),
        (b'{"metaData":{"a":"%s"}}' % (b"x" * 20_000), "metaData: longer than 16384"),
        (b'{"metaData":{"a":1e999}}', "metaData: Number out of range"),
        (b'{"metaData":{"a":"\xff"}}', "not UTF-8"),
        (b'{"metaData":{"a":"\\ud800"}}', "half of a surrogate pair"),
        (b'{"metaData":{"a":1,"a":2}}', 'the key "a" more than once'),
        (b'{"hookIds":["h","*"]}', "hookIds[1]: not a valid ID"),
        (b'{"hookIds":[%s]}' % b",".join(b'"h%d"' % n for n in range(17)), "at most 16"),
        (b'{"state":"COMPLETED"}', "unknown field `state`"),
    ],
)
def test_what_cannot_be_kept_says_why(body: bytes, message: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        bodies.parse_given(body)
    assert message in caught.value.message
    assert caught.value.status == 400


# Showing one


def test_what_is_not_known_yet_is_not_shown() -> None:
    execution = Execution(Key("acme", "e-1"), MADE_AT)
    assert json.loads(bodies.render_execution(execution)) == {
        "executionId": "e-1",
        "createdAt": "2026-01-01T00:00:00.250Z",
        "metaData": {},
        "hookIds": [],
    }


def test_an_execution_that_failed_is_shown_with_its_times_and_what_it_died_of() -> None:
    execution = Execution(
        Key("acme", "e-1"),
        MADE_AT,
        tag="t",
        meta=b'{"a": 1.50}',
        hook_ids=("h-1",),
        status=Status.FAILED,
        message="no",
        completed_at=MADE_AT + 1,
        duration_s=0.98765432,
    )
    text = bodies.render_execution(execution)
    assert b'"metaData":{"a": 1.50}' in text
    assert json.loads(text) == {
        "executionId": "e-1",
        "tag": "t",
        "createdAt": "2026-01-01T00:00:00.250Z",
        "completedAt": "2026-01-01T00:00:01.250Z",
        "duration": 0.987654,
        "status": "FAILED",
        "message": "no",
        "metaData": {"a": 1.5},
        "hookIds": ["h-1"],
    }


def test_a_list_is_made_of_what_is_text_already() -> None:
    assert bodies.render_list([]) == b"[]"
    assert bodies.render_list([b'{"a":1}', b"{}"]) == b'[{"a":1},{}]'


def test_a_list_goes_on_in_another_one_where_it_becomes_long() -> None:
    meta = b'{"a":"%s"}' % (b"x" * 16_000)
    executions = [Execution(Key("", f"e-{n}"), MADE_AT, meta=meta) for n in range(1000)]
    items = bodies.render_page(executions)
    assert bodies.LIST_BYTES <= sum(map(len, items)) < bodies.LIST_BYTES + 17_000
    assert items == [bodies.render_execution(each) for each in executions[: len(items)]]
    assert len(bodies.render_page(executions[:100])) == 100


def test_an_observation_that_is_not_there_yet_is_an_empty_one() -> None:
    assert json.loads(bodies.no_observation("e-1")) == {
        "executionId": "e-1",
        "mediaContents": [],
        "documents": [],
    }


# Lists


def test_a_list_is_of_a_hundred_unless_it_says_otherwise() -> None:
    assert bodies.parse_listing({}) == Listing(None, None, 100)
    query = {"tag": "t", "limit": "1000", "after": "e-1", "other": "x"}
    assert bodies.parse_listing(query) == Listing("t", "e-1", 1000)
    assert bodies.parse_listing({"tag": ""}) == Listing(None, None, 100)


@pytest.mark.parametrize("limit", ["", "0", "-1", "1001", "1e2", "٣", " 5", "99999"])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(RequestRejected, match="limit: expected a number from 1 to 1000"):
        bodies.parse_listing({"limit": limit})


def test_a_list_that_goes_on_behind_what_can_be_no_id_is_refused() -> None:
    with pytest.raises(RequestRejected, match="after: not a valid ID"):
        bodies.parse_listing({"after": "a b"})
    with pytest.raises(RequestRejected, match="tag: longer"):
        bodies.parse_listing({"tag": "t" * 257})


def test_the_next_part_of_a_list_is_a_link_that_asks_for_the_same() -> None:
    last = Execution(Key("", "e-9"), MADE_AT)
    link = bodies.next_fields(Listing("a&b\r\nX: 1", None, 2), last)
    target = "/v1/executions?limit=2&after=e-9&tag=a%26b%0D%0AX%3A+1"
    assert link == f'Link: <{target}>; rel="next"\r\n'
    assert "tag" not in bodies.next_fields(Listing(limit=2), last)


# Observations and files


def test_an_observation_is_taken_as_it_was_sent() -> None:
    body = b' {"documents": [ ], "mediaContents": [{"id": "a"}], "other": {"a": 1}}\n'
    assert bodies.parse_observation(body) == body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"null", "not a JSON object"),
        (b"[{}]", "not a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"a":[1e999]}', "not valid JSON"),
        (b'{"a":[{"b":"\xff"}]}', "not valid JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"a":1,"a":2}', 'the key "a" more than once'),
        (b'{"mediaContents":[{},5]}', r"mediaContents\[1\]: Expected `object`"),
        (b'{"documents":[null]}', r"documents\[0\]: Expected `object`"),
        (b'{"documents":[{"mediaId":5}]}', r"documents\[0\]: Expected `str | null`"),
    ],
)
def test_what_is_no_observation_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(RequestRejected, match=message):
        bodies.parse_observation(body)


@pytest.mark.parametrize(
    "body", [PNG, base64.b64encode(PNG), base64.encodebytes(PNG).replace(b"\n", b"\r\n")]
)
def test_a_file_is_its_bytes_or_their_base64(body: bytes) -> None:
    assert upload(body) == Media("m-1", PNG, "image/png")


def test_the_base64_of_a_text_is_that_text() -> None:
    assert upload(base64.b64encode("Grüße".encode())) == Media(
        "m-1", "Grüße".encode(), "text/plain"
    )


@pytest.mark.parametrize("body", [b"word", b"two words", b"\r\n", base64.b64encode(b"\0\1\2")])
def test_a_text_whose_base64_would_be_nothing_known_is_that_text(body: bytes) -> None:
    assert upload(body) == Media("m-1", body, "text/plain")


LARGE = PNG + bytes(range(256)) * 4000


@pytest.mark.parametrize(
    "body",
    [
        base64.b64encode(LARGE),
        base64.encodebytes(LARGE),
        base64.b64encode(LARGE + b"a") + b"\r\n",
        base64.b64encode(LARGE + b"ab") + b"\r\n" * 200_000,
    ],
)
def test_a_large_file_is_decoded_to_the_byte_wherever_its_lines_end(body: bytes) -> None:
    file = upload(body, 10_000_000)
    assert file.content_type == "image/png"
    assert file.data.startswith(LARGE)
    assert len(file.data) - len(LARGE) in (0, 1, 2)


@pytest.mark.parametrize(
    "body",
    [
        base64.b64encode(LARGE) * 2,
        base64.b64encode(LARGE[: 3 * 2**16 - 1]) * 2,  # each is read in one piece
        base64.b64encode(LARGE)[:-1],
        base64.b64encode(LARGE) + b"!",
        base64.b64encode(LARGE) + b" " * 300_000,
    ],
)
def test_what_is_not_base64_to_its_end_is_a_text(body: bytes) -> None:
    assert upload(body, 10_000_000) == Media("m-1", body, "text/plain")


def test_a_file_is_bounded_by_what_is_kept_of_it() -> None:
    assert len(upload(base64.b64encode(PNG), len(PNG)).data) == len(PNG)
    with pytest.raises(RequestRejected, match="media_bytes_max") as caught:
        upload(PNG, len(PNG) - 1)
    assert caught.value.code is Code.TOO_LARGE
    with pytest.raises(RequestRejected, match="is empty"):
        upload(b"")


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("image/png", True),
        ("text/plain", True),
        ("application/pdf", False),
        ("application/octet-stream", False),
    ],
)
def test_a_browser_shows_only_files_that_nothing_can_run_in(content_type: str, shown: bool) -> None:
    fields = bodies.media_fields(Media("m-1", b"x", content_type))
    assert fields.startswith("X-Content-Type-Options: nosniff\r\n")
    assert ('Content-Disposition: attachment; filename="m-1.' in fields) is not shown
    assert fields.endswith("\r\n")
