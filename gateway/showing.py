"""What the commands print: values and streams, for people on a terminal, for programs in a pipe.

Owns: the look of JSON, of a failing expression, and of an answer as it arrives.
Does not know: where any of it comes from.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TextIO

import msgspec
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.highlighter import JSONHighlighter
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from gateway.calling import clean
from gateway.errors import UpstreamFailed

#: A line of an answer that is longer than this is cut, so that waiting for its end has a bound.
LINE_CHARS_MAX: Final = 64 * 1024
_SOURCE_WIDTH: Final = 100
#: What stands between what two attempts at a run have said.
AGAIN: Final = "--- the run begins again; what stands above of it is void ---"
#: How an execution's last status looks on a terminal.
_STYLES: Final = {"COMPLETED": "bold green", "FAILED": "bold red", "CANCELLED": "bold yellow"}


def show_json(text: str, *, compact: bool = False) -> None:
    """JSON text on standard output: indented unless ``compact``, coloured on a terminal."""
    shown = msgspec.json.format(text, indent=-1 if compact else 2)
    if sys.stdout.isatty():
        console = Console(highlight=False)
        console.print(JSONHighlighter()(Text(clean(shown))), soft_wrap=True)
    else:
        print(shown)


class _Executed(msgspec.Struct):
    observation: msgspec.Raw


def show_answer(body: bytes, *, whole: bool) -> None:
    """Print the answer of an execute call: all of it, or the observation in it.

    Raises UpstreamFailed where it is not such an answer.
    """
    try:
        shown = body if whole else bytes(msgspec.json.decode(body, type=_Executed).observation)
        show_json(shown.decode())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamFailed(f"the answer cannot be read: {error}") from error


def caret(source: str, offset: int) -> str:
    """The line of ``source`` that holds the character at ``offset``, and a caret below it."""
    start = source.rfind("\n", 0, offset) + 1
    end = source.find("\n", offset)
    line = source[start : end if end >= 0 else len(source)]
    column = offset - start
    left = max(column - _SOURCE_WIDTH // 2, 0)
    before, after = line[left:column], line[column : left + _SOURCE_WIDTH]
    before, after = clean(before.replace("\t", " ")), clean(after.replace("\t", " "))
    return f"  {before}{after}\n  {' ' * cell_len(before)}^"


class View(Protocol):
    """Something that shows the events of one answer as they arrive."""

    def show(self, data: bytes) -> None:
        """Show one event, given as its JSON text. Raises UpstreamFailed where it is no JSON."""
        ...

    def note(self, text: str) -> None:
        """Show what is no part of the answer: how the execution and the connection are."""
        ...

    def close(self) -> None:
        """The answer is over, or was given up."""
        ...


class JsonLines:
    """Every event as it was received, one a line."""

    def show(self, data: bytes) -> None:
        """See View."""
        print(_one_line(data), flush=True)

    def note(self, text: str) -> None:
        """See View: on standard error."""
        print(_one_line(clean(text).encode()), file=sys.stderr, flush=True)

    def close(self) -> None:
        """See View."""


class _Runs:
    """Tells from an execution's statuses where a run begins that had begun before."""

    def __init__(self) -> None:
        self._running = False

    def begun_again(self, event: dict[str, Any]) -> bool:
        """Whether one does with this EXECUTION_STATUS event; to be told of all of them.

        A run that its gateway has put back when it stopped is QUEUED in between, and at its first
        attempt still."""
        status = event.get("status")
        again = status == "RUNNING" and (self._running or event.get("attempt", 1) != 1)
        self._running = status == "RUNNING" or (self._running and status == "QUEUED")
        return again


class PlainLines:
    """Every line of every actor's text as ``actor: line``, as soon as the line is whole.

    An actor's errors, and an execution's status, go to standard error; but where a run begins again
    that is said among the lines. An event of no known type is shown as its JSON.
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._begun: dict[tuple[str, str], str] = {}
        self._runs = _Runs()

    def show(self, data: bytes) -> None:
        """See View."""
        event = _decoded(data)
        layer = str(event.get("layerId"))
        match event.get("type"):
            case "STREAMING_RESPONSE":
                actor = str(event.get("actorId"))
                self._piece(layer, actor, str(event.get("message", "")))
                if event.get("finished"):
                    self._flush(layer, actor)
            case "LAYER_RESPONSE":
                for response in _responses(event):
                    actor = str(response.get("actorId"))
                    if (layer, actor) not in self._begun:
                        self._piece(layer, actor, str(response.get("message", "")))
                    self._flush(layer, actor)
                    for error in error_lines(response):
                        print(f"{actor}: {error}", file=self._err, flush=True)
            case "EXECUTION_STATUS":
                self._status(event)
            case "LAYER_MESSAGE" | "OBSERVATION":
                pass  # progress is for people, and what was observed is for those who ask for it
            case _:
                print(_one_line(data), file=self._out, flush=True)

    def note(self, text: str) -> None:
        """See View: on standard error."""
        print(_one_line(clean(text).encode()), file=self._err, flush=True)

    def _status(self, event: dict[str, Any]) -> None:
        if self._runs.begun_again(event):
            self.close()
            self._begun.clear()
            print(AGAIN, file=self._out, flush=True)
        self.note(status_line(event))

    def close(self) -> None:
        """See View."""
        for layer, actor in list(self._begun):
            self._flush(layer, actor)

    def _piece(self, layer: str, actor: str, text: str) -> None:
        *lines, rest = (self._begun.get((layer, actor), "") + text).split("\n")
        while len(rest) > LINE_CHARS_MAX:
            lines.append(rest[:LINE_CHARS_MAX])
            rest = rest[LINE_CHARS_MAX:]
        for line in lines:
            print(f"{actor}: {line}", file=self._out, flush=True)
        self._begun[layer, actor] = rest

    def _flush(self, layer: str, actor: str) -> None:
        rest = self._begun.get((layer, actor))
        if rest:
            print(f"{actor}: {rest}", file=self._out, flush=True)
        self._begun[layer, actor] = ""


@dataclass(slots=True)
class _Actor:
    text: str = ""
    finished: bool = False


@dataclass(slots=True)
class _State:
    title: str
    started: float
    note: str = "waiting for the first event"
    actors: dict[str, _Actor] = field(default_factory=dict)


class LiveView:
    """A display that grows while the answer arrives: what runs, for how long, each actor's text.

    When a layer is done its texts are printed for good, above the display.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._state = _State(clean(title), time.monotonic())
        self._runs = _Runs()
        self._spinner = Spinner("dots")
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            transient=True,
            refresh_per_second=12,
        )
        self._live.start(refresh=True)

    def show(self, data: bytes) -> None:
        """See View."""
        event = _decoded(data)
        state = self._state
        match event.get("type"):
            case "LAYER_MESSAGE":
                state.note = clean(str(event.get("message", "")))
                state.actors.clear()
            case "STREAMING_RESPONSE":
                actor = state.actors.setdefault(clean(str(event.get("actorId"))), _Actor())
                actor.text += clean(str(event.get("message", "")))
                actor.finished = bool(event.get("finished"))
            case "LAYER_RESPONSE":
                state.actors.clear()
                for response in _responses(event):
                    self._print_response(response)
            case "EXECUTION_STATUS":
                self._status(event)
            case "OBSERVATION":
                pass  # it can be long, and the actors have said it
            case _:
                self._console.print(Text(clean(data.decode("utf-8", "replace"))))

    def note(self, text: str) -> None:
        """See View: above the display, where it stays."""
        self._console.print(Text(clean(text), style="dim"))

    def _status(self, event: dict[str, Any]) -> None:
        self._state.note = status_line(event)
        if self._runs.begun_again(event):
            self._keep_unfinished()
            self._console.print(Text(AGAIN, style="yellow"))
        if style := _STYLES.get(str(event.get("status"))):
            self._console.print(Text(status_line(event), style=style))

    def close(self) -> None:
        """See View."""
        self._live.stop()
        self._keep_unfinished()

    def _keep_unfinished(self) -> None:
        for name, actor in self._state.actors.items():
            self._print_text(name, actor.text)
        self._state.actors.clear()

    def _print_response(self, response: dict[str, Any]) -> None:
        name = clean(str(response.get("actorId")))
        self._print_text(name, clean(str(response.get("message", ""))))
        for error in error_lines(response):
            self._console.print(Text(error, style="red"))

    def _print_text(self, name: str, text: str) -> None:
        self._console.print(Text(name, style="bold cyan"))
        if text:
            self._console.print(Text(text), soft_wrap=True)

    def _render(self) -> RenderableType:
        state = self._state
        elapsed = time.monotonic() - state.started
        self._spinner.update(text=Text(f"{state.title}  {state.note}  {elapsed:.0f} s"))
        rows: list[RenderableType] = [self._spinner]
        room = self._console.height - 2 * len(state.actors) - 2
        lines = max(room // max(len(state.actors), 1), 1)
        for name, actor in list(state.actors.items()):
            mark = "✓" if actor.finished else "…"
            rows.append(Text(f"{name} {mark}", style="bold cyan"))
            rows.append(self._tail(actor.text, lines))
        return Group(*rows)

    def _tail(self, text: str, lines: int) -> Text:
        """The end of ``text`` that fits into ``lines`` lines of the terminal."""
        width = max(self._console.width, 1)
        wrapped = Text(text[-lines * width :]).wrap(self._console, width)
        return Text("\n").join(wrapped[-lines:])


def error_lines(response: dict[str, Any]) -> list[str]:
    """What an actor's response says went wrong, a line each: ``error: message (Name)``."""
    errors = response.get("errors")
    lines = []
    for error in errors if isinstance(errors, list) else []:
        if isinstance(error, dict):
            name = f" ({clean(str(error['name']))})" if error.get("name") else ""
            lines.append(f"error: {clean(str(error.get('message', '')))}{name}")
    return lines


def status_line(event: dict[str, Any]) -> str:
    """What an EXECUTION_STATUS event says: ``execution 5e0c…: FAILED: message``."""
    message = f": {event['message']}" if event.get("message") else ""
    status = f"{event.get('status')}{message}"
    return _one_line(clean(f"execution {event.get('executionId')}: {status}").encode())


def show_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; in a pipe a line for each row, its cells between tabs, no heads."""
    cleaned = [[_one_line(clean(cell).encode()).replace("\t", " ") for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cleaned:
            print("\t".join(row).rstrip())
        return
    table = Table(*heads)
    for row in cleaned:
        table.add_row(*map(Text, row))
    Console().print(table)


def failed(data: bytes) -> bool:
    """Whether this event is the last layer's response and reports an error."""
    event = _decoded(data)
    return (
        event.get("type") == "LAYER_RESPONSE"
        and event.get("last") is True
        and any(error_lines(response) for response in _responses(event))
    )


def _responses(event: dict[str, Any]) -> list[dict[str, Any]]:
    responses = event.get("responses")
    return (
        [each for each in responses if isinstance(each, dict)]
        if isinstance(responses, list)
        else []
    )


def _one_line(data: bytes) -> str:
    # A line break in JSON is white space between values, never part of one.
    return data.decode("utf-8", "replace").replace("\n", " ").replace("\r", " ")


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UpstreamFailed(f"an event is no JSON object: {error}") from error
