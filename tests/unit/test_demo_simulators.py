"""The simulated APIs speak the two dialects as their descriptions have them."""

from __future__ import annotations

import asyncio
import base64
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from deploy.demo import invoices
from deploy.demo.simulators import CAMBRION_KEY, PUPAU_KEY, Simulators, simulators

SCAN = invoices.scan_png()
SCAN_BASE64 = base64.b64encode(SCAN).decode()


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Simulators]:
    async with simulators(delay_s=0.001) as running:
        yield running


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask_cambrion(
    http: aiohttp.ClientSession,
    running: Simulators,
    path: str,
    body: Any = None,
    *,
    raw: bytes | None = None,
    key: str = CAMBRION_KEY,
) -> tuple[int, Any]:
    method = "GET" if body is None and raw is None else "POST"
    data = raw if raw is not None else (None if body is None else msgspec.json.encode(body))
    url = f"{running.cambrion_url}/{path}"
    headers = {"X-API-Key": key, "Accept": "application/json"}
    async with http.request(method, url, data=data, headers=headers) as response:
        return response.status, msgspec.json.decode(await response.read())


async def stream_pupau(
    http: aiohttp.ClientSession, running: Simulators, pipeline: str, **request: Any
) -> list[dict[str, Any]]:
    url = f"{running.pupau_url}/pipelines/{pipeline}/queries?sse=true"
    async with http.post(url, headers={"Api-Key": PUPAU_KEY}, **request) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        frames = (await response.read()).split(b"\n\n")
    assert frames.pop() == b""
    return [msgspec.json.decode(frame.removeprefix(b"data: ")) for frame in frames]


async def ask_pupau(
    http: aiohttp.ClientSession,
    running: Simulators,
    path: str,
    *,
    key: str = PUPAU_KEY,
    **request: Any,
) -> tuple[int, Any]:
    headers = {"Api-Key": key, **request.pop("headers", {})}
    url = f"{running.pupau_url}/pipelines/{path}"
    async with http.post(url, headers=headers, **request) as response:
        return response.status, msgspec.json.decode(await response.read())


async def test_cambrion_lists_its_pipelines(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    status, pipelines = await ask_cambrion(http, running, "pipelines")
    assert status == 200
    assert [pipeline["pipelineId"] for pipeline in pipelines] == ["receipt", "archive", "echo"]
    assert set(pipelines[0]) == {"pipelineId", "name", "description", "tag", "status", "version"}


async def test_the_edges_of_a_cambrion_definition_join_its_nodes(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    _, definition = await ask_cambrion(http, running, "pipelines/receipt/definition")
    _, described = await ask_cambrion(http, running, "pipelines/receipt")
    assert described["pipelineDefinition"] == definition
    assert described["pipeline"]["pipelineId"] == "receipt"
    outputs = {node["modelId"]: node["outputs"][0]["outputName"] for node in definition["nodes"]}
    inputs = {node["modelId"]: node["inputs"][0]["inputName"] for node in definition["nodes"]}
    (edge,) = definition["edges"]
    assert outputs[edge["source"]] == edge["sourceHandle"]
    assert inputs[edge["target"]] == edge["targetHandle"]


async def test_a_receipt_holds_one_content_a_file_and_one_for_the_text(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    body = {
        "media": [SCAN_BASE64, base64.b64encode(b"plain").decode()],
        "text": "Total: 12.50\nDate: 2026-03-14\nCount: 3\nthank you",
        "runtimeParameters": {"context": "a till"},
    }
    status, answer = await ask_cambrion(http, running, "pipelines/receipt/executeSync", body)
    assert status == 200
    observation = answer["observation"]
    assert answer["executionId"] == observation["executionId"]
    image, plain, text = observation["mediaContents"]
    assert [image["id"], plain["id"], text["id"]] == ["media-1", "media-2", "text-1"]
    assert image["metaData"] == {"width": 1000, "height": 1300}
    entities = text["documentPages"][0]["document"]["entities"]
    assert [(entity.get("label"), entity.get("type")) for entity in entities] == [
        ("total", "NUMBER"),
        ("date", "DATE"),
        ("count", "QUANTITY"),
        (None, None),
        ("context", "STRING"),
    ]
    for entity in entities:
        box = entity["block"]["geometry"]["boundingBox"]
        assert 0 <= box["left"] <= box["left"] + box["width"] <= 1
        assert 0 <= box["top"] <= box["top"] + box["height"] <= 1


async def test_cambrion_gives_the_json_and_the_jsonata_view(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    body = {
        "text": "Total: 12.50\nTax: 2\nTax: 3",
        "transform": "$sum(mediaContents.documentPages.document.entities.data.quantityValue)",
    }
    path = "pipelines/receipt/executeSync"
    assert await ask_cambrion(http, running, f"{path}/json", body) == (
        200,
        {"total": 12.5, "tax": [2, 3]},
    )
    assert await ask_cambrion(http, running, f"{path}/transform", body) == (200, 5)


async def test_the_same_direct_call_gets_the_same_answer(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    path, body = "pipelines/receipt/executeSync", {"media": [SCAN_BASE64]}
    first = await ask_cambrion(http, running, path, body)
    assert first == await ask_cambrion(http, running, path, body)
    _, other = await ask_cambrion(http, running, path, {"text": "other"})
    assert other["executionId"] != first[1]["executionId"]


async def test_the_archive_appends_a_number_that_is_the_same_for_the_same(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    path = "pipelines/archive/executeSync"
    given = {"mediaContents": [{"id": "m", "mediaId": "m"}]}
    views = []
    for text in ("one", "one", "two"):
        _, view = await ask_cambrion(http, running, f"{path}/json", {"text": text})
        views.append(view["archiveNo"])
    assert views[0] == views[1] != views[2]
    _, answer = await ask_cambrion(http, running, path, {"observation": given})
    contents = answer["observation"]["mediaContents"]
    assert [content["mediaId"] for content in contents] == ["m", "archive"]


async def test_echo_gives_back_the_observation_it_was_sent(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    contents = [{"id": "m", "mediaId": "m", "rawText": "kept"}]
    body = {"observation": {"executionId": "theirs", "mediaContents": contents}}
    _, answer = await ask_cambrion(http, running, "pipelines/echo/executeSync", body)
    assert answer["observation"]["mediaContents"] == contents
    assert answer["observation"]["executionId"] == answer["executionId"] != "theirs"


@pytest.mark.parametrize(
    ("path", "raw", "key", "status", "code"),
    [
        ("receipt/executeSync", b'{"text":"x"}', "wrong", 401, "unauthorized"),
        ("receipt/executeSync", b"{", CAMBRION_KEY, 400, "bad_request"),
        ("receipt/executeSync", b"[]", CAMBRION_KEY, 400, "bad_request"),
        ("receipt/executeSync", b"{}", CAMBRION_KEY, 400, "bad_request"),
        ("receipt/executeSync", b'{"text":7}', CAMBRION_KEY, 400, "bad_request"),
        ("receipt/executeSync", b'{"media":"QQ=="}', CAMBRION_KEY, 400, "bad_request"),
        ("receipt/executeSync", b'{"media":["QQ"]}', CAMBRION_KEY, 400, "bad_request"),
        ("receipt/executeSync", b'{"media":["iVBORw0KGgo="]}', CAMBRION_KEY, 400, "bad_request"),
        (
            "receipt/executeSync",
            b'{"text":"x","executionId":"gone"}',
            CAMBRION_KEY,
            400,
            "bad_request",
        ),
        ("receipt/executeSync/transform", b'{"text":"x"}', CAMBRION_KEY, 400, "bad_request"),
        (
            "receipt/executeSync/transform",
            b'{"text":"x","transform":"$sum("}',
            CAMBRION_KEY,
            400,
            "bad_transform",
        ),
        ("missing/executeSync", b'{"text":"x"}', CAMBRION_KEY, 404, "not_found"),
        ("receipt/unknown", b"{}", CAMBRION_KEY, 404, "http_error"),
    ],
)
async def test_cambrion_refuses_in_its_own_form(
    http: aiohttp.ClientSession,
    running: Simulators,
    path: str,
    raw: bytes,
    key: str,
    status: int,
    code: str,
) -> None:
    got, error = await ask_cambrion(http, running, f"pipelines/{path}", raw=raw, key=key)
    assert (got, error["code"]) == (status, code)
    assert set(error) == {"code", "message"}


async def test_one_actors_pieces_join_to_its_message_and_actors_take_turns(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    body = {"request": "What is this?", "context": "a test"}
    events = await stream_pupau(http, running, "chat", json=body)
    assert [event["type"] for event in events if event["type"] != "STREAMING_RESPONSE"] == [
        "LAYER_MESSAGE",
        "LAYER_RESPONSE",
        "LAYER_MESSAGE",
        "LAYER_RESPONSE",
    ]
    for finished in (event for event in events if event["type"] == "LAYER_RESPONSE"):
        for response in finished["responses"]:
            pieces = [e for e in events if e.get("actorId") == response["actorId"]]
            assert "".join(piece["message"] for piece in pieces) == response["message"]
            flags = [piece.get("finished", False) for piece in pieces]
            assert flags == [False] * (len(pieces) - 1) + [True]
    turns = [event["actorId"] for event in events if event["type"] == "STREAMING_RESPONSE"]
    assert turns[:4] == ["actor-1", "actor-2", "actor-1", "actor-2"]


async def test_only_the_last_layer_says_that_it_is_the_last(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    events = await stream_pupau(http, running, "chat", json={"request": "Hi"})
    last = {event["layerId"] for event in events if event.get("last") or event.get("lastLayer")}
    assert last == {"1"}
    pieces = [e for e in events if e["type"] == "STREAMING_RESPONSE" and e["layerId"] == "1"]
    assert all(piece["lastLayer"] for piece in pieces)
    assert events[-1]["last"] is True


async def test_without_sse_the_answer_is_the_last_layers_responses(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    body = {"request": "What is this?"}
    events = await stream_pupau(http, running, "chat", json=body)
    answer = await ask_pupau(http, running, "chat/queries", json=body)
    assert answer == (200, events[-1]["responses"])


async def test_the_parts_of_a_form_reach_the_actors(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    form = aiohttp.FormData()
    form.add_field("request", "Sum it up")
    form.add_field("file", SCAN, filename="scan.png", content_type="image/png")
    form.add_field("file", b"%PDF-", filename="two.pdf", content_type="application/pdf")
    events = await stream_pupau(http, running, "chat", data=form)
    first = next(event for event in events if event["type"] == "LAYER_RESPONSE")
    assert first["responses"][0]["message"] == 'You asked: "Sum it up".'
    assert first["responses"][1]["message"] == (
        f"You sent 2 file(s): scan.png (image/png, {len(SCAN)} bytes), "
        "two.pdf (application/pdf, 5 bytes)."
    )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            'Sum up: {"invoiceNo":"A-1","total":12.5,"paid":false,"items":[{"what":"Lamp"},{}]}',
            "The invoice no is A-1. The total is 12.5. The paid is false. "
            "There are 2 items: Lamp; .",
        ),
        ("Sum up: {}", "There is nothing in it."),
        ("Sum up", "There is no JSON object to sum up in the 6 characters of the request."),
        ("} {", "There is no JSON object to sum up in the 3 characters of the request."),
        ("{oops}", "There is no JSON object to sum up in the 6 characters of the request."),
    ],
)
async def test_a_summary_says_what_the_request_says_and_nothing_else(
    http: aiohttp.ClientSession, running: Simulators, request_: str, message: str
) -> None:
    events = await stream_pupau(http, running, "summary", json={"request": request_})
    (response,) = events[-1]["responses"]
    assert response["message"] == message
    pieces = [e["message"] for e in events if e["type"] == "STREAMING_RESPONSE"]
    assert "".join(pieces) == message
    assert len(pieces) > 1


async def test_an_actor_that_fails_reports_it_in_the_last_layer_response(
    http: aiohttp.ClientSession, running: Simulators
) -> None:
    events = await stream_pupau(http, running, "broken", json={"request": "x"})
    assert [event["type"] for event in events] == ["LAYER_MESSAGE", "LAYER_RESPONSE"]
    assert events[-1]["last"] is True
    assert events[-1]["responses"][0]["errors"] == [
        {"message": "Invalid PDF structure.", "name": "InvalidPDFException"}
    ]


@pytest.mark.parametrize(
    ("path", "request_", "status", "name"),
    [
        ("chat/queries", {"json": {"request": "x"}, "key": "wrong"}, 401, "Unauthorized"),
        ("gone/queries", {"json": {"request": "x"}}, 404, "PipelineNotFound"),
        ("chat/queries?sse=yes", {"json": {"request": "x"}}, 400, "InvalidQuery"),
        ("chat/queries", {"json": {}}, 400, "InvalidQuery"),
        ("chat/queries", {"json": []}, 400, "InvalidQuery"),
        ("chat/queries", {"json": {"request": 1}}, 400, "InvalidQuery"),
        (
            "chat/queries",
            {"data": b"{", "headers": {"Content-Type": "application/json"}},
            400,
            "InvalidJson",
        ),
        ("chat/queries", {"data": b"x"}, 415, "UnsupportedMediaType"),
        (
            "chat/queries",
            {"data": b"x", "headers": {"Content-Type": "multipart/form-data"}},
            400,
            "InvalidForm",
        ),
        ("chat/other", {"json": {}}, 404, "HttpError"),
    ],
)
async def test_pupau_refuses_in_its_own_form(
    http: aiohttp.ClientSession,
    running: Simulators,
    path: str,
    request_: dict[str, Any],
    status: int,
    name: str,
) -> None:
    got, error = await ask_pupau(http, running, path, **request_)
    assert (got, error["name"]) == (status, name)
    assert set(error) == {"name", "message"}


async def read_seen(http: aiohttp.ClientSession, running: Simulators) -> dict[str, int]:
    async with http.get(f"{running.pupau_url}/_seen") as answer:
        return msgspec.json.decode(await answer.read(), type=dict[str, int])


async def test_a_run_stops_when_its_client_goes_away(http: aiohttp.ClientSession) -> None:
    async with simulators(delay_s=0.02) as running:
        url = f"{running.pupau_url}/pipelines/chat/queries?sse=true"
        body = {"request": "word " * 1000}
        async with http.post(url, json=body, headers={"Api-Key": PUPAU_KEY}) as response:
            await response.content.readline()
            response.close()
        async with asyncio.timeout(10):
            while not (seen := await read_seen(http, running))["broken_off"]:
                pass
        await asyncio.sleep(0.1)
        assert await read_seen(http, running) == seen
    assert (seen["started"], seen["finished"], seen["broken_off"]) == (1, 0, 1)
    assert seen["pieces"] < 1000


async def run_program(arguments: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.demo.simulators", *arguments, stdout=PIPE, stderr=PIPE
    )


async def test_the_program_serves_until_it_is_terminated(http: aiohttp.ClientSession) -> None:
    process = await run_program(["--cambrion-port", "0", "--pupau-port", "0"])
    assert process.stdout is not None
    async with asyncio.timeout(30):
        line = (await process.stdout.readline()).decode()
        url = line.split()[2]
        async with http.get(f"{url}/pipelines", headers={"X-API-Key": CAMBRION_KEY}) as response:
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_the_program_names_a_port_that_is_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        process = await run_program(["--cambrion-port", str(port), "--pupau-port", "0"])
        _, error = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert str(port) in error.decode()
