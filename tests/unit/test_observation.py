"""Observations as JSON bytes: appended, replaced, given an ID, recognised."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import Code, RequestRejected
from gateway.observation import append, looks_like_observation, with_execution_id


def media(media_id: str, text: str) -> dict[str, str]:
    return {"id": media_id, "mediaId": media_id, "rawText": text}


def both(first: Any, second: Any, *, replace: bool = False) -> Any:
    result = append(msgspec.json.encode(first), msgspec.json.encode(second), replace=replace)
    return msgspec.json.decode(result)


# Appending


def test_media_contents_and_documents_grow_in_the_order_of_the_runs() -> None:
    first = {
        "executionId": "e-1",
        "mediaContents": [media("media-1", "one")],
        "documents": [{"tag": "supplier"}],
    }
    second = {
        "executionId": "e-1",
        "mediaContents": [media("media-1", "again"), media("media-2", "two")],
        "documents": [{"tag": "item"}, {"tag": "item"}],
    }
    assert both(first, second) == {
        "executionId": "e-1",
        "mediaContents": [
            media("media-1", "one"),
            media("media-1", "again"),
            media("media-2", "two"),
        ],
        "documents": [{"tag": "supplier"}, {"tag": "item"}, {"tag": "item"}],
    }


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {}, {}),
        ({}, {"executionId": "e-2"}, {"executionId": "e-2"}),
        ({"executionId": "e-1"}, {"executionId": "e-2"}, {"executionId": "e-1"}),
        ({"executionId": None}, {"executionId": "e-2"}, {"executionId": "e-2"}),
        ({"executionId": ""}, {"executionId": "e-2"}, {"executionId": ""}),
        ({"documents": []}, {}, {"documents": []}),
        ({}, {"documents": [1]}, {"documents": [1]}),
        ({"documents": []}, {"documents": []}, {"documents": []}),
        ({"documents": []}, {"documents": [1]}, {"documents": [1]}),
        ({"documents": [1]}, {"documents": []}, {"documents": [1]}),
        ({"documents": None}, {"documents": [1]}, {"documents": [1]}),
        ({"documents": [1]}, {"documents": None}, {"documents": [1]}),
        ({"documents": None}, {"documents": None}, {"documents": None}),
        ({"a": 0, "b": 1}, {"b": 2, "c": 3}, {"a": 0, "b": 1, "c": 3}),
        ({"a": False}, {"a": True}, {"a": False}),
        ({"a": [1]}, {"a": [2]}, {"a": [1]}),
    ],
)
def test_a_field_that_only_one_has_is_kept_and_of_two_the_first(
    first: Any, second: Any, expected: Any
) -> None:
    assert both(first, second) == expected


def test_entries_keep_the_bytes_they_came_with() -> None:
    first = '{"mediaContents": [ {"n": 1.50, "big": 123456789012345678901} , {"ü":"\\u00fc"} ]}'
    second = '{"mediaContents":[\n{"n": 1e2}\n], "x": [ 1 ]}'
    assert append(first.encode(), second.encode()).decode() == (
        '{"mediaContents":[{"n": 1.50, "big": 123456789012345678901} , {"ü":"\\u00fc"},{"n": 1e2}]'
        ',"x":[ 1 ]}'
    )


# Replacing


def test_entries_of_the_same_media_id_are_replaced_in_place() -> None:
    first = {"mediaContents": [media("a", "old"), media("b", "kept"), media("a", "older")]}
    second = {"mediaContents": [media("c", "new"), media("a", "new 1"), media("a", "new 2")]}
    assert both(first, second, replace=True) == {
        "mediaContents": [
            media("a", "new 1"),
            media("b", "kept"),
            media("a", "new 2"),
            media("c", "new"),
        ]
    }


def test_entries_that_a_run_no_longer_gives_are_gone_and_further_ones_come_last() -> None:
    one, two = [media("a", "1")], [media("a", "2"), media("b", "2"), media("a", "3")]
    assert both({"mediaContents": one}, {"mediaContents": two}, replace=True) == {
        "mediaContents": two
    }
    assert both({"mediaContents": two}, {"mediaContents": one}, replace=True) == {
        "mediaContents": [media("a", "1"), media("b", "2")]
    }


def test_an_entry_without_a_media_id_is_not_repeated() -> None:
    first = {"documents": [{"tag": "x", "score": 1}, {"tag": "y"}]}
    second = {"documents": [{"tag": "y"}, {"tag": "x", "score": 2}, {"mediaId": None}]}
    assert both(first, second, replace=True)["documents"] == [
        {"tag": "x", "score": 1},
        {"tag": "y"},
        {"tag": "x", "score": 2},
        {"mediaId": None},
    ]


# What is no observation

BAD = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b'{"a":NaN}', "not valid JSON"),
    (b'{"a":1}{}', "not valid JSON"),
    (b'{"a":"\xff"}', "not valid JSON"),
    (b'{"a":"\\ud800"}', "not valid JSON"),
    (b"[]", "not a JSON object"),
    (b"null", "not a JSON object"),
    (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b'{"mediaContents":{}}', "mediaContents is not a list"),
    (b'{"mediaContents":"[]"}', "mediaContents is not a list"),
    (b'{"mediaContents":[],"documents":0}', "documents is not a list"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_what_is_no_observation_is_refused_with_the_reason(bad: bytes, reason: str) -> None:
    with pytest.raises(RequestRejected, match=reason) as caught:
        append(bad, b"{}")
    assert caught.value.code is Code.BAD_REQUEST
    with pytest.raises(RequestRejected, match=reason):
        append(b"{}", bad)
    with pytest.raises(RequestRejected, match=reason):
        with_execution_id(bad, "e-1")
    assert not looks_like_observation(bad)


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ([media("a", "x"), 5], r"mediaContents\[1\]: Expected `object`"),
        ([{"mediaId": 5}], r"mediaContents\[0\]: .*mediaId"),
    ],
)
def test_an_entry_that_cannot_be_replaced_is_named(entries: list[Any], where: str) -> None:
    good = {"mediaContents": [media("a", "x")]}
    bad = {"mediaContents": entries}
    with pytest.raises(RequestRejected, match=where):
        both(good, bad, replace=True)
    with pytest.raises(RequestRejected, match=where):
        both(bad, good, replace=True)


# The execution's ID


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        ("{}", '{"executionId":"e-1"}'),
        (" {\n } ", '{"executionId":"e-1"\n } '),
        ('{ "documents": [ 1.0 ] }', '{"executionId":"e-1", "documents": [ 1.0 ] }'),
        ('{"a": 1, "executionId":"e-1"}', '{"a": 1, "executionId":"e-1"}'),
        ('{"a": [ 1.0 ], "executionId":"e-0"}', '{"executionId":"e-1","a":[ 1.0 ]}'),
        ('{"executionId":null,"a":0}', '{"executionId":"e-1","a":0}'),
        ('{"\\u0065xecutionId":"e-0"}', '{"executionId":"e-1"}'),
    ],
)
def test_the_execution_id_is_set_and_nothing_else_changes(observation: str, expected: str) -> None:
    assert with_execution_id(observation.encode(), "e-1").decode() == expected


def test_an_execution_id_with_quotes_stays_one_string() -> None:
    result = with_execution_id(b"{}", 'e","a":"')
    assert msgspec.json.decode(result) == {"executionId": 'e","a":"'}


# Recognising one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"mediaContents":[]}', True),
        (b' \n{"executionId":"e","documents": [{}]}', True),
        (b'{"mediaContents":null,"documents":[]}', True),
        (b'{"\\u006dediaContents":[]}', True),
        (b'{"mediaContents":null}', False),
        (b'{"mediaContents":[],"documents":"none"}', False),
        (b'{"executionId":"e"}', False),
        (b'{"a":{"mediaContents":[]}}', False),
        (b'[{"mediaContents":[]}]', False),
        (b'The answer is {"mediaContents":[]}', False),
        (b'{"mediaContents":[', False),
    ],
)
def test_an_observation_is_recognised_by_its_lists(text: bytes, expected: bool) -> None:
    assert looks_like_observation(text) is expected


# Any observations at all

entries = st.fixed_dictionaries(
    {}, optional={"mediaId": st.sampled_from(["a", "b", "c"]), "n": st.integers(0, 2)}
)
observations = st.fixed_dictionaries(
    {},
    optional={
        "executionId": st.none() | st.sampled_from(["e-1", "e-2"]),
        "mediaContents": st.none() | st.lists(entries, max_size=4),
        "documents": st.none() | st.lists(entries, max_size=4),
        "other": st.none() | st.integers(0, 2),
    },
)


def listed(observation: Any, name: str) -> list[Any]:
    return observation.get(name) or []


@given(observations, observations, observations)
def test_appending_keeps_everything_in_order_whichever_is_appended_first(
    first: Any, second: Any, third: Any
) -> None:
    result = both(both(first, second), third)
    assert result == both(first, both(second, third))
    for name in ("mediaContents", "documents"):
        assert listed(result, name) == [
            entry for observation in (first, second, third) for entry in listed(observation, name)
        ]


def identity(entry: Any) -> Any:
    return entry.get("mediaId") or entry


@given(observations, observations)
@example({"mediaContents": [{}]}, {"mediaContents": [{}, {}]})
def test_replacing_loses_only_what_is_replaced_and_doing_it_again_changes_nothing(
    first: Any, second: Any
) -> None:
    result = both(first, second, replace=True)
    assert both(result, second, replace=True) == result
    for name in ("mediaContents", "documents"):
        old, new = listed(first, name), listed(second, name)
        replaced = [identity(entry) for entry in new]
        kept = [entry for entry in old if identity(entry) not in replaced]
        entries_now = listed(result, name)
        assert [entry for entry in entries_now if identity(entry) not in replaced] == kept
        for one in replaced:
            assert [entry for entry in entries_now if identity(entry) == one] == [
                entry for entry in new if identity(entry) == one
            ]


@given(observations, st.text(st.characters(exclude_categories=["Cs"])))
def test_an_execution_id_can_be_set_on_any_observation(observation: Any, execution_id: str) -> None:
    result = with_execution_id(msgspec.json.encode(observation), execution_id)
    assert msgspec.json.decode(result) == {**observation, "executionId": execution_id}
