"""Clients' expressions in their child processes: what the gateway notices of the worst of them."""

from __future__ import annotations

import asyncio
import os
import resource

import msgspec
import pytest

from gateway.errors import Code, Outcome, RequestRejected, TransformFailed
from gateway.transform import Engine
from tests.support.sandboxes import (
    ENDLESS,
    ENGINES,
    GAP_S_MAX,
    GROWTH_BYTES_MAX,
    LATE_S_MAX,
    MIB,
    TIME_S,
    Watch,
    child_pids,
    page_faults,
    running,
)
from tests.support.timing import Stopwatch, every_time

pytestmark = [
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.filterwarnings("error::ResourceWarning"),
]


REDOS = ("$contains(data, /^(a+)+$/)", b'{"data": "' + b"a" * 40 + b'!"}')

BOMBS: list[tuple[str, str, bytes, set[str]]] = [
    ("endless tail calls", ENDLESS, b"{}", {"time"}),
    ("endless calls", "($f := function($n) {1 + $f($n)}; $f(1))", b"{}", {"depth"}),
    ("padding", "$length($pad('', 300000000, 'x'))", b"{}", {"memory", "time"}),
    (
        "doubling",
        "($d := function($s, $n) {$n = 0 ? $s : $d($s & $s, $n - 1)}; $length($d('x', 33)))",
        b"{}",
        {"memory", "time"},
    ),
    (
        "splitting a padded string",
        "$count($split($pad('', 20000000, 'x'), ''))",
        b"{}",
        {"memory", "time"},
    ),
    ("cross product", "[1..10000].([1..10000])", b"{}", {"memory", "time", "sequence"}),
    ("long range", "[1..10000000] ~> $count()", b"{}", {"sequence"}),
    ("huge output", "$pad('', 17000000, 'x')", b"{}", {"output", "memory", "time"}),
    ("deep brackets", "(" * 60_000, b"{}", {"syntax", "time"}),
    ("deep sum", "1+" * 30_000 + "1", b"{}", {"syntax", "time"}),
    ("deep input", "$", b"[" * 1_000_000 + b"]" * 1_000_000, {"depth", "evaluation", "time"}),
    ("evaluated text", f'$eval("{ENDLESS}")', b"{}", {"time"}),
    (
        "large input",
        "$string($)",
        b'["' + b'","'.join([b"x" * 99] * 200_000) + b'"]',
        {"output", "memory", "time"},
    ),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("expression", "text", "reasons"),
    [bomb[1:] for bomb in BOMBS],
    ids=[bomb[0] for bomb in BOMBS],
)
@every_time
async def test_a_bomb_is_answered_in_time_and_nobody_else_notices(
    engine: Engine, expression: str, text: bytes, reasons: set[str]
) -> None:
    async with running(engine=engine) as sandbox:
        async with Watch() as watch:
            answered = Stopwatch(family=True)
            with pytest.raises(TransformFailed) as caught:
                await sandbox.evaluate(expression, text)
            elapsed_s = answered.passed_s()
            assert await sandbox.evaluate("a + 1", b'{"a": 1}') == b"2"
        assert elapsed_s < TIME_S + LATE_S_MAX
        assert watch.gap_s < GAP_S_MAX
        assert watch.growth_bytes < GROWTH_BYTES_MAX
    error = caught.value
    assert error.reason in reasons
    assert error.by_client
    assert error.status == 400
    assert error.outcome is Outcome.REJECTED


async def test_a_pattern_that_backtracks_without_end_is_linear_in_the_default_engine() -> None:
    async with running() as sandbox:
        assert await sandbox.evaluate(*REDOS) == b"false"


@every_time
async def test_a_pattern_that_backtracks_without_end_is_killed_in_the_other_engine() -> None:
    async with running(engine="jsonata-python") as sandbox:
        before = child_pids(os.getpid())
        async with Watch() as watch:
            answered = Stopwatch(family=True)
            with pytest.raises(TransformFailed) as caught:
                await sandbox.evaluate(*REDOS)
            elapsed_s = answered.passed_s()
            assert await sandbox.evaluate("1", b"{}") == b"1"
        assert caught.value.message == "D1012: the expression ran longer than 0.3 s"
        assert elapsed_s < TIME_S + LATE_S_MAX
        assert watch.gap_s < GAP_S_MAX
        assert child_pids(os.getpid()).isdisjoint(before)


async def test_an_ordinary_overrun_costs_no_process() -> None:
    # The engine's own limit comes first, by so little that a busy machine may turn it round.
    async with running() as sandbox:
        for _ in range(5):
            before = child_pids(os.getpid())
            with pytest.raises(TransformFailed) as caught:
                await sandbox.evaluate(ENDLESS, b"{}")
            assert caught.value.message == "D1012: the expression ran longer than 0.3 s"
            assert await sandbox.evaluate("1", b"{}") == b"1"
            if child_pids(os.getpid()) == before:
                break
        else:
            pytest.fail("every overrun cost a process")


async def test_an_overrun_that_the_engine_does_not_watch_for_is_killed() -> None:
    async with running(engine_timed=False) as sandbox:
        before = child_pids(os.getpid())
        with pytest.raises(TransformFailed) as caught:
            await sandbox.evaluate(ENDLESS, b"{}")
        assert caught.value.message == "D1012: the expression ran longer than 0.3 s"
        assert await sandbox.evaluate("1", b"{}") == b"1"
        assert child_pids(os.getpid()).isdisjoint(before)


async def test_an_evaluation_finds_the_memory_that_the_one_before_has_let_go_of() -> None:
    text = msgspec.json.encode([{"id": str(n), "pages": [n] * 9} for n in range(4000)])
    async with running(time_s=10) as sandbox:
        (pid,) = child_pids(os.getpid())
        faults = []
        for _ in range(8):
            before = page_faults(pid)
            assert await sandbox.evaluate("$sum($.pages)", text) == b"71982000"
            faults.append(page_faults(pid) - before)
        assert child_pids(os.getpid()) == {pid}
    # The first ones also load what they need.
    assert min(faults) * resource.getpagesize() < len(text) / 2


@every_time
async def test_several_bombs_at_once_leave_every_other_expression_its_turn() -> None:
    async with running(processes=2, waiting_max=32) as sandbox:
        async with Watch() as watch:
            results = await asyncio.gather(
                *(sandbox.evaluate("$length($pad('', 300000000, 'x'))", b"{}") for _ in range(4)),
                *(sandbox.evaluate(f"a + {n}", b'{"a": 1}') for n in range(10)),
                return_exceptions=True,
            )
        assert [type(result) for result in results[:4]] == [TransformFailed] * 4
        assert results[4:] == [str(n + 1).encode() for n in range(10)]
        assert watch.gap_s < GAP_S_MAX


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_memory_bound_is_what_the_configuration_says(engine: Engine) -> None:
    async with running(engine=engine, memory_bytes_max=64 * MIB, time_s=5) as sandbox:
        assert await sandbox.evaluate("$length($pad('', 5000000, 'x'))", b"{}") == b"5000000"
        with pytest.raises(TransformFailed) as caught:
            await sandbox.evaluate("$length($pad('', 100000000, 'x'))", b"{}")
        assert caught.value.reason == "memory"
        assert caught.value.message == "the expression needs more than 64 MiB of memory"
        with pytest.raises(TransformFailed) as caught:
            await sandbox.evaluate("1", b'"' + b"x" * 80_000_000 + b'"')
        assert caught.value.reason == "memory"
        assert await sandbox.evaluate("1", b"{}") == b"1"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("expression", "text", "result"),
    [
        ("a", b'{"a": {"b": [1, null, "\xc3\xb6"]}}', '{"b":[1,null,"ö"]}'.encode()),
        ("b", b'{"a": 1}', None),
        ("a", b'{"a": null}', b"null"),
        ("$key & '@' & $pipeline", b"{}", b'"ocr@invoice"'),
        ("'λ' & a", b'{"a": "\xf0\x9f\x98\x80"}', '"λ😀"'.encode()),
    ],
)
async def test_an_expression_yields_json_or_nothing(
    engine: Engine, expression: str, text: bytes, result: bytes | None
) -> None:
    async with running(engine=engine) as sandbox:
        bindings = {"key": "ocr", "pipeline": "invoice"}
        assert await sandbox.evaluate(expression, text, bindings) == result


@pytest.mark.parametrize(
    ("expression", "text", "code", "reason", "message"),
    [
        ("a b", b"{}", "transform_invalid", "syntax", "S0201: Syntax error: b (line 1, column 3)"),
        (
            "{\n  'a': (b\n}",
            b"{}",
            "transform_invalid",
            "syntax",
            "S0202: Expected ), got } (line 3, column 1)",
        ),
        (
            "a.\ud800",
            b"{}",
            "transform_invalid",
            "syntax",
            "the expression holds a lone surrogate (line 1, column 3)",
        ),
        ("$error('no')", b"{}", "transform_failed", "evaluation", "D3137: no"),
        ("$", b"\xff", "transform_failed", "evaluation", "the input is not UTF-8"),
        (
            "$sum",
            b"{}",
            "transform_failed",
            "result",
            "the expression yields a function, which is not JSON",
        ),
        (
            "[1..1000001]",
            b"{}",
            "transform_limit",
            "sequence",
            "D2015: the expression made more than 1000000 items",
        ),
    ],
)
async def test_a_failure_is_the_clients_own_and_says_what_is_wrong(
    expression: str, text: bytes, code: str, reason: str, message: str
) -> None:
    async with running() as sandbox:
        with pytest.raises(TransformFailed) as caught:
            await sandbox.evaluate(expression, text)
    error = caught.value
    assert (error.status, error.code, error.reason, error.message) == (400, code, reason, message)
    assert error.by_client


async def test_an_expression_longer_than_its_bound_is_refused_unread() -> None:
    async with running(expression_bytes_max=10) as sandbox:
        assert await sandbox.evaluate("'12345678'", b"{}") == b'"12345678"'
        with pytest.raises(RequestRejected) as caught:
            await sandbox.evaluate("'ä2345678'", b"{}")
    assert caught.value.code is Code.TOO_LARGE
    assert caught.value.message == "the transform has 11 bytes; at most 10 are allowed"


@every_time
async def test_a_result_of_the_whole_bound_comes_back_whole_and_the_loop_goes_on() -> None:
    text = msgspec.json.encode([f"{n:096}" for n in range(100_000)])
    async with running(time_s=5, output_bytes_max=len(text)) as sandbox, Watch() as watch:
        assert await sandbox.evaluate("$", text) == text
    assert watch.gap_s < GAP_S_MAX


async def test_expressions_side_by_side_get_each_its_own_answer() -> None:
    async with running(processes=2, waiting_max=100) as sandbox:
        answers = await asyncio.gather(
            *(sandbox.evaluate("n * 2", msgspec.json.encode({"n": n})) for n in range(100))
        )
    assert answers == [str(n * 2).encode() for n in range(100)]


async def test_what_an_expression_assigns_is_gone_for_the_next_client() -> None:
    async with running(engine="jsonata-python") as sandbox:
        assert await sandbox.evaluate("$secret := 'mine'", b"{}") == b'"mine"'
        assert await sandbox.evaluate("$secret", b"{}") is None
