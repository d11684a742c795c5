"""The gateway as a pod of the manifests runs it: its volumes, its environment, its probes."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.support.manifests import DEPLOY, Mounted, gateways, named, of_kind
from tests.support.redis_server import redis_server
from tests.support.remote import Remote, remote
from tests.support.running import client
from tests.support.scripts import cambrion_script, pupau_script
from tests.support.serving import Serving, serving
from tests.support.timing import patience

#: Stands for the pod's own address, which is not the 127.0.0.1 that its containers share.
POD = "127.0.0.2"


def on_free_ports(config: str) -> str:
    """gateway.yaml on ports that nobody else has, of addresses that nobody else reaches."""
    return (
        config.replace("port: 8080", "port: 0")
        .replace("port: 9090", "port: 0")
        .replace("0.0.0.0", "127.0.0.1")
    )


async def soon(so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is so. Raises TimeoutError if it never is."""
    async with patience():
        while not await so():
            await asyncio.sleep(0.05)


async def test_a_sidecar_answers_its_probes_at_the_pods_address_and_calls_at_its_own(
    tmp_path: Path,
) -> None:
    mounted = Mounted(
        "sidecar", tmp_path, {"gateway-secrets": {"pupau-api-key": "p-key\n"}}, on_free_ports
    )
    ((_, container),) = gateways("sidecar")
    (monitor,) = of_kind("sidecar", "PodMonitor")
    asked = {container[f"{each}Probe"]["httpGet"]["path"] for each in ("startup", "liveness")}
    asked |= {
        container["readinessProbe"]["httpGet"]["path"],
        monitor["spec"]["podMetricsEndpoints"][0]["path"],
    }
    async with remote(pupau_script) as upstream:
        environment = mounted.environment | {"ADMIN_HOST": POD, "PUPAU_URL": upstream.url}
        async with serving(mounted.config, **environment) as gateway:
            began = await gateway.said("listening")
            assert (began["host"], began["admin_host"]) == ("127.0.0.1", POD)
            async with client(f"http://{POD}:{began['admin_port']}") as kubelet:
                for path in asked:
                    async with kubelet.get(path) as response:
                        assert (path, response.status) == (path, 200)
            async with client(gateway.base) as application:
                question = {"request": "x"}
                async with application.post("/pipelines/chat/queries", json=question) as response:
                    assert (await response.json())[0]["message"] == "Hello wörld"
                # What is for watching is not for the application.
                async with application.get("/metrics") as response:
                    assert response.status == 404
            assert upstream.seen[-1].headers["api-key"] == "p-key"
            gateway.tell(signal.SIGTERM)
            assert await gateway.ended() == 0


def made_by_the_guide(folder: Path) -> dict[str, str]:
    """The files that the commands of deploy/README.md make, run as they stand there."""
    guide = (DEPLOY / "README.md").read_text()
    found = re.search(r"<!-- run by tests[^\n]*\n```sh\n(.*?)```", guide, re.DOTALL)
    assert found is not None
    (folder / "secrets").mkdir(mode=0o755)  # left by somebody, and open to all
    program = f'pipeline-gateway() {{ "{sys.executable}" -m gateway "$@"; }}\n'
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", program + found[1]],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(DEPLOY.parent)},
        timeout=120,
        check=True,
    )
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o700
    return {each.name: each.read_text() for each in (folder / "secrets").iterdir()}


@asynccontextmanager
async def shared(
    root: Path, secrets: dict[str, str]
) -> AsyncIterator[tuple[Mounted, Serving, Remote, Remote]]:
    """A gateway of the overlay ``shared`` on the Redis of that, and the two APIs behind it."""
    settings = named("shared", "ConfigMap", "redis-config")["data"]["redis.conf"]
    options = dict(re.findall(r"^(\w[\w-]*) (.+)$", settings, re.MULTILINE))
    users = root / "users.acl"
    users.write_text(secrets["users.acl"])
    options |= {"dir": str(root), "aclfile": str(users), "save": ""}
    mounted = Mounted("shared", root / "pod", {"gateway-secrets": secrets}, on_free_ports)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(root, **options))
        pupau = await stack.enter_async_context(remote(pupau_script))
        cambrion = await stack.enter_async_context(remote(cambrion_script))
        environment = mounted.environment | {
            "REDIS_URL": redis.url,
            "PUPAU_URL": pupau.url,
            "CAMBRION_URL": f"{cambrion.url}/v1",
        }
        gateway = await stack.enter_async_context(serving(mounted.config, **environment))
        yield mounted, gateway, pupau, cambrion


async def test_what_kubernetes_turns_is_live_without_a_rollout_config_transforms_and_secrets(
    tmp_path: Path,
) -> None:
    secrets = made_by_the_guide(tmp_path)
    accounting, support = secrets["accounting.key"].strip(), secrets["support.key"].strip()

    async with (
        shared(tmp_path, secrets) as (mounted, gateway, pupau, cambrion),
        client(gateway.base) as session,
    ):

        async def asked(path: str, key: str, **body: Any) -> tuple[aiohttp.ClientResponse, Any]:
            async with session.post(path, json=body, headers={"X-API-Key": key}) as response:
                return response, await response.json()

        async def chat(key: str, pipeline: str = "chat") -> int:
            response, _ = await asked(f"/pipelines/{pipeline}/queries", key, request="x")
            return response.status

        async def entities() -> list[Any]:
            path = "/v1/pipelines/receipt/executeSync"
            _, answer = await asked(path, accounting, text="x")
            media = answer["observation"]["mediaContents"][0]
            return list(media["documentPages"][0]["document"].get("entities") or [])

        assert await chat(support) == 200
        assert await chat(accounting) == 403
        assert await chat("another") == 401
        assert pupau.seen[-1].headers["api-key"] == "YOUR-PUPAU-KEY"
        assert await entities() == []  # nothing in there was read with confidence
        assert cambrion.seen[-1].headers["x-api-key"] == "YOUR-CAMBRION-KEY"
        # It is kept in Redis, by a user with no more rights than the guide gives it.
        async with session.get("/v1/executions", headers={"X-API-Key": accounting}) as response:
            assert len(await response.json()) == 1

        mounted.turn("transforms", {"confident.jsonata": "$"})
        await soon(lambda: equals(entities, 1, len))

        keys = yaml.safe_load(secrets["keys.yaml"])
        assert [each["name"] for each in keys] == ["accounting-1", "support-1"]
        keys[1]["limits"] = {"requests_per_minute_max": 1000}
        mounted.turn(
            "secrets", {"keys.yaml": yaml.safe_dump(keys), "pupau-api-key": "second-key\n"}
        )

        async def limited_now() -> bool:
            response, _ = await asked("/pipelines/chat/queries", support, request="x")
            assert response.status == 200
            return "RateLimit" in response.headers

        await soon(limited_now)
        assert pupau.seen[-1].headers["api-key"] == "second-key"

        changed = mounted.files["config"]["gateway.yaml"].replace("662f1c0a9b7d4e0012ab34ce", "new")
        mounted.turn("config", {"gateway.yaml": changed})

        async def asked_upstream() -> str:
            assert await chat(support) == 200
            return pupau.seen[-1].path

        await soon(lambda: equals(asked_upstream, True, lambda path: "/new/" in path))
    assert gateway.errors == b""


async def equals(ask: Callable[[], Awaitable[Any]], expected: Any, by: Any = lambda x: x) -> bool:
    return bool(by(await ask()) == expected)
