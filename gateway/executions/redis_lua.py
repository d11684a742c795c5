"""What the scripts of the Redis store have in common: its keys, and what moves together in them.

Every script is one call of the store: Redis runs it whole, with nothing in between. None asks for
the time, none sets a time to live, and none judges by how long anything has been idle: those are
the server's wall clock, which jumps, and what is lost by it would be somebody's work.

There is no stream of runs with a consumer group, because a run that was released, was taken over or
had to wait for the one before it goes back to the place that it had, and a stream only ever gets
longer at its end. Its idle times would be the server's wall clock once more. ``ready`` is a sorted
set by the number with which a run was accepted; who has what in its hands is in ``hand:HOLDER``.

The keys, each behind the store's prefix. An execution's name is ``OWNER/ID``, a run's place
``OWNER/ID/RUN``: no owner and no ID has a slash.

    e:NAME        the execution: new (its New), transient (what is left of that in the end), status,
                  turns, busy (the queued run in hands) …
    o:NAME        its observation, where that is long, in pieces
    m:NAME mi:NAME   its media by their ID; their IDs in order
    l:NAME        its log: 21 digits, the event's ID, and its text; ordered by its letters
    w:NAME a:NAME ran:NAME   its runs: waiting, by number; in hands; all that there ever were
    r:PLACE       a run: payload, media, n (its number), attempt; turn, holder, ticket when in hands
    queued ready  all runs that wait; those of them that may be claimed
    beats         every holder's count
    hand:HOLDER stop:HOLDER   its runs and their turns; those of them that are to be given up
    void:HOLDER   tickets of calls that are not to happen any more, should they be on their way
    d:ID due set  a delivery; when they are due; since when
    do:NAME dh:OWNER/HOOK dhand:HOLDER   deliveries of an execution, of a hook, in hands
    hooks:OWNER   its webhooks
    all:OWNER tag:OWNER/TAG   its executions in the order in which they were made
    idle passing  executions of which no run is queued or running, by their end; transient ones
    statuses bytes numbers   how many have each status; the size of all logs; the next number

Owns: these keys, what is written to several of them at once.
Does not know: which calls there are (``redis_scripts``), how they are sent (``redis_wire``).
"""

from __future__ import annotations

from typing import Final

#: Before every script. ``ARGV[1]`` is the prefix.
PRELUDE: Final = r"""
local P, call = ARGV[1], redis.call
local OVER = {COMPLETED = true, FAILED = true, CANCELLED = true}

local function E(kid) return P .. 'e:' .. kid end
local function R(kid, rid) return P .. 'r:' .. kid .. '/' .. rid end
local function parts(place) return string.match(place, '^([^/]*/[^/]*)/(.*)$') end
local function owner_of(kid) return string.match(kid, '^[^/]*') end

-- Where memory is full, a script is refused at its first write or not at all, and a first write
-- that only removes never is. What makes room, or shows who lives, begins with this.
local function in_any_case() call('UNLINK', P .. 'none') end

-- Executions

local function make(kid, i)
  local n, e, owner = call('INCR', P .. 'numbers'), E(kid), owner_of(kid)
  call('HSET', e, 'new', ARGV[i], 'created', ARGV[i + 1], 'n', n)
  if ARGV[i + 2] ~= '' then call('HSET', e, 'transient', ARGV[i + 2]) end
  call('ZADD', P .. 'all:' .. owner, n, kid)
  if ARGV[i + 3] ~= '' then
    call('HSET', e, 'tag', ARGV[i + 3])
    call('ZADD', P .. 'tag:' .. owner .. '/' .. ARGV[i + 3], n, kid)
  end
  call('ZADD', P .. 'idle', ARGV[i + 1], kid)
end

local function untag(kid)
  local tag = call('HGET', E(kid), 'tag')
  if not tag then return end
  call('ZREM', P .. 'tag:' .. owner_of(kid) .. '/' .. tag, kid)
  call('HDEL', E(kid), 'tag')
end

local function set_status(kid, status)
  local e = E(kid)
  local was = call('HGET', e, 'status')
  if was == status then return end
  if was then call('HINCRBY', P .. 'statuses', was, -1) end
  if status then
    call('HSET', e, 'status', status)
    call('HINCRBY', P .. 'statuses', status, 1)
  else
    call('HDEL', e, 'status')
  end
end

local function unlist(kid)
  call('ZREM', P .. 'idle', kid)
  call('ZREM', P .. 'passing', kid)
end

-- One more run: how the one before ended is told no more, but may have to be again.
local function busy(kid)
  local status = call('HGET', E(kid), 'status')
  unlist(kid)
  if OVER[status] then call('HSET', E(kid), 'anew', '1') end
  if status ~= 'RUNNING' then set_status(kid, 'QUEUED') end
end

-- A transient execution may go when nothing of it waits to be delivered any more.
local function may_pass(kid)
  local v = call('HMGET', E(kid), 'transient', 'status', 'completed')
  if v[1] and OVER[v[2]] and call('SCARD', P .. 'do:' .. kid) == 0 then
    call('ZADD', P .. 'passing', v[3], kid)
  end
end

local function forget_observation(kid)
  call('UNLINK', P .. 'o:' .. kid)
  call('HDEL', E(kid), 'observation', 'pieces')
end

-- What is found in ARGV[i + 1 .. i + ARGV[i]]: one piece, or those of a long one.
local function observed(kid, i)
  local e, count = E(kid), tonumber(ARGV[i])
  call('HINCRBY', e, 'version', 1)  -- the first write, which is refused where memory is full
  forget_observation(kid)
  if count == 1 then
    call('HSET', e, 'observation', ARGV[i + 1])
  else
    for j = i + 1, i + count do call('RPUSH', P .. 'o:' .. kid, ARGV[j]) end
    call('HSET', e, 'pieces', count)
  end
end

local function over(kid, status, at, message)
  local e = E(kid)
  call('HSET', e, 'completed', at, 'message', message)
  call('HDEL', e, 'anew')
  set_status(kid, status)
  call('ZADD', P .. 'idle', at, kid)
  local bare = call('HGET', e, 'transient')
  if bare then
    call('HSET', e, 'new', bare)
    untag(kid)
    call('UNLINK', P .. 'm:' .. kid, P .. 'mi:' .. kid)
    forget_observation(kid)
    may_pass(kid)
  end
end

local function version(kid) return call('HGET', E(kid), 'version') or '0' end

-- What the runs of an execution make its status; nothing where there are none.
local function by_runs(kid)
  local taken = call('SMEMBERS', P .. 'a:' .. kid)
  for _, rid in ipairs(taken) do
    local status = call('HGET', R(kid, rid), 'status')
    if status == 'RUNNING' then return status end
  end
  if #taken > 0 or call('EXISTS', P .. 'w:' .. kid) == 1 then return 'QUEUED' end
  return false
end

-- Tells who waits for news how far the log is, and whether nothing follows.
local function tell(kid)
  local v = call('HMGET', E(kid), 'newest', 'status')
  call('PUBLISH', P .. 'news:' .. kid, (v[1] or '') .. '|' .. (OVER[v[2]] and '1' or ''))
end

-- The log

local function log(kid, events, from, to, keep)
  local l, e = P .. 'l:' .. kid, E(kid)
  local bytes, newest = 0, call('HGET', e, 'newest') or ''
  for i = from, to do
    if call('ZADD', l, 0, events[i]) == 1 then bytes = bytes + #events[i] - 21 end
    local id = string.sub(events[i], 1, 21)
    if id > newest then newest = id end
  end
  local more = call('ZCARD', l) - keep
  if more > 0 then
    local gone = call('ZRANGE', l, 0, more - 1)
    for _, event in ipairs(gone) do bytes = bytes - #event + 21 end
    call('ZREMRANGEBYRANK', l, 0, more - 1)
    call('HSET', e, 'dropped', string.sub(gone[#gone], 1, 21))
  end
  call('HSET', e, 'newest', newest)
  call('HINCRBY', e, 'bytes', bytes)
  call('INCRBY', P .. 'bytes', bytes)
end

-- The events of a turn in ARGV[from .. from + count - 1], less those that were written before.
local function log_turn(kid, rid, first, from, count, keep)
  local last = tonumber(call('HGET', R(kid, rid), 'last') or 0)
  local known = math.max(0, last - first + 1)
  if known < count then
    log(kid, ARGV, from + known, from + count - 1, keep)
    call('HSET', R(kid, rid), 'last', first + count - 1)
  end
end

-- Deliveries

local function deliver(i)
  for j = i + 1, i + 6 * tonumber(ARGV[i]), 6 do
    local id, kid, hook, due, since = unpack(ARGV, j, j + 4)
    local d = P .. 'd:' .. id
    if call('EXISTS', d) == 0 then
      call('HSET', d, 'of', kid, 'hook', hook, 'due', due, 'since', since, 'what', ARGV[j + 5])
      call('ZADD', P .. 'due', due, id)
      call('ZADD', P .. 'set', since, id)
      call('SADD', P .. 'do:' .. kid, id)
      call('SADD', P .. 'dh:' .. hook, id)
      call('ZREM', P .. 'passing', kid)
    end
  end
end

local function drop(id)
  local d = P .. 'd:' .. id
  local v = call('HMGET', d, 'of', 'hook', 'holder')
  if not v[1] then return end
  call('UNLINK', d)
  call('ZREM', P .. 'due', id)
  call('ZREM', P .. 'set', id)
  call('SREM', P .. 'do:' .. v[1], id)
  call('SREM', P .. 'dh:' .. v[2], id)
  if v[3] then call('SREM', P .. 'dhand:' .. v[3], id) end
  may_pass(v[1])
end

local function put_down(id)
  local d = P .. 'd:' .. id
  local v = call('HMGET', d, 'due', 'since', 'holder')
  if v[3] then call('SREM', P .. 'dhand:' .. v[3], id) end
  call('HDEL', d, 'holder', 'ticket')
  call('ZADD', P .. 'due', v[1], id)
  call('ZADD', P .. 'set', v[2], id)
end

-- Runs

local function revoked(holder, ticket)
  return call('ZSCORE', P .. 'void:' .. holder, ticket)
end

local function offer(kid)
  if call('HEXISTS', E(kid), 'busy') == 1 then return end
  local first = call('ZRANGE', P .. 'w:' .. kid, 0, 0, 'WITHSCORES')
  if first[1] then
    call('ZADD', P .. 'ready', first[2], kid .. '/' .. first[1])
    call('PUBLISH', P .. 'wake', '')
  end
end

local function unqueue(kid, rid)
  local place = kid .. '/' .. rid
  call('ZREM', P .. 'ready', place)
  call('ZREM', P .. 'queued', place)
  call('ZREM', P .. 'w:' .. kid, rid)
end

local function take(kid, rid, holder, ticket, why)
  local r, place = R(kid, rid), kid .. '/' .. rid
  local turn = call('HINCRBY', E(kid), 'turns', 1)
  call('HDEL', r, 'last')
  call('HSET', r, 'turn', turn, 'holder', holder, 'ticket', ticket, 'why', why)
  call('SADD', P .. 'a:' .. kid, rid)
  call('HSETNX', P .. 'beats', holder, 0)
  call('HSET', P .. 'hand:' .. holder, place, turn)
  if call('HEXISTS', r, 'cancel') == 1 then call('SADD', P .. 'stop:' .. holder, place) end
  return turn
end

local function let_go(kid, rid)
  local holder, place = call('HGET', R(kid, rid), 'holder'), kid .. '/' .. rid
  call('SREM', P .. 'a:' .. kid, rid)
  if holder then
    call('HDEL', P .. 'hand:' .. holder, place)
    call('SREM', P .. 'stop:' .. holder, place)
    call('SREM', P .. 'keep:' .. holder, place)
  end
end

local function queue_again(kid, rid, attempts)
  local r = R(kid, rid)
  let_go(kid, rid)
  call('HDEL', r, 'turn', 'holder', 'ticket', 'why', 'last', 'status')
  call('HINCRBY', r, 'attempt', attempts)
  local n = call('HGET', r, 'n')
  call('ZADD', P .. 'queued', n, kid .. '/' .. rid)
  call('ZADD', P .. 'w:' .. kid, n, rid)
  call('HDEL', E(kid), 'busy')
  set_status(kid, by_runs(kid))
  offer(kid)
end

local function claim_of(kid, rid)
  local v = call('HMGET', R(kid, rid), 'turn', 'attempt', 'payload', 'media', 'at', 'direct')
  return {kid .. '/' .. rid, v[1], v[2], v[3] or '', v[4] or '', v[5], v[6] or ''}
end

local function remove(kid)
  local bytes = call('HGET', E(kid), 'bytes') or 0
  for _, rid in ipairs(call('ZRANGE', P .. 'w:' .. kid, 0, -1)) do
    call('UNLINK', R(kid, rid))
    unqueue(kid, rid)
  end
  for _, rid in ipairs(call('SMEMBERS', P .. 'a:' .. kid)) do
    let_go(kid, rid)
    call('UNLINK', R(kid, rid))
  end
  set_status(kid, false)
  untag(kid)
  call('UNLINK', E(kid), P .. 'o:' .. kid, P .. 'm:' .. kid, P .. 'mi:' .. kid, P .. 'l:' .. kid,
       P .. 'w:' .. kid, P .. 'a:' .. kid, P .. 'ran:' .. kid)
  for _, id in ipairs(call('SMEMBERS', P .. 'do:' .. kid)) do drop(id) end
  unlist(kid)
  call('ZREM', P .. 'all:' .. owner_of(kid), kid)
  call('DECRBY', P .. 'bytes', bytes)
  call('PUBLISH', P .. 'news:' .. kid, '|1')
end
"""
