"""A client that follows an execution of a gateway to its end, whatever becomes of the connection.

Each event has its place in the execution's log. Where the connection breaks, or the gateway starts
anew, the rest is asked for behind the last that was told; so none is told twice, and none is left
out without a word.

Owns: asking again, how often and for how long, and knowing when the execution has ended.
Does not know: what is in an event but for a status, how anything is shown.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote

import msgspec

from gateway.calling import Place, answered, asked, frames
from gateway.errors import STATUS, Code, RequestRejected, UpstreamFailed
from gateway.executions.records import BEGINNING, EventId, Status, event_id

#: A gateway gives a sign of life every ``server.heartbeat_s``, 15 unless configured. Where it does
#: so more rarely and is taken for silent, nothing is lost.
SILENT_S: Final = 90.0
_BACKOFF_S: Final = 0.2
_BACKOFF_S_MAX: Final = 10.0
#: A connection that stood for so long does not count among failures in a row, seconds.
_STOOD_S: Final = 5.0
#: How long it is asked again whether anything follows an end that was told already, seconds.
_AFTER_END_S: Final = 5.0


class Told(NamedTuple):
    """An event, as its JSON text."""

    id: EventId
    data: bytes


class Missed(NamedTuple):
    """Events between these two places are no longer kept."""

    after: EventId
    before: EventId


class Broken(NamedTuple):
    """The gateway cannot be heard any more, for the reason ``why``; it is asked again."""

    why: str


class Back(NamedTuple):
    """It can be heard again, and goes on behind the event ``after``."""

    after: EventId


class Ended(NamedTuple):
    """The execution has ended; the last news. ``told``: an event has said so."""

    status: Status
    message: str | None
    told: bool


class Lost(NamedTuple):
    """The gateway was asked again for as long as was allowed; the last news."""

    why: str


News: TypeAlias = Told | Missed | Broken | Back | Ended | Lost


class _Kind(msgspec.Struct):
    type: str


class _State(msgspec.Struct):
    status: Status | None = None
    message: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self.status is not None and self.status.ended


async def follow(
    place: Place,
    execution_id: str,
    *,
    give_up_s: float,
    known: bool = False,
    silent_s: float = SILENT_S,
) -> AsyncGenerator[News, None]:
    """What happens to an execution, from the beginning of what is kept, until it has ended.

    Args:
        give_up_s: how long the gateway is asked again after it was heard last, seconds.
        known: the gateway has just said that there is such an execution; so it is asked again also
            where the first connection fails.
        silent_s: a gateway that gives no sign of life for so long is asked again, seconds.

    Raises UpstreamFailed where the first connection fails, or asking again cannot help."""
    following = _Following(place, execution_id, give_up_s, silent_s, known)
    async with aclosing(following.news()) as news:
        async for each in news:
            yield each


class _Following:
    def __init__(
        self, place: Place, execution_id: str, give_up_s: float, silent_s: float, known: bool
    ) -> None:
        self._place = place
        self._target = f"/v1/executions/{quote(execution_id, safe='')}"
        self._give_up_s = give_up_s
        self._silent_s = silent_s
        self._last = BEGINNING
        self._state = _State()
        self._heard = known
        self._heard_at = time.monotonic()
        self._failures = 0
        self._broken = False
        self._from_start = True
        # Behind which event it was when the gateway said that the execution has ended.
        self._ended_behind: EventId | None = None

    async def news(self) -> AsyncGenerator[News, None]:
        while True:
            began = time.monotonic()
            try:
                async with aclosing(self._stream()) as stream:
                    async for each in stream:
                        yield each
                ending = self._ending(await self._now())
                if ending is not None:
                    if self._state.ended or self._ended_behind == self._last:
                        yield ending
                        return
                    # It has ended meanwhile: there may be more to tell, so once again.
                    self._ended_behind = self._last
                    continue
                why, wait_s = "the gateway has ended the stream, not the execution", None
            except UpstreamFailed as error:
                if error.status == STATUS[Code.GONE] and not self._from_start:
                    # Not all behind the last event is kept: what is kept is asked for whole.
                    self._from_start = True
                    continue
                if not (self._heard and error.retryable):
                    raise
                why, wait_s = error.message, error.retry_after_s
            stood = time.monotonic() - began > _STOOD_S
            self._failures = 1 if stood else self._failures + 1
            delay_s = self._delay_s(wait_s)
            if time.monotonic() + delay_s - self._heard_at > self._patience_s():
                yield self._ending(self._state) or Lost(why)
                return
            if not self._broken:
                self._broken = True
                yield Broken(why)
            await asyncio.sleep(delay_s)

    async def _stream(self) -> AsyncGenerator[News, None]:
        """The news of one connection, which ends between two events. Raises UpstreamFailed."""
        last = "" if self._from_start else str(self._last)
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        target = f"{self._target}/events"
        asking = answered(self._place, "GET", target, headers=headers, silent_s=self._silent_s)
        async with asking as response, aclosing(frames(self._place, response, last)) as stream:
            self._heard, self._heard_at = True, time.monotonic()
            if self._broken:
                self._broken = False
                yield Back(self._last)
            if response.status == HTTPStatus.NO_CONTENT:
                return  # it has ended, and nothing follows the last event
            try:
                async for frame in stream:
                    if not frame.last_event_id:
                        continue  # no event of the log: what a gateway says that has to stop
                    at = event_id(frame.last_event_id)
                    if at <= self._last:
                        continue
                    if at.number > (self._last.number if at.turn == self._last.turn else 0) + 1:
                        yield Missed(self._last, at)
                    self._last = at
                    self._from_start = False
                    self._failures = 0
                    self._learn(frame.data)
                    yield Told(at, frame.data)
            except RequestRejected as error:
                raise UpstreamFailed(f"{self._place.url}: {error.message}", status=500) from error
            finally:
                self._heard_at = time.monotonic()

    def _learn(self, data: bytes) -> None:
        if b"EXECUTION_STATUS" in data and _kind(data) == "EXECUTION_STATUS":
            try:
                self._state = msgspec.json.decode(data, type=_State)
            except msgspec.DecodeError as error:
                raise UpstreamFailed(f"a status cannot be read: {error}", status=500) from error

    async def _now(self) -> _State:
        """How the execution is, after a stream has ended: a gateway that stops ends its streams as
        well. Raises UpstreamFailed."""
        try:
            answer = await asked(self._place, "GET", self._target, silent_s=self._silent_s)
            return msgspec.json.decode(answer, type=_State)
        except msgspec.DecodeError as error:
            raise UpstreamFailed(f"an execution cannot be read: {error}") from error
        except UpstreamFailed as error:
            if error.retryable or not self._state.ended:
                raise
            return self._state  # it is no longer kept

    def _ending(self, state: _State) -> Ended | None:
        if state.status is None or not state.status.ended:
            return None
        return Ended(state.status, state.message, told=state.status == self._state.status)

    def _delay_s(self, wait_s: float | None) -> float:
        longest_s = min(_BACKOFF_S * 2.0 ** min(self._failures, 16), _BACKOFF_S_MAX)
        # Many that were cut off at once do not come back at once.
        return max(longest_s * random.uniform(0.5, 1.0), wait_s or 0.0)  # noqa: S311

    def _patience_s(self) -> float:
        return min(self._give_up_s, _AFTER_END_S) if self._state.ended else self._give_up_s


def _kind(data: bytes) -> str | None:
    try:
        return msgspec.json.decode(data, type=_Kind).type
    except msgspec.DecodeError:
        return None
