"""A transform that is measured, and whose failure names the pipeline and the stage.

Owns: the metrics of evaluations and the wording of their errors.
Does not know: what is evaluated, or what for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.errors import TransformFailed
from gateway.metrics import Metrics
from gateway.transform import Transform


class Measured:
    """``inner`` as one stage of one pipeline; itself a ``Transform``."""

    __slots__ = ("_clock", "_duration", "_errors", "_inner", "_pipeline", "_stage")

    def __init__(
        self,
        inner: Transform,
        *,
        pipeline: str,
        stage: str,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._inner = inner
        self._pipeline = pipeline
        self._stage = stage
        self._duration = metrics.transform_duration.labels(pipeline, stage)
        self._errors = metrics.transform_errors
        self._clock = clock

    def evaluate(self, text: str, bindings: Mapping[str, Any] | None = None) -> str | None:
        """See ``Transform.evaluate``."""
        began = self._clock()
        try:
            return self._inner.evaluate(text, bindings)
        except TransformFailed as error:
            raise self.failed(error) from error
        finally:
            self._duration.observe(self._clock() - began)

    def failed(self, error: TransformFailed) -> TransformFailed:
        """``error`` counted, and worded for whoever has to mend the expression."""
        self._errors.labels(self._pipeline, self._stage, error.reason).inc()
        return TransformFailed(
            f"pipeline {self._pipeline}, {self._stage} transform: {error.message}",
            reason=error.reason,
        )
