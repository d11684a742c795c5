"""Which unit tests run in a time of their own: those of a file with ``pytestmark = own_time``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.support.own_time import OwnTimeLoop


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "own_time: nobody waits, and nothing comes late")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("own_time"):
        return {"own_time": OwnTimeLoop}
    return {"asyncio": asyncio.new_event_loop}
