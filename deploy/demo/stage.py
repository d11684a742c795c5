"""Where the demo's scenes are played: the gateway as both kinds of client meet it.

Owns: sending to the gateway in either dialect, the commands that do the same, noting what is wrong,
and what several scenes read out of an answer.
Does not know: which scenes there are, nor what a right answer is.
"""

from __future__ import annotations

import base64
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from deploy.demo.client import AnswerError, Arrived, Body, json_body, send, stream
from deploy.demo.screen import Screen

_SHOWN_CHARS: Final = 80


@dataclass(slots=True)
class Stage:
    """Where the scenes are played.

    Args:
        base: the gateway's address, ``http://host:port``.
        key: a key that opens all pipelines.
        folder: where the files are that the shown commands send.
        pupau_url: the simulated Pupau, asked how the runs there ended.
    """

    screen: Screen
    base: str
    key: str
    folder: Path
    pupau_url: str
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, actual: Any, expected: Any) -> None:
        """Show whether an answer is right, and remember it if not."""
        if actual == expected:
            self.screen.verdict(f"{what}: {_short(actual)}", right=True)
        else:
            text = f"{what}: expected {_json(expected)}, got {_json(actual)}"
            self.screen.verdict(text, right=False)
            self.wrong.append(text)

    def execute(self, pipeline: str, body: Any, view: str = "") -> Any:
        """The answer of ``executeSync``, or of one of its views, as a Cambrion client gets it."""
        url = f"{self.base}/v1/pipelines/{pipeline}/executeSync{view}"
        headers = {"X-API-Key": self.key, "Accept": "application/json"}
        return send(url, json_body(body), headers).json()

    def execute_stream(self, pipeline: str, body: Any) -> Generator[Arrived, None, None]:
        """The events of ``executeSync`` for a Cambrion client that asks for a stream."""
        url = f"{self.base}/v1/pipelines/{pipeline}/executeSync"
        headers = {"X-API-Key": self.key, "Accept": "text/event-stream"}
        return stream(url, json_body(body), headers)

    def query(self, pipeline: str, body: Body) -> Any:
        """The answer of ``queries``, as a Pupau client gets it."""
        url = f"{self.base}/pipelines/{pipeline}/queries?sse=false"
        return send(url, body, {"Api-Key": self.key}).json()

    def query_stream(self, pipeline: str, body: Body) -> Generator[Arrived, None, None]:
        """The events of ``queries`` for a Pupau client that asks for a stream."""
        url = f"{self.base}/pipelines/{pipeline}/queries?sse=true"
        return stream(url, body, {"Api-Key": self.key})

    def curl(self, path: str, *options: str) -> str:
        """The command for a call of the gateway."""
        key = (
            f"-H 'X-API-Key: {self.key}'" if path.startswith("/v1") else f"-H 'Api-Key: {self.key}'"
        )
        return " ".join(["curl -s", key, *options, f"'{self.base}{path}'"])


def finished_messages(arrivals: list[Arrived]) -> dict[str, str]:
    """Each actor's whole text, from the layers' responses; the last event must be the last."""
    responses: dict[str, str] = {}
    ended = False
    for arrived in arrivals:
        if arrived.event.get("type") == "LAYER_RESPONSE":
            ended = bool(arrived.event.get("last"))
            for response in arrived.event["responses"]:
                responses[response["actorId"]] = response["message"]
    if not ended:
        raise AnswerError("the stream ended without the last layer's LAYER_RESPONSE")
    return responses


def joined_pieces(arrivals: list[Arrived]) -> Mapping[str, str]:
    """Each actor's pieces, joined."""
    texts: dict[str, str] = {}
    for arrived in arrivals:
        event = arrived.event
        if event.get("type") == "STREAMING_RESPONSE":
            texts[event["actorId"]] = texts.get(event["actorId"], "") + event["message"]
    return texts


def without_spaces(value: Any) -> Any:
    """The value with no spaces in its texts: OCR leaves one out now and then, which is no mistake
    of the gateway."""
    if isinstance(value, str):
        return value.replace(" ", "")
    if isinstance(value, list):
        return [without_spaces(item) for item in value]
    if isinstance(value, dict):
        return {name: without_spaces(item) for name, item in value.items()}
    return value


def parsed(message: str) -> Any:
    """An actor's message that is JSON. Raises AnswerError where it is none."""
    try:
        return msgspec.json.decode(message)
    except msgspec.DecodeError as cause:
        raise AnswerError(
            f"the actor's message is not JSON ({cause}): {message[:200]!r}"
        ) from cause


def base64_text(data: bytes) -> str:
    """A file as JSON carries it."""
    return base64.b64encode(data).decode()


def curl_json(body: Any) -> str:
    """The options by which curl sends JSON: a value, or the file of that path."""
    data = f"@{body}" if isinstance(body, Path) else f"'{_json(body)}'"
    return f"-H 'Content-Type: application/json' -d {data}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
