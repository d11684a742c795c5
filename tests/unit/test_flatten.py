"""A remote run as one actor's text: which pieces count, and in which order they are passed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.flatten import SEPARATOR, Flattened
from gateway.model import ActorResponse, Delta, Event, LayerFinished, LayerStarted, RawEvent


def piece(actor: str, text: str, *, finished: bool = False, last_layer: bool = True) -> Delta:
    return Delta(actor, text, "1", finished=finished, last_layer=last_layer)


def end(*responses: tuple[str, str], last: bool = True) -> LayerFinished:
    return LayerFinished("1", tuple(ActorResponse(*each) for each in responses), last=last)


CASES: dict[str, tuple[list[Event], list[str]]] = {
    "one actor is passed on as it comes": (
        [piece("a", "Hel"), piece("a", "lo", finished=True), end(("a", "Hello"))],
        ["Hel", "lo", ""],
    ),
    "earlier layers say nothing": (
        [
            LayerStarted("0", "…"),
            piece("x", "thinking", last_layer=False),
            end(("x", "thinking"), last=False),
            RawEvent(b"{}"),
            piece("a", "Yes"),
            end(("a", "Yes")),
        ],
        ["", "", "", "", "Yes", ""],
    ),
    "who did not stream is in the end": ([end(("a", "All"), ("b", "here"))], ["All\n\nhere"]),
    "the second waits for the first": (
        [piece("a", "1"), piece("b", "x"), piece("a", "2", finished=True), piece("b", "y")],
        ["1", "", "2\n\nx", "y"],
    ),
    "one that was done while it waited follows at once, and then the next": (
        [
            piece("a", "1"),
            piece("b", "x", finished=True),
            piece("c", "!"),
            piece("a", "", finished=True),
            piece("c", "?"),
        ],
        ["1", "", "", "\n\nx\n\n!", "?"],
    ),
    "an end without finished pieces passes on what waits": (
        [piece("a", "1"), piece("b", "x"), end(("a", "1"), ("b", "x"), ("c", "z"))],
        ["1", "", "\n\nx\n\nz"],
    ),
    "who says nothing takes no blank line": (
        [piece("a", "", finished=True), piece("b", "x"), end(("a", ""), ("b", "x"))],
        ["", "x", ""],
    ),
    "a character that was cut in two is put together": (
        [
            piece("a", "Hi \ud83d"),
            piece("a", "\ude00!"),
            piece("a", "\ud83d"),
            piece("a", "\ude00"),
            end(("a", "Hi 😀!😀")),
        ],
        ["Hi ", "😀!", "", "😀", ""],
    ),
    "half a character that stays alone is none": (
        [piece("a", "1\ud83d"), piece("a", "2\ude00"), piece("a", "\ud83d"), end(("a", ""))],
        ["1", "\ufffd2\ufffd", "", "\ufffd"],
    ),
    "a piece after an actor's last one is not its text": (
        [piece("a", "1", finished=True), piece("a", "2"), end(("a", "1"))],
        ["1", "", ""],
    ),
}


@pytest.mark.parametrize(("events", "passed_on"), CASES.values(), ids=CASES.keys())
def test_each_event_brings(events: list[Event], passed_on: list[str]) -> None:
    flattened = Flattened()
    assert [flattened.feed(event) for event in events] == passed_on


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.text("xyz", min_size=1, max_size=2)), max_size=20)
)
def test_however_pieces_interleave_each_actors_text_stays_whole(
    said: list[tuple[str, str]],
) -> None:
    flattened = Flattened()
    texts: dict[str, str] = {}
    passed_on = ""
    for actor, text in said:
        texts[actor] = texts.get(actor, "") + text
        passed_on += flattened.feed(piece(actor, text))
    passed_on += flattened.feed(end(*texts.items()))
    assert passed_on == SEPARATOR.join(texts.values())
