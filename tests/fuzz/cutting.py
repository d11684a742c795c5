"""What targets have in common: the first byte of an input says how the rest of it is cut."""

from __future__ import annotations


def cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """An input without its first byte, whole and in pieces."""
    knob, rest = data[:1], data[1:]
    size = max(1, knob[0] if knob else 0)
    return rest, [rest[at : at + size] for at in range(0, len(rest), size)]
