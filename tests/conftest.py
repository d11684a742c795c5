"""Fixtures that tests of more than one folder use, and how Hypothesis goes about its own."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.triton_server import triton

__all__ = ["triton"]

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
