"""What a reload does when the making of a site fails, is slow, or is cut short."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gateway.config import Config
from gateway.errors import ConfigError, GatewayError
from gateway.health import Readiness
from gateway.keys import Keyring
from gateway.live import Live
from gateway.loaded import Loaded
from gateway.metrics import Metrics
from gateway.reloading import Reloader
from gateway.sections import BoundsConfig, ServerConfig
from gateway.site import Site
from gateway.yamltext import Files
from tests.support.fakes import leftovers
from tests.support.timing import until

EMPTY = Config(upstreams={}, pipelines={})


class Sites:
    """Makes sites and remembers which of them are closed. ``make`` may be replaced."""

    def __init__(self) -> None:
        self.made: list[Site] = []
        self.closed: list[Site] = []
        self.failure: Exception | None = None
        self.ready = asyncio.Event()
        self.ready.set()
        self.live = self.new()

    def new(self) -> Site:
        async def close() -> None:
            self.closed.append(site)

        nothing: Any = None
        site = Site(
            ServerConfig(watch=False),
            BoundsConfig(),
            Keyring(None),
            {},
            Readiness([]),
            nothing,
            close,
            nothing,
        )
        self.made.append(site)
        return site

    async def assemble(self, config: Config) -> Site:
        await self.ready.wait()
        if self.failure is not None:
            raise self.failure
        return self.new()

    def swap(self, site: Site) -> Site:
        before, self.live = self.live, site
        return before


class Reloading:
    """A reloader of ``sites``; each load notes one ``file``."""

    def __init__(self) -> None:
        self.sites = Sites()
        self.registry = CollectorRegistry()
        self.loads = 0
        clock = asyncio.get_running_loop().time
        self.live = Live(self.sites.live, "", swap=self.sites.swap, clock=clock)
        self.reloader = Reloader(
            Loaded(EMPTY), load=self.load, apply=self.apply, metrics=Metrics(self.registry)
        )
        self.reloader.start()

    async def apply(self, loaded: Loaded) -> None:
        self.live.take(await self.sites.assemble(loaded.config), loaded.hash)

    async def close(self) -> None:
        await self.reloader.close()
        await self.live.close()

    def load(self, files: Files) -> Config:
        self.loads += 1
        return EMPTY

    def count(self, result: str) -> float | None:
        return self.registry.get_sample_value("gateway_config_loads_total", {"result": result})

    async def counted(self, result: str, number: int) -> None:
        await until(lambda: self.count(result) == number)


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (ConfigError(["a.yaml:1:1: one", "a.yaml:2:1: two"]), "a.yaml:1:1: one"),
        (GatewayError("a child process did not start"), "a child process did not start"),
        (RuntimeError("the bug"), "the gateway failed: RuntimeError"),
    ],
)
async def test_whatever_fails_the_old_one_stays_live_and_the_next_reload_is_tried(
    failure: Exception, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="gateway")
    reloading = Reloading()
    first = reloading.sites.live
    reloading.sites.failure = failure
    reloading.reloader.ask()
    await reloading.counted("refused", 1)
    assert reloading.sites.live is first
    (refused,) = [record for record in caplog.records if "refused" in record.message]
    assert refused.levelno == logging.ERROR
    assert vars(refused)["fields"]["problems"][0] == problem
    reloading.sites.failure = None
    reloading.reloader.ask()
    await reloading.counted("ok", 2)
    assert reloading.sites.live is not first
    await reloading.close()
    assert await leftovers() == []


async def test_what_is_asked_for_during_a_reload_is_not_lost() -> None:
    reloading = Reloading()
    reloading.sites.ready.clear()
    reloading.reloader.ask()
    await until(lambda: reloading.loads)
    for _ in range(10):
        reloading.reloader.ask()
    reloading.sites.ready.set()
    await reloading.counted("ok", 3)  # the start, the reload, and one for the ten
    assert reloading.loads == 2
    await reloading.close()


async def test_a_site_is_closed_after_its_last_request() -> None:
    reloading = Reloading()
    first = reloading.sites.live
    first.users += 1
    first.users += 1
    reloading.reloader.ask()
    await reloading.counted("ok", 2)
    first.leave()
    await asyncio.sleep(0.01)
    assert reloading.sites.closed == []
    first.leave()
    await until(lambda: reloading.sites.closed)
    assert reloading.sites.closed == [first]
    await reloading.close()


async def test_closing_ends_a_reload_and_closes_every_site_whoever_uses_it() -> None:
    reloading = Reloading()
    first = reloading.sites.live
    first.users += 1
    reloading.reloader.ask()
    await reloading.counted("ok", 2)
    reloading.sites.ready.clear()
    reloading.reloader.ask()
    await until(lambda: reloading.loads == 2)
    await reloading.close()
    assert len(reloading.sites.made) == 2
    assert {id(site) for site in reloading.sites.closed} == {
        id(site) for site in reloading.sites.made
    }
    assert await leftovers() == []
