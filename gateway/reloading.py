"""When another configuration takes the place of the live one.

A reload reads and checks everything, makes what is to be live beside what is, and swaps at once.
Whatever goes wrong before the swap leaves the old one live.

Owns: the order of that, one load at a time, what the log and the metrics say of it.
Does not know: how a configuration is read, what is made of it, or in how many processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import time
from typing import Any, Final

from gateway import logs
from gateway.changes import changes
from gateway.config import Config
from gateway.config_view import shown
from gateway.errors import ConfigError, GatewayError
from gateway.loaded import Load, Loaded
from gateway.metrics import Metrics
from gateway.tls_contexts import tell_expiries
from gateway.watching import Watch, has_changed
from gateway.yamltext import Files

#: What a change of takes a restart: it was used once, at the start.
_FIXED: Final = ("host", "port", "admin", "watch", "workers")
_OPENED: Final = "keys: are gone, which would open every pipeline to everyone; that takes a restart"


class Reloader:
    """Keeps the configuration of a gateway up to date.

    Args:
        loaded: what is live now.
        load: reads the configuration anew, noting every file; raises ConfigError.
        apply: makes a configuration the live one, or raises GatewayError and leaves all as it was.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        load: Load,
        apply: Callable[[Loaded], Awaitable[None]],
        metrics: Metrics,
    ) -> None:
        self._live = loaded
        self._started = loaded.config
        # Those of the last attempt: where it was refused, they are what will be mended.
        self._files = loaded.files
        self._load = load
        self._apply = apply
        self._metrics = metrics
        self._asked = asyncio.Event()
        self._anyway = False
        self._watch: Watch | None = None
        self._task: asyncio.Task[None] | None = None
        for result in ("ok", "refused"):
            metrics.config_loads.labels(result)
        self._count_live(None)

    def start(self) -> None:
        """Reload from now on when asked, and when a file changes where that is configured."""
        self._task = asyncio.create_task(self._run())
        if self._started.server.watch and self._files:
            self._watch = Watch(self._files, self._noticed)

    def ask(self) -> None:
        """Reload soon, changed or not. Asked while one is under way, another follows it."""
        self._anyway = True
        self._asked.set()

    async def close(self) -> None:
        """Reload no more."""
        if self._watch is not None:
            await self._watch.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

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
            loaded = Loaded(await asyncio.to_thread(self._load, files), files)
            if loaded.config.keys is None and self._live.config.keys is not None:
                # An edit that loses a line must not be all it takes.
                raise ConfigError([_OPENED])
            await self._apply(loaded)
        except GatewayError as error:
            problems = error.problems if isinstance(error, ConfigError) else [error.message]
            self._refused(problems)
        except Exception as error:  # noqa: BLE001  whatever it is, the old one must stay live
            logs.events.exception("a reload failed in the gateway")
            self._refused([f"the gateway failed: {type(error).__name__}"])
        else:
            self._took(loaded)
        finally:
            self._files = files or self._files
            if self._watch is not None:
                self._watch.follow(self._files)

    def _refused(self, problems: list[str]) -> None:
        self._metrics.config_loads.labels("refused").inc()
        self._metrics.config_last_load.labels().set(0)
        logs.events.error(
            "configuration refused; the one before stays live",
            extra={"fields": {"problems": problems, "live": self._live.hash}},
        )

    def _took(self, loaded: Loaded) -> None:
        before, self._live = self._live, loaded
        self._count_live(before.config)
        logs.events.info(
            "configuration loaded",
            extra={"fields": {"hash": loaded.hash, **_what(before.config, loaded.config)}},
        )
        if loaded.config.executions != self._started.executions:
            logs.events.warning("executions takes a restart to change")
        for key in _FIXED:
            now, asked = getattr(self._started.server, key), getattr(loaded.config.server, key)
            if now != asked:
                logs.events.warning(
                    f"server.{key} takes a restart to change",
                    extra={"fields": {"live": shown(now), "configured": shown(asked)}},
                )

    def _count_live(self, before: Config | None) -> None:
        self._metrics.config_loads.labels("ok").inc()
        self._metrics.config_last_load.labels().set(1)
        self._metrics.config_loaded.labels().set(time())
        self._metrics.config_hash.labels().set(int(self._live.hash, 16))
        tell_expiries(before, self._live.config, self._metrics)


def _what(before: Config, after: Config) -> dict[str, Any]:
    """What changed, for the log: upstreams and keys by name, pipelines by number, for they can be
    many."""
    found = changes(before, after)
    counts = {how: len(names) for how, names in found.get("pipelines", {}).items()}
    shown = {what: found.get(what, {}) for what in ("upstreams", "keys")}
    return {**shown, "pipelines": counts}
