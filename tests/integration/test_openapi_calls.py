"""Everything that /openapi.json describes, called in every way that Schemathesis thinks of.

CONTRACT_EXAMPLES=300 has it think longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.remote import remote
from tests.support.running import client, gateway
from tests.support.scripts import cambrion_script, pupau_script
from tests.support.serving import ROOT
from tests.support.timing import PATIENCE_S

KEY = "a-key-of-the-tests"
EXAMPLES = os.environ.get("CONTRACT_EXAMPLES")
#: Memory, where there is some: nothing here is about disks.
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None
#: Of many calls, each of which may take long on a busy machine, seconds.
LIMIT_S = 10 * PATIENCE_S
UPSTREAMS = """
upstreams:
  docs: {{kind: cambrion, url: "{docs}/v1"}}
  talk: {{kind: pupau, url: "{talk}"}}
pipelines:
  invoice: {{upstream: docs}}
  chat: {{upstream: talk}}
"""
KEYS = f'keys: [{{name: team, sha256: "{sha256(KEY.encode()).hexdigest()}"}}]'
#: Their bodies are as those of executeSync and createHook, which are gone through field by field.
TWINS = ("executeAsync", "executeSyncJson", "executeSyncTransform", "postPlainJson", "putHook")
#: An execution that nothing happens to is watched for a few seconds only.
SETTINGS = f"""
[phases.coverage]
unexpected-methods = ["PATCH"]

[phases.stateful.generation]
max-examples = {EXAMPLES or 12}

[[operations]]
include-operation-id = "watchExecution"
request-timeout = 5
""" + "".join(
    f"""
[[operations]]
include-operation-id = "{each}"
phases.coverage.enabled = false
"""
    for each in TWINS
    if EXAMPLES is None
)


@asynccontextmanager
async def described(config: str, folder: Path) -> AsyncIterator[str]:
    """A gateway of ``config``, its document in ``folder`` with examples for loopback."""
    async with remote(cambrion_script) as docs, remote(pupau_script) as talk:
        upstreams = UPSTREAMS.format(docs=docs.url, talk=talk.url)
        async with gateway(f"{config}\n{upstreams}") as base, client(base) as session:
            async with session.get("/openapi.json") as response:
                document = await response.text()
            document = document.replace("https://example.org/told", "http://127.0.0.1:9/told")
            # An ID can be taken once.
            document = document.replace('"hookId":"told-when-done","eventType"', '"eventType"')
            (folder / "openapi.json").write_text(document)
            (folder / "schemathesis.toml").write_text(SETTINGS)
            yield base


async def called(base: str, folder: Path, *arguments: str) -> str:
    """What Schemathesis says of the gateway at ``base``, and that it has found nothing."""
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", base),
        *("--max-examples", EXAMPLES or "3", "--continue-on-failure", "--no-color"),
        *(() if EXAMPLES else ("--generation-deterministic", "--no-shrink")),
        *("--request-timeout", str(PATIENCE_S), "--suppress-health-check", "all"),
        *arguments,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.support.schema_hooks",
        },
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        async with asyncio.timeout(LIMIT_S if EXAMPLES is None else None):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = said.decode()
    assert process.returncode == 0, text
    return text


@pytest.mark.parametrize(
    ("config", "arguments", "operations"),
    [
        ("", ("--phases", "fuzzing"), 12),
        (
            f"{KEYS}\nexecutions: {{hooks: {{allow_networks: [127.0.0.0/8]}}}}",
            ("--header", f"X-API-Key: {KEY}"),
            32,
        ),
    ],
    ids=["open to all", "with keys and executions"],
)
async def test_whatever_is_sent_is_answered_as_it_is_described(
    config: str, arguments: tuple[str, ...], operations: int
) -> None:
    with TemporaryDirectory(dir=FOLDER) as name:
        folder = Path(name)
        if "executions:" in config:
            store = json.dumps(f"sqlite:{folder}/executions.db")
            config = config.replace("executions: {", f"executions: {{store: {store}, ")
        async with described(config, folder) as base:
            said = await called(base, folder, *arguments)
    found = re.search(r"Tested: (\d+)", said)
    assert found is not None
    assert int(found[1]) == operations
