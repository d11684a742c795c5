"""A simulated Pupau API: layers of actors that answer word by word over real HTTP.

The actors' texts are made from the request alone, so the same request streams the same pieces.
When the client goes away, the run stops at once; ``GET /_seen`` counts the runs that were started,
finished and broken off, which shows that a cancelled call really costs nothing upstream.

Owns: the Pupau dialect as a server of that API has it, written from the API's description.
Does not know: the gateway. It shares no code with it, so that it notices what the gateway gets
wrong.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, Final

import msgspec
from aiohttp import web

from deploy.demo.refusals import RefusedError, json_response, refusals

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Query:
    """What was asked: ``files`` are names, content types and sizes in bytes."""

    request: str
    context: str | None
    files: tuple[tuple[str, str, int], ...]


@dataclass(slots=True)
class Seen:
    """How the runs went since the start."""

    started: int = 0
    finished: int = 0
    broken_off: int = 0
    pieces: int = 0


class PupauSimulator:
    """The API, with three pipelines: ``chat``, ``summary`` and ``broken``.

    ``chat`` has two layers: ``actor-1`` and ``actor-2`` side by side, then ``actor-3``. The one
    actor of ``summary`` says in sentences what the JSON object in its request says. The one of
    ``broken`` reports that it cannot read a PDF. ``delay_s``: seconds between two pieces.
    """

    def __init__(self, api_key: str, *, delay_s: float) -> None:
        self._api_key = api_key
        self._delay_s = delay_s
        self.seen = Seen()
        self._runs: dict[str, Callable[[_Query], AsyncIterator[Json]]] = {
            "chat": self._chat,
            "summary": self._summary,
            "broken": self._broken,
        }

    def application(self) -> web.Application:
        """The aiohttp application to serve, with ``handler_cancellation`` on."""
        application = web.Application(
            client_max_size=BODY_BYTES_MAX, middlewares=[refusals("name", "HttpError")]
        )
        application.add_routes(
            [
                web.post("/pipelines/{id}/queries", self._query),
                web.get("/_seen", self._show_seen),
            ]
        )
        return application

    async def _show_seen(self, request: web.Request) -> web.Response:
        return json_response(asdict(self.seen))

    async def _query(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Api-Key") != self._api_key:
            raise RefusedError(401, "Unauthorized", "The Api-Key header is missing or wrong.")
        run = self._runs.get(request.match_info["id"])
        if run is None:
            raise RefusedError(
                404, "PipelineNotFound", f"No pipeline {request.match_info['id']!r}."
            )
        sse = request.query.get("sse", "false")
        if sse not in ("true", "false"):
            raise RefusedError(400, "InvalidQuery", "'sse' must be true or false.")
        query = await _read_query(request)
        self.seen.started += 1
        try:
            answer = run(query)
            if sse == "true":
                response = await self._stream(request, answer)
            else:
                response = json_response([event async for event in answer][-1]["responses"])
        except (asyncio.CancelledError, ConnectionError):
            self.seen.broken_off += 1
            raise
        self.seen.finished += 1
        return response

    async def _stream(
        self, request: web.Request, events: AsyncIterator[Json]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "no-cache"})
        response.content_type = "text/event-stream"
        await response.prepare(request)
        async for event in events:
            await response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")
        await response.write_eof()
        return response

    async def _chat(self, query: _Query) -> AsyncIterator[Json]:
        context = f' The context was: "{query.context}".' if query.context else ""
        files = ", ".join(f"{name} ({kind}, {size} bytes)" for name, kind, size in query.files)
        first = {
            "actor-1": f'You asked: "{query.request}".{context}',
            "actor-2": f"You sent {len(query.files)} file(s){': ' + files if files else ''}.",
        }
        async for event in self._layer("0", first, last=False):
            yield event
        words = len(query.request.split())
        summary = f"In short: {words} word(s) and {len(query.files)} file(s) arrived safely."
        async for event in self._layer("1", {"actor-3": summary}, last=True):
            yield event

    async def _summary(self, query: _Query) -> AsyncIterator[Json]:
        text = _in_sentences(query.request)
        async for event in self._layer("0", {"actor-1": text}, last=True, words=2):
            yield event

    async def _layer(
        self, layer_id: str, texts: dict[str, str], *, last: bool, words: int = 1
    ) -> AsyncIterator[Json]:
        """The events of one layer; its actors' pieces, of so many ``words``, take turns."""
        yield _layer_message(layer_id)
        pieces = {actor: _pieces(text, words) for actor, text in texts.items()}
        turns = ([(actor, piece) for piece in said] for actor, said in pieces.items())
        left = {actor: len(said) for actor, said in pieces.items()}
        for turn in zip_longest(*turns):
            for said in turn:
                if said is None:
                    continue
                actor, piece = said
                await asyncio.sleep(self._delay_s)
                left[actor] -= 1
                self.seen.pieces += 1
                event: Json = {
                    "type": "STREAMING_RESPONSE",
                    "actorId": actor,
                    "message": piece,
                    "layerId": layer_id,
                }
                if left[actor] == 0:
                    event["finished"] = True
                if last:
                    event["lastLayer"] = True
                yield event
        responses = [_response(actor, text) for actor, text in texts.items()]
        yield _layer_response(layer_id, responses, last=last)

    async def _broken(self, query: _Query) -> AsyncIterator[Json]:
        yield _layer_message("0")
        await asyncio.sleep(self._delay_s)
        error = {"message": "Invalid PDF structure.", "name": "InvalidPDFException"}
        yield _layer_response("0", [{**_response("actor-1", ""), "errors": [error]}], last=True)


async def _read_query(request: web.Request) -> _Query:
    """The query of a JSON or a multipart body."""
    if request.content_type == "application/json":
        query = _of_json(await request.read())
    elif request.content_type == "multipart/form-data":
        query = await _of_form(request)
    else:
        raise RefusedError(415, "UnsupportedMediaType", "Send JSON or multipart form data.")
    if not query.request and not query.files:
        raise RefusedError(400, "InvalidQuery", "Nothing to run on: no 'request' and no 'file'.")
    return query


def _of_json(raw: bytes) -> _Query:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise RefusedError(400, "InvalidJson", f"The body is not JSON: {cause}") from cause
    if not isinstance(body, dict):
        raise RefusedError(400, "InvalidQuery", "The body must be a JSON object.")
    texts = {name: body.get(name) for name in ("request", "context")}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise RefusedError(400, "InvalidQuery", f"'{name}' must be a string.")
    return _Query(request=texts["request"] or "", context=texts["context"], files=())


async def _of_form(request: web.Request) -> _Query:
    try:
        form = await request.post()
    except ValueError as cause:
        raise RefusedError(400, "InvalidForm", f"The form cannot be read: {cause}") from cause
    texts = {name: form.get(name) for name in ("request", "context")}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise RefusedError(400, "InvalidForm", f"The part '{name}' must be text, not a file.")
    files = []
    for part in form.getall("file", []):
        if not isinstance(part, web.FileField):
            raise RefusedError(400, "InvalidForm", "A part 'file' has no file name.")
        size = part.file.seek(0, 2)
        files.append((part.filename, part.content_type, size))
    return _Query(
        request=str(texts["request"] or ""),
        context=None if texts["context"] is None else str(texts["context"]),
        files=tuple(files),
    )


def _in_sentences(request: str) -> str:
    """What the JSON object in the request says, one sentence for each of its values."""
    start, end = request.find("{"), request.rfind("}") + 1
    try:
        facts = msgspec.json.decode(request[max(start, 0) : end], type=Json)
    except msgspec.DecodeError:
        return f"There is no JSON object to sum up in the {len(request)} characters of the request."
    sentences = [_sentence(label, value) for label, value in facts.items()]
    return " ".join(sentences) or "There is nothing in it."


def _sentence(label: str, value: Any) -> str:
    """``invoiceNo`` and ``"A-1"``: The invoice no is A-1."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label).lower()
    if not isinstance(value, list):
        said = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return f"The {words} is {said}."
    names = (next(iter(one.values()), "") if isinstance(one, dict) else one for one in value)
    return f"There are {len(value)} {words}: {'; '.join(map(str, names))}."


def _pieces(text: str, words: int) -> list[str]:
    """The text, so many words at a time; joined, the pieces are the text."""
    each = [word if at == 0 else f" {word}" for at, word in enumerate(text.split(" "))]
    return ["".join(each[at : at + words]) for at in range(0, len(each), words)]


def _layer_message(layer_id: str) -> Json:
    return {
        "type": "LAYER_MESSAGE",
        "message": f"Executing layer {layer_id}...",
        "layerId": layer_id,
        "executionCount": 1,
    }


def _layer_response(layer_id: str, responses: list[Json], *, last: bool) -> Json:
    event: Json = {"type": "LAYER_RESPONSE", "layerId": layer_id, "responses": responses}
    if last:
        event["last"] = True
    return event


def _response(actor: str, text: str) -> Json:
    return {"actorId": actor, "message": text, "errors": [], "info": []}
