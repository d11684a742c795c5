"""Methods and paths."""

from __future__ import annotations

import pytest

from gateway.errors import RequestRejected
from gateway.metrics import Dialect, Mode
from gateway.routing import MethodNotAllowed, dialect_of, resolve

CALLS = [
    ("GET", "/v1/pipelines", "list", Dialect.CAMBRION, Mode.DESCRIBE, ""),
    ("GET", "/v1/pipelines/", "list", Dialect.CAMBRION, Mode.DESCRIBE, ""),
    ("HEAD", "/v1/pipelines/a", "describe", Dialect.CAMBRION, Mode.DESCRIBE, "a"),
    ("GET", "/v1/pipelines/a/definition", "definition", Dialect.CAMBRION, Mode.DESCRIBE, "a"),
    ("POST", "/v1/pipelines/a/executeSync", "execute", Dialect.CAMBRION, Mode.EXECUTE, "a"),
    (
        "POST",
        "/v1/pipelines/a/executeSync/json",
        "execute",
        Dialect.CAMBRION,
        Mode.EXECUTE_JSON,
        "a",
    ),
    (
        "POST",
        "/v1/pipelines/a/executeSync/transform",
        "execute",
        Dialect.CAMBRION,
        Mode.EXECUTE_TRANSFORM,
        "a",
    ),
    ("POST", "/pipelines/a%2Fb/queries", "query", Dialect.PUPAU, Mode.QUERY, "a/b"),
    ("GET", "/healthz", "healthz", Dialect.CAMBRION, Mode.OTHER, ""),
    ("GET", "/readyz", "readyz", Dialect.CAMBRION, Mode.OTHER, ""),
    ("GET", "/metrics", "metrics", Dialect.CAMBRION, Mode.OTHER, ""),
]


@pytest.mark.parametrize(("method", "path", "action", "dialect", "mode", "pipeline"), CALLS)
def test_each_call_is_found(
    method: str, path: str, action: str, dialect: Dialect, mode: Mode, pipeline: str
) -> None:
    target = resolve(method, path)
    assert (target.action, target.dialect, target.mode, target.pipeline) == (
        action,
        dialect,
        mode,
        pipeline,
    )


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/v1",
        "/v2/pipelines",
        "/v1/pipelines/a/executeSync/xml",
        "/v1/pipelines/a/executeSync/json/more",
        "/v1/pipelines/a/executeAsync",
        "/pipelines/a",
        "/pipelines/a/b/queries",
        "/v1/pipelines/a%2Fdefinition/more",
    ],
)
def test_any_other_path_is_not_found(path: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        resolve("POST", path)
    assert caught.value.status == 404


def test_a_known_path_with_another_method_says_which_one_it_takes() -> None:
    with pytest.raises(MethodNotAllowed, match="use POST") as caught:
        resolve("GET", "/pipelines/a/queries")
    assert caught.value.allowed == "POST"
    assert caught.value.status == 405


def test_errors_before_the_call_is_known_are_told_in_the_paths_dialect() -> None:
    assert dialect_of("/pipelines/x/nope") is Dialect.PUPAU
    assert dialect_of("/v1/pipelines/x/nope") is Dialect.CAMBRION
    assert dialect_of("*") is Dialect.CAMBRION
