"""How processes are, and what was said of late."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from gateway.metrics import Metrics, Process
from gateway.vitals import LATELY_S, Lately, look, resident_bytes
from tests.support.own_time import OwnTimeLoop


@pytest.fixture
def loop() -> Iterator[OwnTimeLoop]:
    made = OwnTimeLoop()
    yield made
    made.close()


def test_a_last_word_counts_for_a_while_from_when_it_was_said_again(loop: OwnTimeLoop) -> None:
    ready = Metrics(CollectorRegistry()).ready

    async def said() -> list[list[float]]:
        lately, found = Lately(ready), []
        for value, seconds in ((0.0, LATELY_S - 1), (1.0, LATELY_S - 1), (1.0, LATELY_S + 1)):
            lately.say(value)
            await asyncio.sleep(seconds)
            found.append([level.value for _, level in ready.items()])
        return found

    assert loop.run_until_complete(said()) == [[0.0], [1.0], []]


def test_a_process_that_has_ended_has_nothing_in_memory() -> None:
    own = resident_bytes([os.getpid()])
    assert own > 1_000_000
    assert resident_bytes([2**22 + 1]) == 0


def test_a_supervisor_leaves_it_to_its_workers_to_tell_of_themselves() -> None:
    metrics = Metrics(CollectorRegistry())
    look(metrics, Process.SUPERVISOR)
    assert [labels for labels, _ in metrics.memory.items()] == [(Process.SUPERVISOR,)]
    assert metrics.open_files.items() == []
