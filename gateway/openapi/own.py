"""The calls on the gateway itself, as the document describes them.

Owns: these operations.
Does not know: which of them are on another port.
"""

from __future__ import annotations

from typing import Final

from gateway.openapi.parts import JSON, TEXT, Json, answer, call, content, record, ref, text

_TAG: Final = "The gateway"
_READY: Final = record(
    {
        "ready": {"type": "boolean"},
        "failing": {
            "type": "object",
            "additionalProperties": text(),
            "description": "Upstreams that do not answer, and why.",
        },
        "stopping": {"type": "boolean"},
    },
    "ready",
    "failing",
)


def _probe_paths() -> dict[str, dict[str, Json]]:
    """How the gateway is."""
    unready = {"anyOf": [_READY, ref("CambrionError")]}
    return {
        "/healthz": {
            "get": call(
                "getHealth",
                _TAG,
                "See whether the gateway lives",
                {200: answer("It does.", content(record({"alive": {"const": True}}, "alive")))},
            )
        },
        "/readyz": {
            "get": call(
                "getReadiness",
                _TAG,
                "See whether it can be sent requests",
                {
                    200: answer(
                        "It can.",
                        content(_READY, {"ready": {"ready": True, "failing": {}}}),
                    ),
                    503: answer(
                        "It cannot: it stops, or an upstream does not answer.",
                        content(
                            unready,
                            {
                                "failing": {
                                    "ready": False,
                                    "failing": {"triton": "connection refused"},
                                }
                            },
                        ),
                    ),
                },
            )
        },
    }


def metrics_path() -> dict[str, dict[str, Json]]:
    """What Prometheus asks for."""
    return {
        "/metrics": {
            "get": call(
                "getMetrics",
                _TAG,
                "Get what it has counted",
                {
                    200: answer(
                        "In the text format of Prometheus or of OpenMetrics, as `Accept` asks.",
                        content(text(), kind=TEXT)
                        | content(text(), kind="application/openmetrics-text"),
                    )
                },
            )
        },
    }


def paths() -> dict[str, dict[str, Json]]:
    """How the gateway is, and this description."""
    cached = {"ETag": ref("ETag", "headers")}
    unchanged = {304: answer("As `If-None-Match` has it.", headers=cached)}
    return _probe_paths() | {
        "/openapi.json": {
            "get": call(
                "getDescription",
                _TAG,
                "Get this document",
                {
                    200: answer(
                        "OpenAPI 3.1.", {JSON: {"schema": {"type": "object"}}}, headers=cached
                    )
                }
                | unchanged,
            )
        },
        "/docs": {
            "get": call(
                "getDocs",
                _TAG,
                "See this document as a page, and try calls",
                {200: answer("The page.", {"text/html": {"schema": text()}}, headers=cached)}
                | unchanged,
            )
        },
    }
