"""The clients' published snippets for executions, run as programs of their own, with only the base
URL changed."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

import pytest

from tests.support.client import PNG
from tests.support.gated import page
from tests.support.kept import running
from tests.support.scripts import EVENTS

HEAD = """
import base64
import json
import sys
import time

import requests

base_url, key, path = sys.argv[1:]
base_url += "/v1"
headers = {"X-API-Key": key, "Content-Type": "application/json"}
"""

#: Make an execution, add a file as it is, run a pipeline on it, read what it found in each way.
FILE = """
execution = requests.post(f"{base_url}/executions", headers=headers)
execution.raise_for_status()
execution_id = execution.json()["executionId"]

with open(path, "rb") as file:
    media = requests.post(
        f"{base_url}/executions/{execution_id}/observation/media",
        headers={"X-API-Key": key, "Content-Type": "image/png"},
        data=file,
    )
media.raise_for_status()
media_id = media.json()["mediaId"]

run = requests.post(
    f"{base_url}/pipelines/doc/executeSync",
    headers=headers,
    json={"executionId": execution_id},
)
run.raise_for_status()

observation = requests.post(
    f"{base_url}/executions/{execution_id}/observation", headers=headers
).json()
again = requests.get(
    f"{base_url}/executions/{execution_id}/observation", headers=headers
).json()
as_json = requests.get(
    f"{base_url}/executions/{execution_id}/observation/json", headers=headers
).json()
transformed = requests.post(
    f"{base_url}/executions/{execution_id}/observation/transform",
    headers={"X-API-Key": key, "Content-Type": "text/plain"},
    data="mediaContents.rawText",
)
image = requests.get(
    f"{base_url}/executions/{execution_id}/observation/media/{media_id}", headers=headers
)
print(json.dumps({
    "id": execution_id,
    "run": run.json(),
    "observation": observation,
    "again": again,
    "json": as_json,
    "transformed": transformed.json(),
    "image": [image.headers["Content-Type"], base64.b64encode(image.content).decode("utf-8")],
}))
"""

#: The same with the file as base64 text, the run queued, and its status asked for until it ends.
POLL = """
execution_id = requests.post(
    f"{base_url}/executions", headers=headers, json={"tag": "receipts", "metaData": {"page": 1}}
).json()["executionId"]

with open(path, "rb") as file:
    content = base64.b64encode(file.read()).decode("utf-8")
media = requests.post(
    f"{base_url}/executions/{execution_id}/observation/media",
    headers={"X-API-Key": key, "Content-Type": "image/png"},
    data=content,
)
media.raise_for_status()

response = requests.post(
    f"{base_url}/pipelines/doc/executeAsync",
    headers=headers,
    data=json.dumps({"executionId": execution_id}),
)
response.raise_for_status()
while True:
    execution = requests.get(f"{base_url}/executions/{execution_id}", headers=headers).json()
    if execution.get("status") in ("COMPLETED", "FAILED", "CANCELLED"):
        break
    time.sleep(0.05)
observation = requests.post(
    f"{base_url}/executions/{execution_id}/observation", headers=headers
).json()
listed = requests.get(
    f"{base_url}/executions", params={"tag": "receipts"}, headers=headers
).json()
print(json.dumps({
    "run": response.json(), "execution": execution, "observation": observation, "listed": listed
}))
"""

#: No execution is made before: the call makes one, and its ID leads to the result.
DIRECT = """
with open(path, "rb") as file:
    content = base64.b64encode(file.read()).decode("utf-8")
response = requests.post(
    f"{base_url}/pipelines/doc/executeAsync",
    headers=headers,
    json={"media": [content], "tag": "receipts"},
)
response.raise_for_status()
execution_id = response.json()["executionId"]
while requests.get(
    f"{base_url}/executions/{execution_id}", headers=headers
).json()["status"] != "COMPLETED":
    time.sleep(0.05)
observation = requests.get(
    f"{base_url}/executions/{execution_id}/observation", headers=headers
)
print(observation.text)
"""

#: The events as they come, and again from the one that was the last before the stream was left.
FOLLOW = """
execution_id = requests.post(
    f"{base_url}/pipelines/chat/executeAsync", headers=headers, json={"text": "Hello"}
).json()["executionId"]

def follow(last=None):
    resumed = headers if last is None else {**headers, "Last-Event-ID": last}
    with requests.get(
        f"{base_url}/executions/{execution_id}/events", headers=resumed, stream=True
    ) as response:
        event_id = None
        for line in response.iter_lines(decode_unicode=True):
            if line.startswith("id:"):
                event_id = line[3:].strip()
            elif line.startswith("data:"):
                yield event_id, json.loads(line[5:])

events = []
for event_id, event in follow():
    events.append(event)
    if len(events) == 3:
        break
for event_id, event in follow(event_id):
    events.append(event)
print(json.dumps(events))
"""


async def run(program: str, *arguments: str) -> str:
    """The program's output, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HEAD + program, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.fixture
def image(tmp_path: Path) -> str:
    """The path of a receipt."""
    path = tmp_path / "receipt.png"
    path.write_bytes(PNG)
    return str(path)


async def test_a_file_is_added_run_on_and_read_back_in_every_way(image: str) -> None:
    async with running() as api:
        told = json.loads(await run(FILE, api.base, "any", image))
    found = {"executionId": told["id"], "mediaContents": [page("1 files", 1)], "documents": []}
    assert told["run"] == {"executionId": told["id"], "observation": found}
    assert told["observation"] == told["again"] == found
    assert told["json"] == {}
    assert told["transformed"] == "1 files"
    assert told["image"] == ["image/png", base64.b64encode(PNG).decode()]


async def test_a_queued_run_is_asked_for_until_it_has_ended(image: str) -> None:
    async with running() as api:
        told = json.loads(await run(POLL, api.base, "any", image))
    execution_id = told["run"]["executionId"]
    assert told["execution"]["status"] == "COMPLETED"
    assert told["execution"]["metaData"] == {"page": 1}
    assert told["observation"]["executionId"] == execution_id
    assert told["observation"]["mediaContents"] == [page("1 files", 1)]
    assert told["listed"] == [told["execution"]]


async def test_a_queued_run_makes_its_own_execution(image: str) -> None:
    async with running() as api:
        told = json.loads(await run(DIRECT, api.base, "any", image))
    assert told["mediaContents"] == [page("1 files", 1)]


async def test_a_run_is_followed_and_followed_again_from_where_it_was_left(image: str) -> None:
    async with running() as api:
        told = json.loads(await run(FOLLOW, api.base, "any", image))
    types = [each["type"] for each in told]
    assert types[0] == types[-1] == "EXECUTION_STATUS"
    assert told[1:-2] == EVENTS
    assert types[-2] == "OBSERVATION"
