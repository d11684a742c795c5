"""The demo's client sends and reads what any client would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.demo.client import AnswerError, Arrived, form_body, json_body, send, stream
from deploy.demo.simulators import PUPAU_KEY, Simulators, simulators

KEY = {"Api-Key": PUPAU_KEY}


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Simulators]:
    async with simulators(delay_s=0.01) as running:
        yield running


async def test_a_json_body_is_answered(running: Simulators) -> None:
    url = f"{running.pupau_url}/pipelines/chat/queries"
    answer = await asyncio.to_thread(send, url, json_body({"request": "one two"}), KEY)
    (response,) = answer.json()
    assert response["message"] == "In short: 2 word(s) and 0 file(s) arrived safely."


async def test_the_parts_of_a_form_arrive(running: Simulators) -> None:
    url = f"{running.pupau_url}/pipelines/chat/queries?sse=true"
    files = {"a.bin": ("image/png", b"\r\n--x\r\n"), "b.bin": ("text/plain", b"")}
    body = form_body({"request": "read"}, files)
    arrived = await asyncio.to_thread(lambda: list(stream(url, body, KEY)))
    first = next(one.event for one in arrived if one.event["type"] == "LAYER_RESPONSE")
    assert first["responses"][1]["message"] == (
        "You sent 2 file(s): a.bin (image/png, 7 bytes), b.bin (text/plain, 0 bytes)."
    )


async def test_events_are_there_before_the_stream_has_ended(running: Simulators) -> None:
    url = f"{running.pupau_url}/pipelines/chat/queries?sse=true"

    def read() -> tuple[Arrived, int]:
        events = stream(url, json_body({"request": "word " * 500}), KEY)
        first = next(events)
        said = running.pupau_seen.pieces
        events.close()
        return first, said

    first, said = await asyncio.to_thread(read)
    assert first.event["type"] == "LAYER_MESSAGE"
    assert said < 500


async def test_an_answer_that_is_no_stream_says_what_it_was(running: Simulators) -> None:
    url = f"{running.pupau_url}/pipelines/none/queries?sse=true"
    with pytest.raises(AnswerError, match=r"status 404.*PipelineNotFound"):
        await asyncio.to_thread(lambda: list(stream(url, json_body({"request": "x"}), KEY)))


async def test_an_error_answer_says_its_status(running: Simulators) -> None:
    answer = await asyncio.to_thread(send, f"{running.cambrion_url}/pipelines")
    with pytest.raises(AnswerError, match=r"status 401.*unauthorized"):
        answer.json()


def test_nobody_answering_is_said_so() -> None:
    with pytest.raises(AnswerError, match=r"no answer from http://127\.0\.0\.1:9/"):
        send("http://127.0.0.1:9/")
    with pytest.raises(AnswerError, match="the stream from"):
        list(stream("http://127.0.0.1:9/", json_body({}), {}))
