"""Triton seen through the gateway: defaults, graphs, files, failures, and who stops when."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from PIL import Image

from tests.support.client import PNG, check_stream, read_events
from tests.support.running import client, gateway
from tests.support.timing import promised, until
from tests.triton_server import Triton

CONFIG = """
upstreams:
  triton: {{kind: triton, url: "{grpc}"}}
  triton-http: {{kind: triton, url: "{http}"}}
  gone: {{kind: triton, url: "grpc://127.0.0.1:1", required: false}}
pipelines:
  echo: {{upstream: triton}}
  greeting: {{upstream: triton}}
  size: {{upstream: triton, pipeline: observation}}
  greet:
    upstream: triton
    inputs: {{TEXT: text, NAME: context}}
  types:
    upstream: triton
    pipeline: datatypes
    inputs: {{INT32: "[[1, 2], [3, 4]]", FP16: "[[0.5]]", BOOL: "[[true]]"}}
    output: '{{"sum": $sum(outputs.INT32_OUT.$[]), "half": outputs.FP16_OUT[0][0]}}'
  failing: {{upstream: triton}}
  breaking:
    upstream: triton
    pipeline: stream
    inputs: {{TEXT: text, FAIL_AFTER: "2"}}
  slow-stream:
    upstream: triton
    pipeline: stream
    inputs: {{TEXT: text, DELAY_S: "0.05", MARKER: context}}
  patient:
    upstream: triton
    pipeline: stream
    inputs: {{TEXT: text, DELAY_S: "$number(context)"}}
    timeouts: {{first_event_s: 2}}
  text-and-observation:
    upstream: triton
    pipeline: stream
    inputs: {{TEXT: text}}
    output: 'outputs.PIECE[0] = "end" ? {{"mediaContents": [{{"id": "m"}}]}} : outputs.PIECE[0]'
  slow-stream-http:
    upstream: triton-http
    pipeline: stream
    inputs: {{TEXT: text, DELAY_S: "0.05", MARKER: context}}
  slow:
    upstream: triton
    inputs: {{SECONDS: "20", MARKER: context}}
    timeouts: {{total_s: 0.5, stream_total_s: 0.5}}
  missing: {{upstream: triton, pipeline: no_such_model}}
  gone: {{upstream: gone, pipeline: echo, timeouts: {{connect_s: 1}}}}
"""


@pytest.fixture
async def base(triton: Triton) -> AsyncIterator[str]:
    config = CONFIG.format(
        grpc=f"grpc://127.0.0.1:{triton.grpc_port}", http=f"http://127.0.0.1:{triton.http_port}"
    )
    async with gateway(config) as base:
        yield base


@pytest.fixture
async def session(base: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(base) as session:
        yield session


async def query(session: aiohttp.ClientSession, pipeline: str, **body: str) -> str:
    async with session.post(f"/pipelines/{pipeline}/queries", json=body) as response:
        assert response.status == 200, await response.text()
        (answer,) = await response.json()
    assert answer["actorId"] == pipeline
    return str(answer["message"])


async def test_a_model_of_one_text_in_and_one_out_needs_no_configuration(
    session: aiohttp.ClientSession,
) -> None:
    assert await query(session, "echo", request="héllo") == "héllo"


async def test_an_ensemble_is_a_pipeline_and_its_graph_its_definition(
    session: aiohttp.ClientSession,
) -> None:
    assert await query(session, "greeting", request="you") == "Hello: you"
    async with session.get("/v1/pipelines/greeting/definition") as response:
        assert response.status == 200
        definition = await response.json()
    assert [node["modelName"] for node in definition["nodes"]] == ["greet", "echo"]
    (edge,) = definition["edges"]
    assert (edge["source"], edge["target"]) == ("greet", "echo")
    assert (edge["sourceHandle"], edge["targetHandle"]) == ("GREETING", "INPUT")
    assert edge["dataHandle"] == "greeting"
    async with session.get("/v1/pipelines/greeting") as response:
        assert (await response.json())["pipelineDefinition"] == definition


async def test_expressions_fill_the_inputs_and_read_the_outputs(
    session: aiohttp.ClientSession,
) -> None:
    assert await query(session, "greet", request="hi", context="Ada") == "Hello Ada: hi"
    assert await query(session, "greet", request="hi") == "Hello: hi"
    assert json.loads(await query(session, "types", request="x")) == {"sum": 10, "half": 0.5}


async def test_each_page_of_a_pdf_reaches_the_model_as_an_image(
    session: aiohttp.ClientSession,
) -> None:
    pages = [Image.new("L", (72, 72), grey) for grey in (0, 128)]
    file = io.BytesIO()
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:])
    body = {"media": [base64.b64encode(file.getvalue()).decode()], "tryImageConversion": True}
    async with session.post("/v1/pipelines/size/executeSync", json=body) as response:
        assert response.status == 200
        contents = (await response.json())["observation"]["mediaContents"]
    assert len(contents) == 2
    del body["tryImageConversion"]
    async with session.post("/v1/pipelines/size/executeSync", json=body) as response:
        contents = (await response.json())["observation"]["mediaContents"]
    assert contents[0]["documentPages"][0]["document"]["entities"][0]["data"] == {
        "quantityValue": len(file.getvalue())
    }


async def test_an_observation_to_start_from_grows_by_what_is_found(
    session: aiohttp.ClientSession,
) -> None:
    start = {"executionId": "x", "mediaContents": [{"id": "old", "mediaId": "old"}]}
    body = {"observation": start, "media": [base64.b64encode(PNG).decode()]}
    async with session.post("/v1/pipelines/size/executeSync", json=body) as response:
        answer = await response.json()
    assert [c["mediaId"] for c in answer["observation"]["mediaContents"]] == ["old", "media-1"]
    assert answer["observation"]["executionId"] == answer["executionId"] != "x"


@pytest.mark.parametrize(
    ("pipeline", "status", "message"),
    [
        ("failing", 502, "sorry"),
        ("missing", 502, "no_such_model"),
        ("gone", 502, "upstream gone"),
        ("slow", 504, "total_s"),
    ],
)
@pytest.mark.parametrize("form", ["executeSync", "queries", "queries?sse=true"])
async def test_a_failure_is_told_in_the_callers_dialect(
    session: aiohttp.ClientSession, pipeline: str, status: int, message: str, form: str
) -> None:
    if form == "executeSync":
        path, body = f"/v1/pipelines/{pipeline}/executeSync", {"text": "sorry"}
    else:
        path, body = f"/pipelines/{pipeline}/{form}", {"request": "sorry"}
    async with session.post(path, json=body) as response:
        answer = await response.json()
        assert response.status == status, answer
    assert set(answer) == {"code" if form == "executeSync" else "name", "message"}
    assert message in answer["message"]
    assert "upstream" in answer["message"]


async def test_a_model_that_breaks_in_mid_stream_ends_it_with_the_error(
    session: aiohttp.ClientSession,
) -> None:
    path = "/pipelines/breaking/queries?sse=true"
    async with session.post(path, json={"request": "one two three"}) as response:
        assert response.status == 200
        events = await read_events(response)
    assert [event["message"] for event in events[1:-1]] == ["one ", "two "]
    last = events[-1]
    assert last["last"] is True
    (failed,) = last["responses"]
    assert failed["message"] == "one two "
    assert "the model broke" in failed["errors"][0]["message"]


@pytest.mark.parametrize("pipeline", ["slow-stream", "slow-stream-http"])
async def test_a_client_that_leaves_stops_the_model(
    base: str, tmp_path: Path, pipeline: str
) -> None:
    marker = tmp_path / "marker"
    body = {"request": "word " * 400, "context": str(marker)}
    async with (
        client(base) as session,
        session.post(f"/pipelines/{pipeline}/queries?sse=true", json=body) as response,
    ):
        await response.content.readuntil(b"\n\n")
        response.close()
    async with promised(1):
        await until(lambda: marker.exists() and marker.read_text())
    assert marker.read_text() == "cancelled"


async def test_pieces_are_passed_on_as_the_model_makes_them(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    body = {"request": "one two three four five", "context": str(marker)}
    async with session.post("/pipelines/slow-stream/queries?sse=true", json=body) as response:
        await response.content.readuntil(b"\n\n")
        assert not marker.exists(), "the first event came when the model was done"
        rest = await read_events(response)
    started = {"type": "LAYER_MESSAGE"}
    assert check_stream([started, *rest]) == {"slow-stream": body["request"]}
    # The model says that it is done before it writes that down.
    await until(lambda: marker.exists() and marker.read_text() == "finished")


async def test_readiness_asks_triton(session: aiohttp.ClientSession) -> None:
    async with session.get("/readyz") as response:
        assert response.status == 200


async def test_a_model_that_streams_has_its_time_between_pieces_also_where_nobody_sees_them(
    session: aiohttp.ClientSession,
) -> None:
    for text, delay in (("known from here on", "0"), ("one two three four five", "0.6")):
        assert await query(session, "patient", request=text, context=delay) == text


async def test_a_models_text_and_its_observation_both_reach_who_asks_for_them(
    session: aiohttp.ClientSession,
) -> None:
    for _ in range(2):  # the model is asked about at the first call
        text = await query(session, "text-and-observation", request="one two end")
        assert text == "one two "
        path = "/v1/pipelines/text-and-observation/executeSync"
        async with session.post(path, json={"text": "one two end"}) as response:
            assert (await response.json())["observation"]["mediaContents"] == [{"id": "m"}]
