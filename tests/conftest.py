"""Fixtures that tests of more than one folder use."""

from __future__ import annotations

from tests.triton_server import triton

__all__ = ["triton"]
