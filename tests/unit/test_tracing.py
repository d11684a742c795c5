"""Spans as OTLP has them, and who is sampled."""

from __future__ import annotations

import asyncio

import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Written

from gateway.errors import Code, Outcome, UpstreamFailed
from gateway.tracing import Kind, Span, Tracing, evaluation
from gateway.tracing_context import parsed
from gateway.tracing_export import _resource, _span

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def headers(**given: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(given))


def begun(ended: list[Span], **given: str) -> Span:
    span, _ = Tracing(1.0, ended.append).begin(headers(**given), "GET")
    assert span is not None
    return span


def test_so_many_requests_are_sampled_as_the_ratio_says_and_the_same_ones_everywhere() -> None:
    ended: list[Span] = []
    quarter, half = Tracing(0.25, ended.append), Tracing(0.5, ended.append)
    seen = [quarter.begin(headers(), "GET") for _ in range(4000)]
    assert 800 < sum(span is not None for span, _ in seen) < 1200
    for span, carried in seen:
        context = parsed([carried["traceparent"]], [])
        assert context is not None
        assert context.sampled is (span is not None)
        assert half._sampled(context.trace_id) or span is None
    assert Tracing(1.0, ended.append).begin(headers(), "GET")[0] is not None
    assert Tracing(0.0, ended.append).begin(headers(), "GET")[0] is None


def test_a_span_is_written_down_with_all_that_it_says() -> None:
    ended: list[Span] = []
    root = begun(ended, traceparent=PARENT, tracestate="a=1")
    root.attributes.update(text="é\ud800", whole=3, part=0.5, yes=True)
    root.note("first event")
    root.end_with(UpstreamFailed("no", code=Code.UPSTREAM_UNREACHABLE))
    root.end_with(None)
    (span,) = ended
    written = Written.FromString(_span(span).SerializeToString())
    said = {each.key: each.value for each in written.attributes}
    assert said["text"].string_value == "é?"
    assert (said["whole"].int_value, said["part"].double_value) == (3, 0.5)
    assert said["yes"].bool_value is True
    assert written.trace_id.hex() in PARENT
    assert written.parent_span_id.hex() in PARENT
    assert (written.trace_state, written.kind, written.flags) == ("a=1", 2, 0x301)
    assert written.status.message == "upstream_unreachable"
    assert [event.name for event in written.events] == ["first event"]
    assert (
        written.start_time_unix_nano
        <= written.events[0].time_unix_nano
        <= written.end_time_unix_nano
    )


@pytest.mark.parametrize(
    ("error", "outcome", "fault"),
    [
        (None, "complete", None),
        (UpstreamFailed("x"), "upstream_error", "upstream_failed"),
        (ValueError(), "internal", "internal"),
        (ConnectionResetError(), "given_up", None),
        (asyncio.CancelledError(), "given_up", None),
        (GeneratorExit(), "given_up", None),
    ],
)
def test_how_a_part_ended_is_told(
    error: BaseException | None, outcome: str, fault: str | None
) -> None:
    ended: list[Span] = []
    part = begun(ended).child("part", Kind.INTERNAL, {})
    part.end_with(error)
    assert (part.attributes["gateway.outcome"], part.fault) == (outcome, fault)


def test_what_the_caller_is_to_blame_for_is_no_fault() -> None:
    root = begun([])
    root.told(Outcome.REJECTED, Code.NOT_FOUND)
    assert root.fault is None
    root.told(Outcome.UPSTREAM_ERROR, None)
    assert root.fault == "upstream_error"


def test_the_headers_of_a_part_are_its_own_and_take_the_place_of_others() -> None:
    root = begun([], traceparent=PARENT, tracestate="a=1")
    part = root.child("part", Kind.CLIENT, {})
    carried = part.carried({"x": "y", "traceparent": "old"})
    assert carried == {
        "x": "y",
        "traceparent": f"{PARENT[:36]}{part.span_id}-01",
        "tracestate": "a=1",
    }
    assert "tracestate" not in begun([]).carried({"tracestate": "of nobody"})


def test_where_nothing_is_traced_an_evaluation_is_just_made() -> None:
    with evaluation(None, "p", "client"):
        pass
    ended: list[Span] = []
    with evaluation(begun(ended), "p", "client"):
        pass
    assert [span.name for span in ended] == ["transform client"]


def test_the_environment_adds_to_what_is_said_of_the_process() -> None:
    given = {"OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=a%20b, x=1,,service.name=other"}
    said = {each.key: each.value.string_value for each in _resource("mine", given).attributes}
    assert (said["k8s.pod.name"], said["x"], said["service.name"]) == ("a b", "1", "mine")
    assert said["service.instance.id"]
    assert "x" not in {each.key for each in _resource("mine", {}).attributes}


def test_no_two_spans_have_the_same_id() -> None:
    root = begun([])
    parts = {root.child("part", Kind.INTERNAL, {}).span_id for _ in range(1000)}
    assert len(parts) == 1000
