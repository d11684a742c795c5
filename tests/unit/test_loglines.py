"""Log lines that several processes can write to one pipe."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.loglines import divided

HEAD = {
    "time": "2000-01-01T00:00:00.000+00:00",
    "level": "error",
    "event": "it failed",
    "worker": 2,
}
BYTES_MAX = 400


def parts(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of ``line``, each of which is short enough, JSON and on one line."""
    lines = divided(line, BYTES_MAX)
    assert all(len(each) <= BYTES_MAX and b"\n" not in each for each in lines)
    return [json.loads(each) for each in lines]


def test_a_short_line_is_written_as_it_is() -> None:
    line = {**HEAD, "hash": "abc"}
    assert parts(line) == [line]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=300, max_size=900))
def test_a_long_text_follows_in_pieces(text: str) -> None:
    line = {**HEAD, "hash": "abc", "exception": text}
    first, *rest = parts(line)
    if len(rest) > 0:
        assert first == {**HEAD, "hash": "abc", "part": 1}
        assert "".join(each["exception"] for each in rest) == text
        assert [each["part"] for each in rest] == list(range(2, len(rest) + 2))
        assert all(HEAD.items() <= each.items() for each in rest)
    else:
        assert first == line


@given(st.lists(st.text(st.characters(codec="ascii"), max_size=900), min_size=3, max_size=20))
def test_the_items_of_a_long_list_stay_whole_where_they_can(problems: list[str]) -> None:
    first, *rest = parts({**HEAD, "problems": problems})
    found = [item for each in rest for item in each["problems"]] if rest else first["problems"]
    assert "".join(found) == "".join(problems)
    short = [each for each in problems if len(json.dumps(each)) < 200]
    assert all(each in found for each in short)


def test_several_long_values_are_all_moved_the_longest_first() -> None:
    line = {**HEAD, "a": "x" * 900, "b": ["y" * 500], "c": {"k": "z" * 500}, "d": 1}
    first, *rest = parts(line)
    assert first == {**HEAD, "d": 1, "part": 1}
    assert "".join(each["a"] for each in rest if "a" in each) == line["a"]
    assert "".join(item for each in rest if "b" in each for item in each["b"]) == "y" * 500
    assert json.loads("".join(each["c"] for each in rest if "c" in each)) == line["c"]


def test_an_item_of_another_kind_is_written_as_text_where_it_is_too_long() -> None:
    _, *rest = parts({**HEAD, "problems": ({"k": "z" * 500}, "short")})
    found = [item for each in rest for item in each["problems"]]
    assert found[-1] == "short"
    assert json.loads("".join(found[:-1])) == {"k": "z" * 500}


def test_a_head_that_is_itself_too_long_still_leaves_room() -> None:
    line = {**HEAD, "event": "e" * 500, "exception": "x" * 100}
    lines = [json.loads(each) for each in divided(line, BYTES_MAX)]
    assert "".join(each.get("exception", "") for each in lines) == "x" * 100


def test_a_list_of_short_items_is_divided_between_them() -> None:
    problems = [f"{number}: {'x' * 90}" for number in range(9)]
    first, *rest = parts({**HEAD, "problems": problems})
    assert first["part"] == 1
    assert len(rest) > 2
    assert [item for each in rest for item in each["problems"]] == problems
