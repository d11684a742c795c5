"""Both JSONata engines over the same expressions: where they differ is known, and listed.

Every line is an expression over ``INVOICE``. The engines agree where both yield the same JSON
value, both yield nothing, or both fail for the same reason.
"""

from __future__ import annotations

import msgspec
import pytest

from gateway.errors import TransformFailed
from gateway.transform import Bounds, Engine, compile_expression

INVOICE = r"""{
  "number": "A-12345",
  "date": "2026-03-09",
  "paid": false,
  "note": null,
  "total": 129.5,
  "lines": [
    {"item": "Paper", "count": 3, "price": 4.5, "tags": ["office", "white"]},
    {"item": "Ink", "count": 1, "price": 29, "tags": ["office"]},
    {"item": "Chair", "count": 1, "price": 87, "tags": []}
  ],
  "buyer": {"name": "Zoë Ångström", "address": {"city": "Malmö", "zip": "211 20"}},
  "codes": [null, 7, "x", [1, [2]], {}],
  "empty": {},
  "big": 9007199254740993,
  "huge": 12345678901234567890,
  "emoji": "👩‍🔬 lab",
  "odd key": 1
}"""

AGREED = [
    # paths and predicates
    "number",
    "missing",
    "buyer.address.city",
    "buyer.missing.city",
    "lines.item",
    "lines.tags",
    "lines[0].item",
    "lines[-1].item",
    "lines[price > 10].item",
    "lines[price > 1000].item",
    "lines[item = 'Ink']",
    "lines[[0..1]].item",
    "lines.tags[0]",
    "(lines.tags)[0]",
    "lines.item[]",
    "`odd key`",
    "buyer.*",
    "**.city",
    "lines.(price * count)",
    "lines#$i.{'at': $i, 'item': item}",
    "lines.tags.{'tag': $, 'item': %.item}",
    "codes[1]",
    "codes[3]",
    "lines@$l.tags@$t[$t = 'office'].$l.item",
    "$$.number",
    "number[0]",
    "[[1, 2], [3]][0]",
    "**.zip",
    "$count(**)",
    # sorting and grouping
    "lines^(price).item",
    "lines^(>price).item",
    "lines^(count, >item).item",
    "lines{item: price}",
    "lines{$string(count): item}",
    "lines{$string(count): $sum(price)}",
    # building
    "{'n': number, 'gone': missing}",
    "[number, missing, note]",
    "[lines.item, 'end']",
    "$merge([buyer.address, {'zip': '0'}])",
    "buyer ~> |address|{'zip': '0'}, 'city'|",
    "{'list': []}.list",
    "'Ink' in lines.item",
    "lines ~> $map(function($line, $i) {$i & ':' & $line.item})",
    # functions
    "$sum(lines.(price * count))",
    "$average(lines.price)",
    "$max(lines.price) - $min(lines.price)",
    "$count(lines)",
    "$filter(lines, function($line) {$line.count = 1}).item",
    "$reduce(lines.price, function($a, $b) {$a + $b}, 100)",
    "$sort(lines.item)",
    "$distinct(lines.count)",
    "$join(lines.item, ', ')",
    "$keys(buyer)",
    "$lookup(buyer, 'name')",
    "$each(buyer.address, function($v, $k) {$k & '=' & $v})",
    "$spread(buyer.address)",
    "$zip([1, 2], ['a', 'b'])",
    "$type(lines)",
    "$exists(note) and $not($exists(missing))",
    "$boolean([]) or $boolean('x')",
    "$eval('1 + 2')",
    "$append(number, [1, 2])",
    "$reverse(lines.item)",
    "$single(lines, function($line) {$line.price = 29}).item",
    "$sift(buyer, function($v, $k) {$k = 'name'})",
    "($f := function($n) {$n <= 1 ? 1 : $n * $f($n - 1)}; $f(10))",
    "($f := $sum(?); $f([1, 2]))",
    "function($x)<n:n> {$x + 1}(4)",
    "$max([])",
    "$sum([])",
    "lines.item ~> $join('-') ~> $uppercase()",
    "paid ? 'yes' : total > 100 ? 'much' : 'little'",
    "missing ? 'yes'",
    "missing ?? 'none'",
    "number ?: 'none'",
    # strings, regular expressions, unicode
    "number & '/' & missing & paid",
    "$substringAfter(number, '-')",
    "$pad(number, -10, '.')",
    "$trim('  a   b ')",
    "$split('a,b,c', ',')",
    "$uppercase(buyer.name)",
    "$length(emoji)",
    "$substring(emoji, 0, 1)",
    "$contains(number, /^a-\\d+$/i)",
    "$match(date, /(\\d+)-(\\d+)/)",
    "$replace(date, /(\\d+)-(\\d+)-(\\d+)/, '$3.$2.$1')",
    "$split(date, /-/)",
    "$base64encode('invoice')",
    "$base64decode('aW52b2ljZQ==')",
    "$encodeUrlComponent('a b/ö')",
    "$string(lines[1])",
    "$string([1.5, 2, null])",
    # numbers
    "0.1 + 0.2",
    "10 % 3",
    "$round(2.5) + $round(3.5)",
    "$round(4.525, 2)",
    "$floor(-1.5)",
    "$power(2, 10)",
    "$sqrt(2)",
    "$number('1e3')",
    "$formatNumber(1234.5, '#,##0.00')",
    "$formatBase(255, 16)",
    "$formatInteger(14, 'I')",
    "1 = 1.0",
    "-5 % 3",
    "1e21",
    "$string(1e-7)",
    "[1..0]",
    "[1..5]",
    # dates
    "$toMillis('2026-03-09T10:00:00.000Z')",
    "$fromMillis(1773050400000)",
    "$fromMillis(1773050400000, '[D1] [MNn] [Y0001]')",
    "$toMillis('09.03.2026', '[D01].[M01].[Y0001]')",
    # null and undefined
    "note",
    "note = null",
    "$type(note)",
    "$string(note)",
    "codes",
    "codes[0]",
    "codes ~> $count()",
    "$map(codes, function($c) {$type($c)})",
    "$filter(codes, function($c) {$c = null})",
    "empty",
    "empty.*",
    "[]",
    "missing = missing",
    # errors, for the same reason
    "'a' + 1",
    "-'a'",
    "$uppercase(1)",
    "$number('x')",
    "$undefined(1)",
    "$error('no')",
    "lines[price > 'x']",
    "{1: 2}",
    "$sum",
    "$toMillis('yesterday')",
    "$assert(false, 'no')",
    "$sort([3, 'a'])",
    "$eval('1 +')",
    "[1.5..3]",
    "$formatBase(10, 99)",
    "1e400",
    "(1",
    "number number",
    "$formatNumber(1, '#;#;#')",
]

# expression -> why the two do not agree
DIFFERENCES: dict[str, str] = {
    "big": "jsonatapy holds every number as a double",
    "huge": "jsonatapy holds every number as a double",
    "1 / 0": "jsonatapy writes what is no number as null, jsonata-python refuses it",
    "5.5 % 2": "jsonata-python rounds both sides first",
    "{'f': $sum}": "jsonatapy writes a function inside a result as an empty string",
    "$contains(number, /(?=A)/)": "jsonatapy's regular expressions are linear: no look-around",
    "/a/x": "jsonatapy takes an unknown flag for nothing",
    "number := 1": "jsonatapy finds this syntax error only at evaluation",
    "'x'()": "jsonata-python finds this syntax error only at evaluation",
    "1..3": "jsonatapy allows a range outside of brackets",
    "$clone(buyer)": "jsonatapy does not have it",
    "$now('[Y0001]') > '2000'": "jsonatapy's takes no picture",
    "$encodeUrl('http://a/b c')": "jsonatapy leaves a space as it is",
    "$trim('\u00a0x')": "jsonata-python does not count a no-break space as space",
}

BOUNDS = Bounds(time_s=5)


def outcome(expression: str, engine: Engine) -> object:
    """The value an engine yields, ``("nothing",)``, or ``("fails", reason)``."""
    try:
        text = compile_expression(expression, bounds=BOUNDS, engine=engine).evaluate(INVOICE)
    except TransformFailed as error:
        return ("fails", error.reason)
    return ("nothing",) if text is None else ("yields", msgspec.json.decode(text))


@pytest.mark.parametrize("expression", AGREED)
def test_the_engines_agree_on(expression: str) -> None:
    assert outcome(expression, "jsonatapy") == outcome(expression, "jsonata-python")


@pytest.mark.parametrize("expression", DIFFERENCES)
def test_a_known_difference_is_still_one(expression: str) -> None:
    assert outcome(expression, "jsonatapy") != outcome(expression, "jsonata-python")
