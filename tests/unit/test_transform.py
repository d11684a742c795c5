"""What an operator's expression may do, what it may not, and how that is said."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import TransformFailed
from gateway.transform import (
    MESSAGE_CHARS_MAX,
    Bounds,
    Engine,
    compile_expression,
)

ENGINES: tuple[Engine, ...] = get_args(Engine)
BOUNDS = Bounds(time_s=30, depth_max=100, sequence_max=1000, output_bytes_max=1000)

engines = pytest.mark.parametrize("engine", ENGINES)


def evaluate(
    expression: str,
    text: str = "{}",
    bindings: Mapping[str, Any] | None = None,
    *,
    engine: Engine = "jsonatapy",
    bounds: Bounds = BOUNDS,
) -> str | None:
    return compile_expression(expression, bounds=bounds, engine=engine).evaluate(text, bindings)


def failure(
    expression: str,
    text: str = "{}",
    bindings: Mapping[str, Any] | None = None,
    *,
    engine: Engine = "jsonatapy",
    bounds: Bounds = BOUNDS,
) -> TransformFailed:
    with pytest.raises(TransformFailed) as caught:
        evaluate(expression, text, bindings, engine=engine, bounds=bounds)
    return caught.value


@engines
@pytest.mark.parametrize(
    ("expression", "text", "expected"),
    [
        ("a", '{"a": {"b": [1, 2.5, "x", true, null]}}', '{"b":[1,2.5,"x",true,null]}'),
        ("a.b", '{"a": null}', None),
        ("a", '{"a": null}', "null"),
        ("$", "null", "null"),
        ("$", "[]", "[]"),
        ("$", "[null]", "[null]"),
        ("$", '""', '""'),
        ("$string(a)", '{"a": 1.0}', '"1"'),
        ("a", '{"a": 1.0}', "1"),
        ("a", '{"a": "\\ud83d\\ude00 \\\\ud800"}', '"😀 \\\\ud800"'),
        ("a & $x", '{"a": "1"}', '"1"'),
    ],
)
def test_an_expression_turns_json_text_into_json_text(
    engine: Engine, expression: str, text: str, expected: str | None
) -> None:
    assert evaluate(expression, text, engine=engine) == expected


@engines
def test_bindings_are_variables_of_one_evaluation_only(engine: Engine) -> None:
    transform = compile_expression("[$key, $headers.trace]", bounds=BOUNDS, engine=engine)
    bindings = {"key": "ocr", "headers": {"trace": None}}
    assert transform.evaluate("{}", bindings) == '["ocr",null]'
    assert transform.evaluate("{}", MappingProxyType(bindings)) == '["ocr",null]'
    assert transform.evaluate("{}") == "[]"


@engines
def test_what_an_expression_assigns_is_forgotten_before_the_next_evaluation(
    engine: Engine,
) -> None:
    transform = compile_expression("[$seen, $seen := 1]", bounds=BOUNDS, engine=engine)
    assert transform.evaluate("{}") == transform.evaluate("{}")


@engines
def test_the_clock_of_an_expression_is_read_at_its_own_evaluation(engine: Engine) -> None:
    earlier = compile_expression("$millis()", bounds=BOUNDS, engine=engine)
    first = evaluate("$millis()", engine=engine)
    while (now := earlier.evaluate("{}")) == first:
        pass
    assert int(now or 0) > int(first or 0)


BOMBS = [
    ("($f := function() {$f()}; $f())", "time", "D1012: the expression ran longer than 0.2 s"),
    (
        "($f := function($n) {1 + $f($n)}; $f(1))",
        "depth",
        "D1011: the expression nests its calls deeper than 100",
    ),
    ("[1..1001]", "sequence", "D2015: the expression made more than 1000 items"),
    ("$map([1..10], function($i) {[1..900]}).$", "sequence", None),
    ("$pad('', 1001, 'x')", "output", "the result is larger than 1000 bytes"),
    ("$pad('', 500, 'é')", "output", "the result is larger than 1000 bytes"),
    ("$eval('[1..1001]')", "sequence", None),
    ("($f := function() {$eval('$f()')}; $f())", "depth", None),
]


@engines
@pytest.mark.parametrize(("expression", "reason", "message"), BOMBS)
def test_every_bound_has_its_reason_and_its_sentence(
    engine: Engine, expression: str, reason: str, message: str | None
) -> None:
    # Only what runs for ever gets little time: on a busy machine, anything can take long.
    bounds = replace(BOUNDS, time_s=0.2) if reason == "time" else BOUNDS
    error = failure(expression, engine=engine, bounds=bounds)
    assert error.reason == reason
    assert not error.by_client
    assert error.status == 500
    if message is not None:
        assert error.message == message


@engines
@pytest.mark.parametrize("expression", ["$pad('', 998, 'x')", "$pad('', 499, 'é')", "[1..200]"])
def test_a_result_just_within_its_bound_passes(engine: Engine, expression: str) -> None:
    result = evaluate(expression, engine=engine)
    assert result is not None
    assert len(result.encode()) <= 1000


def test_a_range_beyond_ten_million_items_is_a_sequence_too_long() -> None:
    bounds = Bounds(sequence_max=100_000_000)
    with pytest.raises(TransformFailed) as caught:
        evaluate("[1..10000001]", engine="jsonata-python", bounds=bounds)
    assert caught.value.reason == "sequence"


@engines
@pytest.mark.parametrize(
    ("expression", "offset", "message"),
    [
        ("a b", 2, "S0201: Syntax error: b"),
        ("a.b.'x' 'y z'", 8, "S0201: Syntax error: y z"),
        ("(a", 2, "S0203: Expected ) before end of expression"),
        ("a +", 3, "S0207: Unexpected end of expression"),
        ("", 0, "S0207: Unexpected end of expression"),
        ("{'a' 1}", 5, "S0202: Expected :, got 1"),
        ("$f(,)", 3, "S0211: The symbol , cannot be used as a unary operator"),
        ("ä\n ö.1", 3, None),
        ("'never ends", 11, "S0101: String literal must be terminated by a matching quote"),
        ("'\ud800'", 1, "the expression holds a lone surrogate"),
    ],
)
def test_a_syntax_error_says_what_is_wrong_and_where(
    engine: Engine, expression: str, offset: int, message: str | None
) -> None:
    error = failure(expression, engine=engine)
    assert error.reason == "syntax"
    assert error.offset == offset
    if message is not None:
        assert error.message == message


@pytest.mark.parametrize(
    ("expression", "offset"),
    [
        ("/* no end", 9),
        ("(" * 2000, 2000),
        ("[" * 100_000, 0),
        ("(" + "a; " * 10_000, 30_001),
        ("'x'()", 0),
    ],
)
def test_a_syntax_error_that_only_one_parser_finds_still_has_a_place(
    expression: str, offset: int
) -> None:
    error = failure(expression)
    assert error.reason == "syntax"
    assert error.offset == offset


@pytest.mark.parametrize("expression", ["/* no end", "[" * 100_000])
def test_an_expression_that_the_second_parser_gives_up_on_is_a_syntax_error(
    expression: str,
) -> None:
    error = failure(expression, engine="jsonata-python")
    assert error.reason == "syntax"
    assert error.message.startswith("the parser gave up on the expression")


@given(
    st.text(alphabet="a$1'\"/(){}[],;:.?%^*+-~>|&`\\ \nλ", max_size=20), st.sampled_from(ENGINES)
)
def test_whatever_is_written_either_compiles_or_is_refused_at_a_place_within_it(
    expression: str, engine: Engine
) -> None:
    refusal = ("syntax", 0)
    try:
        compile_expression(expression, bounds=BOUNDS, engine=engine)
    except TransformFailed as error:
        refusal = (error.reason, -1 if error.offset is None else error.offset)
    assert refusal[0] == "syntax"
    assert 0 <= refusal[1] <= len(expression)


@engines
@pytest.mark.parametrize(
    "expression",
    ["'a' + 1", "$error('no')", "$uppercase(1)", "$nowhere(1)", "$eval('1 +')"],
)
def test_a_failing_evaluation_names_the_language_own_code(engine: Engine, expression: str) -> None:
    error = failure(expression, engine=engine)
    assert error.reason == "evaluation"
    assert error.message[0] in "TD"
    assert error.message[1:5].isdigit()
    assert error.message[5:7] == ": "


def test_a_pattern_that_the_default_engine_refuses_is_named_in_one_line() -> None:
    error = failure("$contains('a', /(?=a)/)")
    assert error.message == (
        "Invalid regex: look-around, including look-ahead and look-behind, is not supported"
    )


def test_an_exception_of_python_own_is_a_failed_evaluation() -> None:
    error = failure("1 / 0", engine="jsonata-python")
    assert error.reason == "evaluation"
    assert error.message.endswith("ZeroDivisionError: float division by zero")


@engines
def test_a_long_message_is_cut(engine: Engine) -> None:
    error = failure(f"$error('{'no ' * 1000}')", engine=engine)
    assert len(error.message) == MESSAGE_CHARS_MAX
    assert error.message.endswith("…")


@engines
@pytest.mark.parametrize("expression", ["$sum", "function($x) {$x}", "/a/"])
def test_a_function_is_no_result(engine: Engine, expression: str) -> None:
    error = failure(expression, engine=engine)
    assert error.reason in ("result", "evaluation")


@pytest.mark.parametrize("expression", ["[$sum]", "{'f': $sum}", "$number('NaN')"])
def test_the_second_engine_also_refuses_what_json_cannot_hold_inside_a_result(
    expression: str,
) -> None:
    assert failure(expression, engine="jsonata-python").reason == "result"


@engines
@pytest.mark.parametrize(
    "text",
    ["", "{", "nul", '{"a": NaN}', '{"a": 1e400}', "{'a': 1}", '{"a": "\\x"}', "1 2"],
)
def test_input_that_is_no_json_fails_the_evaluation(engine: Engine, text: str) -> None:
    error = failure("$", text, engine=engine)
    assert error.reason == "evaluation"
    assert error.message.startswith("the input is not JSON: ")


@engines
@pytest.mark.parametrize(
    "text", ['{"a": "\\ud800"}', '{"a": "\\udc00x"}', '["\\uD83D\\u0041"]', '{"a": "\ud800"}']
)
def test_a_lone_surrogate_in_the_input_is_refused_not_replaced(engine: Engine, text: str) -> None:
    error = failure("$", text, engine=engine)
    assert error.reason == "evaluation"
    assert "lone surrogate" in error.message


@engines
def test_input_that_nests_without_end_is_refused(engine: Engine) -> None:
    error = failure("$", "[" * 100_000 + "]" * 100_000, engine=engine)
    assert error.reason == "depth"


@pytest.mark.parametrize("value", [object(), float, b"bytes", (1, 2), 2**70])
def test_a_binding_that_is_no_json_fails_the_evaluation(value: object) -> None:
    error = failure("$x", "{}", {"x": value})
    assert error.reason == "evaluation"
    assert error.message.startswith("a binding is not JSON: ")


def test_an_expression_in_a_cycle_may_be_garbage_on_another_thread() -> None:
    cycle: list[object] = [compile_expression("a.b", bounds=Bounds())]
    cycle.append(cycle)
    gc.collect()
    del cycle

    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()

    # What the other thread could not free is freed here (pytest fails for what cannot be raised).
    assert compile_expression("a", bounds=Bounds()).evaluate('{"a": 1}') == "1"


def test_another_thread_gets_an_error_it_can_catch() -> None:
    transform = compile_expression("a", bounds=BOUNDS)
    errors: list[TransformFailed] = []

    def use() -> None:
        try:
            transform.evaluate("{}")
        except TransformFailed as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert [error.reason for error in errors] == ["evaluation"]
    assert "thread" in errors[0].message
    assert transform.evaluate('{"a": 1}') == "1"


@engines
def test_an_interrupt_during_an_evaluation_is_let_through(engine: Engine) -> None:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    transform = compile_expression(
        "($f := function() {$f()}; $f())", bounds=Bounds(time_s=0.5), engine=engine
    )
    previous = signal.signal(signal.SIGVTALRM, interrupt)
    # In time that this process has computed, most of which only the evaluation can use up.
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
    try:
        with pytest.raises(KeyboardInterrupt):
            transform.evaluate("{}")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def test_what_the_second_engine_prints_stays_out_of_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    failure("(1)()", engine="jsonata-python")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_asking_for_the_place_of_a_syntax_error_leaves_the_recursion_limit_alone() -> None:
    before = sys.getrecursionlimit()
    failure("(a")
    assert sys.getrecursionlimit() == before


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@given(JSON_VALUES, st.sampled_from(ENGINES))
def test_the_identity_gives_back_the_same_value(value: object, engine: Engine) -> None:
    text = msgspec.json.encode(value).decode()
    result = evaluate("$", text, engine=engine, bounds=Bounds())
    assert result is not None
    assert msgspec.json.decode(result) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [("boo\\n", "boo"), ("a\\nb", "a b"), ("\\n", ""), ("error: x\\n", "error: x")],
)
def test_an_expressions_own_error_may_hold_line_breaks(text: str, message: str) -> None:
    compiled = compile_expression(f'$error("{text}")', bounds=Bounds())
    with pytest.raises(TransformFailed) as caught:
        compiled.evaluate("{}")
    assert caught.value.message.removeprefix("D3137:").strip() == message


def test_an_empty_string_that_is_not_yielded_twice_stays_one() -> None:
    """A function is told from "" by a second evaluation, which may go otherwise."""
    compiled = compile_expression(
        '$millis() % 2 = 0 ? "" : $error("odd")', bounds=Bounds(), engine="jsonatapy"
    )

    def outcome() -> str | None:
        try:
            return compiled.evaluate("{}")
        except TransformFailed as error:
            return error.reason

    assert {outcome() for _ in range(3000)} == {'""', "evaluation"}
