"""The calls that run pipelines and tell of them, as the document describes them.

Owns: these operations in both dialects, the schemas of their bodies.
Does not know: the errors that they can end in, which pipelines there are.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.executions.bodies import HOOKS_MAX, TAG_CHARS_MAX
from gateway.openapi.events import EXECUTE, QUERY, RESPONSES
from gateway.openapi.parts import (
    TEXT,
    Json,
    answer,
    call,
    content,
    flag,
    link,
    many,
    optional_text,
    record,
    ref,
    stream,
    text,
)

#: Letters, digits, dots, dashes and underscores.
ID: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
#: The same, or nothing, which is as if the field were not there.
ID_OR_NONE: Final = "^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$"
_BASE64: Final = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$"
#: One white pixel.
PIXEL: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="
)
_ALL: Final = "$sum(**.numberValue)"

_GRAPH: Final = {
    "PipelineSummary": record(
        {
            "pipelineId": text("What it is called by."),
            "name": text(),
            "description": text(),
            "tag": text(),
            "version": text(),
            "status": {
                "enum": ["READY", "UNAVAILABLE"],
                "description": "By the last answers of its upstreams; absent before the first.",
            },
        },
        "pipelineId",
        "name",
    ),
    "PipelineDefinition": {
        "description": "Its graph: `nodes`, the steps, and `edges`, what goes from one to the "
        "other. Where a pipeline is one remote one, as that is described by its own API.",
        "type": "object",
        "examples": [
            {
                "nodes": [
                    {"modelId": "reader", "modelName": "invoice_ocr", "inputs": [], "outputs": []}
                ],
                "edges": [],
            }
        ],
    },
    "Pipeline": record(
        {
            "pipeline": ref("PipelineSummary"),
            "pipelineDefinition": ref("PipelineDefinition"),
        },
        "pipeline",
        "pipelineDefinition",
    ),
}
_RESULTS: Final = {
    "ExecuteAnswer": record(
        {
            "executionId": text("Where executions are kept: under which this one is."),
            "observation": {"description": "An Observation, or what the pipeline makes of it."},
        },
        "executionId",
        "observation",
    ),
    "ExecutionId": record({"executionId": text(pattern=ID)}, "executionId"),
    "Query": record(
        {
            "request": text("What to do.", minLength=1),
            "context": optional_text("What to know."),
        },
        "request",
        closed=True,
        description="What is asked.",
    ),
    "QueryForm": record(
        {
            "request": text("What to do; text in UTF-8.", minLength=1),
            "context": text("What to know; text in UTF-8."),
            "file": many(
                text(format="binary", minLength=1),
                "Files, each a part; their types are read from their bytes.",
                minItems=1,
            ),
        },
        closed=True,
        description="A request, files, or both. There may be several parts `file`.",
        anyOf=[{"required": ["request"]}, {"required": ["file"]}],
    ),
}


def _execute(*, keeps: bool, transforms: bool = False) -> Json:
    fields: dict[str, Json] = {
        "media": {
            "type": ["array", "null"],
            "items": text(contentEncoding="base64", pattern=_BASE64),
            "description": "Files as base64, padded, without line breaks; their types are read "
            "from their bytes.",
        },
        "text": optional_text("Text to run on."),
        "observation": {
            "anyOf": [ref("Observation"), {"type": "null"}],
            "description": "An observation to start from.",
        },
        "transform": text("JSONata.", format="jsonata", minLength=1)
        if transforms
        else optional_text("JSONata; of use with executeSync/transform alone.", format="jsonata"),
        "runtimeParameters": {
            "type": ["object", "null"],
            "properties": {"context": optional_text("What to know.")},
            "description": "Parameters for this run.",
        },
        "tag": optional_text(
            "To find its execution by.", **({"maxLength": TAG_CHARS_MAX} if keeps else {})
        ),
        "transient": flag("Keep nothing of it."),
        "idempotent": flag(
            "What is found replaces the entries of the same mediaId in the observation that it "
            "started from, instead of being added."
        ),
        "tryImageConversion": flag("Make of a PDF an image for each page first."),
        "trySimpleText": flag("Take a file's own text where it has one. Not every upstream can."),
    }
    # Written as what must not be, since generators of clients make types of anyOf.
    empty: Json = {
        "media": {"enum": [None, []]},
        "text": {"enum": [None, ""]},
        "observation": {"enum": [None]},
    }
    if keeps:
        fields["executionId"] = optional_text(
            "Run on this execution, with its files and observation, and add to it what is found.",
            pattern=ID_OR_NONE,
        )
        fields["hookIds"] = {
            "type": ["array", "null"],
            "items": text(pattern=ID),
            "maxItems": HOOKS_MAX,
            "description": "Webhooks to tell of it; for a new execution alone.",
        }
        empty["executionId"] = {"enum": [None, ""]}
    return record(
        fields,
        *(["transform"] if transforms else []),
        closed=True,
        description=f"What to run on: one of {', '.join(empty)} at least. A field that is null "
        "is as if it were not there.",
        **{"not": {"properties": empty}},
    )


def schemas(*, keeps: bool) -> dict[str, Json]:
    """The schemas of this module's bodies. ``keeps``: whether there are executions."""
    bodies = {
        "ExecuteBody": _execute(keeps=keeps),
        "TransformBody": _execute(keeps=keeps, transforms=True),
    }
    return _GRAPH | _RESULTS | bodies


_TEXT_EXAMPLE: Final = {"text": "Invoice 17. Total: 12.50 EUR"}
_EXAMPLES: Final[dict[str, Any]] = {
    "text": _TEXT_EXAMPLE,
    "file": {"media": [PIXEL], "idempotent": True},
    "withContext": {"text": "How much?", "runtimeParameters": {"context": "Amounts are in EUR."}},
}
_LIST: Final = "Pipelines"
_RUN: Final = "Runs"


def _events(*, keeps: bool) -> Json:
    more = ""
    if keeps:
        more = (
            " Where streams can be resumed, each event has an `id`, and X-Execution-Id names the "
            "execution to attach to at /v1/executions/{executionId}/events."
        )
    return stream(
        "PipelineEvent",
        "With `Accept: text/event-stream`: the run's events as they happen, and last what was "
        f"found. Comments keep the stream alive.{more}",
        EXECUTE,
    )


def paths(*, keeps: bool) -> dict[str, dict[str, Json]]:
    """The calls in Cambrion's dialect. ``keeps``: whether there are executions."""
    pipeline = ref("pipeline", "parameters")
    body = content(ref("ExecuteBody"), _EXAMPLES)
    transform = {"sum": {**_TEXT_EXAMPLE, "transform": _ALL}}
    stream_headers = {"X-Execution-Id": ref("X-Execution-Id", "headers")} if keeps else {}
    links = {}
    if keeps:
        links = {
            "execution": link("getExecution", "executionId"),
            "observation": link("getObservation", "executionId"),
        }
    there = _descriptions(pipeline) | {
        "/v1/pipelines/{pipeline}/executeSync": {
            "post": call(
                "executeSync",
                _RUN,
                "Run a pipeline and wait for the observation, or see it happen",
                {
                    200: answer(
                        "What was found.",
                        content(ref("ExecuteAnswer")) | _events(keeps=keeps),
                        links=links,
                        headers=stream_headers,
                    )
                },
                description="Ends after 30 s unless the pipeline's own time limit is another; a "
                "stream may go on for longer.",
                body=body,
                parameters=[pipeline],
            )
        },
        "/v1/pipelines/{pipeline}/executeSync/json": {
            "post": call(
                "executeSyncJson",
                _RUN,
                "Run a pipeline and wait for plain JSON",
                {200: answer("What was found.", content(ref("PlainJson")))},
                body=body,
                parameters=[pipeline],
            )
        },
        "/v1/pipelines/{pipeline}/executeSync/transform": {
            "post": call(
                "executeSyncTransform",
                _RUN,
                "Run a pipeline and transform what it finds by JSONata",
                {
                    200: answer(
                        "The expression's result, JSON in either case; null for none. text/plain "
                        "where `Accept` does not take JSON.",
                        content({}, {"sum": 12.5}) | content({}, {"sum": "12.5"}, TEXT),
                    )
                },
                body=content(ref("TransformBody"), transform),
                parameters=[pipeline],
            )
        },
    }
    if keeps:
        there["/v1/pipelines/{pipeline}/executeAsync"] = _queueing(pipeline, body, links)
    return there


def _descriptions(pipeline: Json) -> dict[str, dict[str, Json]]:
    """The calls that tell of pipelines. ``pipeline``: the parameter that names one."""
    return {
        "/v1/pipelines": {
            "get": call(
                "listPipelines",
                _LIST,
                "List pipelines",
                {200: answer("Those that the key opens.", content(many(ref("PipelineSummary"))))},
            )
        },
        "/v1/pipelines/{pipeline}": {
            "get": call(
                "getPipeline",
                _LIST,
                "Get a pipeline",
                {200: answer("The pipeline and its graph.", content(ref("Pipeline")))},
                parameters=[pipeline],
            )
        },
        "/v1/pipelines/{pipeline}/definition": {
            "get": call(
                "getPipelineDefinition",
                _LIST,
                "Get a pipeline's graph",
                {200: answer("Its graph.", content(ref("PipelineDefinition")))},
                parameters=[pipeline],
            )
        },
    }


def _queueing(pipeline: Json, body: Json, links: Json) -> dict[str, Json]:
    """executeAsync. ``links``: what its execution can be asked as that of executeSync can."""
    return {
        "post": call(
            "executeAsync",
            _RUN,
            "Queue a run of a pipeline",
            {
                200: answer(
                    "It is written down, and will be done whatever happens meanwhile.",
                    content(ref("ExecutionId"), {"queued": {"executionId": "june-17"}}),
                    links={
                        **links,
                        "cancel": link("cancelExecution", "executionId"),
                    },
                )
            },
            body=body,
            parameters=[pipeline],
        )
    }


def query_paths() -> dict[str, dict[str, Json]]:
    """The calls in Pupau's dialect."""
    question = {
        "question": {"request": "How much?", "context": "Invoice 17. Total: 12.50 EUR"},
    }
    events = stream(
        "PipelineEvent",
        "With `sse=true`: the layers' events as they happen. Comments keep the stream alive.",
        QUERY,
    )
    form = content(ref("QueryForm"), {"question": question["question"]}, "multipart/form-data")
    return {
        "/pipelines/{pipeline}/queries": {
            "post": call(
                "query",
                _RUN,
                "Ask a pipeline for the last layer's responses, or see it happen",
                {
                    200: answer(
                        "What the actors of the last layer said.",
                        content(many(ref("ActorResponse")), RESPONSES) | events,
                    )
                },
                body=content(ref("Query"), question) | form,
                parameters=[ref("pipeline", "parameters"), ref("sse", "parameters")],
            )
        }
    }
