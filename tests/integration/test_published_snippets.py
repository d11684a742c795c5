"""The clients' published snippets, run as programs of their own, with only the base URL changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path

import pytest

from tests.support.client import PNG
from tests.support.remote import remote
from tests.support.running import gateway
from tests.support.scripts import EVENTS, OBSERVATION, cambrion_script, pupau_script

CONFIG = """
keys:
  - {{name: me, sha256: "{digest}"}}
upstreams:
  docs: {{kind: cambrion, url: "{cambrion}/v1", api_key: upstream-key}}
  talk: {{kind: pupau, url: "{pupau}", api_key: upstream-key}}
pipelines:
  receipts: {{upstream: docs}}
  chat: {{upstream: talk}}
"""

EXECUTE_SYNC = """
import base64
import sys

import requests

url, key, path = sys.argv[1:]
with open(path, "rb") as file:
    content = base64.b64encode(file.read()).decode("utf-8")
response = requests.post(
    f"{url}/v1/pipelines/receipts/executeSync",
    headers={"X-API-Key": key, "Content-Type": "application/json"},
    json={"media": [content]},
)
response.raise_for_status()
print(response.text)
"""

QUERY = """
import sys

import requests

url, key, path = sys.argv[1:]
response = requests.post(
    f"{url}/pipelines/chat/queries",
    params={"sse": "true"},
    headers={"Api-Key": key},
    json={"request": "Hello", "context": "a test"},
    stream=True,
)
response.raise_for_status()
for line in response.iter_lines(decode_unicode=True):
    if line.startswith("data:"):
        print(line[5:].strip())
"""

UPLOAD = """
import sys

import requests

url, key, path = sys.argv[1:]
with open(path, "rb") as file:
    response = requests.post(
        f"{url}/pipelines/chat/queries?sse=false",
        headers={"Api-Key": key},
        files={"file": file},
    )
response.raise_for_status()
print(response.text)
"""


async def run(program: str, *arguments: str) -> str:
    """The program's output, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.parametrize("snippet", ["execute", "query", "upload"])
async def test_a_published_snippet_runs_unchanged(snippet: str, tmp_path: Path) -> None:
    image = tmp_path / "receipt.png"
    image.write_bytes(PNG)
    key = "my-key"
    async with remote(cambrion_script) as cambrion, remote(pupau_script) as pupau:
        config = CONFIG.format(
            digest=hashlib.sha256(key.encode()).hexdigest(), cambrion=cambrion.url, pupau=pupau.url
        )
        async with gateway(config) as base:
            if snippet == "execute":
                answer = json.loads(await run(EXECUTE_SYNC, base, key, str(image)))
                assert answer == {"executionId": "remote-1", "observation": OBSERVATION}
            elif snippet == "query":
                lines = (await run(QUERY, base, key, str(image))).splitlines()
                assert [json.loads(line) for line in lines] == EVENTS
            else:
                answer = json.loads(await run(UPLOAD, base, key, str(image)))
                assert answer == EVENTS[-1]["responses"]
                assert b'filename="receipt.png"' in pupau.seen[0].body
                assert PNG in pupau.seen[0].body
