"""A remote pipeline's layers of actors as the text of one actor.

Where an upstream that has layers of its own runs as one actor of a pipeline here, what counts is
what its last layer says. Where several remote actors speak there, their texts follow one another, a
blank line between: the first to say something is passed on as it comes, and what others say
meanwhile waits until it is done.

Owns: which of the remote events are that text, and in which order.
Does not know: where the events come from, or how long the text may get.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.model import Delta, Event, LayerFinished

SEPARATOR: Final = "\n\n"


@dataclass(slots=True)
class _Voice:
    """A remote actor that has not been passed on to its end."""

    pieces: list[str] = field(default_factory=list)
    begun: bool = False
    finished: bool = False


class Flattened:
    """Takes the events of one remote run, gives the text that each brings."""

    def __init__(self) -> None:
        self._voices: dict[str, _Voice] = {}  # the first is the one that is passed on
        self._done: set[str] = set()
        self._begun = False
        self._half = ""

    def feed(self, event: Event) -> str:
        """The text to pass on now; ``""``: none."""
        match event:
            case Delta(last_layer=True) if event.actor_id not in self._done:
                voice = self._voices.setdefault(event.actor_id, _Voice())
                voice.pieces.append(event.message)
                voice.finished |= event.finished
            case LayerFinished(last=True):
                for response in event.responses:
                    if response.actor_id not in self._done | self._voices.keys():
                        self._voices[response.actor_id] = _Voice([response.message])
                for voice in self._voices.values():
                    voice.finished = True
            case _:  # an earlier layer, or one that begins
                return ""
        return self._whole(self._advance(), last=isinstance(event, LayerFinished))

    def _whole(self, text: str, *, last: bool) -> str:
        """``text`` with the half of a character that was left over before it; one at its end waits
        for the other half. A half that stays alone is none."""
        if self._half or not text.isascii():
            text = self._half + text
            self._half = ""
            if not last and "\ud800" <= text[-1:] <= "\udbff":
                text, self._half = text[:-1], text[-1]
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text

    def _advance(self) -> str:
        passed_on = ""
        while self._voices:
            name, voice = next(iter(self._voices.items()))
            text = "".join(voice.pieces)
            voice.pieces.clear()
            if text:
                if self._begun and not voice.begun:
                    passed_on += SEPARATOR
                passed_on += text
                voice.begun = self._begun = True
            if not voice.finished:
                break
            self._done.add(name)
            del self._voices[name]
        return passed_on
