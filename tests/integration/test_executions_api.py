"""What a client of Cambrion's API asks of executions, apart from running anything on them."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.support.client import PNG
from tests.support.gated import Reader, page
from tests.support.kept import ASYNC, CONFIG, Api, running
from tests.support.remote import remote
from tests.support.running import client, gateway


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A gateway whose executions are as they are unless configured otherwise."""
    async with running() as api:
        yield api


# Executions


async def test_an_execution_is_made_once_shown_and_removed(api: Api) -> None:
    given = {"executionId": "e-1", "tag": "t", "metaData": {"a": [1, None]}}
    made = await api.call("POST", "/v1/executions", json=given)
    assert made.pop("createdAt").endswith("Z")
    assert made == given | {"hookIds": []}
    assert await api.call("POST", "/v1/executions", 204, json={"executionId": "e-1"}) == b""
    shown = await api.call("GET", "/v1/executions/e-1")
    assert (shown["tag"], shown["metaData"]) == ("t", {"a": [1, None]})
    assert "status" not in shown
    await api.call("DELETE", "/v1/executions/e-1", 204)
    gone = await api.call("GET", "/v1/executions/e-1", 404)
    assert gone == {"code": "not_found", "message": 'there is no execution "e-1"'}
    assert await api.call("DELETE", "/v1/executions/e-1", 404) == gone


async def test_an_execution_may_be_made_without_a_body_and_gets_an_id(api: Api) -> None:
    made = await api.call("POST", "/v1/executions")
    assert len(made["executionId"]) == 36
    assert await api.call("GET", f"/v1/executions/{made['executionId']}") == made


async def test_a_list_has_the_newest_first_and_says_where_it_goes_on(api: Api) -> None:
    for number in range(5):
        await api.new(executionId=f"e-{number}", tag="even" if number % 2 == 0 else "odd")
    even = await api.call("GET", "/v1/executions?tag=even")
    assert [each["executionId"] for each in even] == ["e-4", "e-2", "e-0"]
    url: str | None = "/v1/executions?limit=2"
    pages = []
    while url is not None:
        async with api.session.get(url) as response:
            pages.append([each["executionId"] for each in await response.json()])
            following = response.links.get("next")
        url = None if following is None else str(following["url"])
    assert pages == [["e-4", "e-3"], ["e-2", "e-1"], ["e-0"]]
    assert await api.call("GET", "/v1/executions?tag=none") == []
    assert (await api.call("GET", "/v1/executions?limit=0", 400))["code"] == "bad_request"


async def test_a_list_of_long_executions_is_told_to_its_end(api: Api) -> None:
    meta = {"a": "x" * 16_000}
    made = [await api.new(metaData=meta) for _ in range(140)]
    found: list[str] = []
    url: str | None = "/v1/executions?limit=1000"
    pages = 0
    while url is not None:
        async with api.session.get(url) as response:
            found += [each["executionId"] for each in await response.json()]
            following = response.links.get("next")
        url = None if following is None else str(following["url"])
        pages += 1
    assert found == made[::-1]
    assert pages == 2


# Media


@pytest.mark.parametrize("content_type", ["image/png", "text/plain", "application/pdf", ""])
async def test_a_file_comes_back_as_what_it_is_whatever_it_was_sent_as(
    api: Api, content_type: str
) -> None:
    path = f"/v1/executions/{await api.new()}/observation/media"
    headers = {"Content-Type": content_type} if content_type else {}
    for body in (PNG, base64.b64encode(PNG), base64.encodebytes(PNG)):
        media_id = (await api.call("POST", path, data=body, headers=headers))["mediaId"]
        async with api.session.get(f"{path}/{media_id}") as response:
            assert await response.read() == PNG
            assert response.content_type == "image/png"


async def test_a_file_in_a_form_is_refused_and_not_kept_with_the_form_around_it(api: Api) -> None:
    path = f"/v1/executions/{await api.new()}/observation/media"
    form = aiohttp.FormData()
    form.add_field("file", PNG, filename="a.png")
    refused = await api.call("POST", path, 415, data=form)
    assert refused["code"] == "unsupported_media_type"
    assert "takes no form" in refused["message"]


async def test_what_was_added_can_always_be_replaced(api: Api) -> None:
    path = f"/v1/executions/{await api.new()}/observation"
    refused = await api.call("POST", path, 400, json={"mediaContents": [{}, 5]})
    assert "mediaContents[1]: Expected `object`" in refused["message"]
    await api.call("POST", path, 204, json={"mediaContents": [page("one", 1)]})
    await api.call("POST", f"{path}?idempotent=true", 204, json={"mediaContents": [page("two", 1)]})
    assert (await api.call("GET", path))["mediaContents"] == [page("two", 1)]


@pytest.mark.parametrize(
    ("body", "content_type", "attached"),
    [
        (b"<html><script>alert(1)</script>", "text/plain", False),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "text/plain", False),
        (b"%PDF-1.7\n", "application/pdf", True),
        (b"\0\1\2", "application/octet-stream", True),
    ],
)
async def test_nothing_that_was_uploaded_runs_in_a_browser(
    api: Api, body: bytes, content_type: str, attached: bool
) -> None:
    path = f"/v1/executions/{await api.new()}/observation/media"
    added = await api.call("POST", path, data=body, headers={"Content-Type": "text/html"})
    async with api.session.get(f"{path}/{added['mediaId']}") as response:
        assert await response.read() == body
        assert response.content_type == content_type
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert ("Content-Disposition" in response.headers) is attached


async def test_files_are_bounded_in_size_and_number() -> None:
    async with running("{media_bytes_max: 100, media_max: 2}") as api:
        path = f"/v1/executions/{await api.new()}/observation/media"
        assert (await api.call("POST", path, 400, data=b""))["code"] == "bad_request"
        too_large = await api.call("POST", path, 413, data=b"x" * 101)
        assert "executions.media_bytes_max" in too_large["message"]
        for _ in range(2):
            await api.call("POST", path, data=b"x" * 100)
        assert (await api.call("POST", path, 409, data=b"x"))["code"] == "conflict"


async def test_a_file_that_is_not_there_is_not_found(api: Api) -> None:
    path = f"/v1/executions/{await api.new()}/observation/media"
    assert "has no media" in (await api.call("GET", f"{path}/m-1", 404))["message"]
    assert (await api.call("GET", f"{path}/a%20b", 400))["code"] == "bad_request"
    await api.call("GET", "/v1/executions/e/observation/media/m-1", 404)
    await api.call("POST", "/v1/executions/e/observation/media", 404, data=PNG)


# The observation


async def test_an_observation_is_read_by_get_and_by_an_empty_post(api: Api) -> None:
    execution_id = await api.new()
    path = f"/v1/executions/{execution_id}/observation"
    empty = {"executionId": execution_id, "mediaContents": [], "documents": []}
    assert await api.call("GET", path) == await api.call("POST", path) == empty
    await api.call("POST", path, 204, json={"executionId": "other", "documents": [{"tag": "a"}]})
    await api.call("POST", path, 204, json={"documents": [{"tag": "b"}]})
    found = await api.call("POST", path)
    assert found == {"executionId": execution_id, "documents": [{"tag": "a"}, {"tag": "b"}]}
    assert await api.call("GET", path) == found


async def test_the_same_observation_merged_twice_counts_once_where_that_is_asked_for(
    api: Api,
) -> None:
    path = f"/v1/executions/{await api.new()}/observation"
    for _ in range(2):
        given = {"mediaContents": [page("x", 1)]}
        await api.call("POST", f"{path}?idempotent=true", 204, json=given)
    assert (await api.call("GET", path))["mediaContents"] == [page("x", 1)]


@pytest.mark.parametrize(
    "body", [b"null", b"[]", b"{", b'{"mediaContents":{}}', b'{"a":1,"a":2}', b'{"a":"\xff"}']
)
async def test_what_is_no_observation_is_not_merged(api: Api, body: bytes) -> None:
    path = f"/v1/executions/{await api.new()}/observation"
    assert (await api.call("POST", path, 400, data=body))["code"] == "bad_request"
    assert (await api.call("GET", path))["documents"] == []


async def test_an_observation_has_views_as_json_and_by_an_expression(api: Api) -> None:
    execution_id = await api.new()
    path = f"/v1/executions/{execution_id}/observation"
    entity = {"label": "total", "type": "NUMBER", "data": {"numberValue": 12.5}}
    document = {"documentPages": [{"page": 1, "document": {"entities": [entity]}}]}
    await api.call("POST", path, 204, json={"mediaContents": [document]})
    for method in ("GET", "POST"):
        assert await api.call(method, f"{path}/json") == {"total": 12.5}
    expression = "mediaContents.documentPages.document.entities.data.numberValue"
    assert await api.call("POST", f"{path}/transform", data=expression) == 12.5
    text = {"Accept": "text/plain"}
    assert await api.call("POST", f"{path}/transform", data="executionId", headers=text) == (
        f'"{execution_id}"'.encode()
    )
    assert await api.call("POST", f"{path}/transform", data="nothing") is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_request"),
        (b" \n", "bad_request"),
        (b"\xff", "bad_request"),
        (b"$[", "transform_invalid"),
        (b'$error("no")', "transform_failed"),
        (b"($f := function($x){$f($x)}; $f(1))", "transform_limit"),
    ],
)
async def test_an_expression_that_fails_is_the_clients_error(
    api: Api, body: bytes, code: str
) -> None:
    path = f"/v1/executions/{await api.new()}/observation/transform"
    assert (await api.call("POST", path, 400, data=body))["code"] == code


# What is wrong


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ASYNC),
        ("POST", "/v1/executions"),
        ("GET", "/v1/executions/e-1/events"),
        ("GET", "/v1/hooks"),
    ],
)
async def test_a_gateway_that_keeps_no_executions_says_so(method: str, path: str) -> None:
    async with remote(Reader()) as docs:
        config = CONFIG.format(executions="", docs=docs.url, talk=docs.url)
        async with (
            gateway(config) as base,
            client(base) as session,
            session.request(method, path) as response,
        ):
            assert response.status == 400
            assert (await response.json())["code"] == "not_supported"


async def test_another_method_is_told_which_there_are(api: Api) -> None:
    async with api.session.put("/v1/executions/e-1") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, DELETE"


async def test_calls_are_counted_by_what_they_are(api: Api) -> None:
    execution_id = await api.submit(text="x")
    await api.log(execution_id)
    await api.call("GET", "/v1/hooks")
    text = (await api.call("GET", "/metrics")).decode()
    for mode in ("execute_async", "watch", "hooks"):
        assert re.search(rf'^gateway_requests_total{{.*mode="{mode}".*}} 1.0$', text, re.MULTILINE)
