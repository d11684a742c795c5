"""What the demo shows: live on a terminal, as plain lines in a pipe.

Owns: the look of everything printed.
Does not know: what is right, or where anything comes from.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Column, Table
from rich.text import Text

from deploy.demo.client import Arrived

_PLAIN_WIDTH: Final = 110
_MESSAGE_LENGTH: Final = 160
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


class Screen:
    """Prints on ``console``; colours and live displays only where that is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _PLAIN_WIDTH

    def title(self, text: str) -> None:
        """The demo's name."""
        self._console.print(Text(text, style="bold"))

    def scene(self, text: str) -> None:
        """What is shown next."""
        self._console.print()
        self._console.rule(Text(text, style="bold"), align="left", characters="─")

    def say(self, text: str) -> None:
        """A sentence, or a line to copy: never wrapped."""
        self._console.print(Text(text), soft_wrap=True)

    def command(self, text: str) -> None:
        """A shell command that does the same, ready to be copied."""
        self._console.print(Text(f"$ {text}", style="cyan"), soft_wrap=True)

    def verdict(self, text: str, *, right: bool) -> None:
        """Whether an answer was right."""
        mark, style = ("✓", "green") if right else ("✗", "bold red")
        self._console.print(Text(f"{mark} {text}", style=style), soft_wrap=True)

    def trouble(self, text: str) -> None:
        """What went wrong."""
        self._console.print(Text(text, style="red"), soft_wrap=True)

    @contextmanager
    def step(self, label: str, detail: str) -> Iterator[None]:
        """Something that takes a while: a spinner and the time, then a line with ``detail``."""
        started = time.monotonic()
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            with Progress(*columns, console=self._console, transient=True) as progress:
                progress.add_task(label)
                yield
        else:
            self.say(f"  {label} …")
            yield
        self.verdict(f"{label:<34} {time.monotonic() - started:5.1f} s   {detail}", right=True)

    def value(self, value: Any) -> None:
        """A JSON value, indented."""
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        if self._console.is_terminal:
            self._console.print(Syntax(text, "json", background_color="default", word_wrap=True))
        else:
            self.say(text)

    def entities(self, observation: dict[str, Any], *, rows_max: int = 12) -> None:
        """An observation's entities as a table; those with a label first."""
        entities = [
            entity
            for content in observation["mediaContents"]
            for page in content.get("documentPages", [])
            for entity in page["document"].get("entities", [])
        ]
        shown = sorted(entities, key=lambda entity: not entity.get("label"))[:rows_max]
        table = Table("label", "type", "text", "value", "conf.")
        table.add_column("left  top   width height", no_wrap=True)
        for entity in shown:
            box = entity["block"].get("geometry", {}).get("boundingBox", {})
            places = ("left", "top", "width", "height")
            confidence = entity.get("confidence")
            table.add_row(
                entity.get("label", ""),
                entity.get("type", ""),
                entity["block"]["text"],
                _data_text(entity.get("data", {})),
                "" if confidence is None else f"{confidence:.3f}",
                " ".join(f"{box[place]:.3f}" for place in places if place in box),
            )
        self._console.print(table)
        if len(entities) > len(shown):
            self.say(f"… and {len(entities) - len(shown)} more entities.")

    def stream(self, arrivals: Iterable[Arrived]) -> list[Arrived]:
        """Show the events of a stream as they arrive; all of them."""
        seen = []
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=30, transient=True) as live:
                for arrived in arrivals:
                    seen.append(arrived)
                    live.update(_stream_view(seen))
            self._console.print(_stream_view(seen))
        else:
            for arrived in arrivals:
                seen.append(arrived)
                self.say(f"  {arrived.after_s * 1000:7.0f} ms  {_event_line(arrived.event)}")
        return seen

    def metrics(self, exposition: str) -> None:
        """The requests so far, from the text of /metrics: how many, how they ended, how long."""
        sums = _read_samples(exposition)
        heads = (Column(name, no_wrap=True) for name in ("pipeline", "dialect", "mode"))
        table = Table(*heads, "how they ended")
        for column in ("mean time", "first event", "in the gateway"):
            table.add_column(column, justify="right")
        for route, ended in sorted(_by_route(sums["gateway_requests_total"]).items()):
            names = dict(route)
            if names["mode"] in ("describe", "other"):
                continue
            table.add_row(
                *(names[name] for name in ("pipeline", "dialect", "mode")),
                ", ".join(f"{count:.0f} {outcome}" for outcome, count in sorted(ended.items())),
                _mean(sums, "gateway_request_duration_seconds", route),
                _mean(sums, "gateway_first_event_seconds", route),
                _mean(sums, "gateway_overhead_seconds", route),
            )
        self._console.print(table)

    def hints(self, rows: Sequence[tuple[str, str]]) -> None:
        """What to try next: what it does, and the line that does it."""
        for what, line in rows:
            self._console.print(Text(what, style="dim"), soft_wrap=True)
            self._console.print(Text(f"  {line}", style="cyan"), soft_wrap=True)


def _data_text(data: dict[str, Any]) -> str:
    """The parsed values of an entity, without the text they were parsed from."""
    parsed = [str(value) for name, value in data.items() if name != "textValue"]
    return ", ".join(parsed) or str(data.get("textValue", ""))


def _shortened(text: str) -> str:
    return text if len(text) <= _MESSAGE_LENGTH else f"{text[:_MESSAGE_LENGTH]}… ({len(text)})"


def _event_line(event: dict[str, Any], *, texts: bool = True) -> str:
    """One event on one line; without the actors' ``texts`` where those are shown already."""
    kind = event.get("type", "?")
    flags = "".join(f" {name}" for name in ("finished", "lastLayer", "last") if event.get(name))
    if kind == "STREAMING_RESPONSE":
        said = f"{event['layerId']} {event['actorId']}: {_shortened(event['message'])!r}"
    elif kind == "LAYER_RESPONSE":
        said = "; ".join(
            (
                f"{response['actorId']}: {_shortened(response['message'])!r}"
                if texts
                else response["actorId"]
            )
            + "".join(f" {error['name']}: {error['message']}" for error in response["errors"])
            for response in event["responses"]
        )
    elif kind == "EXECUTION_STATUS":
        attempt = f", attempt {event['attempt']}" if "attempt" in event else ""
        said = f"{event['status']}{attempt}"
    elif kind == "OBSERVATION":
        said = f"{len(event['observation'].get('mediaContents', []))} media content(s)"
    else:
        said = str(event.get("message", ""))
    return f"{kind:<18} {said}{flags}"


def _stream_view(seen: list[Arrived]) -> Group:
    """The stream so far, as each actor's text; those of earlier layers, on which the last one
    works, are shortened to leave it room."""
    texts: dict[tuple[str, str], str] = defaultdict(str)
    notes = []
    for arrived in seen:
        event = arrived.event
        if event.get("type") == "STREAMING_RESPONSE":
            texts[event["layerId"], event["actorId"]] += event["message"]
        elif event.get("type") != "LAYER_MESSAGE":
            line = _event_line(event, texts=False)
            notes.append(Text(f"{arrived.after_s * 1000:7.0f} ms  {line}", "dim"))
    table = Table("layer", "actor", Column("text so far", overflow="fold"), expand=True)
    current = next(reversed(texts), ("", ""))[0]
    for (layer, actor), text in texts.items():
        table.add_row(layer, actor, text if layer == current else _shortened(text))
    first = f"first after {seen[0].after_s * 1000:.0f} ms, " if seen else ""
    footer = Text(f"{len(seen)} events, {first}last after {seen[-1].after_s:.2f} s" if seen else "")
    return Group(table, *notes, footer) if texts else Group(*notes, footer)


Labels = tuple[tuple[str, str], ...]


def _read_samples(exposition: str) -> dict[str, dict[Labels, float]]:
    """Every sample of a Prometheus exposition: name -> sorted labels -> value."""
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    for line in exposition.splitlines():
        found = _SAMPLE.match(line)
        if found is not None:
            labels = tuple(sorted(_LABEL.findall(found[2] or "")))
            samples[found[1]][labels] = float(found[3])
    return samples


def _by_route(requests: dict[Labels, float]) -> dict[Labels, dict[str, float]]:
    """Requests: route -> outcome -> how many; outcomes that never were are left out."""
    routes: dict[Labels, dict[str, float]] = defaultdict(dict)
    for labels, count in requests.items():
        route = tuple(pair for pair in labels if pair[0] != "outcome")
        if count:
            routes[route][dict(labels)["outcome"]] = count
    return routes


def _mean(samples: dict[str, dict[Labels, float]], name: str, labels: Labels) -> str:
    """The mean of a histogram, in milliseconds."""
    count = samples[f"{name}_count"].get(labels, 0.0)
    if not count:
        return ""
    return f"{samples[f'{name}_sum'][labels] / count * 1000:.1f} ms"
