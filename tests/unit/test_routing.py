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
    (
        "POST",
        "/v1/pipelines/a/executeAsync",
        "execute_async",
        Dialect.CAMBRION,
        Mode.EXECUTE_ASYNC,
        "a",
    ),
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


EXECUTION_CALLS = [
    ("POST", "", "create_execution", "", ""),
    ("GET", "/", "list_executions", "", ""),
    ("GET", "/e-1", "get_execution", "e-1", ""),
    ("DELETE", "/e-1", "delete_execution", "e-1", ""),
    ("POST", "/e-1/cancel", "cancel_execution", "e-1", ""),
    ("POST", "/e-1/submit", "submit_execution", "e-1", ""),
    ("HEAD", "/e-1/events", "watch_execution", "e-1", ""),
    ("GET", "/e-1/observation", "get_observation", "e-1", ""),
    ("POST", "/e-1/observation", "post_observation", "e-1", ""),
    ("GET", "/e-1/observation/json", "observation_json", "e-1", ""),
    ("POST", "/e-1/observation/json", "observation_json", "e-1", ""),
    ("POST", "/e-1/observation/transform", "transform_observation", "e-1", ""),
    ("POST", "/e-1/observation/media", "add_media", "e-1", ""),
    ("GET", "/%2E%2e%2fx/observation/media/m", "get_media", "../x", "m"),
]


@pytest.mark.parametrize(("method", "path", "action", "name", "media_id"), EXECUTION_CALLS)
def test_each_call_of_an_execution_is_found(
    method: str, path: str, action: str, name: str, media_id: str
) -> None:
    target = resolve(method, f"/v1/executions{path}")
    assert (target.action, target.id, target.media_id) == (action, name, media_id)
    assert target.mode is (Mode.WATCH if action == "watch_execution" else Mode.EXECUTIONS)


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("POST", "", "create_hook"),
        ("GET", "", "list_hooks"),
        ("GET", "/h", "get_hook"),
        ("PUT", "/h", "put_hook"),
        ("DELETE", "/h", "delete_hook"),
    ],
)
def test_each_call_of_a_webhook_is_found(method: str, path: str, action: str) -> None:
    target = resolve(method, f"/v1/hooks{path}")
    assert (target.action, target.id, target.mode) == (action, path[1:], Mode.HOOKS)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/v1",
        "/v2/pipelines",
        "/v1/pipelines/a/executeSync/xml",
        "/v1/pipelines/a/executeSync/json/more",
        "/v1/pipelines/a/executeAsync/json",
        "/v1/executions/a/nope",
        "/v1/executions/a/observation/media/b/c",
        "/v1/hooks/a/b",
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


def test_a_path_that_takes_several_methods_names_them_all() -> None:
    with pytest.raises(MethodNotAllowed, match="use GET or PUT or DELETE") as caught:
        resolve("POST", "/v1/hooks/h")
    assert caught.value.allowed == "GET, PUT, DELETE"


def test_errors_before_the_call_is_known_are_told_in_the_paths_dialect() -> None:
    assert dialect_of("/pipelines/x/nope") is Dialect.PUPAU
    assert dialect_of("/v1/pipelines/x/nope") is Dialect.CAMBRION
    assert dialect_of("*") is Dialect.CAMBRION
