"""Everything that one configuration asks for, made and wired together.

Owns: which object gets which, in which order they are made and closed, and what the next
configuration takes over as it is: upstreams with all that is known of them, and child processes.
Does not know: sockets, signals, when one configuration takes the place of another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from random import Random
from time import time
from typing import Any, Final, TypeVar

import aiohttp

from gateway.compiled import Make, assemble_transforms, compile_config
from gateway.config import Config, default_mapping
from gateway.edge_sections import ClientTlsConfig, TracingConfig
from gateway.errors import ConfigError, GatewayError
from gateway.guard import Guard
from gateway.health import Health, Readiness, keep_asking
from gateway.kept import Kept
from gateway.keys import Keyring, quota_of
from gateway.measured import Measured
from gateway.metrics import UNNAMED, Metrics
from gateway.quotas import Counting, Here, Tally
from gateway.route import build_routes
from gateway.sandbox import Sandbox
from gateway.sections import BoundsConfig, TritonUpstreamConfig, UpstreamConfig
from gateway.services import Services
from gateway.site import Site
from gateway.tls_contexts import client_context, upstream_context
from gateway.tracing import Tracing
from gateway.transform import Transform
from gateway.upstreams.base import Upstream
from gateway.upstreams.cambrion import CambrionUpstream
from gateway.upstreams.http import HttpApi
from gateway.upstreams.pupau import PupauUpstream
from gateway.values import Expression

T = TypeVar("T")

#: The longest expression of a configuration that the children take; files are bounded to less.
_EXPRESSION_BYTES_MAX: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class _Attended:
    """An upstream, what keeps its calls steady, and the asking after it where its kind has that."""

    upstream: Upstream
    health: Health
    guard: Guard
    asking: asyncio.Task[None] | None

    def __str__(self) -> str:
        return f"upstream {self.upstream.name}"

    async def close(self) -> None:
        if self.asking is not None:
            self.asking.cancel()
            await asyncio.gather(self.asking, return_exceptions=True)
        await self.health.close()
        await self.upstream.close()


class Assembly:
    """Makes sites of configurations.

    Args:
        session: stays open for as long as any site is used.
        clock: the running loop's time, seconds.
    """

    def __init__(
        self, *, session: aiohttp.ClientSession, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._session = session
        self._metrics = metrics
        self._clock = clock
        self._random = Random()  # noqa: S311  it spreads load, it keeps no secret
        self._upstreams = Kept[_Attended](self._close_upstream)
        self._sandboxes = Kept[Sandbox](Sandbox.close)
        #: Of the last section that asked for it: sessions of TLS can be resumed with the same only.
        self._tls: tuple[ClientTlsConfig, ssl.SSLContext] | None = None
        self._tallies = Kept[Tally](_let_go)
        self._counts = Kept[Any](self._close_counts)  # RedisCounts, of an extra
        self._exporters = Kept[Any](_close)  # Exporter, of an extra
        #: In how many sites each pipeline is, and each key.
        self._named: Counter[str] = Counter()
        self._keyed: Counter[str] = Counter()

    async def assemble(self, config: Config) -> Site:
        """All that ``config`` asks for, ready to serve. One at a time.

        What has not changed since an earlier configuration that is still in use is taken over.

        Raises:
            ConfigError: an expression that does not compile, or an extra that is not installed.
            GatewayError: a child process for expressions does not start.
        """
        tls = self._tls_for(config.server.tls)
        async with AsyncExitStack() as stack:
            transforms = compile_config(config)
            # They are let go of here, or when the site is closed: by the thread that made them.
            for transform in transforms.values():
                stack.callback(transform.release)
            tracing = await self._tracing(config, stack)
            attended = {
                name: await _lease(
                    stack,
                    self._upstreams,
                    (name, section, config.bounds.answer_bytes_max, config.bounds.event_bytes_max),
                    partial(self._attend, name, section, config.bounds),
                )
                for name, section in config.upstreams.items()
            }
            clients, own = await self._sandboxes_for(config, stack)
            guards = {name: each.guard for name, each in attended.items()}
            names = tuple(config.pipelines)
            self._named.update(names)
            stack.callback(self._forget_pipelines, names)
            limiting = await self._limiting(config, stack)
            pipelines = {}
            for name, section in config.pipelines.items():
                made = self._measured(name, config, transforms, own)
                pipelines[name] = assemble_transforms(section, made)
                await asyncio.sleep(0)  # there may be hundreds, and streams are running
            usual = self._measured(UNNAMED, config, transforms, own)
            return Site(
                server=config.server,
                bounds=config.bounds,
                keyring=Keyring(config.keys),
                routes=build_routes(config.pipelines, guards, pipelines),
                health=Readiness(
                    attended[name].health
                    for name, section in config.upstreams.items()
                    if section.required
                ),
                services=Services(
                    sandbox=clients,
                    metrics=self._metrics,
                    clock=self._clock,
                    random=self._random,
                    pdf_pages_max=config.bounds.pdf_pages_max,
                    answer_bytes_max=config.bounds.answer_bytes_max,
                    observation_to_json=usual(
                        default_mapping("observation_to_json"), "observation_to_json"
                    ),
                ),
                config=config,
                tls=tls,
                close=stack.pop_all().aclose,
                tracing=tracing,
                limiting=limiting,
            )

    async def _limiting(self, config: Config, stack: AsyncExitStack) -> Counting | None:
        """Where it is counted what keys ask for; ``None``: none of them has a limit."""
        quotas = [quota for key in config.keys or () if (quota := quota_of(key)) is not None]
        if not quotas:
            return None
        limited = [quota.key for quota in quotas]
        self._keyed.update(limited)
        stack.callback(self._forget_keys, limited)
        for quota in quotas:
            for limit in quota.limits:
                self._metrics.limited.labels(quota.key, limit)  # a rate sees the first refusal
        section = config.limits
        if section.store is not None:
            password = None if section.password is None else section.password.get_secret_value()
            settings = (section.store, section.username, password, section.when_away)
            shared: Counting = await _lease(
                stack, self._counts, settings, partial(self._count_in_redis, *settings)
            )
            return shared
        tallies = {name: await _lease(stack, self._tallies, name, _new_tally) for name in limited}
        return Here(tallies, clock=self._clock, wall=time)

    async def _count_in_redis(
        self, store: str, username: str | None, password: str | None, when_away: Any
    ) -> Any:
        try:
            from gateway.limit_redis import RedisCounts  # noqa: PLC0415  an extra
        except ImportError as error:
            raise ConfigError([f"limits.store: needs the extra 'redis' ({error})"]) from error
        counts = RedisCounts(
            store,
            username=username,
            password=password,
            when_away=when_away,
            up=self._metrics.limits_store_up,
            clock=self._clock,
        )
        counts.start()
        return counts

    async def _close_counts(self, counts: Any) -> None:
        await counts.close()
        if not self._counts.things():
            self._metrics.limits_store_up.forget((), {()})

    def _forget_keys(self, names: list[str]) -> None:
        self._keyed.subtract(names)
        gone = {(name,) for name in names if not self._keyed[name]}
        for (name,) in gone:
            del self._keyed[name]
        self._metrics.limited.forget(("key",), gone)

    def _tls_for(self, section: ClientTlsConfig | None) -> ssl.SSLContext | None:
        if section is None:
            return None
        if self._tls is None or self._tls[0] != section:
            self._tls = section, client_context(section)
        return self._tls[1]

    async def _sandboxes_for(
        self, config: Config, stack: AsyncExitStack
    ) -> tuple[Sandbox, Sandbox]:
        """The children for clients' expressions and for the configuration's own, which start side
        by side: most of that is waiting for Python."""
        try:
            async with asyncio.TaskGroup() as group:
                clients, own = [
                    group.create_task(
                        _lease(
                            stack,
                            self._sandboxes,
                            tuple(sorted(settings.items())),
                            partial(_start, settings),
                        )
                    )
                    for settings in _sandbox_settings(config)
                ]
        except* GatewayError as errors:
            raise errors.exceptions[0] from None
        return clients.result(), own.result()

    async def _tracing(self, config: Config, stack: AsyncExitStack) -> Tracing | None:
        """What is traced; ``None``: nothing is."""
        section = config.tracing
        if section is None:
            return None
        secrets = {name: value.get_secret_value() for name, value in section.headers.items()}
        same = section.model_dump(exclude={"headers", "sample_ratio"})
        key = (*same.values(), *sorted(secrets.items()))
        exporter = await _lease(stack, self._exporters, key, partial(self._export, section))
        return Tracing(section.sample_ratio, exporter.put)

    async def _export(self, section: TracingConfig) -> Any:
        try:
            from gateway.tracing_export import Exporter  # noqa: PLC0415  an extra
        except ImportError as error:
            raise ConfigError([f"tracing: needs the extra 'otel' ({error})"]) from error
        exporter = Exporter(
            section, session=self._session, metrics=self._metrics, clock=self._clock
        )
        exporter.start()
        return exporter

    def _measured(
        self, pipeline: str, config: Config, transforms: dict[str, Transform], large: Sandbox
    ) -> Make[Measured]:
        def make(expression: Expression, stage: str, actor: str = "") -> Measured:
            return Measured(
                transforms[expression.text],
                expression.text,
                large=large,
                large_over=config.transforms.large.over_bytes,
                pipeline=pipeline,
                stage=stage,
                actor=actor,
                metrics=self._metrics,
                clock=self._clock,
            )

        return make

    def _forget_pipelines(self, names: tuple[str, ...]) -> None:
        """Undo what one site counts for."""
        self._named.subtract(names)
        gone = {name for name in names if not self._named[name]}
        for name in gone:
            del self._named[name]
        if gone:
            # All at once: every series is looked at, and there are some for each pipeline.
            self._metrics.forget(("pipeline",), {(name,) for name in gone})

    async def _attend(self, name: str, section: UpstreamConfig, bounds: BoundsConfig) -> _Attended:
        upstream = _upstream(name, section, bounds, self._session)
        every_s = section.check_every_s if isinstance(section, TritonUpstreamConfig) else None
        health = Health(upstream, clock=self._clock, check_every_s=every_s)
        guard = Guard(
            upstream,
            section,
            metrics=self._metrics,
            health=health,
            clock=self._clock,
            random=self._random,
        )
        asking = None
        if every_s is not None:
            asking = asyncio.create_task(keep_asking(guard.check, every_s))
        return _Attended(upstream, health, guard, asking)

    async def _close_upstream(self, gone: _Attended) -> None:
        await gone.close()
        labels = (gone.upstream.name, gone.upstream.kind)
        left = {(each.upstream.name, each.upstream.kind): each for each in self._upstreams.things()}
        if labels not in left:
            self._metrics.forget(("upstream", "kind"), {labels})
            return
        # What was last heard of the one before, at its old address or with its old key, says
        # nothing of the one that is left.
        self._metrics.upstream_up.forget(("upstream", "kind"), {labels})
        left[labels].guard.measures.tell_up(left[labels].health.status)


def _upstream(
    name: str, section: UpstreamConfig, bounds: BoundsConfig, session: aiohttp.ClientSession
) -> Upstream:
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
            tls=upstream_context(name, section),
            server_name=section.tls.server_name,
        )
    api = HttpApi(
        name=name,
        url=section.url,
        key_header="X-API-Key" if section.kind == "cambrion" else "Api-Key",
        key=None if section.api_key is None else section.api_key.get_secret_value(),
        answer_bytes_max=bounds.answer_bytes_max,
        tls=upstream_context(name, section),
        server_name=section.tls.server_name,
    )
    if section.kind == "cambrion":
        return CambrionUpstream(api)
    return PupauUpstream(api, event_bytes_max=bounds.event_bytes_max)


async def _lease(
    stack: AsyncExitStack, kept: Kept[T], key: Hashable, make: Callable[[], Awaitable[T]]
) -> T:
    """Take what is kept under ``key``; it is given back when ``stack`` is closed."""
    thing = await kept.take(key, make)
    stack.push_async_callback(kept.give_back, key)
    return thing


async def _new_tally() -> Tally:
    return Tally()


async def _let_go(tally: Tally) -> None:
    """Nothing of it is open."""


async def _close(exporter: Any) -> None:
    await exporter.close()


async def _start(settings: dict[str, Any]) -> Sandbox:
    sandbox = Sandbox(**settings)
    try:
        await sandbox.start()
    except BaseException:
        await sandbox.close()
        raise
    return sandbox


def _sandbox_settings(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the children for clients' expressions, and of those for the configuration's own over large
    inputs, which are trusted with more and give way to nobody."""
    transforms = config.transforms
    client, large = transforms.client, transforms.large
    common = {
        "depth_max": transforms.depth_max,
        "sequence_max": transforms.sequence_max,
        "engine": transforms.engine,
    }
    clients = {
        "time_s": client.time_s,
        "memory_bytes_max": client.memory_bytes_max,
        "expression_bytes_max": client.expression_bytes_max,
        "output_bytes_max": client.output_bytes_max,
        "processes": client.processes,
        "waiting_max": client.waiting_max,
    }
    own = {
        "time_s": transforms.time_s,
        "memory_bytes_max": large.memory_bytes_max,
        "expression_bytes_max": _EXPRESSION_BYTES_MAX,
        "output_bytes_max": transforms.output_bytes_max,
        "processes": large.processes,
        "waiting_max": large.waiting_max,
        "niceness": 0,
        "engine_timed": False,
    }
    return common | clients, common | own
