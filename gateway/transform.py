"""JSONata: compile once, evaluate under bounds; two engines behind one function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Engine = Literal["jsonatapy", "jsonata-python"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one evaluation may take: seconds, stack frames, items of a sequence, bytes of result."""

    time_s: float = 1.0
    depth_max: int = 300
    sequence_max: int = 1_000_000
    output_bytes_max: int = 16 * 1024 * 1024


class Transform(Protocol):
    """A compiled expression. Bound to the thread that compiled it."""

    def evaluate(self, text: str, bindings: Mapping[str, Any] | None = None) -> str | None:
        """JSON text in, JSON text out; ``None`` where the expression yields nothing.

        Raises TransformFailed."""
        ...


def compile_expression(
    expression: str, *, bounds: Bounds, engine: Engine = "jsonatapy"
) -> Transform:
    """Compile ``expression``. Raises TransformFailed with ``reason="syntax"`` and ``offset``."""
    raise AssertionError
