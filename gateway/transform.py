"""JSONata: compile once, evaluate under bounds; two engines behind one function.

Both engines take JSON text and give JSON text, so that no caller ever holds the parsed value, and
both answer every failure with ``TransformFailed``. Nothing here waits, so a call holds the event
loop for as long as it runs: that is for expressions that the operator wrote, over small inputs.
Neither engine bounds the memory of a single function call (``$pad``, ``$split``, doubling a
string); expressions that clients send, and large inputs, go through ``sandbox``.

What the default engine, jsonatapy, does with values that JSON or its own numbers cannot hold:
a division by zero and a function *inside* a result come out as ``null`` and ``""`` and cannot be
told from the real thing (a function that is the whole result is told, and refused); integers
beyond 2^53 become the nearest double; input that nests deeper than 1,024 levels is refused.

Owns: the engines, their bounds, and what their errors mean.
Does not know: whose an expression is, where it was written, or what it is for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from math import ceil, isfinite
from threading import get_ident
from time import monotonic
from typing import Any, Final, Literal, NoReturn, Protocol

import jsonatapy
import msgspec

from gateway.errors import TransformFailed
from gateway.variables import variables

Engine = Literal["jsonatapy", "jsonata-python"]

MESSAGE_CHARS_MAX: Final = 300

_REASONS: Final = {
    "D1012": "time",
    "D1011": "depth",
    "U1001": "depth",
    "D2014": "sequence",
    "D2015": "sequence",
}
_NOISE: Final = re.compile(
    r"(?:(?:Parse|Reference|Type|Runtime|Evaluation) error|Invalid (?:number|syntax)): "
)
_CODE: Final = re.compile(r"([A-Z]\d{4}): ")
# Half a pair of escapes: a first half without its second, a second without its first.
_LONE_SURROGATE: Final = re.compile(
    r"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"
)

# jsonata-python is asked where a syntax error is only in expressions of at most this length: its
# tokenizer takes quadratic time, a tenth of a second for this much.
_LOCATE_CHARS_MAX: Final = 16 * 1024
# Syntax errors that mean "it ends too early": found at the end, whichever parser finds them.
_AT_END: Final = frozenset({"S0101", "S0105", "S0106", "S0203", "S0207", "S0302"})
# jsonata-python spends several Python frames on each of its own.
_PYTHON_FRAMES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one evaluation may take: seconds, stack frames, items of a sequence, bytes of result.

    Without a limit of time (``inf``) the engine does not look at the clock: that is for whoever
    ends the process instead.
    """

    time_s: float = 1.0
    depth_max: int = 300
    sequence_max: int = 1_000_000
    output_bytes_max: int = 16 * 1024 * 1024


class Transform(Protocol):
    """A compiled expression. Bound to the thread that compiled it."""

    def evaluate(self, text: str, bindings: Mapping[str, Any] | None = None) -> str | None:
        """JSON text in, JSON text out; ``None`` where the expression yields nothing.

        ``bindings`` are the expression's variables by name, without ``$``; their values are what
        JSON has: ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool``, ``None``.

        Raises:
            TransformFailed: ``reason`` tells which bound ran out, or ``evaluation`` (the
                expression, the input or a binding is at fault), or ``result`` (it yields a
                function or another thing that is no JSON). On any thread but the compiling one,
                jsonatapy's transforms always fail with ``evaluation``.
        """
        ...

    def release(self) -> None:
        """Let go of what was compiled, at once: it is evaluated no more.

        By the thread that compiled it.
        """
        ...


def compile_expression(
    expression: str, *, bounds: Bounds, engine: Engine = "jsonatapy"
) -> Transform:
    """Compile ``expression`` for ``engine``; every evaluation will be held to ``bounds``.

    Raises:
        TransformFailed: with ``reason="syntax"`` and an ``offset`` from 0 to ``len(expression)``,
            the first character that cannot stand where it stands. jsonatapy accepts a few
            expressions that it then refuses at evaluation (``a := 1``).
    """
    try:
        expression.encode()
    except UnicodeEncodeError as error:
        raise TransformFailed(
            "the expression holds a lone surrogate", reason="syntax", offset=error.start
        ) from error
    if engine == "jsonatapy":
        return _Jsonatapy(expression, bounds)
    return _JsonataPython(expression, bounds)


def exceeded(reason: str, bounds: Bounds) -> TransformFailed:
    """The error for a bound that ran out: ``time``, ``depth``, ``sequence`` or ``output``."""
    sentences = {
        "time": f"D1012: the expression ran longer than {bounds.time_s:g} s",
        "depth": f"D1011: the expression nests its calls deeper than {bounds.depth_max}",
        "sequence": f"D2015: the expression made more than {bounds.sequence_max} items",
        "output": f"the result is larger than {bounds.output_bytes_max} bytes",
    }
    return TransformFailed(sentences[reason], reason=reason)


_orphans: dict[int, list[object]] = {}  # by thread, what it compiled and another found garbage


class _Jsonatapy:
    """The default engine, in Rust.

    The engine's objects die on their own thread or not at all (elsewhere they stay in memory, with
    an error that nobody can catch), and garbage that is part of a cycle may be found on any. What
    another thread finds waits for the next expression that its own thread compiles.
    """

    __slots__ = ("_bounds", "_chars_safe", "_expression", "_run", "_thread", "_variables")

    def __init__(self, expression: str, bounds: Bounds) -> None:
        self._thread = get_ident()
        _orphans.pop(self._thread, None)
        try:
            compiled = jsonatapy.compile(
                expression,
                timeout=_milliseconds(bounds.time_s),
                max_stack_depth=bounds.depth_max,
                max_sequence_length=bounds.sequence_max,
            )
        except ValueError as error:
            raise _syntax_error(expression, str(error)) from error
        self._bounds = bounds
        self._chars_safe = bounds.output_bytes_max // 4
        self._variables = variables(expression)
        self._expression = compiled
        self._run = compiled.evaluate_json_or_none

    def evaluate(self, text: str, bindings: Mapping[str, Any] | None = None) -> str | None:
        if bindings is not None:
            # To hand them over costs as much again as a small event does.
            if self._variables is not None and self._variables.isdisjoint(bindings):
                bindings = None
            elif not isinstance(bindings, dict):
                bindings = dict(bindings)
        if "\\" in text:
            # The engine turns a lone surrogate into U+0000 without a word.
            _check_escapes(text)
        began = monotonic()
        try:
            result = self._run(text, bindings)
        except Exception as error:
            raise _engine_error(error, self._bounds) from error
        except BaseException as error:
            # A panic in Rust arrives as a BaseException that no module exports; an interrupt or
            # a cancellation is not ours to stop.
            if type(error).__module__ != "pyo3_runtime":
                raise
            raise TransformFailed(
                "the JSONata engine broke off; a transform runs on the thread that compiled it",
                reason="evaluation",
            ) from error
        if result is None:
            return None
        if len(result) > self._chars_safe:
            _check_output(result, self._bounds)
        if result == '""':
            self._check_function(text, bindings, began + self._bounds.time_s - monotonic())
        return result

    def release(self) -> None:
        del self._expression, self._run

    def __del__(self) -> None:
        if get_ident() != self._thread and hasattr(self, "_expression"):
            _orphans.setdefault(self._thread, []).extend((self._expression, self._run))

    def _check_function(self, text: str, bindings: dict[str, Any] | None, left_s: float) -> None:
        """A function is written as an empty string; as a Python value the two differ.

        What fails when it is evaluated once more (there may be no time left, or it may depend on
        the clock) is taken for the string that it was.
        """
        try:
            data = jsonatapy.JsonataData.from_json(text)
            again = self._expression.evaluate_with_data(
                data, bindings, timeout=_milliseconds(left_s)
            )
        except ValueError:
            return
        if again is None:
            raise _not_json("a function")


def _milliseconds(seconds: float) -> int | None:
    """At least one; ``None`` is no limit."""
    return max(1, ceil(seconds * 1000)) if isfinite(seconds) else None


def _engine_error(error: Exception, bounds: Bounds) -> TransformFailed:
    """What an exception of jsonatapy's means."""
    if isinstance(error, MemoryError):
        return TransformFailed("the expression needs more memory than there is", reason="memory")
    if isinstance(error, UnicodeEncodeError):
        return _lone_surrogate()
    if not isinstance(error, ValueError):
        return TransformFailed(_shorten(f"a binding is not JSON: {error}"), reason="evaluation")
    code, sentence = _read_message(str(error))
    if code in _REASONS:
        return exceeded(_REASONS[code], bounds)
    if sentence.startswith("Invalid JSON: recursion limit"):
        return TransformFailed("the input nests deeper than 1024 levels", reason="depth")
    if sentence.startswith("Invalid JSON: "):
        sentence = "the input is not JSON: " + sentence.removeprefix("Invalid JSON: ")
    elif len(lines := sentence.splitlines()) > 1 and lines[-1].startswith("error: "):
        # The regex engine draws the pattern first; what it says of it is the last line.
        sentence = f"{lines[0].partition(':')[0]}: {lines[-1].removeprefix('error: ')}"
    return TransformFailed(_shorten(_join(code, sentence)), reason="evaluation")


class _Guard:
    """Holds one evaluation by jsonata-python to its bounds; the engine calls it at every step."""

    __slots__ = ("_bounds", "_deadline", "_depth", "failure")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._deadline = monotonic() + bounds.time_s
        self._depth = 0
        #: What was raised. ``$eval`` puts an error of its own in its place.
        self.failure: TransformFailed | None = None

    def enter(self, _expression: Any, _input: Any, _environment: Any) -> None:
        self._depth += 1
        if self._depth > self._bounds.depth_max:
            self._stop("depth")
        if monotonic() > self._deadline:
            self._stop("time")

    def leave(self, _expression: Any, _input: Any, _environment: Any, result: Any) -> None:
        self._depth -= 1
        # Lists of the input are plain ones, and not the expression's making.
        made = isinstance(result, list) and type(result) is not list
        if made and len(result) > self._bounds.sequence_max:
            self._stop("sequence")

    def _stop(self, reason: str) -> NoReturn:
        self.failure = exceeded(reason, self._bounds)
        raise self.failure


class _JsonataPython:
    """The second engine, in Python.

    The bounds are looked at between its steps, so what happens inside one step escapes them: a
    regular expression that backtracks without end, the making of a range or of a long string.
    A division by zero is an error here, and so is any number that JSON cannot hold.
    """

    __slots__ = ("_bounds", "_expression", "_library")

    def __init__(self, expression: str, bounds: Bounds) -> None:
        self._library = library = _import_jsonata()
        if sys.getrecursionlimit() < _PYTHON_FRAMES:
            sys.setrecursionlimit(_PYTHON_FRAMES)
        try:
            self._expression = library.Jsonata(expression)
        except library.JException as error:
            raise TransformFailed(
                _shorten(f"{error.error}: {error}"),
                reason="syntax",
                offset=_token_offset(expression, error),
            ) from error
        except Exception as error:
            # The parser runs over the end of some expressions, and out of stack on deep ones.
            raise TransformFailed(
                f"the parser gave up on the expression: {type(error).__name__}",
                reason="syntax",
                offset=0,
            ) from error
        self._expression.set_validate_input(False)
        self._expression.set_output_convert_nulls(False)
        self._bounds = bounds

    def evaluate(self, text: str, bindings: Mapping[str, Any] | None = None) -> str | None:
        guard = _Guard(self._bounds)
        try:
            output = self._evaluate(text, bindings, guard)
        except Exception as error:
            raise guard.failure or self._translate(text, error) from error
        if output is None:
            return None
        if len(output) > self._bounds.output_bytes_max:
            raise exceeded("output", self._bounds)
        return output.decode()

    def release(self) -> None:
        """Nothing of this engine is bound to a thread."""

    def _evaluate(
        self, text: str, bindings: Mapping[str, Any] | None, guard: _Guard
    ) -> bytes | None:
        null = self._library.Utils.NULL_VALUE
        data = _with_nulls(msgspec.json.decode(text), null)
        # A frame of its own, so that no variable outlives the evaluation.
        frame = self._expression.create_frame()
        frame.set_evaluate_entry_callback(guard.enter)
        frame.set_evaluate_exit_callback(guard.leave)
        for name, value in (bindings or {}).items():
            frame.bind(name, _with_nulls(value, null))
        # $now and $millis read the clock of whichever expression this names.
        self._library.Jsonata.CURRENT.jsonata = self._expression
        # The engine prints what it cannot call, and standard output is for the log.
        with redirect_stdout(_Nowhere()):
            result = self._expression.evaluate(data, frame)
        return None if result is None else msgspec.json.encode(_plain(result, null))

    def _translate(self, text: str, error: Exception) -> TransformFailed:
        """What an exception from inside the engine, or from around it, means."""
        if isinstance(error, TransformFailed):
            return error
        if isinstance(error, self._library.JException):
            if error.error in _REASONS:
                return exceeded(_REASONS[error.error], self._bounds)
            return TransformFailed(_shorten(f"{error.error}: {error}"), reason="evaluation")
        if isinstance(error, RecursionError):
            return exceeded("depth", self._bounds)
        if isinstance(error, MemoryError):
            return _engine_error(error, self._bounds)
        if isinstance(error, UnicodeEncodeError):
            return _lone_surrogate()
        if isinstance(error, msgspec.MsgspecError):
            return _bad_input(text, error)
        # The engine lets Python's own exceptions through; the words of most may hold the input.
        words = f": {error}" if isinstance(error, ArithmeticError) else ""
        message = f"the expression failed in the engine: {type(error).__name__}{words}"
        return TransformFailed(_shorten(message), reason="evaluation")


class _Nowhere:
    """A text stream that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


def _with_nulls(value: Any, null: Any) -> Any:
    """``value`` with the engine's own null for every ``None``, which it takes for undefined."""
    if value is None:
        return null
    if isinstance(value, dict):
        return {key: _with_nulls(item, null) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nulls(item, null) for item in value]
    return value


def _plain(value: Any, null: Any) -> Any:
    """The engine's ``value`` as plain JSON values; its lists are kinds of their own."""
    if value is null or value is None:
        return None
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise _not_json("a number out of range")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, dict):
        return {key: _plain(item, null) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, null) for item in value]
    raise _not_json("a function")


def _import_jsonata() -> Any:
    """jsonata-python, loaded when it is first needed; it sets the process's recursion limit."""
    limit = sys.getrecursionlimit()
    import jsonata  # noqa: PLC0415 - the default engine needs it for syntax errors only

    sys.setrecursionlimit(limit)
    return jsonata


def _syntax_error(expression: str, message: str) -> TransformFailed:
    """jsonatapy's refusal of ``expression``, with the place that the other parser finds.

    Where both name the same error, the sentence is the other one's, which has symbols
    (``Expected )``) where jsonatapy has names of its own (``Expected RightParen``).
    """
    code, sentence = _read_message(message)
    found = _locate(expression) if len(expression) <= _LOCATE_CHARS_MAX else None
    if found is not None:
        offset = _token_offset(expression, found)
        if found.error == code and "None" not in str(found):
            sentence = str(found)
    else:
        offset = len(expression) if code in _AT_END or sentence == "Unclosed comment" else 0
    return TransformFailed(_shorten(_join(code, sentence)), reason="syntax", offset=offset)


def _locate(expression: str) -> Any:
    """jsonata-python's own syntax error in ``expression``; ``None`` where it finds none."""
    library = _import_jsonata()
    try:
        library.Jsonata(expression)
    except library.JException as error:
        return error
    except Exception:  # noqa: BLE001 - it was asked for a place only; its own faults don't matter
        return None
    return None


def _token_offset(expression: str, error: Any) -> int:
    """Where the token starts that ``error`` is about; the parser tells where it ends."""
    end = min(max(int(error.location), 0), len(expression))
    before = expression[:end]
    for token in (error.expected, error.current):
        for written in (f"{token}", f"'{token}'", f'"{token}"', f"`{token}`", f"${token}"):
            if token is not None and before.endswith(written):
                return end - len(written)
    return end


def _read_message(message: str) -> tuple[str | None, str]:
    """An engine's message as its code (``S0207``), where it has one, and its sentence."""
    while (noise := _NOISE.match(message)) is not None:
        message = message[noise.end() :]
    code = _CODE.match(message)
    return (None, message) if code is None else (code[1], message[code.end() :])


def _join(code: str | None, sentence: str) -> str:
    return sentence if code is None else f"{code}: {sentence}"


def _shorten(message: str) -> str:
    message = " ".join(message.split())
    if len(message) <= MESSAGE_CHARS_MAX:
        return message
    return message[: MESSAGE_CHARS_MAX - 1] + "…"


def _check_escapes(text: str) -> None:
    try:
        _RAW.decode(text)
    except msgspec.MsgspecError as error:
        raise _bad_input(text, error) from error
    except UnicodeEncodeError as error:
        raise _lone_surrogate() from error


_RAW: Final = msgspec.json.Decoder(msgspec.Raw)


def _check_output(result: str, bounds: Bounds) -> None:
    size = len(result) if result.isascii() else len(result.encode())
    if size > bounds.output_bytes_max:
        raise exceeded("output", bounds)


def _bad_input(text: str, error: Exception) -> TransformFailed:
    if _LONE_SURROGATE.search(text):
        return _lone_surrogate()
    return TransformFailed(_shorten(f"the input is not JSON: {error}"), reason="evaluation")


def _lone_surrogate() -> TransformFailed:
    return TransformFailed(
        "the input is not JSON that can be evaluated: it holds a lone surrogate",
        reason="evaluation",
    )


def _not_json(what: str) -> TransformFailed:
    return TransformFailed(f"the expression yields {what}, which is not JSON", reason="result")
