"""Fixtures that tests of more than one folder use, and what holds for all tests."""

from __future__ import annotations

import compileall

import pytest
from hypothesis import HealthCheck, settings

from tests.triton_server import ROOT, triton

__all__ = ["triton"]

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_sessionstart(session: pytest.Session) -> None:
    # Hundreds of processes are started, some of which may write no bytecode themselves.
    compileall.compile_dir(ROOT / "gateway", quiet=2)
