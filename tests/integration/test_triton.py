"""A real Triton as upstream, over gRPC and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.errors import Code, RequestRejected, TransformFailed, UpstreamFailed
from gateway.model import Delta, Event, ObservationReady
from gateway.upstreams.base import Call
from gateway.upstreams.triton import TritonUpstream
from tests.support.timing import until
from tests.support.triton_calls import Clock, call, fails, message, run, texts, upstream_at
from tests.triton_server import Triton

PNG = bytes(range(256)) * 8


@pytest.fixture
async def grpc(triton: Triton) -> AsyncIterator[TritonUpstream]:
    async with upstream_at(triton.grpc_url) as upstream:
        yield upstream


@pytest.fixture
async def http(triton: Triton) -> AsyncIterator[TritonUpstream]:
    async with upstream_at(triton.http_url) as upstream:
        yield upstream


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["grpc", "http"])
async def upstream(
    request: pytest.FixtureRequest, triton: Triton, clock: Clock
) -> AsyncIterator[TritonUpstream]:
    url = triton.grpc_url if request.param == "grpc" else triton.http_url
    async with upstream_at(url, clock=clock) as made:
        yield made


async def content(file: Path) -> str:
    """What a model writes into ``file``, once it has."""
    await until(lambda: file.exists() and file.read_text())
    return file.read_text()


async def test_a_text_goes_in_and_comes_out(upstream: TritonUpstream) -> None:
    assert await run(upstream, call("echo", text="Grüße 😀")) == [message("Grüße 😀")]


async def test_media_arrive_byte_for_byte(upstream: TritonUpstream) -> None:
    large = PNG * 1024
    (event,) = await run(upstream, call("echo", large, inputs={"INPUT": "$media"}))
    assert isinstance(event, Delta)
    (element,) = json.loads(event.message)["OUTPUT"]
    assert base64.b64decode(element["base64"]) == large


async def test_media_that_were_sent_can_be_sent_again(upstream: TritonUpstream) -> None:
    made = call("observation", PNG * 1024, b"small")
    first = await upstream.call(made)
    assert await upstream.call(made) == first
    assert [bytes(media.data) for media in made.request.media] == [PNG * 1024, b"small"]


@pytest.mark.parametrize(
    "made",
    [
        call("echo", text="one"),
        call("observation", b"a"),
        call("greet", text="x", output="outputs.GREETING"),
        call("stream", text="one", output='{"mediaContents": [{"id": outputs.PIECE[0]}]}'),
    ],
)
async def test_what_is_not_streamed_is_what_a_stream_ends_with(
    upstream: TritonUpstream, made: Call
) -> None:
    assert [await upstream.call(made)] == await run(upstream, made)


async def test_pieces_that_nobody_waits_for_are_one_text(upstream: TritonUpstream) -> None:
    made = call("stream", text="one two three")
    assert await upstream.call(made) == message("one two three")


async def test_whether_a_model_answers_once_is_known_when_it_has_been_asked_about(
    upstream: TritonUpstream,
) -> None:
    assert not upstream.answers_once("echo")
    await upstream.call(call("echo", text="x"))
    await upstream.call(call("stream", text="x"))
    assert upstream.answers_once("echo")
    assert not upstream.answers_once("stream")


async def test_several_media_are_the_elements_of_one_tensor(upstream: TritonUpstream) -> None:
    (event,) = await run(upstream, call("observation", b"a", b"bcd"))
    assert isinstance(event, ObservationReady)
    contents = json.loads(event.observation)["mediaContents"]
    assert [one["mediaId"] for one in contents] == ["media-1", "media-2"]
    sizes = [
        one["documentPages"][0]["document"]["entities"][0]["data"]["quantityValue"]
        for one in contents
    ]
    assert sizes == [1, 3]


async def test_a_batch_goes_in_and_comes_out(upstream: TritonUpstream) -> None:
    assert await run(upstream, call("batched", text="one")) == [message("ONE")]
    assert await run(upstream, call("batched", b"a", b"b")) == [message('{"OUTPUT":[["A"],["B"]]}')]
    error = await fails(upstream, call("batched", *[b"x"] * 5))
    assert error.status == 400
    assert "takes at most 4" in error.message


VALUES: dict[str, Any] = {
    "BOOL": [[True, False]],
    "UINT8": [[0, 255]],
    "UINT16": [[65535]],
    "UINT32": [[4294967295]],
    "UINT64": [[9007199254740991]],
    "INT8": [[-128], [127]],
    "INT16": [[-32768]],
    "INT32": [[1, 2], [3, -2147483648]],
    "INT64": [[-9007199254740991]],
    "FP16": [[0.5, -65504.0]],
    "FP32": [[0.25, 1.5]],
    "FP64": [[0.1]],
    "BF16": [[1.0, -2.5]],
    "BYTES": [["a", ""], ["ü", "d"]],
}


async def test_every_datatype_goes_both_ways(upstream: TritonUpstream) -> None:
    (event,) = await run(upstream, call("datatypes", inputs=VALUES))
    assert isinstance(event, Delta)
    assert json.loads(event.message) == {f"{name}_OUT": value for name, value in VALUES.items()}


async def test_numbers_that_json_has_no_sign_for_go_both_ways(upstream: TritonUpstream) -> None:
    made = call("datatypes", inputs={"FP32": [["NaN", "Infinity", "-Infinity"]]})
    assert await run(upstream, made) == [message('{"FP32_OUT":[["NaN","Infinity","-Infinity"]]}')]


async def test_an_optional_input_is_sent_only_where_it_has_a_value(
    upstream: TritonUpstream,
) -> None:
    inputs = {"TEXT": "text", "NAME": "context"}
    made = call("greet", inputs=inputs, text="hi", context="Ann")
    assert await run(upstream, made) == [message("Hello Ann: hi")]
    assert await run(upstream, call("greet", inputs=inputs, text="hi")) == [message("Hello: hi")]


async def test_an_ensemble_runs_its_steps(upstream: TritonUpstream) -> None:
    assert await run(upstream, call("greeting", text="hi")) == [message("Hello: hi")]


async def test_an_output_expression_decides_what_is_said(upstream: TritonUpstream) -> None:
    made = call("greeting", text="hi", output='outputs.ANSWER[0] & "!"')
    assert await run(upstream, made) == [message("Hello: hi!")]


async def test_a_decoupled_model_gives_a_piece_for_each_response(upstream: TritonUpstream) -> None:
    events = await run(upstream, call("stream", text="one two thrée"))
    assert events == [
        *(Delta("triton", text, "0", last_layer=True) for text in ("one ", "two ", "thrée")),
        message(""),
    ]


async def test_an_ensemble_with_a_decoupled_step_streams(upstream: TritonUpstream) -> None:
    events = await run(upstream, call("stream_ensemble", text="one two"))
    assert texts(events) == ["Hello: ", "one ", "two", ""]


async def test_a_stream_without_a_response_ends_in_order(upstream: TritonUpstream) -> None:
    assert await run(upstream, call("stream", text="")) == [message("")]


async def test_a_piece_arrives_while_the_model_still_works(
    upstream: TritonUpstream, tmp_path: Path
) -> None:
    marker = tmp_path / "ended"
    made = call("stream", text="a b", inputs={"DELAY_S": 0.3, "MARKER": f'"{marker}"'})
    async with aclosing(upstream.stream(made)) as events:
        first = await anext(events)
        assert isinstance(first, Delta)
        assert first.message == "a "
        assert not marker.exists()
        assert texts([event async for event in events]) == ["b", ""]
    assert await content(marker) == "finished"


async def test_a_stream_of_one_character_in_pieces_is_whole_over_grpc(
    grpc: TritonUpstream,
) -> None:
    made = call("stream", text="é😀", inputs={"PIECE_BYTES": 1})
    assert texts(await run(grpc, made)) == ["é", "😀", ""]


async def test_over_http_a_cut_character_is_refused_with_a_word_about_grpc(
    http: TritonUpstream,
) -> None:
    error = await fails(http, call("stream", text="é", inputs={"PIECE_BYTES": 1}))
    assert error.code is Code.UPSTREAM_INVALID
    assert "grpc://" in error.message


async def test_over_http_a_stream_carries_no_media_and_says_what_does(
    http: TritonUpstream,
) -> None:
    error = await fails(http, call("stream", b"\xff"))
    assert isinstance(error, RequestRejected)
    assert error.message == (
        "model stream's input TEXT is not text, which Triton's streaming over HTTP cannot carry: "
        "give this upstream a grpc:// url"
    )


async def test_over_http_a_stream_takes_numbers_but_no_infinity(http: TritonUpstream) -> None:
    assert texts(await run(http, call("stream", text="ab", inputs={"PIECE_BYTES": 1}))) == [
        "a",
        "b",
        "",
    ]
    made = call("stream", text="a b", inputs={"DELAY_S": '"Infinity"'})
    assert "holds NaN or Infinity" in (await fails(http, made)).message


async def test_an_error_in_mid_stream_comes_after_the_pieces_before_it(
    upstream: TritonUpstream,
) -> None:
    made = call("stream", text="one two three", inputs={"FAIL_AFTER": 2})
    got: list[Event] = []

    async def collect() -> None:
        async for event in upstream.stream(made):
            got.append(event)  # noqa: PERF401  what came before the error counts

    with pytest.raises(UpstreamFailed, match="upstream gpu, model stream: the model broke"):
        await collect()
    assert texts(got) == ["one ", "two "]


async def test_an_error_in_place_of_the_first_response_is_the_models(
    upstream: TritonUpstream,
) -> None:
    error = await fails(upstream, call("stream", text="x", inputs={"FAIL_AFTER": 0}))
    assert (error.code, error.status) == (Code.UPSTREAM_FAILED, 502)
    assert error.message == "upstream gpu, model stream: the model broke"


async def test_streams_run_side_by_side(upstream: TritonUpstream) -> None:
    slow = asyncio.create_task(run(upstream, call("stream", text="a b", inputs={"DELAY_S": 1})))
    quick = [await run(upstream, call("stream", text=f"x{n} y")) for n in range(5)]
    assert [texts(events) for events in quick] == [[f"x{n} ", "y", ""] for n in range(5)]
    assert not slow.done()
    assert texts(await slow) == ["a ", "b", ""]


async def test_closing_a_stream_stops_the_model(upstream: TritonUpstream, tmp_path: Path) -> None:
    marker = tmp_path / "ended"
    made = call("stream", text="a b c", inputs={"DELAY_S": 20, "MARKER": f'"{marker}"'})
    async with aclosing(upstream.stream(made)) as events:
        await anext(events)
    assert await content(marker) == "cancelled"


async def test_cancelling_whoever_waits_for_a_piece_stops_the_model(
    upstream: TritonUpstream, tmp_path: Path
) -> None:
    marker = tmp_path / "ended"
    made = call("stream", text="a b c", inputs={"DELAY_S": 20, "MARKER": f'"{marker}"'})
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in upstream.stream(made):
            begun.set()

    waiting = asyncio.create_task(read())
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await content(marker) == "cancelled"


async def test_cancelling_whoever_waits_for_the_answer_stops_the_model_over_grpc(
    grpc: TritonUpstream, tmp_path: Path
) -> None:
    marker = tmp_path / "ended"
    made = call("slow", inputs={"SECONDS": 20, "MARKER": f'"{marker}"'})
    waiting = asyncio.create_task(run(grpc, made))
    await until(marker.with_suffix(".begun").exists)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await content(marker) == "cancelled"


@pytest.mark.parametrize("text", ["The page is empty", "raise: the page is empty"])
async def test_a_models_failure_is_told_in_its_words_without_its_files(
    upstream: TritonUpstream, text: str
) -> None:
    error = await fails(upstream, call("failing", text=text))
    assert (error.code, error.status) == (Code.UPSTREAM_FAILED, 502)
    assert error.message.startswith("upstream gpu, model failing: ")
    assert error.message.endswith(text)


async def test_a_models_long_failure_is_cut(upstream: TritonUpstream) -> None:
    error = await fails(upstream, call("failing", text="no " * 1000))
    assert len(error.message) < 400


async def test_a_model_that_is_not_there_is_named(upstream: TritonUpstream) -> None:
    error = await fails(upstream, call("nope", text="x"))
    assert error.status == 502
    assert error.message.startswith("upstream gpu: has no model nope (")


async def test_what_triton_refuses_is_the_requests_fault(upstream: TritonUpstream) -> None:
    error = await fails(upstream, call("invoice_ocr", b"no image"))
    assert (error.code, error.status) == (Code.UPSTREAM_REJECTED, 400)
    assert "IMAGE[0] (8 bytes) is not an image of a known format" in error.message


async def test_a_failing_expression_reaches_nobody(upstream: TritonUpstream) -> None:
    error = await fails(upstream, call("echo", text="x", inputs={"INPUT": "$number(text)"}))
    assert isinstance(error, TransformFailed)
    assert error.message.startswith("pipeline route, inputs.INPUT: ")


async def test_an_answer_over_the_bound_is_refused(triton: Triton) -> None:
    for url in (triton.grpc_url, triton.http_url):
        async with upstream_at(url, answer_bytes_max=10_000) as upstream:
            error = await fails(upstream, call("echo", text="x" * 20_000))
            assert error.code is Code.UPSTREAM_INVALID
            assert "answer_bytes_max (10000 bytes)" in error.message
            assert await run(upstream, call("echo", text="x")) == [message("x")]


async def test_a_stream_over_the_bounds_is_refused(triton: Triton) -> None:
    for url in (triton.grpc_url, triton.http_url):
        async with upstream_at(url, answer_bytes_max=10_000, event_bytes_max=3_000) as upstream:
            error = await fails(upstream, call("stream", text="x" * 4_000))
            assert error.code is Code.UPSTREAM_INVALID
            assert "event_bytes_max" in error.message or "3000 bytes" in error.message
            error = await fails(upstream, call("stream", text=("x" * 1_000 + " ") * 20))
            assert "answer_bytes_max (10000 bytes)" in error.message


async def test_a_request_over_the_bound_is_not_sent(triton: Triton) -> None:
    async with upstream_at(triton.grpc_url, request_bytes_max=1000) as upstream:
        error = await fails(upstream, call("echo", b"x" * 1000))
        assert (error.code, error.status) == (Code.TOO_LARGE, 413)


async def test_a_model_is_described(upstream: TritonUpstream) -> None:
    model = await upstream.describe("stream_ensemble")
    assert model.decoupled
    assert [tensor.name for tensor in model.inputs] == ["TEXT"]
    assert [step.model for step in model.steps] == ["greet", "stream"]
    batched, slow = await asyncio.gather(upstream.describe("batched"), upstream.describe("slow"))
    assert batched.max_batch_size == 4
    assert batched.inputs[0].shape == (-1, 1)
    assert [tensor.optional for tensor in slow.inputs] == [False, True]


async def test_the_definition_of_an_ensemble_is_its_graph(upstream: TritonUpstream) -> None:
    definition = await upstream.definition("greeting", "req-1")
    assert [node["modelId"] for node in definition["nodes"]] == ["greet", "echo"]
    assert definition["nodes"][0]["outputs"] == [
        {"outputName": "GREETING", "outputShape": [1], "outputType": "STRING"}
    ]
    assert definition["edges"] == [
        {
            "id": "edge-1",
            "dataHandle": "greeting",
            "source": "greet",
            "target": "echo",
            "sourceHandle": "GREETING",
            "targetHandle": "INPUT",
        }
    ]


async def test_the_definition_of_a_model_that_is_not_there_says_so(
    upstream: TritonUpstream,
) -> None:
    with pytest.raises(UpstreamFailed, match="has no model nope"):
        await upstream.definition("nope", "req-1")


async def test_a_triton_that_is_there_answers_the_probe(upstream: TritonUpstream) -> None:
    await upstream.probe()


async def repository(triton: Triton, model: str, action: str, config: Any = None) -> None:
    """Load or unload a model through Triton's own API."""
    body = {} if config is None else {"parameters": {"config": json.dumps(config)}}
    url = f"{triton.http_url}/v2/repository/models/{model}/{action}"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        assert response.status == 200, await response.text()


async def test_a_model_that_was_loaded_anew_is_asked_about_again(
    upstream: TritonUpstream, triton: Triton, clock: Clock
) -> None:
    assert await run(upstream, call("echo", text="before")) == [message("before")]
    clock.now += 5
    tensor = {"data_type": "TYPE_STRING", "dims": [-1]}
    batching = {
        "backend": "python",
        "max_batch_size": 8,
        "input": [{"name": "INPUT", **tensor}],
        "output": [{"name": "OUTPUT", **tensor}],
        "instance_group": [{"kind": "KIND_CPU"}],
    }
    try:
        await repository(triton, "echo", "load", batching)
        assert await run(upstream, call("echo", text="now")) == [message("now")]
        assert (await upstream.describe("echo")).max_batch_size == 8
    finally:
        await repository(triton, "echo", "load")
    clock.now += 5
    assert await run(upstream, call("echo", text="again")) == [message("again")]


async def test_a_model_that_was_unloaded_is_missed_and_found_when_it_is_back(
    upstream: TritonUpstream, triton: Triton, clock: Clock
) -> None:
    assert await run(upstream, call("batched", text="x")) == [message("X")]
    await repository(triton, "batched", "unload")
    clock.now += 5
    try:
        for _ in range(200):
            error = await fails(upstream, call("batched", text="x"))
            if "has no model" in error.message or "available versions" in error.message:
                break
            await asyncio.sleep(0.01)
        assert error.status == 502
        assert "batched" in error.message
    finally:
        await repository(triton, "batched", "load")
    assert await run(upstream, call("batched", text="x")) == [message("X")]
