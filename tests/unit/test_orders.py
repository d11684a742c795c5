"""What a run was asked for, kept and read again."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.dialects import cambrion
from gateway.dialects.wire import Origin
from gateway.executions import orders
from gateway.model import Media, Request

EVERYTHING = Request(
    pipeline="invoice",
    request_id="r-1",
    text="grüße",
    context="c",
    media=(Media("media-1", b"\xff" * 1000, "image/png", "a.png"),),
    observation=b'{"documents": [ ]}',
    execution_id="e-1",
    tag="t",
    parameters={"depth": 10**40, "nested": [{"a": None, "b": 1.5}]},
    meta={"number": -(2**70)},
    transient=True,
    idempotent=True,
    try_image_conversion=True,
    try_simple_text=True,
    transform="$",
    stream=True,
    headers={"accept-language": "de"},
    key="team",
    hook_ids=("h-1",),
)


def test_a_request_comes_back_as_it_was_with_numbers_of_any_size() -> None:
    payload = orders.written(EVERYTHING)
    assert orders.read(payload, EVERYTHING.media) == EVERYTHING
    assert orders.read(payload, ()) == replace(EVERYTHING, media=())


def test_files_are_no_part_of_what_is_kept_of_a_request() -> None:
    assert len(orders.written(EVERYTHING)) < 1000


def test_a_request_as_the_dialect_makes_it_can_be_kept() -> None:
    request = cambrion.parse_request(Origin("invoice", "r-1"), b'{"text":"x"}')
    assert orders.read(orders.written(request), ()) == replace(request, parameters={})
