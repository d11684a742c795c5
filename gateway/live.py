"""The site that is live, and those before it that still have requests.

Owns: the swap, and that each site is closed when its last request is done.
Does not know: when another is to take the place of the live one, or how one is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time

from gateway import logs
from gateway.site import Site


class Live:
    """Puts one site in the place of another.

    Args:
        its_hash, files: of the files that ``site`` was made of, and their paths.
        swap: lets requests begin on a site; returns the one that they began on before.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        site: Site,
        its_hash: str,
        files: tuple[str, ...] = (),
        *,
        swap: Callable[[Site], Site],
        clock: Callable[[], float],
    ) -> None:
        self._site = site
        self._swap = swap
        self._clock = clock
        self._since = clock()
        _inscribe(site, its_hash, files)
        self._retiring: dict[asyncio.Task[None], Site] = {}

    @property
    def site(self) -> Site:
        """The one that is live."""
        return self._site

    def take(self, site: Site, its_hash: str, files: tuple[str, ...] = ()) -> None:
        """Let ``site`` be the live one. The one before is closed after its last request."""
        old, lived_s = self._swap(site), self._clock() - self._since
        task = asyncio.create_task(self._retire(old, lived_s))
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)
        self._site, self._since = site, self._clock()
        _inscribe(site, its_hash, files)

    async def close(self) -> None:
        """Close every site, whoever may still use it."""
        retiring = dict(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await asyncio.gather(*(site.shut() for site in (*retiring.values(), self._site)))

    async def _retire(self, site: Site, lived_s: float) -> None:
        began = self._clock()
        try:
            await site.retire()
        except Exception:  # noqa: BLE001  nobody waits for it who could do better
            logs.events.exception("closing what an earlier configuration held failed")
        fields = {
            "hash": site.hash,
            "live_s": round(lived_s, 3),
            "used_on_s": round(self._clock() - began, 3),
        }
        logs.events.info("configuration retired", extra={"fields": fields})


def _inscribe(site: Site, its_hash: str, files: tuple[str, ...]) -> None:
    site.hash, site.files, site.since = its_hash, files, time()
