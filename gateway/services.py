"""What every run needs of the process and of the live configuration.

Owns: that these go together.
Does not know: what any of them does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from gateway.measured import Measured
from gateway.metrics import Metrics
from gateway.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Services:
    """``clock`` gives monotonic seconds, the loop's own; ``answer_bytes_max`` bounds one actor's
    text; ``observation_to_json`` is the default mapping, for observations of no one pipeline."""

    sandbox: Sandbox
    metrics: Metrics
    clock: Callable[[], float]
    random: Random
    pdf_pages_max: int
    answer_bytes_max: int
    observation_to_json: Measured
