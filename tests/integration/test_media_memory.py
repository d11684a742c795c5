"""What large media cost in memory, in a gateway that is a process of its own."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.remote import Peer, Seen, remote
from tests.support.serving import Serving, serving
from tests.support.timing import patience
from tests.triton_server import Triton

CONFIG = """
server: {{port: 0}}
bounds: {{body_bytes_max: 40000000}}
upstreams:
  grpc: {{kind: triton, url: "{grpc}"}}
  http: {{kind: triton, url: "{http}"}}
  far: {{kind: cambrion, url: "{far}"}}
pipelines:
  grpc: {{upstream: grpc, pipeline: observation}}
  http: {{upstream: http, pipeline: observation}}
  far: {{upstream: far}}
"""
BYTES = 20_000_000
MEDIA = bytes(range(256)) * (BYTES // 256) + bytes(BYTES % 256)


async def found_it(seen: Seen, peer: Peer) -> None:
    await peer.answer(b'{"executionId": "e", "observation": {"mediaContents": []}}')


def memory(process: Serving, key: str) -> int:
    """``VmRSS``, what it takes now, or ``VmHWM``, the most that it has taken; bytes."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


@asynccontextmanager
async def at_most(factor: float, process: Serving) -> AsyncIterator[None]:
    """What is in it takes no more memory than so many times the media."""
    Path(f"/proc/{process.process.pid}/clear_refs").write_text("5")  # VmHWM begins anew
    before = memory(process, "VmRSS")
    yield
    taken = (memory(process, "VmHWM") - before) / BYTES
    assert taken <= factor, f"{taken:.2f} times the media"


def as_json(data: bytes, *, slashes: str = "/") -> dict[str, Any]:
    text = json.dumps({"media": [base64.b64encode(data).decode()], "text": "x"})
    return {"data": text.replace("/", slashes).encode()}


def as_form(data: bytes) -> dict[str, Any]:
    form = aiohttp.FormData()
    form.add_field("file", data, filename="scan.bin")
    return {"data": form}


async def test_media_stand_in_memory_once_from_their_arrival_until_they_are_sent(
    triton: Triton, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.yaml"
    async with remote(found_it) as far:
        config.write_text(CONFIG.format(grpc=triton.grpc_url, http=triton.http_url, far=far.url))
        async with serving(config) as process, aiohttp.ClientSession(process.base) as session:

            async def ask(path: str, **body: Any) -> str:
                async with patience(), session.post(path, **body) as response:
                    text = await response.text()
                    assert response.status == 200, text
                    return text

            for name in ("grpc", "http", "far"):  # what is loaded once is no cost of the media
                await ask(f"/v1/pipelines/{name}/executeSync", **as_json(MEDIA[:400_000]))
            await ask("/pipelines/grpc/queries", **as_form(MEDIA[:400_000]))
            execute = "/v1/pipelines/{}/executeSync"
            async with at_most(1.6, process):
                assert str(BYTES) in await ask(execute.format("grpc"), **as_json(MEDIA))
            async with at_most(1.6, process):
                assert str(BYTES) in await ask("/pipelines/grpc/queries", **as_form(MEDIA))
            async with at_most(1.6, process):
                assert str(BYTES) in await ask(execute.format("http"), **as_json(MEDIA))
            async with at_most(1.6, process):
                await ask(execute.format("far"), **as_json(MEDIA, slashes="\\/"))
        sent = json.loads(far.seen[-1].body)
    assert base64.b64decode(sent["media"][0]) == MEDIA
