"""What the two vocabularies tell of themselves."""

from __future__ import annotations

import json

import pytest

from gateway.model import (
    Delta,
    Event,
    Frames,
    LayerFinished,
    LayerStarted,
    Media,
    ObservationReady,
    RawEvent,
    Request,
    is_content,
    layered_view,
)


@pytest.mark.parametrize(
    ("event", "content"),
    [
        (LayerStarted("0", "Executing layer 0..."), False),
        (Delta("a", "x", "0"), True),
        (Delta("a", "", "0", finished=True), False),
        (LayerFinished("0", ()), False),
        (LayerFinished("1", (), last=True), True),
        (ObservationReady(b"{}"), True),
        (RawEvent(b'{"type":"TOOL_CALL"}'), True),
        (Frames(b": ping\n\n", 0), False),
        (Frames(b"data: {}\n\n", 1), True),
    ],
)
def test_content_is_what_was_asked_for_not_news_of_the_run(event: Event, content: bool) -> None:
    assert is_content(event) is content


def test_an_actor_sees_the_request_twice_and_the_finished_layers() -> None:
    request = Request("p", "r-1", text="hi", media=(Media("media-1", b"abc", "image/png"),))
    layers = b'[{"layerId":"0","responses":[],"observations":[]}]'
    view = json.loads(layered_view(request, layers))
    fields = {
        "pipeline": "p",
        "text": "hi",
        "media": [{"id": "media-1", "contentType": "image/png", "size": 3}],
    }
    assert view == {**fields, "request": fields, "layers": json.loads(layers)}


def test_a_file_is_shown_without_its_bytes() -> None:
    assert (
        repr(Media("media-1", b"secret", "text/plain")) == "Media('media-1', 6 bytes, 'text/plain')"
    )
