"""What the allocator is told."""

from __future__ import annotations

import platform

from gateway.memory import give_back


def test_glibc_takes_the_setting_and_others_are_left_as_they_are() -> None:
    assert give_back() is (platform.libc_ver()[0] == "glibc")
