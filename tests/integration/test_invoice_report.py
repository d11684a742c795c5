"""The default configuration's pipeline of layers, on a real Triton and the simulated APIs."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from PIL import Image

from deploy.demo.simulators import CAMBRION_KEY, PUPAU_KEY, simulators
from gateway import app
from gateway.config import load
from tests.support.client import check_stream, read_events
from tests.support.running import client
from tests.triton_server import Triton

CONFIG = Path(__file__).parents[2] / "config" / "gateway.yaml"


@pytest_asyncio.fixture
async def session(triton: Triton) -> AsyncIterator[aiohttp.ClientSession]:
    async with simulators(delay_s=0.001) as apis:
        environment = {
            "GATEWAY_PORT": "0",
            "TRITON_URL": triton.grpc_url,
            "CAMBRION_URL": apis.cambrion_url,
            "CAMBRION_API_KEY": CAMBRION_KEY,
            "PUPAU_URL": apis.pupau_url,
            "PUPAU_API_KEY": PUPAU_KEY,
        }
        async with (
            app.running(load(CONFIG, environment)) as (host, port),
            client(f"http://{host}:{port}") as session,
        ):
            yield session


def blank_page() -> bytes:
    file = io.BytesIO()
    Image.new("L", (300, 200), 255).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("dialect", ["pupau", "cambrion"])
async def test_what_cannot_be_checked_or_filed_is_reported_and_the_summary_comes_all_the_same(
    session: aiohttp.ClientSession, dialect: str
) -> None:
    if dialect == "pupau":
        form = aiohttp.FormData()
        form.add_field("file", blank_page(), filename="blank.png", content_type="image/png")
        asked = session.post("/pipelines/invoice-report/queries?sse=true", data=form)
    else:
        body = {"media": [base64.b64encode(blank_page()).decode()]}
        sse = {"Accept": "text/event-stream"}
        asked = session.post("/v1/pipelines/invoice-report/executeSync", json=body, headers=sse)
    async with asked as response:
        assert response.status == 200, await response.text()
        events = await read_events(response)
    contents = ["media-1", "summary"]
    if dialect == "cambrion":
        observation = events.pop()["observation"]
        assert [content["mediaId"] for content in observation["mediaContents"]] == contents
    summary = "There is no JSON object to sum up in the 22 characters of the request."
    assert check_stream(events) == {"summary": summary, "checks": "", "archive": ""}
    errors = {
        each["actorId"]: [error["message"] for error in each["errors"]]
        for each in events[-1]["responses"]
    }
    assert errors["summary"] == []
    assert errors["checks"] == [
        "upstream triton, model invoice_checks: INVOICE: is not the JSON of an invoice, but nothing"
    ]
    assert "Nothing to run on" in errors["archive"][0]
