"""The composition root: everything is opened here, wired together, and closed again.

Owns: which object gets which, the order of opening and closing, the process's signals.
Does not know: what any of them does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway import logs
from gateway.compiled import CompiledPipeline, compile_config
from gateway.config import Config, PipelineConfig, TritonUpstreamConfig, UpstreamConfig
from gateway.errors import ConfigError
from gateway.fanout import Fanout
from gateway.health import Health
from gateway.keys import Keyring
from gateway.measured import Measured
from gateway.metrics import Metrics
from gateway.pipeline import Route, Services
from gateway.sandbox import Sandbox
from gateway.server import Gateway, HttpServer
from gateway.transform import Transform
from gateway.upstreams.base import Upstream
from gateway.upstreams.cambrion import CambrionUpstream
from gateway.upstreams.http import HttpApi, tracing
from gateway.upstreams.pupau import PupauUpstream

#: How long requests may run on once the process was asked to stop, seconds; aiohttp may take it
#: twice, once before it cancels them and once after.
SHUTDOWN_S: Final = 4.0
#: How long an idle client connection is kept, and how long an unread body is drained, seconds.
KEEPALIVE_S: Final = 75.0
LINGER_S: Final = 5.0


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[tuple[str, int]]:
    """A gateway that listens, for as long as the context is entered; yields its host and port.

    Raises:
        ConfigError: an expression that does not compile, an extra that is not installed, or an
            address that cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        metrics = Metrics(CollectorRegistry())
        session = await stack.enter_async_context(_session(config))
        upstreams: dict[str, Upstream] = {}
        for name, section in config.upstreams.items():
            upstreams[name] = _upstream(name, section, config, session)
            stack.push_async_callback(upstreams[name].close)
        health = Health(
            upstreams,
            required=frozenset(n for n, section in config.upstreams.items() if section.required),
            clock=loop.time,
        )
        stack.push_async_callback(health.close)
        client = config.transforms.client
        sandbox = Sandbox(
            time_s=client.time_s,
            memory_bytes_max=client.memory_bytes_max,
            expression_bytes_max=client.expression_bytes_max,
            output_bytes_max=client.output_bytes_max,
            depth_max=config.transforms.depth_max,
            sequence_max=config.transforms.sequence_max,
            engine=config.transforms.engine,
            processes=client.processes,
            waiting_max=client.waiting_max,
        )
        await sandbox.start()
        stack.push_async_callback(sandbox.close)
        services = Services(
            fanout=Fanout(metrics, health, loop.time),
            sandbox=sandbox,
            metrics=metrics,
            clock=loop.time,
            pdf_pages_max=config.bounds.pdf_pages_max,
        )
        routes = _routes(config, upstreams, metrics)
        # Compiled expressions may only be let go of by the thread that made them: let go of here,
        # they are not left to a garbage collection that runs wherever it happens to.
        stack.callback(routes.clear)
        gateway = Gateway(
            routes=routes,
            keyring=Keyring(config.keys),
            bounds=config.bounds,
            forward_headers=config.server.forward_headers,
            services=services,
            health=health,
        )
        yield await _listen(gateway, config, stack)


def _session(config: Config) -> aiohttp.ClientSession:
    """The one HTTP client: no cookies, no proxies from the environment, no inflating."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[tracing()],
        auto_decompress=False,
        trust_env=False,
        read_bufsize=64 * 1024,
    )


def _upstream(
    name: str, section: UpstreamConfig, config: Config, session: aiohttp.ClientSession
) -> Upstream:
    bounds = config.bounds
    if isinstance(section, TritonUpstreamConfig):
        # An extra: imported only where the configuration asks for it.
        try:
            from gateway.upstreams.triton import TritonUpstream  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                [f"upstreams.{name}: kind triton needs the extra 'triton' ({error})"]
            ) from error

        return TritonUpstream(
            name,
            section.url,
            session=session,
            answer_bytes_max=bounds.answer_bytes_max,
            event_bytes_max=bounds.event_bytes_max,
        )
    api = HttpApi(
        session,
        name=name,
        url=section.url,
        key_header="X-API-Key" if section.kind == "cambrion" else "Api-Key",
        key=None if section.api_key is None else section.api_key.get_secret_value(),
        answer_bytes_max=bounds.answer_bytes_max,
    )
    if section.kind == "cambrion":
        return CambrionUpstream(api)
    return PupauUpstream(api, event_bytes_max=bounds.event_bytes_max)


def _routes(config: Config, upstreams: dict[str, Upstream], metrics: Metrics) -> dict[str, Route]:
    compiled = compile_config(config)
    return {
        name: _route(name, section, upstreams, compiled.pipelines[name], metrics)
        for name, section in config.pipelines.items()
    }


def _route(
    name: str,
    section: PipelineConfig,
    upstreams: dict[str, Upstream],
    compiled: CompiledPipeline,
    metrics: Metrics,
) -> Route:
    """A pipeline whose every transform is measured under the name of its stage."""
    clock = asyncio.get_running_loop().time

    def measured(transform: Transform | None, stage: str) -> Any:
        if transform is None:
            return None
        return Measured(transform, pipeline=name, stage=stage, metrics=metrics, clock=clock)

    transforms = CompiledPipeline(
        request=measured(compiled.request, "request"),
        event=measured(compiled.event, "event"),
        observation=measured(compiled.observation, "observation"),
        inputs={
            tensor: measured(transform, "inputs") for tensor, transform in compiled.inputs.items()
        },
        output=measured(compiled.output, "output"),
        observation_to_json=measured(compiled.observation_to_json, "observation_to_json"),
        observation_to_message=measured(compiled.observation_to_message, "observation_to_message"),
        responses_to_observation=measured(
            compiled.responses_to_observation, "responses_to_observation"
        ),
        request_to_cambrion=measured(compiled.request_to_cambrion, "request_to_cambrion"),
        request_to_pupau=measured(compiled.request_to_pupau, "request_to_pupau"),
    )
    return Route(name, section, upstreams[section.upstream], transforms)


async def _listen(gateway: Gateway, config: Config, stack: AsyncExitStack) -> tuple[str, int]:
    server = HttpServer(
        gateway.handle,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGER_S,
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, config.server.host, config.server.port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        address = f"{config.server.host}:{config.server.port}"
        raise ConfigError([f"cannot listen on {address}: {error.strerror or error}"]) from error
    host, port = runner.addresses[0][:2]
    logs.events.info(
        "listening",
        extra={
            "fields": {
                "host": host,
                "port": port,
                "pipelines": len(config.pipelines),
                "upstreams": sorted(config.upstreams),
            }
        },
    )
    if config.keys is None:
        logs.events.warning("no keys are configured: every pipeline is open to everyone")
    return host, port


async def _serve(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(config):
        await stop.wait()
        logs.events.info("stopping")
    logs.events.info("stopped")


def serve(config: Config, *, config_path: Path) -> int:
    """Run the gateway until SIGINT or SIGTERM. Returns the process's exit code.

    Raises:
        ConfigError: see ``running``.
    """
    logs.setup()
    asyncio.run(_serve(config))
    return 0
