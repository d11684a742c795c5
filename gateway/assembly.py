"""Everything that one configuration asks for, made and wired together.

Owns: which object gets which, and in which order they are made and closed.
Does not know: sockets, signals, when one configuration takes the place of another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Final

import aiohttp

from gateway.compiled import Make, assemble_transforms, compile_config
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.guard import Guard
from gateway.health import Health
from gateway.keys import Keyring
from gateway.measured import Measured
from gateway.metrics import Metrics
from gateway.route import build_routes
from gateway.sandbox import Sandbox
from gateway.sections import TritonUpstreamConfig, UpstreamConfig
from gateway.services import Services
from gateway.site import Site
from gateway.upstreams.base import Upstream
from gateway.upstreams.cambrion import CambrionUpstream
from gateway.upstreams.http import HttpApi
from gateway.upstreams.pupau import PupauUpstream
from gateway.values import Expression

#: The longest expression of a configuration that the children take; files are bounded to less.
_EXPRESSION_BYTES_MAX: Final = 64 * 1024 * 1024


async def assemble(
    config: Config,
    *,
    session: aiohttp.ClientSession,
    metrics: Metrics,
    clock: Callable[[], float],
) -> Site:
    """All that ``config`` asks for, ready to serve. ``session`` stays open as long as it is used.

    Raises:
        ConfigError: an expression that does not compile, or an extra that is not installed.
    """
    random = Random()  # noqa: S311  it spreads load, it keeps no secret
    async with AsyncExitStack() as stack:
        transforms = compile_config(config)
        upstreams: dict[str, Upstream] = {}
        for name, section in config.upstreams.items():
            upstreams[name] = _upstream(name, section, config, session)
            stack.push_async_callback(upstreams[name].close)
        health = Health(
            upstreams,
            required=frozenset(n for n, section in config.upstreams.items() if section.required),
            clock=clock,
        )
        stack.push_async_callback(health.close)
        guards = {
            name: Guard(
                upstream,
                config.upstreams[name],
                metrics=metrics,
                health=health,
                clock=clock,
                random=random,
            )
            for name, upstream in upstreams.items()
        }
        sandbox, large = _sandboxes(config)
        for children in (sandbox, large):
            await children.start()
            stack.push_async_callback(children.close)

        def measured(pipeline: str) -> Make[Measured]:
            def make(expression: Expression, stage: str, actor: str = "") -> Measured:
                return Measured(
                    transforms[expression.text],
                    expression.text,
                    large=large,
                    large_over=config.transforms.large.over_bytes,
                    pipeline=pipeline,
                    stage=stage,
                    actor=actor,
                    metrics=metrics,
                    clock=clock,
                )

            return make

        routes = build_routes(
            config.pipelines,
            guards,
            {
                name: assemble_transforms(section, measured(name))
                for name, section in config.pipelines.items()
            },
        )
        return Site(
            server=config.server,
            bounds=config.bounds,
            keyring=Keyring(config.keys),
            routes=routes,
            health=health,
            services=Services(
                sandbox=sandbox,
                metrics=metrics,
                clock=clock,
                random=random,
                pdf_pages_max=config.bounds.pdf_pages_max,
                answer_bytes_max=config.bounds.answer_bytes_max,
            ),
            close=stack.pop_all().aclose,
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
