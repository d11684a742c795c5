"""Expressions that clients send, evaluated in child processes of little memory and short life.

An engine's own bounds leave holes (a padded string, a doubled one, a regular expression that
backtracks), and a failed allocation in it ends the process. So a client's expression runs in a
child that may be lost: one that takes too long is killed, one that dies has needed too much, and
either is replaced while its caller already has the answer.

The clock of an evaluation starts when a child has been taken for it and covers all that the child
does: reading the input, evaluating, writing the result. The engine's own limit ends there as well,
so that most overruns cost no process; a child that has not answered ``GRACE_S`` later is killed.
For the operator's own expressions, which seldom overrun, the engine need not look at the clock at
each step, which is a tenth of what it does: an overrun then always costs the child.
A caller that is cancelled takes its child with it.

Linux only: the children measure themselves in ``/proc`` and ask to die with their parent.

Owns: the children, who waits for one, and what a child's end means.
Does not know: how an expression is evaluated (``sandbox_child``, ``transform``), who sent it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

import msgspec

from gateway.errors import (
    Code,
    GatewayError,
    Overloaded,
    RequestRejected,
    TransformFailed,
)
from gateway.sandbox_child import NOTHING, QUESTION, VALUE, Failure, Settings
from gateway.sandbox_process import Child, Died, DiedIdle, spawn
from gateway.transform import Bounds, Engine, exceeded

logger = logging.getLogger(__name__)

#: Seconds that a child may be late before it is killed.
GRACE_S: Final = 0.05
_START_S: Final = 30.0
_BACK_OFF_S: Final = (0.1, 5.0)
_MIB: Final = 1024 * 1024
# How a process dies that ran out of memory or of stack: the allocator aborts, the kernel kills, or
# the stack runs into what lies beneath it.
_OUT_OF_MEMORY: Final = frozenset(
    -number for number in (signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS)
)


class Sandbox:
    """A pool of child processes, and a bounded queue for them.

    Args:
        time_s: wall-clock seconds of one evaluation.
        memory_bytes_max: what a child may map beyond what it needs to be ready; input and result
            count too.
        expression_bytes_max: UTF-8 bytes of an expression.
        output_bytes_max: UTF-8 bytes of a result.
        depth_max, sequence_max, engine: as in ``transform``.
        processes: how many children, and so how many evaluations at a time.
        waiting_max: how many callers may wait for a child.
        waiting_s: seconds that each of them may.
        niceness: by how much the children give way to other processes on a busy machine.
        engine_timed: whether the engine, too, watches the time.
    """

    def __init__(
        self,
        *,
        time_s: float,
        memory_bytes_max: int,
        expression_bytes_max: int,
        output_bytes_max: int,
        depth_max: int,
        sequence_max: int,
        engine: Engine,
        processes: int,
        waiting_max: int,
        waiting_s: float = 5.0,
        niceness: int = 10,
        engine_timed: bool = True,
    ) -> None:
        self._bounds = Bounds(
            time_s=time_s,
            depth_max=depth_max,
            sequence_max=sequence_max,
            output_bytes_max=output_bytes_max,
        )
        self._engine = engine
        self._memory_bytes_max = memory_bytes_max
        self._expression_bytes_max = expression_bytes_max
        self._processes = processes
        self._niceness = niceness
        self._engine_timed = engine_timed
        self._waiting_max = waiting_max
        self._waiting_s = waiting_s
        self._children: set[Child] = set()
        self._idle: list[Child] = []
        self._waiting: deque[asyncio.Future[Child]] = deque()
        self._keepers: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Start every child; return when all are ready.

        Raises:
            GatewayError: one did not start; its own words are on standard error.
        """
        children = await asyncio.gather(*(self._spawn() for _ in range(self._processes)))
        for child in children:
            if child is not None:
                self._keepers.append(asyncio.create_task(self._keep(child)))
                self._offer(child)
        if None in children:
            await self.close()
            raise GatewayError("a child process for clients' expressions did not start")

    async def close(self) -> None:
        """End every child and wait until it is gone; running and waiting evaluations fail."""
        self._closing.set()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(_shutting_down())
        for child in self._children:
            child.kill()
        ends = [child.gone.wait() for child in self._children]
        await asyncio.gather(*ends, *self._keepers)

    async def evaluate(
        self, expression: str, text: bytes, bindings: Mapping[str, Any] | None = None
    ) -> bytes | None:
        """Evaluate a client's ``expression`` over ``text`` (JSON, UTF-8).

        Returns the result as JSON in UTF-8, ``None`` where the expression yields nothing.

        Raises:
            TransformFailed: ``by_client``, with the reason; the message of a syntax error ends
                with its line and column.
            RequestRejected: the expression is longer than ``expression_bytes_max`` (413).
            Overloaded: too many are waiting, or no child came free in time.
        """
        return await self._evaluate(expression, self._encode(expression), text, bindings)

    async def check_syntax(self, expression: str) -> None:
        """Refuse an ``expression`` that does not parse. Raises as ``evaluate`` does.

        As the body of a function that nobody calls it is parsed and no more. Only where that fails
        is it evaluated as it stands, which says where in it the fault lies.
        """
        source = self._encode(expression)
        try:
            uncalled = b"($unused := function(){(%b\n)}; null)" % source
            await self._evaluate(expression, uncalled, b"null", None)
        except TransformFailed as error:
            if error.reason != "syntax":
                raise
            try:
                await self._evaluate(expression, source, b"null", None)
            except TransformFailed as located:
                if located.reason == "syntax":
                    raise

    async def _evaluate(
        self, expression: str, source: bytes, text: bytes, bindings: Mapping[str, Any] | None
    ) -> bytes | None:
        variables = b"" if bindings is None else msgspec.json.encode(bindings)
        while True:
            child = await self._take()
            deadline = monotonic() + self._bounds.time_s
            header = QUESTION.pack(deadline, len(source), len(variables), len(text))
            try:
                async with asyncio.timeout(self._bounds.time_s + GRACE_S):
                    kind, payload = await child.ask(header + source + variables, text)
            except DiedIdle:
                continue
            except Died as error:
                raise self._read_end(child) from error
            except TimeoutError as error:
                child.kill()
                raise _by_client(exceeded("time", self._bounds)) from error
            except BaseException:
                child.kill()
                raise
            return self._read_answer(child, kind, payload, expression)

    def _encode(self, expression: str) -> bytes:
        try:
            source = expression.encode()
        except UnicodeEncodeError as error:
            raise TransformFailed(
                "the expression holds a lone surrogate" + _place(expression, error.start),
                reason="syntax",
                by_client=True,
                offset=error.start,
            ) from error
        if len(source) > self._expression_bytes_max:
            raise RequestRejected(
                f"the transform has {len(source)} bytes;"
                f" at most {self._expression_bytes_max} are allowed",
                code=Code.TOO_LARGE,
            )
        return source

    def _read_answer(
        self, child: Child, kind: bytes, payload: bytes, expression: str
    ) -> bytes | None:
        if kind in (VALUE, NOTHING):
            self._offer(child)
            return payload if kind == VALUE else None
        failure = msgspec.json.decode(payload, type=Failure)
        if failure.reason == "memory":
            # It may not have read its question to the end, or be left with too little.
            child.kill()
            raise self._out_of_memory()
        self._offer(child)
        if failure.reason == "time":
            # The child knows what remained of the limit, not the limit.
            raise _by_client(exceeded("time", self._bounds))
        place = "" if failure.offset is None else _place(expression, failure.offset)
        raise TransformFailed(
            failure.message + place,
            reason=failure.reason,
            by_client=True,
            offset=failure.offset,
        )

    def _read_end(self, child: Child) -> GatewayError:
        """What it means that ``child`` died over a question."""
        if self._closing.is_set():
            return _shutting_down()
        if child.exit_status in _OUT_OF_MEMORY:
            return self._out_of_memory()
        if child.exit_status == -signal.SIGXCPU:
            return _by_client(exceeded("time", self._bounds))
        return Overloaded("the evaluation of the transform was interrupted", retry_after_s=1)

    def _out_of_memory(self) -> TransformFailed:
        return TransformFailed(
            f"the expression needs more than {self._memory_bytes_max / _MIB:g} MiB of memory",
            reason="memory",
            by_client=True,
        )

    async def _take(self) -> Child:
        """A child that is free, now or within ``waiting_s``."""
        if self._closing.is_set():
            raise _shutting_down()
        if self._idle:
            return self._idle.pop()
        if len(self._waiting) >= self._waiting_max:
            raise Overloaded(
                f"{self._waiting_max} transforms are waiting already",
                retry_after_s=self._bounds.time_s,
            )
        future: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(self._waiting_s):
                return await future
        except TimeoutError as error:
            self._leave(future)
            raise Overloaded(
                f"no process came free for the transform within {self._waiting_s:g} s",
                retry_after_s=self._bounds.time_s,
            ) from error
        except asyncio.CancelledError:
            self._leave(future)
            raise

    def _leave(self, future: asyncio.Future[Child]) -> None:
        """Stop waiting; a child that came in the very moment goes to the next."""
        if future in self._waiting:
            self._waiting.remove(future)
        elif not future.cancelled() and future.exception() is None:
            self._offer(future.result())

    def _offer(self, child: Child) -> None:
        """Hand ``child`` to whoever has waited longest, or keep it ready."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(child)
                return
        self._idle.append(child)

    async def _keep(self, child: Child) -> None:
        """See to it that a child stands in this one's place until the sandbox is closed."""
        while True:
            await child.gone.wait()
            self._children.discard(child)
            if child in self._idle:
                self._idle.remove(child)
            successor = await self._replace()
            if successor is None:
                return
            child = successor
            self._offer(child)

    async def _replace(self) -> Child | None:
        """A new child, with pauses between failed starts; ``None`` once the sandbox closes."""
        pause, pause_max = _BACK_OFF_S
        while not self._closing.is_set():
            if (child := await self._spawn()) is not None:
                return child
            try:
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            except TimeoutError:
                pause = min(2 * pause, pause_max)
        return None

    async def _spawn(self) -> Child | None:
        """Start a child; ``None`` where it did not become ready."""
        settings = Settings(
            self._engine,
            self._bounds,
            self._memory_bytes_max,
            os.getpid(),
            self._niceness,
            self._engine_timed,
        )
        try:
            child = await spawn(settings)
        except OSError as error:
            logger.warning("a child process cannot be started: %s", error)
            return None
        self._children.add(child)
        if self._closing.is_set():
            child.kill()
        try:
            async with asyncio.timeout(_START_S):
                await child.ready()
        except (TimeoutError, Died):
            child.kill()
            await child.gone.wait()
            self._children.discard(child)
            if not self._closing.is_set():
                logger.warning("a child process did not start: exit status %s", child.exit_status)
            return None
        return child


def _by_client(error: TransformFailed) -> TransformFailed:
    return TransformFailed(error.message, reason=error.reason, by_client=True)


def _shutting_down() -> Overloaded:
    return Overloaded("the gateway is shutting down", retry_after_s=1)


def _place(expression: str, offset: int) -> str:
    before = expression[:offset]
    column = offset - (before.rfind("\n") + 1) + 1
    return f" (line {before.count(chr(10)) + 1}, column {column})"
