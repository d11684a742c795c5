"""Every KServe datatype through the running gateway and a real Triton, there and back, whole.

Values come from expressions of the configuration, as an operator writes them; what a Pupau caller
reads in ``queries`` is the outputs as compact JSON.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gateway.upstreams.triton_codec import DATATYPES
from tests.support.running import client, gateway
from tests.triton_server import Triton

#: What is sent, at the edges of what each datatype holds.
SENT: dict[str, list[list[Any]]] = {
    "BOOL": [[True, False], [False, True]],
    "UINT8": [[0, 255]],
    "UINT16": [[0, 65535]],
    "UINT32": [[0, 4294967295]],
    "UINT64": [["0", "18446744073709551615"], ["9007199254740993", 9007199254740991]],
    "INT8": [[-128, 127]],
    "INT16": [[-32768, 32767]],
    "INT32": [[-2147483648, 2147483647]],
    "INT64": [["-9223372036854775808", "9223372036854775807"], ["-9007199254740993", -5]],
    # The largest, the smallest above zero, and what JSON has no sign for.
    "FP16": [[65504.0, -65504.0, 2.0**-24], ["NaN", "Infinity", "-Infinity"]],
    "BF16": [[(2.0 - 2.0**-7) * 2.0**127, 2.0**-133, -2.5], ["NaN", "Infinity", "-Infinity"]],
    "FP32": [[(2.0 - 2.0**-23) * 2.0**127, 2.0**-149, -0.25], ["NaN", "Infinity", "-Infinity"]],
    "FP64": [[1.7976931348623157e308, 5e-324, 0.1], ["NaN", "Infinity", "-Infinity"]],
    "BYTES": [["", "ü 😀", 'a "quote"\n'], [{"base64": "/w=="}, {"base64": "AP8A/w=="}, "\u0000"]],
}
_DIGITS = ("UINT64", "INT64")
#: What comes back where it is written otherwise than it was sent.
RECEIVED = {name: [[int(number) for number in row] for row in SENT[name]] for name in _DIGITS}


@pytest.fixture(params=["grpc", "http"])
async def session(
    request: pytest.FixtureRequest, triton: Triton
) -> AsyncIterator[aiohttp.ClientSession]:
    url = triton.grpc_url if request.param == "grpc" else triton.http_url
    inputs = {name.lower(): {name: json.dumps(value)} for name, value in SENT.items()}
    inputs["digits"] = {"INT64": '$split(text, " ")'}
    config = [f'upstreams: {{triton: {{kind: triton, url: "{url}"}}}}', "pipelines:"]
    for name, expressions in inputs.items():
        config += [
            f"  {name}:",
            "    upstream: triton",
            "    pipeline: datatypes",
            f"    inputs: {json.dumps(expressions)}",
        ]
    async with gateway("\n".join(config)) as base, client(base) as session:
        yield session


async def test_every_datatype_comes_back_as_it_was_sent(session: aiohttp.ClientSession) -> None:
    assert set(SENT) == set(DATATYPES)
    for name, sent in SENT.items():
        path = f"/pipelines/{name.lower()}/queries"
        async with session.post(path, json={"request": "x"}) as response:
            text = await response.text()
            assert response.status == 200, f"{name}: {text}"
            (answer,) = json.loads(text)
        expected = {f"{name}_OUT": RECEIVED.get(name, sent)}
        # As text, for in Python true is 1 and 1.0 is 1.
        assert repr(json.loads(answer["message"])) == repr(expected)
        assert "\n" not in answer["message"]
        assert ": " not in answer["message"]


async def test_a_callers_integers_of_64_bits_reach_the_model_whole(
    session: aiohttp.ClientSession,
) -> None:
    body = {"request": "9223372036854775807 -9007199254740993"}
    async with session.post("/pipelines/digits/queries", json=body) as response:
        (answer,) = await response.json()
    assert answer["message"] == '{"INT64_OUT":[[9223372036854775807,-9007199254740993]]}'


async def test_a_callers_digits_that_are_too_many_are_named(
    session: aiohttp.ClientSession,
) -> None:
    body = {"request": "1 9223372036854775808"}
    async with session.post("/pipelines/digits/queries", json=body) as response:
        assert response.status >= 400
        answer = await response.json()
    assert "INT64[1]: expected INT64 (a whole number from -9223372036854775808" in answer["message"]
