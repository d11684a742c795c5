"""Fixtures that tests of more than one folder use, and what holds for all tests."""

from __future__ import annotations

import compileall
import gc
import sys
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.triton_server import ROOT, triton

__all__ = ["triton"]

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


# As Python has it where nothing changes it, and so what a gateway has with the usual engine.
_FRAMES = 1000


@pytest.fixture
def usual_stack() -> Iterator[None]:
    """The stack's limit is the usual one: the second engine raises it for its whole process."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(_FRAMES)
    yield
    sys.setrecursionlimit(before)


@pytest.fixture(scope="module")
def nothing_left() -> None:
    """What other tests left to the garbage collector is gone, and is nobody's fault here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def pytest_sessionstart(session: pytest.Session) -> None:
    # Hundreds of processes are started, some of which may write no bytecode themselves.
    compileall.compile_dir(ROOT / "gateway", quiet=2)
