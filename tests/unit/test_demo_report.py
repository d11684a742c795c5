"""The demo sees it when a stream of layers is not what it should be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy.demo.report import LAYERS, misplaced

Events = list[dict[str, Any]]


def piece(actor: str, text: str, *, layer: str = "1", finished: bool = False) -> dict[str, Any]:
    event: dict[str, Any] = {
        "type": "STREAMING_RESPONSE",
        "actorId": actor,
        "message": text,
        "layerId": layer,
    }
    if finished:
        event["finished"] = True
    if layer == "1":
        event["lastLayer"] = True
    return event


def ends(layer: str) -> tuple[dict[str, Any], dict[str, Any]]:
    responses = [{"actorId": actor, "message": "x"} for actor in LAYERS[layer]]
    last = {"last": True} if layer == "1" else {}
    return (
        {"type": "LAYER_MESSAGE", "layerId": layer},
        {"type": "LAYER_RESPONSE", "layerId": layer, "responses": responses, **last},
    )


STREAM: Events = [
    ends("0")[0],
    piece("ocr", "x", layer="0", finished=True),
    ends("0")[1],
    ends("1")[0],
    piece("summary", "a"),
    piece("checks", "b"),
    piece("archive", "x", finished=True),
    piece("summary", "c", finished=True),
    piece("checks", "", finished=True),
    ends("1")[1],
    {"type": "OBSERVATION"},
]


def test_a_stream_as_it_should_be_has_nothing_out_of_place() -> None:
    assert misplaced(STREAM) == []


def without(number: int) -> Callable[[Events], None]:
    return lambda events: events.__delitem__(number)


def changed(number: int, name: str, value: Any) -> Callable[[Events], None]:
    return lambda events: events[number].__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (changed(5, "actorId", "ocr"), ["event 6: ocr is not of layer 1"]),
        (changed(5, "layerId", "0"), [
            "event 6: checks is not of layer 1",
            "event 6: lastLayer is wrong",
        ]),
        (changed(1, "lastLayer", True), ["event 2: lastLayer is wrong"]),
        (without(8), ["event 9: checks has not finished"]),
        (changed(4, "finished", True), ["event 8: summary had finished"]),
        (changed(9, "last", False), ["event 10: last is wrong"]),
        (changed(2, "last", True), ["event 3: last is wrong"]),
        (lambda events: events[9]["responses"].reverse(), [
            "event 10: lists archive, checks, summary",
        ]),
        (changed(3, "layerId", "2"), [
            *(f"event {number}: {actor} is not of layer 2" for number, actor in
              [(5, "summary"), (6, "checks"), (7, "archive"), (8, "summary"), (9, "checks")]),
            "event 10: lists summary, checks, archive",
        ]),
    ],
)  # fmt: skip
def test_an_event_out_of_place_is_named(
    change: Callable[[Events], None], expected: list[str]
) -> None:
    events = copy.deepcopy(STREAM)
    change(events)
    assert misplaced(events) == expected
