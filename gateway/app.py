"""The composition root: everything is opened here, wired together, and closed again.

Owns: which object gets which, the order of opening and closing, the process's signals.
Does not know: what any of them does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway import logs
from gateway.compiled import CompiledPipeline, compile_config
from gateway.config import Config, default_mapping
from gateway.errors import ConfigError
from gateway.fanout import Fanout
from gateway.health import Health
from gateway.keys import Keyring
from gateway.measured import Measured
from gateway.metrics import Metrics
from gateway.pipeline import Route, Services
from gateway.protocol import HttpServer
from gateway.sandbox import Sandbox
from gateway.sections import PipelineConfig, TritonUpstreamConfig, UpstreamConfig
from gateway.server import Gateway
from gateway.transform import Transform
from gateway.upstreams.base import Upstream
from gateway.upstreams.cambrion import CambrionUpstream
from gateway.upstreams.http import HttpApi, tracing
from gateway.upstreams.pupau import PupauUpstream
from gateway.values import Expression

#: How long requests may run on once the process was asked to stop, seconds; aiohttp may take it
#: twice, once before it cancels them and once after.
SHUTDOWN_S: Final = 4.0
#: How long an idle client connection is kept, and how long an unread body is drained, seconds.
KEEPALIVE_S: Final = 75.0
LINGER_S: Final = 5.0
#: The longest expression of a configuration that the children take; files are bounded to less.
_EXPRESSION_BYTES_MAX: Final = 64 * 1024 * 1024


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
        sandbox, large = _sandboxes(config)
        for children in (sandbox, large):
            await children.start()
            stack.push_async_callback(children.close)
        services = Services(
            fanout=Fanout(metrics, health, loop.time),
            sandbox=sandbox,
            metrics=metrics,
            clock=loop.time,
            pdf_pages_max=config.bounds.pdf_pages_max,
        )
        routes = _routes(config, upstreams, metrics, large)
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


def _routes(
    config: Config, upstreams: dict[str, Upstream], metrics: Metrics, large: Sandbox
) -> dict[str, Route]:
    compiled = compile_config(config)
    clock = asyncio.get_running_loop().time

    def measured(name: str, stage: str, transform: Transform, expression: Expression) -> Measured:
        return Measured(
            transform,
            expression.text,
            large=large,
            large_over=config.transforms.large.over_bytes,
            pipeline=name,
            stage=stage,
            metrics=metrics,
            clock=clock,
        )

    return {
        name: Route(
            name,
            section,
            upstreams[section.upstream],
            _transforms(section, compiled.pipelines[name], partial(measured, name)),
        )
        for name, section in config.pipelines.items()
    }


def _transforms(
    section: PipelineConfig,
    compiled: CompiledPipeline[Transform],
    measured: Callable[[str, Transform, Expression], Measured],
) -> CompiledPipeline[Measured]:
    """A pipeline's transforms, each measured under the name of its stage."""

    def own(
        stage: str, transform: Transform | None, expression: Expression | None
    ) -> Measured | None:
        if transform is None or expression is None:
            return None
        return measured(stage, transform, expression)

    def mapping(stage: str) -> Measured:
        expression = getattr(section.mappings, stage) or default_mapping(stage)
        return measured(stage, getattr(compiled, stage), expression)

    return CompiledPipeline(
        request=own("request", compiled.request, section.transform.request),
        event=own("event", compiled.event, section.transform.event),
        observation=own("observation", compiled.observation, section.transform.observation),
        inputs={
            tensor: measured("inputs", transform, section.inputs[tensor])
            for tensor, transform in compiled.inputs.items()
        },
        output=own("output", compiled.output, section.output),
        observation_to_json=mapping("observation_to_json"),
        observation_to_message=mapping("observation_to_message"),
        responses_to_observation=mapping("responses_to_observation"),
        request_to_cambrion=mapping("request_to_cambrion"),
        request_to_pupau=mapping("request_to_pupau"),
    )


def _sandboxes(config: Config) -> tuple[Sandbox, Sandbox]:
    """The children for clients' expressions, and those for the configuration's own over large
    inputs, which are trusted with more and give way to nobody."""
    transforms = config.transforms
    client, large = transforms.client, transforms.large
    clients = Sandbox(
        time_s=client.time_s,
        memory_bytes_max=client.memory_bytes_max,
        expression_bytes_max=client.expression_bytes_max,
        output_bytes_max=client.output_bytes_max,
        depth_max=transforms.depth_max,
        sequence_max=transforms.sequence_max,
        engine=transforms.engine,
        processes=client.processes,
        waiting_max=client.waiting_max,
    )
    own = Sandbox(
        time_s=transforms.time_s,
        memory_bytes_max=large.memory_bytes_max,
        expression_bytes_max=_EXPRESSION_BYTES_MAX,
        output_bytes_max=transforms.output_bytes_max,
        depth_max=transforms.depth_max,
        sequence_max=transforms.sequence_max,
        engine=transforms.engine,
        processes=large.processes,
        waiting_max=large.waiting_max,
        niceness=0,
    )
    return clients, own


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
