"""What the commands print, on a terminal and in a pipe."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from gateway.errors import UpstreamFailed
from gateway.showing import (
    LINE_CHARS_MAX,
    LiveView,
    PlainLines,
    View,
    caret,
    failed,
    show_answer,
    show_json,
)
from tests.support.scripts import EVENTS


def encoded(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()


def piece(actor: str, text: str, **more: Any) -> bytes:
    return encoded({"type": "STREAMING_RESPONSE", "actorId": actor, "message": text,
                    "layerId": "0", **more})  # fmt: skip


def response(*responses: dict[str, Any], **more: Any) -> bytes:
    return encoded({"type": "LAYER_RESPONSE", "layerId": "0", "responses": list(responses), **more})


class Pipe:
    """A plain view and what it printed."""

    def __init__(self) -> None:
        self.out, self.err = StringIO(), StringIO()
        self.view = PlainLines(self.out, self.err)

    def show(self, *events: bytes) -> list[str]:
        for event in events:
            self.view.show(event)
        return self.out.getvalue().splitlines()


def test_in_a_pipe_every_line_carries_its_actor() -> None:
    pipe = Pipe()
    assert pipe.show(*map(encoded, EVENTS)) == ["a: one", "b: two", "c: Hello wörld"]
    assert pipe.err.getvalue() == ""


def test_in_a_pipe_a_line_is_printed_as_soon_as_it_is_whole() -> None:
    pipe = Pipe()
    assert pipe.show(piece("a", "one\ntw")) == ["a: one"]
    assert pipe.show(piece("b", "x\n")) == ["a: one", "b: x"]
    assert pipe.show(piece("a", "o\n\nthree")) == ["a: one", "b: x", "a: two", "a: "]
    assert pipe.show(piece("a", "", finished=True))[-1] == "a: three"
    done = response({"actorId": "a", "message": "one\ntwo\n\nthree"}, {"actorId": "b"})
    assert len(pipe.show(done)) == 5


def test_in_a_pipe_an_answer_that_came_in_one_piece_is_printed_too() -> None:
    assert Pipe().show(response({"actorId": "a", "message": "one\ntwo\n"})) == ["a: one", "a: two"]


def test_in_a_pipe_the_layers_of_one_actor_are_told_apart() -> None:
    again = json.loads(piece("a", "second")) | {"layerId": "1"}
    events = (piece("a", "first"), response({"actorId": "a", "message": "first"}), encoded(again))
    pipe = Pipe()
    pipe.show(*events)
    pipe.view.close()
    assert pipe.out.getvalue() == "a: first\na: second\n"


def test_in_a_pipe_errors_go_to_standard_error() -> None:
    pipe = Pipe()
    errors = [{"message": "Invalid PDF structure.", "name": "InvalidPDFException"}, {}, "odd"]
    assert pipe.show(response({"actorId": "a", "message": "", "errors": errors})) == []
    assert pipe.err.getvalue() == (
        "a: error: Invalid PDF structure. (InvalidPDFException)\na: error: \n"
    )


def test_in_a_pipe_a_line_without_end_is_cut() -> None:
    lines = Pipe().show(piece("a", "x" * (2 * LINE_CHARS_MAX + 1)))
    assert [len(line) for line in lines] == [LINE_CHARS_MAX + 3] * 2


def test_in_a_pipe_an_event_of_another_shape_is_shown_as_it_is() -> None:
    assert Pipe().show(b'{"type":"NEW",\n"a":1}', b'{"total": 3}') == [
        '{"type":"NEW", "a":1}', '{"total": 3}',
    ]  # fmt: skip


@pytest.mark.parametrize("responses", [None, 3, ["odd", {"errors": 3}]])
def test_a_layer_response_of_an_odd_shape_is_no_crash(responses: Any) -> None:
    event = encoded({"type": "LAYER_RESPONSE", "responses": responses})
    assert Pipe().show(event) in ([], ["None: "])
    assert not failed(event)


def live() -> tuple[LiveView, StringIO]:
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=40, height=12, highlight=False)
    return LiveView("chat\x1b[2J", console), out


def test_on_a_terminal_the_texts_of_a_finished_layer_stay() -> None:
    view, out = live()
    for event in EVENTS:
        view.show(encoded(event))
    view.close()
    shown = out.getvalue()
    kept = shown[shown.rindex("wörld") :]
    assert "Hello wörld" in shown
    assert "\x1b[?25h" in kept  # the cursor is back


def test_on_a_terminal_an_unfinished_text_is_kept_when_the_answer_breaks_off() -> None:
    view, out = live()
    view.show(piece("a", "half a sen"))
    view.close()
    assert out.getvalue().rstrip().endswith("half a sen")


def test_on_a_terminal_the_growing_text_shows_its_end() -> None:
    view, out = live()
    view.show(encoded(EVENTS[0]))
    view.show(piece("a", "".join(f"line {n}\n" for n in range(100)), finished=True))
    view._live.refresh()
    shown = out.getvalue()
    assert "Executing layer 0..." in shown
    assert "a ✓" in shown
    assert "line 99" in shown
    assert "line 50\n" not in shown
    view.close()


def test_on_a_terminal_nothing_that_a_model_writes_steers_the_terminal() -> None:
    view, out = live()
    attack = "\x1b]0;title\x07\x1b[2J\x9b2J"
    view.show(piece(attack, attack))
    view.show(encoded({"type": "LAYER_MESSAGE", "message": attack}))
    view.show(response({"actorId": attack, "message": attack,
                        "errors": [{"message": attack, "name": attack}]}))  # fmt: skip
    view.show(encoded({"type": attack}))
    view.close()
    shown = out.getvalue()
    assert "title" in shown
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"null"])
def test_an_event_that_is_no_json_object_is_an_error(data: bytes) -> None:
    view: View = PlainLines(StringIO(), StringIO())
    with pytest.raises(UpstreamFailed, match="an event is no JSON object"):
        view.show(data)


@pytest.mark.parametrize(
    ("event", "is_failure"),
    [
        (response({"actorId": "a", "errors": [{"message": "x"}]}, last=True), True),
        (response({"actorId": "a"}, {"actorId": "b", "errors": [{"name": "X"}]}, last=True), True),
        (response({"actorId": "a", "errors": [{"message": "x"}]}), False),
        (response({"actorId": "a", "errors": []}, last=True), False),
        (piece("a", "x"), False),
    ],
)
def test_an_answer_has_failed_when_its_last_layer_reports_an_error(
    event: bytes, is_failure: bool
) -> None:
    assert failed(event) is is_failure


@pytest.mark.parametrize(
    ("source", "offset", "shown"),
    [
        ("a + ", 4, "  a + \n      ^"),
        ("a\n  b )\nc", 6, "    b )\n      ^"),
        ("\tb )", 3, "   b )\n     ^"),
        ("", 0, "  \n  ^"),
        ("漢字 )", 3, "  漢字 )\n       ^"),
        ("x" * 200 + ")", 200, "  " + "x" * 50 + ")\n  " + " " * 50 + "^"),
        ("\x1b[2J)", 4, "  \N{REPLACEMENT CHARACTER}[2J)\n      ^"),
    ],
)
def test_a_caret_stands_below_the_character(source: str, offset: int, shown: str) -> None:
    assert caret(source, offset) == shown


def test_json_is_indented_or_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    big = '{"a":[1,{"é":12345678901234567890123}]}'
    show_json(big)
    show_json(big, compact=True)
    indented, _, compact = capsys.readouterr().out.rpartition("}\n{")
    assert json.loads(indented + "}") == json.loads(big)
    assert "{" + compact == big + "\n"


def test_an_answer_is_shown_whole_or_by_its_observation(capsys: pytest.CaptureFixture[str]) -> None:
    show_answer(b'{"executionId": "x", "observation": {"a": 1}}', whole=False)
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    show_answer(b"3", whole=True)
    assert capsys.readouterr().out == "3\n"


@pytest.mark.parametrize(("body", "whole"), [(b"{}", False), (b"[]", False), (b"<p>", True),
                                             (b"\xff", True), (b"", True)])  # fmt: skip
def test_an_answer_that_cannot_be_read_is_an_error(body: bytes, whole: bool) -> None:
    with pytest.raises(UpstreamFailed, match="the answer cannot be read"):
        show_answer(body, whole=whole)
