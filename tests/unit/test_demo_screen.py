"""The demo prints plain lines in a pipe, and live displays on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from deploy.demo.client import Arrived
from deploy.demo.screen import Screen

EVENTS: list[dict[str, Any]] = [
    {"type": "LAYER_MESSAGE", "message": "Executing layer 0...", "layerId": "0"},
    {"type": "STREAMING_RESPONSE", "actorId": "a", "message": "Hel", "layerId": "0"},
    {"type": "STREAMING_RESPONSE", "actorId": "b", "message": "Bye", "layerId": "0"},
    {
        "type": "STREAMING_RESPONSE",
        "actorId": "a",
        "message": "lo",
        "layerId": "0",
        "finished": True,
    },
    {
        "type": "LAYER_RESPONSE",
        "layerId": "0",
        "last": True,
        "responses": [
            {
                "actorId": "b",
                "message": "Bye",
                "info": [],
                "errors": [{"name": "LateError", "message": "too late"}],
            }
        ],
    },
    {"type": "OBSERVATION", "executionId": "e", "observation": {"mediaContents": [{}]}},
]
ARRIVALS = [Arrived(number / 10, event) for number, event in enumerate(EVENTS, start=1)]


def screen(*, terminal: bool) -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, highlight=False)
    return Screen(console), file


def test_in_a_pipe_each_event_is_a_line_with_its_time() -> None:
    shown, file = screen(terminal=False)
    assert shown.stream(iter(ARRIVALS)) == ARRIVALS
    lines = file.getvalue().splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["100", "ms", "LAYER_MESSAGE", "Executing", "layer", "0..."],
        ["200", "ms", "STREAMING_RESPONSE", "0", "a:", "'Hel'"],
    ]
    assert lines[3].endswith("a: 'lo' finished")
    assert lines[4].endswith("b: 'Bye' LateError: too late last")
    assert lines[5].endswith("1 media content(s)")
    assert "\x1b" not in file.getvalue()


def test_on_a_terminal_the_actors_texts_grow_and_stay() -> None:
    shown, file = screen(terminal=True)
    shown.stream(iter(ARRIVALS))
    assert "Hello" in file.getvalue()
    assert "6 events, first after 100 ms, last after 0.60 s" in file.getvalue()
    assert "b LateError: too late last" in file.getvalue()


def test_on_a_terminal_texts_of_an_earlier_layer_make_room_for_the_last() -> None:
    def said(layer: str, text: str) -> Arrived:
        event = {"type": "STREAMING_RESPONSE", "actorId": "a", "message": text, "layerId": layer}
        return Arrived(0.1, event)

    shown, file = screen(terminal=True)
    shown.stream(iter([said("0", "x" * 300), said("1", "y" * 300)]))
    last = file.getvalue().rpartition("text so far")[2].partition("2 events")[0]
    assert last.count("x") == 160
    assert "… (300)" in last
    assert last.count("y") == 300


@pytest.mark.parametrize("terminal", [False, True])
def test_a_step_ends_with_how_long_it_took(terminal: bool) -> None:
    shown, file = screen(terminal=terminal)
    with shown.step("A server", "http://127.0.0.1:1"):
        pass
    assert "✓ A server" in file.getvalue()
    assert "0.0 s   http://127.0.0.1:1" in file.getvalue()


def test_the_table_of_entities_shows_parsed_values_and_boxes() -> None:
    box = {"left": 0.1, "top": 0.25, "width": 0.5, "height": 0.02}
    entity = {
        "id": "e",
        "label": "total",
        "type": "NUMBER",
        "confidence": 0.98765,
        "block": {"text": "Total: 1,718.36 EUR", "geometry": {"boundingBox": box}},
        "data": {"textValue": "1,718.36 EUR", "numberValue": 1718.36, "unitValue": "EUR"},
    }
    bare = {"id": "f", "block": {"text": "thank you"}}
    document = {"entities": [bare, entity, bare]}
    observation = {"mediaContents": [{"documentPages": [{"page": 1, "document": document}]}, {}]}
    shown, file = screen(terminal=False)
    shown.entities(observation, rows_max=2)
    lines = file.getvalue().splitlines()
    row = next(line for line in lines if "Total: 1,718.36 EUR" in line)
    for cell in ("total", "NUMBER", "1718.36, EUR", "0.988", "0.100 0.250 0.500 0.020"):
        assert cell in row
    assert lines[-1] == "… and 1 more entities."


def test_the_metrics_table_has_counts_and_means_for_each_route() -> None:
    route = 'dialect="pupau",mode="query_stream",pipeline="chat"'
    exposition = f"""# HELP gateway_requests_total Requests.
gateway_requests_total{{{route},outcome="complete"}} 4.0
gateway_requests_total{{{route},outcome="client_gone"}} 1.0
gateway_requests_total{{{route},outcome="internal"}} 0.0
gateway_requests_total{{dialect="cambrion",mode="other",outcome="complete",pipeline="-"}} 9.0
gateway_request_duration_seconds_count{{{route}}} 4.0
gateway_request_duration_seconds_sum{{{route}}} 2.0
gateway_overhead_seconds_count{{{route}}} 4.0
gateway_overhead_seconds_sum{{{route}}} 0.002
"""
    shown, file = screen(terminal=False)
    shown.metrics(exposition)
    (row,) = [line for line in file.getvalue().splitlines() if "chat" in line]
    for cell in ("pupau", "query_stream", "1 client_gone, 4 complete ", "500.0 ms", "0.5 ms"):
        assert cell in row
    assert "other" not in file.getvalue()


def test_long_commands_are_never_wrapped() -> None:
    shown, file = screen(terminal=False)
    command = "curl " + "x" * 300
    shown.command(command)
    shown.hints([("Try this:", command)])
    assert file.getvalue().splitlines() == [f"$ {command}", "Try this:", f"  {command}"]
