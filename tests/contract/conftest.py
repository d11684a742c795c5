"""What the tests of every kind of store have: handles on data of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.executions.store import Store
from tests.support.stores import STORES, Opener, opened_store


@pytest.fixture(params=STORES)
async def another(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens a handle on the data of this test, as another replica would."""
    async with opened_store(request.param, tmp_path) as opener:
        yield opener


@pytest.fixture
async def store(another: Opener) -> Store:
    """One handle on the data of this test."""
    return await another()
