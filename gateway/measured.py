"""A transform that is measured, and whose failure names the pipeline and the stage.

Owns: the metrics of evaluations and the wording of their errors.
Does not know: what is evaluated, or what for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

from gateway.errors import TransformFailed
from gateway.metrics import Metrics
from gateway.sandbox import Sandbox
from gateway.tracing import Span, transform_span
from gateway.transform import Transform


class Measured:
    """``inner`` as one stage of one pipeline; itself a ``Transform``. ``actor`` is named in errors
    where it belongs to one actor of several.

    ``expression`` is its text; ``large`` evaluates it over inputs of ``large_over`` bytes of
    UTF-8 and more.
    """

    __slots__ = (
        "_actor",
        "_clock",
        "_duration",
        "_errors",
        "_expression",
        "_inner",
        "_large",
        "_large_over",
        "_pipeline",
        "_stage",
        "_where",
    )

    def __init__(
        self,
        inner: Transform,
        expression: str,
        *,
        large: Sandbox,
        large_over: int,
        pipeline: str,
        stage: str,
        actor: str = "",
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._inner = inner
        self._expression = expression
        self._large = large
        self._large_over = large_over
        self._pipeline = pipeline
        self._stage = stage
        self._actor = actor
        self._where = f"pipeline {pipeline}, {stage} transform"
        if actor:
            self._where += f" of actor {actor}"
        self._duration = metrics.transform_duration.labels(pipeline, stage)
        self._errors = metrics.transform_errors
        # At 0, for rates to see the first one. The other reasons come after this one, if at all.
        self._errors.labels(pipeline, stage, "evaluation")
        self._clock = clock

    def evaluate(self, text: str, bindings: Mapping[str, Any] | None = None) -> str | None:
        """See ``Transform.evaluate``."""
        began = self._clock()
        try:
            return self._inner.evaluate(text, bindings)
        except TransformFailed as error:
            raise self.failed(error) from error
        finally:
            # As ``observe``, with one step less for each event of a stream.
            duration, took_s = self._duration, self._clock() - began
            duration.counts[bisect_left(duration.bounds, took_s)] += 1
            duration.sum += took_s

    def release(self) -> None:
        """See ``Transform.release``."""
        self._inner.release()

    async def run(
        self, text: bytes, bindings: Mapping[str, Any], trace: Span | None = None
    ) -> bytes | None:
        """As ``evaluate``, from UTF-8 to UTF-8, but over a large input in a process of its own: the
        loop goes on. ``trace``: what it is a part of, where that is traced.

        Raises:
            TransformFailed: as ``evaluate`` does.
            Overloaded: too many wait for such a process.
        """
        if trace is not None:
            with self.span(trace):
                return await self.run(text, bindings)
        if len(text) < self._large_over:
            result = self.evaluate(text.decode(), bindings)
            return None if result is None else result.encode()
        began = self._clock()
        try:
            return await self._large.evaluate(self._expression, text, bindings)
        except TransformFailed as error:
            raise self.failed(error) from error
        finally:
            self._duration.observe(self._clock() - began)

    def span(self, trace: Span) -> Span:
        """The span of an evaluation that begins now."""
        return transform_span(trace, self._pipeline, self._stage, self._actor)

    def failed(self, error: TransformFailed) -> TransformFailed:
        """``error`` counted, and worded for whoever has to mend the expression."""
        self._errors.labels(self._pipeline, self._stage, error.reason).inc()
        return TransformFailed(
            f"{self._where}: {error.message}",
            reason=error.reason,
        )
