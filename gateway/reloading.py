"""The live configuration, and how another takes its place while requests run.

A reload reads and checks everything, makes the new site beside the one that is live, swaps the two
at once, and closes the old one when its last request is done. Whatever goes wrong before the swap
leaves the old one live.

Owns: the order of that, one load at a time, what the log and the metrics say of it.
Does not know: how a configuration is read, what is made of it, how a request finds its site.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import time
from typing import Any, Final

from gateway import logs
from gateway.changes import changes
from gateway.config import Config
from gateway.errors import ConfigError, GatewayError
from gateway.metrics import Metrics
from gateway.site import Site
from gateway.watching import Watch, fingerprint, has_changed
from gateway.yamltext import Files

#: What a change of takes a restart: it was used once, at the start.
_FIXED: Final = ("host", "port", "watch")

Load = Callable[[Files], Config]


@dataclass(slots=True)
class Loaded:
    """A configuration, and the files that it was read from."""

    config: Config
    files: Files = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """The first 12 hex digits of the SHA-256 over its files."""
        return fingerprint(self.files)[:12]


class Reloader:
    """Keeps the configuration of a gateway up to date.

    Args:
        loaded: what ``site`` was made of.
        load: reads the configuration anew, noting every file; raises ConfigError.
        assemble: makes a site.
        swap: puts a site in the place of the live one, which it returns.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        site: Site,
        loaded: Loaded,
        *,
        load: Load,
        assemble: Callable[[Config], Awaitable[Site]],
        swap: Callable[[Site], Site],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._live = loaded
        self._started = loaded.config.server
        # Those of the last attempt: where it was refused, they are what will be mended.
        self._files = loaded.files
        self._load = load
        self._assemble = assemble
        self._swap = swap
        self._metrics = metrics
        self._clock = clock
        self._since = clock()
        self._asked = asyncio.Event()
        self._anyway = False
        self._site = site
        self._retiring: dict[asyncio.Task[None], Site] = {}
        self._watch: Watch | None = None
        self._task: asyncio.Task[None] | None = None
        for result in ("ok", "refused"):
            metrics.config_loads.labels(result)
        self._count_live()

    def start(self) -> None:
        """Reload from now on when asked, and when a file changes where that is configured."""
        self._task = asyncio.create_task(self._run())
        if self._started.watch and self._files:
            self._watch = Watch(self._files, self._noticed)

    def ask(self) -> None:
        """Reload soon, changed or not. Asked while one is under way, another follows it."""
        self._anyway = True
        self._asked.set()

    async def close(self) -> None:
        """Reload no more, and close every site, whoever may still use it."""
        if self._watch is not None:
            await self._watch.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        retiring = dict(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await asyncio.gather(*(site.shut() for site in (*retiring.values(), self._site)))

    def _noticed(self) -> None:
        self._asked.set()

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            # Cleared before the files are read: what changes from here on is asked for anew.
            self._asked.clear()
            anyway, self._anyway = self._anyway, False
            if anyway or await asyncio.to_thread(has_changed, self._files):
                await self._reload()

    async def _reload(self) -> None:
        files: Files = {}
        try:
            config = await asyncio.to_thread(self._load, files)
            site = await self._assemble(config)
        except GatewayError as error:
            problems = error.problems if isinstance(error, ConfigError) else [error.message]
            self._refused(problems)
        except Exception as error:  # noqa: BLE001  whatever it is, the old one must stay live
            logs.events.exception("a reload failed in the gateway")
            self._refused([f"the gateway failed: {type(error).__name__}"])
        else:
            self._take(site, Loaded(config, files))
        finally:
            self._files = files or self._files
            if self._watch is not None:
                self._watch.follow(self._files)

    def _refused(self, problems: list[str]) -> None:
        self._metrics.config_loads.labels("refused").inc()
        logs.events.error(
            "configuration refused; the one before stays live",
            extra={"fields": {"problems": problems, "live": self._live.hash}},
        )

    def _take(self, site: Site, loaded: Loaded) -> None:
        before, self._live = self._live, loaded
        old = self._swap(site)
        self._site = site
        lived_s = self._clock() - self._since
        self._since = self._clock()
        task = asyncio.create_task(self._retire(old, before.hash, lived_s))
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)
        self._count_live()
        logs.events.info(
            "configuration loaded",
            extra={"fields": {"hash": loaded.hash, **_what(before.config, loaded.config)}},
        )
        for key in _FIXED:
            now, asked = getattr(self._started, key), getattr(loaded.config.server, key)
            if now != asked:
                logs.events.warning(
                    f"server.{key} takes a restart to change",
                    extra={"fields": {"live": now, "configured": asked}},
                )
        if loaded.config.keys is None and before.config.keys is not None:
            logs.events.warning("no keys are configured: every pipeline is open to everyone")

    async def _retire(self, site: Site, its_hash: str, lived_s: float) -> None:
        began = self._clock()
        try:
            await site.retire()
        except Exception:  # noqa: BLE001  nobody waits for it who could do better
            logs.events.exception("closing what an earlier configuration held failed")
        fields = {
            "hash": its_hash,
            "live_s": round(lived_s, 3),
            "used_on_s": round(self._clock() - began, 3),
        }
        logs.events.info("configuration retired", extra={"fields": fields})

    def _count_live(self) -> None:
        self._metrics.config_loads.labels("ok").inc()
        self._metrics.config_loaded.set(time())
        self._metrics.config_hash.set(int(self._live.hash, 16))


def _what(before: Config, after: Config) -> dict[str, Any]:
    """What changed, for the log: upstreams by name, pipelines by number, for they can be many."""
    found = changes(before, after)
    counts = {how: len(names) for how, names in found.get("pipelines", {}).items()}
    return {"upstreams": found.get("upstreams", {}), "pipelines": counts}
