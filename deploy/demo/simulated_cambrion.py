"""A simulated Cambrion API: real HTTP, real checks, answers made from the request alone.

It reads no documents. What it says of a file is its kind, size and dimensions; what it says of a
text are its lines, with a label and a parsed value where a line reads ``Key: value``. The same
request gets the same answer, down to the execution ID.

Owns: the Cambrion dialect as a server of that API has it, written from the API's description.
Does not know: the gateway. It shares no code with it, so that it notices what the gateway gets
wrong.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import jsonatapy
import msgspec
from aiohttp import web
from PIL import Image, UnidentifiedImageError

from deploy.demo.refusals import RefusedError, json_response, refusals

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
TRANSFORM_MS: Final = 1000
_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_NUMBER: Final = re.compile(r"-?\d+\.\d+")
_QUANTITY: Final = re.compile(r"-?\d+")
_VALUE_FIELDS: Final = {
    "STRING": ("textData", "textValue"),
    "NUMBER": ("numberData", "numberValue"),
    "QUANTITY": ("quantityData", "quantityValue"),
    "UNIT": ("unitData", "unitValue"),
    "DATE": ("dateData", "dateValue"),
    "PERCENTAGE": ("numberData", "numberValue"),
}
Json = dict[str, Any]


class CambrionSimulator:
    """The API under ``/v1``, with three pipelines: ``receipt``, ``archive`` and ``echo``.

    ``receipt`` answers with an observation of everything it was sent; ``archive`` with the number
    under which that would be filed; ``echo`` with the observation that it was sent, or an empty
    one.
    """

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key
        self._runs: dict[str, Callable[[Json, str], Json]] = {
            "receipt": _receipt,
            "archive": _archive,
            "echo": _echo,
        }

    def application(self) -> web.Application:
        """The aiohttp application to serve."""
        application = web.Application(
            client_max_size=BODY_BYTES_MAX,
            middlewares=[refusals("code", "http_error"), self._check_key],
        )
        base = "/v1/pipelines"
        application.add_routes(
            [
                web.get(base, self._list),
                web.get(base + "/{id}", self._describe),
                web.get(base + "/{id}/definition", self._definition),
                web.post(base + "/{id}/executeSync", self._execute),
                web.post(base + "/{id}/executeSync/json", self._execute_json),
                web.post(base + "/{id}/executeSync/transform", self._execute_transform),
            ]
        )
        return application

    @web.middleware
    async def _check_key(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.headers.get("X-API-Key") != self._api_key:
            raise RefusedError(401, "unauthorized", "The X-API-Key header is missing or wrong.")
        return await handler(request)

    async def _list(self, request: web.Request) -> web.Response:
        return json_response([_pipeline(name) for name in self._runs])

    async def _describe(self, request: web.Request) -> web.Response:
        name = self._pipeline_name(request)
        return json_response({"pipeline": _pipeline(name), "pipelineDefinition": _definition(name)})

    async def _definition(self, request: web.Request) -> web.Response:
        return json_response(_definition(self._pipeline_name(request)))

    async def _execute(self, request: web.Request) -> web.Response:
        _, observation = await self._run(request)
        return json_response(
            {"executionId": observation["executionId"], "observation": observation}
        )

    async def _execute_json(self, request: web.Request) -> web.Response:
        _, observation = await self._run(request)
        return json_response(_as_json(observation))

    async def _execute_transform(self, request: web.Request) -> web.Response:
        body, observation = await self._run(request)
        expression = body.get("transform")
        if not isinstance(expression, str):
            raise RefusedError(400, "bad_request", "'transform' must be a JSONata expression.")
        try:
            result = jsonatapy.evaluate(expression, observation, timeout=TRANSFORM_MS)
        except ValueError as cause:
            raise RefusedError(400, "bad_transform", f"The transform failed: {cause}") from cause
        kind = "application/json" if "json" in request.headers.get("Accept", "") else "text/plain"
        return web.Response(body=msgspec.json.encode(result), content_type=kind)

    async def _run(self, request: web.Request) -> tuple[Json, Json]:
        """The request's body, checked, and the observation of running the pipeline on it."""
        name = self._pipeline_name(request)
        raw = await request.read()
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            raise RefusedError(400, "bad_request", f"The body is not JSON: {cause}") from cause
        if not isinstance(body, dict):
            raise RefusedError(400, "bad_request", "The body must be a JSON object.")
        if body.get("executionId") is not None:
            raise RefusedError(400, "bad_request", f"Unknown execution {body['executionId']!r}.")
        if not any(body.get(field) for field in ("media", "text", "observation")):
            raise RefusedError(
                400, "bad_request", "Nothing to run on: no media, text or observation."
            )
        execution_id = "execution-" + hashlib.sha256(name.encode() + raw).hexdigest()[:16]
        return body, self._runs[name](body, execution_id)

    def _pipeline_name(self, request: web.Request) -> str:
        name = request.match_info["id"]
        if name not in self._runs:
            raise RefusedError(404, "not_found", f"There is no pipeline {name!r}.")
        return name


def _pipeline(name: str) -> Json:
    return {
        "pipelineId": name,
        "name": name.capitalize(),
        "description": f"Simulated pipeline {name}",
        "tag": "simulated",
        "status": "DEPLOYED",
        "version": 1,
    }


def _definition(name: str) -> Json:
    """Two models in a row, in the shape that the API describes."""
    steps = (f"{name}_reader", f"{name}_parser")
    nodes = [
        {
            "modelId": step,
            "modelName": step,
            "modelVersion": 1,
            "inputs": [{"inputName": f"{step}_input", "inputType": "STRING", "inputShape": [1]}],
            "outputs": [
                {"outputName": f"{step}_output", "outputType": "STRING", "outputShape": [1]}
            ],
            "modelParameters": {},
            "canvas": {"position": {"x": 0, "y": 250 * row}},
        }
        for row, step in enumerate(steps)
    ]
    edge = {
        "id": "edge-1",
        "source": steps[0],
        "sourceHandle": f"{steps[0]}_output",
        "target": steps[1],
        "targetHandle": f"{steps[1]}_input",
        "dataHandle": f"{name}_lines",
    }
    return {"pipelineDefinitionId": f"{name}-definition", "nodes": nodes, "edges": [edge]}


def _receipt(body: Json, execution_id: str) -> Json:
    """An observation of all that was sent: one content per file, then one for the text."""
    contents = [_of_file(data, number) for number, data in enumerate(_media(body), start=1)]
    lines = []
    text = body.get("text")
    if text is not None:
        if not isinstance(text, str):
            raise RefusedError(400, "bad_request", "'text' must be a string.")
        lines += text.splitlines()
    parameters = body.get("runtimeParameters")
    if isinstance(parameters, dict) and isinstance(parameters.get("context"), str):
        lines.append(f"Context: {parameters['context']}")
    if lines:
        contents.append({**_content("text-1", lines), "rawText": "\n".join(lines)})
    return _appended(body, execution_id, contents)


def _archive(body: Json, execution_id: str) -> Json:
    """An observation that holds the number under which all that was sent would be filed: what is
    the same has the same number."""
    filed = msgspec.json.encode([body.get(name) for name in ("media", "text", "observation")])
    number = hashlib.sha256(filed).hexdigest()[:8].upper()
    return _appended(body, execution_id, [_content("archive", [f"Archive No: F-{number}"])])


def _appended(body: Json, execution_id: str, contents: list[Json]) -> Json:
    """The observation that was sent, with more contents."""
    start = body.get("observation") or {}
    return {
        "executionId": execution_id,
        "mediaContents": [*start.get("mediaContents", []), *contents],
        "documents": start.get("documents", []),
    }


def _echo(body: Json, execution_id: str) -> Json:
    """The observation that was sent, under this execution's ID."""
    empty: Json = {"mediaContents": [], "documents": []}
    return {**empty, **(body.get("observation") or {}), "executionId": execution_id}


def _media(body: Json) -> list[bytes]:
    """The files, decoded."""
    media = body.get("media") or []
    if not isinstance(media, list):
        raise RefusedError(400, "bad_request", "'media' must be a list of base64 strings.")
    files = []
    for number, text in enumerate(media):
        try:
            files.append(base64.b64decode(text, validate=True))
        except (TypeError, ValueError, binascii.Error) as cause:
            raise RefusedError(400, "bad_request", f"media[{number}] is not base64.") from cause
    return files


def _of_file(data: bytes, number: int) -> Json:
    """What can be said of a file without reading what is on it."""
    kind = next((kind for start, kind in _SIGNATURES if data.startswith(start)), "text/plain")
    lines = [f"Content Type: {kind}", f"Size: {len(data)}"]
    content: Json = {"imageHash": hashlib.sha256(data).hexdigest()}
    if kind.startswith("image/"):
        try:
            width, height = Image.open(io.BytesIO(data)).size
        except (UnidentifiedImageError, OSError) as cause:
            raise RefusedError(400, "bad_request", f"media {number} is a damaged image.") from cause
        content["metaData"] = {"width": width, "height": height}
    return {**_content(f"media-{number}", lines), **content}


def _content(name: str, lines: list[str]) -> Json:
    """A media content of one page, with one entity a line, set as on a typed page."""
    entities = [_entity(line, number) for number, line in enumerate(lines)]
    document = {"id": f"{name}-document-1", "entities": entities, "tables": []}
    pages = [{"page": 1, "document": document}]
    return {"id": name, "mediaId": name, "documentPages": pages, "codes": []}


def _entity(line: str, number: int) -> Json:
    """One line; ``Key: value`` gets a label in camel case and a value by what it looks like."""
    top, height = round(0.05 + 0.03 * (number % 30), 4), 0.02
    box = {"left": 0.1, "top": top, "width": round(min(0.8, 0.01 * len(line)), 4), "height": height}
    entity: Json = {
        "id": f"entity-{number + 1}",
        "block": {"text": line, "geometry": {"boundingBox": box}},
        "confidence": 1.0,
        "layoutType": "LINE",
    }
    key, colon, value = line.partition(":")
    words = re.findall(r"[A-Za-z0-9]+", key)
    value = value.strip()
    if colon and words and value:
        entity["label"] = words[0].lower() + "".join(word.capitalize() for word in words[1:])
        entity["type"], entity["data"] = _parsed(value)
    return entity


def _parsed(value: str) -> tuple[str, Json]:
    """The entity type of a value, and its data."""
    if _DATE.fullmatch(value):
        return "DATE", {"textValue": value, "dateValue": value}
    if _NUMBER.fullmatch(value):
        return "NUMBER", {"textValue": value, "numberValue": float(value)}
    if _QUANTITY.fullmatch(value):
        return "QUANTITY", {"textValue": value, "quantityValue": int(value)}
    return "STRING", {"textValue": value}


def _as_json(observation: Json) -> Json:
    """The entities with a label as an object, label to value; a label met twice becomes a list."""
    found: dict[str, list[Any]] = {}
    for content in observation["mediaContents"]:
        for page in content.get("documentPages", []):
            for entity in page["document"].get("entities", []):
                if entity.get("label"):
                    found.setdefault(entity["label"], []).append(_value(entity))
    return {label: values[0] if len(values) == 1 else values for label, values in found.items()}


def _value(entity: Json) -> Any:
    """The linked value of an entity, else its parsed one, else its text."""
    data = entity.get("data", {})
    for field in _VALUE_FIELDS.get(entity.get("type", "STRING"), ()):
        if data.get(field) is not None:
            return data[field]
    return entity["block"]["text"]
