"""Which variables an expression can ask for."""

from __future__ import annotations

import pytest

from gateway.transform import Bounds, compile_expression
from gateway.variables import variables

FOUND: dict[str, set[str]] = {
    "$": set(),
    "$.a.$key": {"key"},
    "$uppercase(a) & $requestId": {"uppercase", "requestId"},
    "/* $key */ 1": {"key"},
    '"costs $5"': {"5"},
    "($größe := 1; $größe)": {"größe"},
}


@pytest.mark.parametrize("expression", FOUND)
def test_every_name_with_a_dollar_before_it_is_found(expression: str) -> None:
    assert variables(expression) == frozenset(FOUND[expression])


@pytest.mark.parametrize("expression", ["$eval(a)", "($e := $eval; 1)", "$`key`"])
def test_an_expression_that_can_make_up_names_may_ask_for_any(expression: str) -> None:
    assert variables(expression) is None


@pytest.mark.parametrize("expression", ["$key", "$eval('$key')", "($f := function() {$key}; $f())"])
def test_a_variable_that_is_asked_for_in_any_way_is_there(expression: str) -> None:
    transform = compile_expression(expression, bounds=Bounds())
    assert transform.evaluate("{}", {"key": "team", "headers": {}}) == '"team"'


def test_a_variable_that_is_not_asked_for_changes_nothing() -> None:
    transform = compile_expression("$merge([$, {'b': $uppercase(a)}])", bounds=Bounds())
    assert transform.evaluate('{"a":"x"}', {"key": "team"}) == '{"a":"x","b":"X"}'
