"""What the results of a route's transforms mean."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.model import Media, Request, request_view
from gateway.results import apply_changes, event_items

MEDIA = tuple(Media(f"media-{n}", bytes(n), "image/png") for n in (1, 2, 3))
REQUEST = Request(
    "p",
    "r",
    text="t",
    context="c",
    media=MEDIA,
    observation=b'{"a":1}',
    tag="x",
    parameters={"k": 1},
    meta={"m": 2},
)


def applied(**fields: Any) -> Request:
    return apply_changes(REQUEST, json.dumps(fields))


def test_a_whole_view_that_comes_back_changes_nothing() -> None:
    assert apply_changes(REQUEST, msgspec.json.encode(request_view(REQUEST)).decode()) == REQUEST
    assert applied() == REQUEST


def test_each_field_replaces_the_requests_own() -> None:
    changed = applied(
        text="T",
        context="C",
        tag="X",
        observation={"b": 2},
        runtimeParameters={"K": 1},
        metaData={"M": 2},
    )
    assert (changed.text, changed.context, changed.tag) == ("T", "C", "X")
    assert changed.observation == b'{"b": 2}'
    assert (changed.parameters, changed.meta) == ({"K": 1}, {"M": 2})
    assert changed.media == MEDIA


def test_null_takes_a_field_away() -> None:
    changed = applied(
        text=None,
        context=None,
        tag=None,
        observation=None,
        runtimeParameters=None,
        metaData=None,
        media=None,
    )
    assert changed == Request("p", "r")


@pytest.mark.parametrize(
    ("listed", "chosen"),
    [
        ([], []),
        (["media-2"], [2]),
        ("media-2", [2]),
        ({"id": "media-2", "size": 2}, [2]),
        ([{"id": "media-3"}, "media-1"], [3, 1]),
        (["media-1", "media-1"], [1, 1]),
    ],
)
def test_media_are_chosen_by_listing_them(listed: Any, chosen: list[int]) -> None:
    assert applied(media=listed).media == tuple(MEDIA[n - 1] for n in chosen)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("[]", "expected `object`"),
        ("1", "expected `object`"),
        ('{"medias":[]}', "unknown field `medias`"),
        ('{"text":1}', "expected `str | null`"),
        ('{"media":["media-4"]}', '"media-4" that is not there'),
        ('{"media":[{"name":"media-1"}]}', "missing required field `id`"),
        ('{"observation":"x"}', "observation must be an object"),
        ('{"pipeline":"other"}', "pipeline cannot be changed"),
        ('{"executionId":"other"}', "execution_id cannot be changed"),
        ('{"metaData":{"a":' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_result_that_does_not_fit_says_why(result: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        apply_changes(REQUEST, result)
    assert message.lower() in str(caught.value).lower()


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('{"a":1}', [b'{"a":1}']),
        ("[]", []),
        ("[[]]", []),
        ("null", []),
        ('[{"a":1},{"b":[1.0, "x"]}]', [b'{"a":1}', b'{"b":[1.0, "x"]}']),
        (' [ {"a":1} , {} ] ', [b'{"a":1}', b"{}"]),
        ('{"a":"ö"}', ['{"a":"ö"}'.encode()]),
    ],
)
def test_a_result_is_split_into_events_untouched(text: str, items: list[bytes]) -> None:
    assert event_items(text) == items


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1", "a number"),
        ("-1.5", "a number"),
        ('"x"', "a string"),
        ("true", "true"),
        ("false", "false"),
        ("[1]", "a list with a number"),
        ("[null]", "a list with null"),
        ('[{}, "x"]', "a list with a string"),
        ("[[{}]]", "a list with a list"),
    ],
)
def test_a_result_that_is_no_event_is_refused(text: str, what: str) -> None:
    with pytest.raises(ValueError, match="an object, a list of objects or nothing") as caught:
        event_items(text)
    assert str(caught.value).endswith(f"and is {what}")


@pytest.mark.usefixtures("usual_stack")
def test_a_list_that_nests_without_end_is_no_event() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        event_items("[" * 3000 + "]" * 3000)
