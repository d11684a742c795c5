"""The description of all calls, and its page."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client import CollectorRegistry

from gateway import __version__
from gateway.docs_calls import _page
from gateway.errors import STATUS, Code, GatewayError
from gateway.metrics import Dialect, Metrics
from gateway.openapi.describing import Shape, described, document
from gateway.openapi.problems import MEANINGS, statuses
from gateway.routing import resolve
from gateway.server import Gateway
from gateway.sse import Decoder
from tests.support.contract import Contract, Operation

FULL = Shape(keeps=True, keys=True)
LEAST = Shape(metrics=False, names=("doc", "chat"))
DOCUMENT = Contract(document(FULL))


def name_of(each: Operation) -> str:
    return str(each.described["operationId"])


def path_of(operation: Operation) -> str:
    return re.sub(r"\{[a-zA-Z]+\}", "some", operation.path)


@pytest.mark.parametrize("shape", [FULL, LEAST])
def test_it_is_a_document_of_openapi_3_1_whatever_is_configured(shape: Shape) -> None:
    OpenAPIV31SpecValidator(document(shape)).validate()


def test_every_call_in_it_is_one_that_the_gateway_answers() -> None:
    for each in DOCUMENT.operations():
        target = resolve(each.method.upper(), path_of(each))
        dialect = "Pupau" if target.dialect is Dialect.PUPAU else "Cambrion"
        errors = [ref["$ref"] for ref in each.described["responses"].values() if "$ref" in ref]
        assert errors
        assert all(f"/{dialect}" in ref for ref in errors)


def test_every_call_that_the_gateway_answers_is_in_it() -> None:
    gateway = Gateway(cast("Any", None), metrics=Metrics(CollectorRegistry()), clock=lambda: 0.0)
    gateway.keep(cast("Any", SimpleNamespace(store=None, section=SimpleNamespace(hooks=None))))
    told = {resolve(each.method.upper(), path_of(each)).action for each in DOCUMENT.operations()}
    on_the_admin_port = {"config"}
    assert set(gateway._actions) - on_the_admin_port == told


def test_calls_on_what_is_not_kept_are_not_in_it() -> None:
    without = Contract(document(Shape(keeps=False)))
    assert not any("/executions" in path or "/hooks" in path for path in without.document["paths"])
    body = without.document["components"]["schemas"]["ExecuteBody"]["properties"]
    assert not {"executionId", "hookIds"} & set(body)
    assert "/v1/pipelines/{pipeline}/executeAsync" not in without.document["paths"]
    assert [tag["name"] for tag in without.document["tags"]] == ["Runs", "Pipelines", "The gateway"]


def test_with_a_port_for_the_admin_its_metrics_are_not_in_it() -> None:
    paths = document(Shape(metrics=False))["paths"]
    assert "/metrics" not in paths
    assert {"/openapi.json", "/docs", "/healthz", "/readyz"} <= set(paths)


def test_pipelines_are_named_where_everybody_may_see_them() -> None:
    parameter = document(Shape(names=("doc", "chat")))["components"]["parameters"]["pipeline"]
    assert parameter["schema"]["enum"] == ["doc", "chat"]
    assert parameter["example"] == "doc"
    secret = described(Shape(keys=True, names=("secret-project",)))
    assert b"secret-project" not in secret.text
    many = tuple(f"p-{number}" for number in range(1001))
    assert (
        "enum" not in document(Shape(names=many))["components"]["parameters"]["pipeline"]["schema"]
    )


def test_keys_are_needed_where_there_are_some() -> None:
    kinds: list[dict[str, Any]] = [{"XApiKey": []}, {"ApiKey": []}, {"Bearer": []}]
    assert document(Shape(keys=True))["security"] == kinds
    assert document(Shape())["security"] == [{}, *kinds]
    for name in ("getDescription", "getDocs", "getHealth", "getReadiness", "getMetrics"):
        assert DOCUMENT.named(name).described["security"] == []
    answers = DOCUMENT.named("executeSync").described["responses"]
    assert {"401", "403", "429"} <= set(answers)
    assert "401" not in Contract(document(Shape())).named("executeSync").described["responses"]


def test_it_says_which_gateway_it_is_of() -> None:
    assert DOCUMENT.document["info"]["version"] == __version__


@pytest.mark.parametrize("code", Code)
def test_every_error_code_is_listed_in_both_dialects_with_its_meaning(code: Code) -> None:
    schemas = DOCUMENT.document["components"]["schemas"]
    name = GatewayError("", code=code).name
    assert code in schemas["CambrionError"]["properties"]["code"]["enum"]
    assert name in schemas["PupauError"]["properties"]["name"]["enum"]
    assert STATUS[code] in statuses(code)
    for status in statuses(code):
        for dialect, called in (("Cambrion", code), ("Pupau", name)):
            answer = DOCUMENT.document["components"]["responses"][f"{dialect}{status}"]
            assert f"- `{called}`: {MEANINGS[code]}" in answer["description"]


def test_every_error_that_says_when_to_come_back_has_the_header_for_it() -> None:
    responses = DOCUMENT.document["components"]["responses"]
    for status in (429, 503):
        assert "Retry-After" in responses[f"Cambrion{status}"]["headers"]
    assert "WWW-Authenticate" in responses["Pupau401"]["headers"]


@pytest.mark.parametrize("operation", list(DOCUMENT.operations()), ids=name_of)
def test_every_example_is_as_its_schema_has_it(operation: Operation) -> None:
    described = operation.described
    contents = [described.get("requestBody", {}).get("content", {})]
    contents += [
        DOCUMENT.resolved(each).get("content", {}) for each in described["responses"].values()
    ]
    for content in contents:
        for kind, media in content.items():
            for example in media.get("examples", {}).values():
                if kind == "text/event-stream":
                    for frame in Decoder(1 << 20).feed(example["value"].encode()):
                        DOCUMENT.check_event(media["schema"], frame.data.decode())
                else:
                    DOCUMENT.check(media["schema"], example["value"])


def test_examples_of_schemas_are_as_these_have_it() -> None:
    for schema in DOCUMENT.document["components"]["schemas"].values():
        for example in schema.get("examples", []):
            DOCUMENT.check(schema, example)


def test_the_same_configuration_has_the_same_document() -> None:
    assert described(FULL) is described(Shape(keeps=True, keys=True))
    assert described(FULL).etag != described(Shape()).etag
    assert json.loads(described(FULL).text) == json.loads(json.dumps(DOCUMENT.document))


PAGE = _page().text.decode()


def test_the_page_names_no_address_but_its_own() -> None:
    assert re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+", PAGE) == []
    assert re.findall(r"(?:src|href|action)=\"(?!openapi\.json|#calls|data:,)", PAGE) == []
    assert "@import" not in PAGE
    assert "url(" not in PAGE


def test_the_page_runs_nothing_but_its_one_script() -> None:
    assert re.findall(r"<[^>]*\son\w+\s*=", PAGE) == []
    assert re.findall(r"<[^>]*\sstyle\s*=", PAGE) == []
    assert PAGE.count("<script>") == PAGE.count("<style>") == 1
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in PAGE
