"""What all workers have counted, told to whoever asks one of them for /metrics.

Each worker tells every second how its counts have changed, and whenever it is asked. For a scrape
all are asked, and those that do not answer soon are counted as they were heard last: so no scrape
tells less than one before it. What a worker had not told when it was killed is lost: a second's
worth at most, or where it has so many series that to read them takes longer, a little more.

Owns: the asking, and the families that the supervisor counts itself.
Does not know: how the counts are summed up (``gathered``) or written (``sampling``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Final

from gateway.config import Config
from gateway.crew import Worker
from gateway.exposition import written
from gateway.gathered import Ledger
from gateway.link import Ask, Counted, Scraped, Written
from gateway.metrics import UNNAMED, Metrics
from gateway.sampling import families, series

#: How long workers may take to tell their counts, seconds.
ANSWER_S: Final = 0.5
#: How many questions a worker may leave unanswered until it is asked no more.
_UNANSWERED_MAX: Final = 16


class _Question:
    """What is asked of several workers at a time."""

    def __init__(self, asked: set[int]) -> None:
        self._open = asked
        self.settled = asyncio.Event()

    def answered(self, ident: int) -> None:
        """This worker has answered, or never will."""
        self._open.discard(ident)
        if not self._open:
            self.settled.set()


class Gathering:
    """The counts of all workers, and ``own``: those of the supervisor."""

    def __init__(self, own: Metrics) -> None:
        self._own = own
        self._families = families(own)
        self._supervised = {
            family.name
            for family in (
                own.config_loaded,
                own.config_hash,
                own.config_last_load,
                own.config_loads,
                own.certificate_expiry,
                own.build_info,
                own.started,
                own.workers,
                own.worker_restarts,
            )
        }
        self._ledger = Ledger(self._families)
        self._asked = 0
        self._questions: dict[int, _Question] = {}
        #: How many questions each worker has not answered, given up or not.
        self._unanswered: Counter[int] = Counter()

    def configured(self, config: Config) -> None:
        """``config`` is live: what it does not name is not to be counted for ever."""
        self._ledger.configured(
            (*config.pipelines, UNNAMED),
            ((name, section.kind) for name, section in config.upstreams.items()),
            (key.name for key in config.keys or ()),
        )

    def heard(self, worker: Worker, told: Counted) -> None:
        """Take in what a worker told."""
        self._ledger.update(worker.ident, told.change)
        if told.number is not None:
            self._unanswered[worker.ident] -= 1
            if (question := self._questions.get(told.number)) is not None:
                question.answered(worker.ident)

    def left(self, worker: Worker) -> None:
        """A worker has ended."""
        self._ledger.ended(worker.ident)
        del self._unanswered[worker.ident]
        for question in self._questions.values():
            question.answered(worker.ident)

    async def answer(self, scraped: Scraped, asker: Worker, workers: Iterable[Worker]) -> None:
        """Tell ``asker`` what all ``workers`` have counted."""
        await self._ask(workers)
        total = self._ledger.total()
        own = series(self._own)
        total.update((name, own.get(name, {})) for name in self._supervised)
        memory = self._own.memory.name
        total[memory] |= own.get(memory, {})
        counted = (self._families, total, scraped.accept, self._ledger.exemplars())
        text, content_type = await asyncio.to_thread(written, *counted)
        asker.send(Written(scraped.number, text, content_type))

    async def _ask(self, workers: Iterable[Worker]) -> None:
        asked = [each for each in workers if self._unanswered[each.ident] < _UNANSWERED_MAX]
        if not asked:
            return
        self._asked += 1
        number = self._asked
        question = self._questions[number] = _Question({each.ident for each in asked})
        for worker in asked:
            self._unanswered[worker.ident] += 1
            worker.send(Ask(number))
        try:
            async with asyncio.timeout(ANSWER_S):
                await question.settled.wait()
        except TimeoutError:
            return  # what was heard last will do
        finally:
            del self._questions[number]
