"""The child process of ``sandbox``: reads expressions from a pipe, evaluates, writes the results.

It runs what clients send, so it first gives away whatever an expression could misuse: it has no
environment but what the parent chose, no files, no new processes, little memory, and the lowest
claim on the processor. It ends when its parent does.

Owns: the limits that the process puts on itself, and the frames on its two pipes.
Does not know: who asks, how many children there are, what happens to one that dies.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import BinaryIO, Final

import msgspec

from gateway.errors import TransformFailed
from gateway.transform import Bounds, Engine, compile_expression, exceeded

#: A question: the deadline on the machine's monotonic clock in seconds, then the lengths of the
#: expression, the bindings (JSON; none where empty) and the input (JSON), which follow.
QUESTION: Final = struct.Struct("!dIIQ")
#: An answer: its kind and the length of what follows.
ANSWER: Final = struct.Struct("!cQ")
READY: Final = b"R"
VALUE: Final = b"V"
NOTHING: Final = b"N"
FAILED: Final = b"F"

#: What jsonatapy's allocator has reserved when the child is ready: the least that it accepts.
ARENA_BYTES: Final = 32 * 1024 * 1024

_FILES_MAX: Final = 16
_SET_PARENT_DEATH_SIGNAL: Final = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parent tells its child, once, as JSON."""

    engine: Engine
    bounds: Bounds
    memory_bytes_max: int
    parent_pid: int
    niceness: int
    engine_timed: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A ``TransformFailed`` on its way to the parent, as JSON."""

    message: str
    reason: str
    offset: int | None


def main(settings_json: str) -> None:
    """Serve questions until the pipe ends. Takes the file descriptors 0, 1 and 2 for itself."""
    settings = msgspec.json.decode(settings_json, type=Settings)
    _follow_parent(settings.parent_pid)
    _let_go_of_the_rest()
    os.nice(settings.niceness)
    _warm_up(settings)
    questions, answers = _take_pipes()
    _limit(settings)
    _write(answers, READY, b"")
    while len(header := questions.read(QUESTION.size)) == QUESTION.size:
        kind, payload = _serve(questions, header, settings)
        _write(answers, kind, payload)


def _follow_parent(parent_pid: int) -> None:
    """Die with the parent, even in the middle of an evaluation."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit


def _let_go_of_the_rest() -> None:
    """Close what was inherited beside the standard streams: uvloop, unlike asyncio's own loop,
    leaves a child whatever the gateway was started with."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with suppress(OSError):  # that of the listing has been closed
                os.close(descriptor)


def _warm_up(settings: Settings) -> None:
    """Load what an evaluation loads, so that it counts neither as its memory nor as its time."""
    compile_expression("$", bounds=settings.bounds, engine=settings.engine).evaluate("[]")
    with suppress(TransformFailed):
        compile_expression("(", bounds=settings.bounds, engine=settings.engine)
    gc.collect()
    gc.freeze()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes, out of reach of whatever writes to the standard streams."""
    questions = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return questions, answers


def _limit(settings: Settings) -> None:
    with open("/proc/self/statm", "rb") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    # The arena is mapped already, and yet for the evaluations to use.
    needed = mapped - ARENA_BYTES if settings.engine == "jsonatapy" else mapped
    for limit, value in (
        (resource.RLIMIT_AS, needed + settings.memory_bytes_max),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, _FILES_MAX),
    ):
        resource.setrlimit(limit, (value, value))


def _limit_processor(seconds: float) -> None:
    """A second belt, should the parent be too busy to stop an evaluation: whole seconds, and so
    never before the parent's own limit."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(usage.ru_utime + usage.ru_stime + seconds) + 2
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _serve(questions: BinaryIO, header: bytes, settings: Settings) -> tuple[bytes, bytes]:
    deadline, expression_size, bindings_size, text_size = QUESTION.unpack(header)
    try:
        expression = questions.read(expression_size).decode()
        bindings = questions.read(bindings_size)
        text = questions.read(text_size).decode()
        result = _evaluate(expression, bindings, text, deadline, settings)
        return (NOTHING, b"") if result is None else (VALUE, result.encode())
    except TransformFailed as error:
        failure = Failure(error.message, error.reason, error.offset)
    except UnicodeDecodeError:
        failure = Failure("the input is not UTF-8", "evaluation", None)
    except MemoryError:
        failure = Failure("the expression needs more memory than it may have", "memory", None)
    return FAILED, msgspec.json.encode(failure)


def _evaluate(
    expression: str, bindings: bytes, text: str, deadline: float, settings: Settings
) -> str | None:
    remaining = deadline - monotonic()
    if remaining <= 0:
        raise exceeded("time", settings.bounds)
    _limit_processor(remaining)
    bounds = replace(settings.bounds, time_s=remaining if settings.engine_timed else inf)
    transform = compile_expression(expression, bounds=bounds, engine=settings.engine)
    return transform.evaluate(text, msgspec.json.decode(bindings) if bindings else None)


def _write(answers: BinaryIO, kind: bytes, payload: bytes) -> None:
    answers.write(ANSWER.pack(kind, len(payload)))
    answers.write(payload)
    answers.flush()
