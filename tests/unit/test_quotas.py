"""How much a key may ask for: what is counted, what is refused, what callers are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Code
from gateway.quotas import DAY_S, Here, Limit, Quota, Tally, Usage, fields, refusal

MINUTE = Quota("team", requests=3)
NOON = 20_000 * DAY_S + DAY_S / 2


def took(tally: Tally, quota: Quota, now: float, *, stream: bool = False) -> Usage:
    return tally.take(quota, stream=stream, now=now, wall=NOON)


def test_as_many_requests_pass_in_a_minute_as_are_allowed_and_no_more() -> None:
    tally = Tally()
    assert [took(tally, MINUTE, 10.0).refused for _ in range(5)] == [None] * 3 + [Limit.MINUTE] * 2


def test_each_request_counts_for_a_minute_from_its_own_moment() -> None:
    tally = Tally()
    for now in (0.0, 30.0, 59.0):
        assert took(tally, MINUTE, now).refused is None
    refused = took(tally, MINUTE, 59.5)
    assert refused.refused is Limit.MINUTE
    assert refused.minute_s == pytest.approx(0.6)
    assert took(tally, MINUTE, 60.2).refused is None
    again = took(tally, MINUTE, 60.2)
    assert again.minute_s == pytest.approx(29.9)
    assert took(tally, MINUTE, 90.2).refused is None


@given(
    st.lists(st.floats(0, 90), min_size=1, max_size=60),
    st.integers(1, 8),
)
def test_no_minute_wherever_it_begins_has_more_requests_than_are_allowed(
    pauses: list[float], most: int
) -> None:
    tally, quota = Tally(), Quota("team", requests=most)
    now, passed = 0.0, [-1000.0]
    for pause in pauses:
        now += pause / most
        usage = took(tally, quota, now)
        recent = [each for each in passed if each > now - 60]
        if usage.refused is None:
            passed.append(now)
            assert len(recent) < most
        else:
            # Refused is only what would go over, but for the tenth that the window moves by.
            assert len([each for each in passed if each > now - 60.2]) >= most
            assert took(tally, quota, now + usage.minute_s + 1e-6).refused is None
            now += usage.minute_s + 1e-6
            passed.append(now)


def test_where_the_limit_was_higher_before_it_is_told_when_enough_have_left() -> None:
    tally = Tally()
    for now in (0.0, 10.0, 20.0):
        took(tally, MINUTE, now)
    lower = took(tally, Quota("team", requests=1), 30.0)
    assert lower.refused is Limit.MINUTE
    assert lower.minute_s == pytest.approx(50.1)


def test_streams_count_until_they_end() -> None:
    tally, quota = Tally(), Quota("team", streams=1)
    assert took(tally, quota, 0.0, stream=True).refused is None
    assert took(tally, quota, 0.0, stream=True).refused is Limit.STREAMS
    assert took(tally, quota, 0.0).refused is None
    tally.end_stream()
    assert took(tally, quota, 0.0, stream=True).refused is None


def test_bytes_are_refused_once_they_are_used_up_until_the_day_ends() -> None:
    tally, quota = Tally(), Quota("team", bytes=100)
    for size, refused in ((99, None), (500, None), (0, Limit.DAY)):
        assert tally.take(quota, stream=False, now=0.0, wall=NOON).refused is refused
        tally.add(size, NOON)
    usage = tally.take(quota, stream=False, now=0.0, wall=NOON)
    assert (usage.bytes, usage.day_s) == (599, DAY_S / 2)
    tomorrow = tally.take(quota, stream=False, now=0.0, wall=NOON + DAY_S / 2)
    assert (tomorrow.refused, tomorrow.bytes, tomorrow.day_s) == (None, 0, DAY_S)


def test_a_refused_request_counts_for_nothing() -> None:
    tally = Tally()
    quota = Quota("team", requests=2, streams=1)
    assert took(tally, quota, 0.0, stream=True).refused is None
    assert took(tally, quota, 0.0, stream=True).refused is Limit.STREAMS
    assert took(tally, quota, 0.0).refused is None
    assert took(tally, quota, 0.0, stream=True).refused is Limit.MINUTE
    assert took(tally, quota, 0.0).requests == 2


def test_the_head_tells_of_every_limit_and_of_what_is_left_of_it() -> None:
    quota = Quota("team", 600, 5, 10**6)
    usage = Usage(None, 588, 29.2, 2, 10**6 + 1, 3600.0)
    assert fields(quota, usage) == (
        'RateLimit-Policy: "minute";q=600;w=60, "streams";q=5;qu="concurrent-requests", '
        '"day";q=1000000;qu="content-bytes";w=86400\r\n'
        'RateLimit: "minute";r=12;t=30, "streams";r=3, "day";r=0;t=3600\r\n'
    )
    only = Quota("team", streams=5)
    assert fields(only, usage).endswith('RateLimit: "streams";r=3\r\n')
    only = Quota("team", bytes=5)
    assert fields(only, usage).endswith('RateLimit: "day";r=0;t=3600\r\n')
    assert Quota("team", 1, None, 3).limits == (Limit.MINUTE, Limit.DAY)
    assert Quota("team").limits == ()


@pytest.mark.parametrize(
    ("limit", "words", "after_s"),
    [
        (
            Limit.MINUTE,
            'the key "team" may make 600 requests a minute (requests_per_minute_max); '
            "try again in 30 s",
            29.2,
        ),
        (Limit.STREAMS, 'the key "team" may have 5 streams open at once (streams_max)', 5.0),
        (
            Limit.DAY,
            'the key "team" has moved the 7 bytes of this day, UTC (bytes_per_day_max); '
            "try again in 3600 s",
            3600.0,
        ),
    ],
)
def test_a_refusal_names_the_limit_and_the_keys_name_and_says_when_to_come_back(
    limit: Limit, words: str, after_s: float
) -> None:
    error = refusal(Quota("team", 600, 5, 7), Usage(limit, 600, 29.2, 5, 8, 3600.0))
    assert (error.message, error.retry_after_s) == (words, after_s)
    assert (error.code, error.status, error.retryable) == (Code.RATE_LIMITED, 429, True)


async def test_one_process_counts_by_the_clocks_that_it_is_given() -> None:
    now = [0.0]
    here = Here({"team": Tally()}, clock=lambda: now[0], wall=lambda: NOON)
    quota = Quota("team", requests=1, streams=1, bytes=10)
    first = await here.take(quota, stream=True)
    assert (await here.take(quota, stream=True)).usage.refused is Limit.MINUTE
    first.end(4)
    now[0] = 61.0
    second = await here.take(quota, stream=True)
    assert (second.usage.refused, second.usage.bytes) == (None, 4)
    plain = Quota("team", requests=2)
    third = await here.take(plain, stream=False)
    third.end(100)
    now[0] = 130.0
    assert (await here.take(Quota("team", bytes=10), stream=False)).usage.bytes == 4
