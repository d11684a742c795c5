"""What counts as a trace that a caller is in, and what of it goes on."""

from __future__ import annotations

import pytest

from gateway.tracing_context import Context, parsed, passed_on, written

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"


def test_what_was_written_is_read_again() -> None:
    for sampled in (True, False):
        text = written(TRACE, SPAN, sampled=sampled)
        assert parsed([text], []) == Context(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        GIVEN.upper(),
        GIVEN + " ",
        GIVEN + "-more",  # of version 00, which has no more
        GIVEN + "x",
        "cc" + GIVEN[2:] + "x",
        "ff" + GIVEN[2:],
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        GIVEN + "\n",
    ],
)
def test_what_is_malformed_is_as_none(text: str) -> None:
    assert parsed([text], ["a=1"]) is None


@pytest.mark.parametrize("more", ["", "-", "-what-will-be"])
def test_a_later_version_is_read_as_far_as_it_is_known(more: str) -> None:
    assert parsed(["cc" + GIVEN[2:] + more], []) == Context(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("02", False), ("03", True)])
def test_of_the_flags_only_that_of_sampling_counts(flags: str, sampled: bool) -> None:
    assert parsed([GIVEN[:-2] + flags], []) == Context(TRACE, SPAN, sampled)


def test_a_trace_that_is_there_twice_or_not_at_all_is_none() -> None:
    assert parsed([], ["a=1"]) is None
    assert parsed([GIVEN, GIVEN], []) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        ([], ""),
        (["a=1"], "a=1"),
        (["a=1", "b=2"], "a=1,b=2"),
        ([" a=1 ,,\tb=2"], "a=1,b=2"),
        (["tenant@vendor=x y!"], "tenant@vendor=x y!"),
        (["1t@v=x"], "1t@v=x"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["1=1"], ""),
        (["a="], ""),
        (["a"], ""),
        (["a=1=2"], ""),
        (["a=é"], ""),
        (["a=\x01"], ""),
        ([",".join(f"k{number}=1" for number in range(32))], None),
        ([",".join(f"k{number}=1" for number in range(33))], ""),
        (["a=" + "x" * 256], None),
        (["a=" + "x" * 257], ""),
        ([",".join(f"k{number}=" + "x" * 250 for number in range(9))], ""),
    ],
)
def test_a_state_goes_along_where_it_is_good_and_not_too_long(
    states: list[str], kept: str | None
) -> None:
    context = parsed([GIVEN], states)
    assert context is not None
    assert context.state == (",".join(states) if kept is None else kept)


def test_what_is_passed_on_is_what_came_within_bounds() -> None:
    assert passed_on([GIVEN], ["a=1", "b=2"]) == {"traceparent": GIVEN, "tracestate": "a=1,b=2"}
    assert passed_on(["whatever"], []) == {"traceparent": "whatever"}
    assert passed_on([GIVEN], ["x" * 2049]) == {"traceparent": GIVEN}
    assert passed_on([GIVEN], ["é"]) == {"traceparent": GIVEN}
    for parents in ([], [""], ["a", "b"], ["x" * 257], ["é"], ["a\x01"]):
        assert passed_on(parents, ["a=1"]) == {}
