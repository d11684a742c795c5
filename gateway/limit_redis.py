"""What keys ask for, counted in a Redis that all workers and replicas share.

A request is decided by one script, in one round trip: Redis runs it whole, so that however many ask
at once, exactly as many get through as may. The time is that server's, one for all. A stream holds
a lease, which its process renews; a process that was killed renews nothing, and its streams are
free after ``LEASE_S``. Bytes are known when a request has ended, and go with the next question of
that key, or alone a moment later.

While Redis does not answer, or takes nothing in, every request is decided at once as ``when_away``
says, so that nobody waits for it. Once a second it is asked whether it would take something; where
it would, it is first told which streams are open, and which have ended.

Owns: the scripts, the leases, what becomes of requests while Redis is away.
Does not know: which requests count, what callers are told.

The keys, each behind ``pipeline-gateway:limits:``, NAME being a key's name.

    b:NAME c:NAME   the tenths of a second in which there were requests, the newest first; how many
    s:NAME          the streams that are open, by the end of their leases, Unix milliseconds
    d:NAME:DAY      the bytes of a day
    there           nothing: written to see whether anything is taken
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any, Final, Literal

from gateway import logs
from gateway.errors import StoreFailed
from gateway.executions.redis_scripts import Script
from gateway.executions.redis_wire import Unsure, Wire
from gateway.quotas import DAY_S, STEP_MS, STEPS, Limit, Quota, Taken, Usage
from gateway.tallies import Gauge

#: How long a stream's lease lasts, and how long a question may take, seconds.
LEASE_S: Final = 30.0
ANSWER_S: Final = 1.0
#: How often a Redis that is away is asked again, and what else is due is looked after, seconds.
_LOOK_S: Final = 1.0
#: How long bytes wait for another question that they could go with, seconds.
_TOGETHER_S: Final = 0.1
#: So many leases are renewed at once.
_RENEWED: Final = 1000
_PREFIX: Final = "pipeline-gateway:limits:"
_REFUSED: Final = (None, Limit.MINUTE, Limit.STREAMS, Limit.DAY)

_PRELUDE: Final = rf"""
local P, call, STEPS, DAY = ARGV[1], redis.call, {STEPS}, {DAY_S}
local time = call('TIME')
local now, ms = tonumber(time[1]), time[1] * 1000 + math.floor(time[2] / 1000)

local function move(name, size)
  local d = P .. 'd:' .. name .. ':' .. math.floor(now / DAY)
  if size == 0 then return tonumber(call('GET', d) or 0) end
  local moved = call('INCRBY', d, size)
  if moved == size then call('EXPIRE', d, DAY * 2) end
  return moved
end
"""

#: name, most requests, most streams, most bytes (each -1: any), a stream's ID or '', its lease in
#: ms, bytes that were moved, ms of a step. Which limit is reached, 0 for none; requests; the ms
#: that the oldest of them stays; streams; bytes; the seconds of the day that are left.
TAKE: Final = Script(
    r"""
local name, id = ARGV[2], ARGV[6]
local requests, streams, bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local b, c, s = P .. 'b:' .. name, P .. 'c:' .. name, P .. 's:' .. name
local refused, used, wait, open, moved = 0, 0, 0, 0, 0
local STEP = tonumber(ARGV[9])
local step = math.floor(ms / STEP)

local function leaves(at) return (at + STEPS + 1) * STEP - ms end

if streams >= 0 then
  call('ZREMRANGEBYSCORE', s, '-inf', ms)
  open = call('ZCARD', s)
  if id ~= '' and open >= streams then refused = 2 end
end
if requests >= 0 then
  local newest = tonumber(call('LINDEX', b, 0) or step)
  if newest > step + STEPS then  -- the clock has gone back so far that nothing says anything
    call('UNLINK', b, c)
  elseif newest > step then
    step = newest
  end
  used = tonumber(call('HGET', c, 'all') or 0)
  local oldest = call('LINDEX', b, -1)
  while oldest and tonumber(oldest) < step - STEPS do
    used = used - (call('HGET', c, oldest) or 0)
    call('HSET', c, 'all', used)
    call('HDEL', c, oldest)
    call('RPOP', b)
    oldest = call('LINDEX', b, -1)
  end
  if not oldest then  -- one of the two may have been evicted
    call('UNLINK', c)
    used = 0
  end
  wait = leaves(oldest or step)
  if used >= requests then
    refused = 1
    local left = used
    for i = 1, call('LLEN', b) do
      local at = call('LINDEX', b, -i)
      left = left - (call('HGET', c, at) or 0)
      wait = leaves(at)
      if left < requests then break end
    end
  end
end
if bytes >= 0 then
  moved = move(name, tonumber(ARGV[8]))
  if moved >= bytes then refused = 3 end
end
if refused == 0 then
  if requests >= 0 then
    used = call('HINCRBY', c, 'all', 1)
    if call('HINCRBY', c, step, 1) == 1 then call('LPUSH', b, step) end
    call('PEXPIRE', b, STEP * STEPS * 3)
    call('PEXPIRE', c, STEP * STEPS * 3)
  end
  if id ~= '' then
    call('ZADD', s, ms + ARGV[7], id)
    call('PEXPIRE', s, ARGV[7] * 2)
    open = open + 1
  end
end
return {refused, used, wait, open, moved, DAY - now % DAY}
""",
    _PRELUDE,
)

#: a lease in ms, then of each stream the key's name and its ID.
RENEW: Final = Script(
    r"""
for i = 3, #ARGV, 2 do
  local s = P .. 's:' .. ARGV[i]
  call('ZADD', s, ms + ARGV[2], ARGV[i + 1])
  call('PEXPIRE', s, ARGV[2] * 2)
end
""",
    _PRELUDE,
)

#: A PING would be answered also by a Redis that is full, or that only copies another.
LOOK: Final = Script("call('SET', P .. 'there', ms, 'PX', 60000)", _PRELUDE)

#: name, bytes, streams that have ended.
END: Final = Script(
    r"""
if tonumber(ARGV[3]) > 0 then move(ARGV[2], tonumber(ARGV[3])) end
for i = 4, #ARGV do call('ZREM', P .. 's:' .. ARGV[2], ARGV[i]) end
""",
    _PRELUDE,
)


class _TakenThere:
    """See ``Taken``."""

    __slots__ = ("_counts", "_quota", "_stream", "usage")

    def __init__(self, usage: Usage, counts: RedisCounts, quota: Quota, stream: str) -> None:
        self.usage = usage
        self._counts = counts
        self._quota = quota
        self._stream = stream

    def end(self, size: int) -> None:
        self._counts.ended(self._quota, size, self._stream)


class RedisCounts:
    """Counts for all processes that share a Redis: see ``Counting``.

    Args:
        url: ``redis://HOST:PORT/NUMBER``, or ``rediss://`` with TLS.
        when_away: what becomes of requests while it does not answer.
        up: 1 while it answers.
        clock: monotonic seconds.
        lease_s: how long the streams of a process that was killed count.
        step_ms: how long each of the steps is that the window of requests moves by.
        answer_s: how long a question may take.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None,
        password: str | None,
        when_away: Literal["allow", "refuse"],
        up: Gauge,
        clock: Callable[[], float],
        lease_s: float = LEASE_S,
        step_ms: int = STEP_MS,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._wire = Wire(
            url,
            username=username,
            password=password,
            prefix=_PREFIX,
            what="the store of limits",
            answer_s=answer_s,
        )
        self._refuses = when_away == "refuse"
        self._up = up
        self._clock = clock
        self._lease_s = lease_s
        self._step_ms = step_ms
        self._ids = map((uuid.uuid4().hex + "-{}").format, count())
        #: The streams that are open, and the names of their keys.
        self._open: dict[str, str] = {}
        #: Bytes that Redis has not been told of, by the names of keys.
        self._moved: defaultdict[str, int] = defaultdict(int)
        self._telling: dict[str, asyncio.TimerHandle] = {}
        #: Streams that are over, of which Redis could not be told, by the names of keys.
        self._over: defaultdict[str, set[str]] = defaultdict(set)
        self._away = False
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def __str__(self) -> str:
        return "the store of limits"

    def start(self) -> None:
        """Look after leases from now on."""
        self._looking = asyncio.create_task(self._look())

    async def take(self, quota: Quota, *, stream: bool) -> Taken | None:
        """See ``Counting``."""
        if self._away:
            self._refuse()
            return None
        name, stream_id = quota.key, next(self._ids) if stream else ""
        moved = self._moved.pop(name, 0)
        asked = self._wire.script(
            TAKE,
            name,
            -1 if quota.requests is None else quota.requests,
            -1 if quota.streams is None else quota.streams,
            -1 if quota.bytes is None else quota.bytes,
            stream_id,
            round(self._lease_s * 1000),
            moved,
            self._step_ms,
        )
        try:
            # A stream that is given up meanwhile may be counted all the same.
            answer = await (asyncio.shield(asked) if stream else asked)
        except StoreFailed as error:
            self._gone(error, name, moved, *(stream_id,) * stream)
            self._refuse()
            return None
        except asyncio.CancelledError:
            if stream:
                asked.add_done_callback(lambda _: self.ended(quota, 0, stream_id))
            raise
        refused, requests, wait_ms, streams, moved, day_s = answer
        limit = _REFUSED[refused]
        usage = Usage(limit, requests, wait_ms / 1000, streams, moved, day_s)
        if stream and limit is None:
            self._open[stream_id] = name
        return _TakenThere(usage, self, quota, stream_id)

    def ended(self, quota: Quota, size: int, stream_id: str) -> None:
        """A request has ended; ``stream_id``: ``""`` where it was no stream."""
        name = quota.key
        if quota.bytes is not None and size:
            self._moved[name] += size
            if name not in self._telling:
                later = asyncio.get_running_loop().call_later
                self._telling[name] = later(_TOGETHER_S, self._tell, name)
        if stream_id:
            self._open.pop(stream_id, None)
            self._tell(name, stream_id)

    async def close(self) -> None:
        """Let go of the leases and the connections. None is taken any more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        for name in {*self._open.values(), *self._moved}:
            self._tell(name, *(each for each, its in self._open.items() if its == name))
        self._closed = True
        await self._wire.close()

    # Away, and there again

    def _refuse(self) -> None:
        """Refuse what nobody can know of, where it is to be refused."""
        if self._refuses:
            raise StoreFailed("the store of limits cannot be reached", retry_after_s=_LOOK_S)

    def _gone(self, error: StoreFailed, name: str = "", moved: int = 0, *stream_ids: str) -> None:
        """Redis did not answer. It was to be told of ``moved`` bytes of ``name``, and of these
        streams, none of which is open."""
        self._over[name].update(stream_ids)
        if moved and not isinstance(error, Unsure):  # else it may have counted them
            self._moved[name] += moved
        if not self._away:
            meanwhile = "refused" if self._refuses else "let through, and not counted"
            fields = {"error": error.message, "requests_of_limited_keys": meanwhile}
            logs.events.error("the store of limits does not answer", extra={"fields": fields})
        self._away = True
        self._up.labels().set(0)

    def _there(self) -> None:
        if self._away:
            self._away = False
            logs.events.info("the store of limits answers again")
        self._up.labels().set(1)
        over, self._over = self._over, defaultdict(set)
        for name in {*over, *self._moved}:
            self._tell(name, *over[name])

    # What is told without being asked

    def _tell(self, name: str, *stream_ids: str) -> None:
        """Tell Redis what has ended. Where that fails, leases end by themselves."""
        if (timer := self._telling.pop(name, None)) is not None:
            timer.cancel()
        if self._closed:
            return
        if self._away:  # bytes stay where they are
            self._over[name].update(stream_ids)
            return
        moved = self._moved.pop(name, 0)
        if not moved and not stream_ids:
            return
        told = self._wire.script(END, name, moved, *stream_ids)

        def note(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and isinstance(error := done.exception(), StoreFailed):
                self._gone(error, name, moved, *stream_ids)

        told.add_done_callback(note)

    async def _look(self) -> None:
        known, due = False, 0.0
        while True:
            now = self._clock()
            back = self._away or not known
            try:
                if back:
                    await self._wire.script(LOOK)
                if self._open and (back or now >= due):
                    await self._renew()
                    due = now + self._lease_s / 3
                if back:
                    known = True
                    self._there()
            except StoreFailed as error:
                self._gone(error)
            await asyncio.sleep(min(_LOOK_S, self._lease_s / 6))

    async def _renew(self) -> None:
        renewed = list(self._open.items())
        for start in range(0, len(renewed), _RENEWED):
            some = renewed[start : start + _RENEWED]
            words = [word for stream_id, name in some for word in (name, stream_id)]
            await self._wire.script(RENEW, round(self._lease_s * 1000), *words)
            # What ended meanwhile may have been told on another connection, and sooner.
            for stream_id, name in some:
                if stream_id not in self._open:
                    self._tell(name, stream_id)
