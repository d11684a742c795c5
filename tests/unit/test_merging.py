"""Adding to observations comes to the same wherever it is done."""

from __future__ import annotations

import pytest

from gateway.errors import RequestRejected
from gateway.executions.merging import APART_BYTES, appended
from gateway.observation import append

SMALL = b'{"mediaContents":[{"mediaId":"a","rawText":"one"}]}'
LARGE = b'{"mediaContents":[{"mediaId":"a","rawText":"%s"}]}' % (b"x" * APART_BYTES)
#: Longer than what a pipe holds.
BAD = b'{"mediaContents":' + b"1" * APART_BYTES + b"}"


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("first", [SMALL, LARGE])
@pytest.mark.parametrize("second", [SMALL, LARGE])
def test_what_two_observations_come_to(first: bytes, second: bytes, replace: bool) -> None:
    assert appended(first, second, replace=replace) == append(first, second, replace=replace)


@pytest.mark.parametrize(("first", "second"), [(SMALL, b"[1]"), (SMALL, BAD), (BAD, SMALL)])
def test_what_is_no_observation_is_refused_in_the_same_words(first: bytes, second: bytes) -> None:
    with pytest.raises(RequestRejected) as here:
        append(first, second)
    with pytest.raises(RequestRejected) as apart:
        appended(first, second, replace=False)
    assert apart.value.message == here.value.message
