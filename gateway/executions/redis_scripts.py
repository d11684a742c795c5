"""The scripts of the Redis store: one for each call that changes something, and the larger reads.

Owns: what each of them takes in ``ARGV``, behind the prefix, and what it answers.
Does not know: how it is sent, what the answers are made into.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

from gateway.executions.redis_lua import PRELUDE


class Script:
    """A script as it is sent the first time, and the name that the server has for it then."""

    __slots__ = ("sha", "text")

    def __init__(self, body: str, prelude: str = PRELUDE) -> None:
        self.text = (prelude + body).encode()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()


#: kid, new (4). 1: made.
CREATE: Final = Script(r"""
if call('EXISTS', E(ARGV[2])) == 1 then return 0 end
make(ARGV[2], 3)
return 1
""")

#: owner, tag, after or '', limit. The fields of ``get``, of each.
LISTED: Final = Script(r"""
local key, from = P .. 'all:' .. ARGV[2], '+inf'
if ARGV[3] ~= '' then key = P .. 'tag:' .. ARGV[2] .. '/' .. ARGV[3] end
if ARGV[4] ~= '' then
  local n = call('HGET', E(ARGV[2] .. '/' .. ARGV[4]), 'n')
  if n then from = '(' .. n end
end
local found = {}
for i, kid in ipairs(call('ZREVRANGEBYSCORE', key, from, '-inf', 'LIMIT', 0, ARGV[5])) do
  found[i] = call('HMGET', E(kid), 'new', 'status', 'message', 'completed', 'duration', 'anew')
end
return found
""")

#: kid. 1: it was there.
DELETE: Final = Script(r"""
if call('EXISTS', E(ARGV[2])) == 0 then return 0 end
in_any_case()
remove(ARGV[2])
return 1
""")

#: kid, media ID, most, media, count, pieces. -1: there are so many.
ADD_MEDIA: Final = Script(r"""
local m, ids = P .. 'm:' .. ARGV[2], P .. 'mi:' .. ARGV[2]
if call('EXISTS', E(ARGV[2])) == 0 then return 0 end
if call('HEXISTS', m, ARGV[3]) == 1 then return 1 end
if call('LLEN', ids) >= tonumber(ARGV[4]) then return -1 end
call('HSET', m, ARGV[3], ARGV[5])
for i = 1, tonumber(ARGV[6]) do call('HSET', m, ARGV[3] .. '/' .. (i - 1), ARGV[6 + i]) end
call('RPUSH', ids, ARGV[3])
return 1
""")

#: kid, version it was, count, observation, deliveries. 0: no execution; -1: it has another version.
MERGE: Final = Script(r"""
if call('EXISTS', E(ARGV[2])) == 0 then return 0 end
if version(ARGV[2]) ~= ARGV[3] then return -1 end
observed(ARGV[2], 4)
deliver(5 + tonumber(ARGV[4]))
return 1
""")

#: kid, run, payload, at, most, new or not, new (4), media, count, pieces, deliveries. 0: no
#: execution; -1: full.
SUBMIT: Final = Script(r"""
local kid, rid = ARGV[2], ARGV[3]
local there = call('EXISTS', E(kid)) == 1
if not there and ARGV[7] == '' then return 0 end
if there and call('SISMEMBER', P .. 'ran:' .. kid, rid) == 1 then return 1 end
if call('ZCARD', P .. 'queued') >= tonumber(ARGV[6]) then return -1 end
if not there then make(kid, 8) end
local n = call('INCR', P .. 'numbers')
call('SADD', P .. 'ran:' .. kid, rid)
call('HSET', R(kid, rid), 'payload', ARGV[4], 'media', ARGV[12], 'at', ARGV[5], 'n', n)
for i = 1, tonumber(ARGV[13]) do call('HSET', R(kid, rid), 'p' .. (i - 1), ARGV[13 + i]) end
call('ZADD', P .. 'queued', n, kid .. '/' .. rid)
call('ZADD', P .. 'w:' .. kid, n, rid)
busy(kid)
offer(kid)
deliver(14 + tonumber(ARGV[13]))
tell(kid)
return 1
""")

#: holder, ticket, kid, run, at, new or not, new (4). Its turn; nothing: no execution.
BEGIN: Final = Script(r"""
local holder, ticket, kid, rid = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local there, r = call('EXISTS', E(kid)) == 1, R(kid, rid)
if revoked(holder, ticket) or (not there and ARGV[7] == '') then return false end
if there and call('SISMEMBER', P .. 'ran:' .. kid, rid) == 1 then
  local v = call('HMGET', r, 'turn', 'holder')
  if v[2] ~= holder then return false end
  call('HSET', r, 'ticket', ticket)
  return v[1]
end
if not there then make(kid, 8) end
call('SADD', P .. 'ran:' .. kid, rid)
call('HSET', r, 'at', ARGV[6], 'direct', '1', 'attempt', 1, 'made', there and '' or '1',
     'was', call('HGET', E(kid), 'status') or '', 'n', call('INCR', P .. 'numbers'))
local turn = take(kid, rid, holder, ticket, 'begin')
busy(kid)
tell(kid)
return tostring(turn)
""")

#: kid, new (4), status, completed_at, duration, message, count, events, count, observation,
#: deliveries.
RECORD: Final = Script(r"""
local kid, count = ARGV[2], tonumber(ARGV[11])
local found = 12 + count
if call('EXISTS', E(kid)) == 1 then return 0 end
make(kid, 3)
call('HSET', E(kid), 'turns', 1, 'duration', ARGV[9])
if count > 0 then log(kid, ARGV, 12, 11 + count, count) end
if ARGV[found] ~= '0' and ARGV[5] == '' then observed(kid, found) end
over(kid, ARGV[7], ARGV[8], ARGV[10])
deliver(found + 1 + tonumber(ARGV[found]))
return 1
""")

#: holder, ticket. A claim, or nothing.
CLAIM: Final = Script(r"""
if revoked(ARGV[2], ARGV[3]) then return false end
local first = call('ZRANGE', P .. 'ready', 0, 0)[1]
if not first then return false end
in_any_case()
local kid, rid = parts(first)
unqueue(kid, rid)
call('HSET', E(kid), 'busy', rid)
call('HINCRBY', R(kid, rid), 'attempt', 1)
take(kid, rid, ARGV[2], ARGV[3], 'claim')
return claim_of(kid, rid)
""")

#: When the next run to be claimed was queued; nothing where there is none.
NEXT_QUEUED: Final = Script(r"""
local first = call('ZRANGE', P .. 'ready', 0, 0)[1]
return first and call('HGET', P .. 'r:' .. first, 'at')
""")

#: kid, run, turn, status or '', most, first, count, events, deliveries. 0: superseded.
WRITE: Final = Script(r"""
local kid, rid, count = ARGV[2], ARGV[3], tonumber(ARGV[8])
if call('HGET', R(kid, rid), 'turn') ~= ARGV[4] then return 0 end
log_turn(kid, rid, tonumber(ARGV[7]), 9, count, tonumber(ARGV[6]))
if ARGV[5] ~= '' then
  call('HSET', R(kid, rid), 'status', ARGV[5])
  set_status(kid, ARGV[5])
end
deliver(9 + count)
tell(kid)
return 1
""")

#: kid, run, turn, version the observation was, status, completed_at, duration, message, most,
#: first, count, events, count, observation, deliveries. 0: superseded; -1: it has another version.
FINISH: Final = Script(r"""
local kid, rid, count = ARGV[2], ARGV[3], tonumber(ARGV[12])
local r, e, found = R(kid, rid), E(kid), 13 + count
local pieces = tonumber(ARGV[found])
if call('HGET', r, 'turn') ~= ARGV[4] then return 0 end
if pieces > 0 and version(kid) ~= ARGV[5] then return -1 end
in_any_case()
log_turn(kid, rid, tonumber(ARGV[11]), 13, count, tonumber(ARGV[10]))
local direct = call('HEXISTS', r, 'direct') == 1
let_go(kid, rid)
call('UNLINK', r)
if not direct then call('HDEL', e, 'busy') end
call('HSET', e, 'duration', ARGV[8])
call('HDEL', e, 'anew')
local others = by_runs(kid)
if pieces > 0 and (others or call('HEXISTS', e, 'transient') == 0) then observed(kid, found) end
if others then set_status(kid, others) else over(kid, ARGV[6], ARGV[7], ARGV[9]) end
if not direct then offer(kid) end
deliver(found + 1 + pieces)
tell(kid)
return 1
""")

#: kid, run, turn. 0: superseded; -1: it is a direct run, and has no place in the queue.
RELEASE: Final = Script(r"""
local r = R(ARGV[2], ARGV[3])
if call('HGET', r, 'turn') ~= ARGV[4] then return 0 end
if call('HEXISTS', r, 'direct') == 1 then return -1 end
in_any_case()
queue_again(ARGV[2], ARGV[3], -1)
return 1
""")

#: kid, at, event, deliveries. 0: no execution.
CANCEL: Final = Script(r"""
local kid = ARGV[2]
if call('EXISTS', E(kid)) == 0 then return 0 end
local waiting = call('ZRANGE', P .. 'w:' .. kid, 0, -1)
local taken = call('SMEMBERS', P .. 'a:' .. kid)
if #waiting + #taken == 0 then return 1 end
in_any_case()
for _, rid in ipairs(waiting) do
  unqueue(kid, rid)
  call('UNLINK', R(kid, rid))
end
for _, rid in ipairs(taken) do
  local r = R(kid, rid)
  call('HSET', r, 'cancel', '1')
  call('SADD', P .. 'stop:' .. call('HGET', r, 'holder'), kid .. '/' .. rid)
end
if #taken > 0 then
  set_status(kid, by_runs(kid))
  return 1
end
local event = string.format('%09d%012d', call('HINCRBY', E(kid), 'turns', 1), 1) .. ARGV[4]
log(kid, {event}, 1, 1, math.huge)
call('HSET', E(kid), 'duration', 0)
over(kid, 'CANCELLED', ARGV[3], '')
deliver(5)
tell(kid)
return 1
""")

#: kid.
ADOPT: Final = Script(r"""
local kid = ARGV[2]
for _, rid in ipairs(call('SMEMBERS', P .. 'a:' .. kid)) do
  local v = call('HMGET', R(kid, rid), 'direct', 'holder')
  if v[1] and v[2] then
    in_any_case()
    call('SADD', P .. 'keep:' .. v[2], kid .. '/' .. rid)
  end
end
""")

#: holder. All counts; its places and turns; those of them to be given up; those to go on.
BEAT: Final = Script(r"""
in_any_case()
call('HINCRBY', P .. 'beats', ARGV[2], 1)
return {call('HGETALL', P .. 'beats'), call('HGETALL', P .. 'hand:' .. ARGV[2]),
        call('SMEMBERS', P .. 'stop:' .. ARGV[2]), call('SMEMBERS', P .. 'keep:' .. ARGV[2])}
""")

#: holder, ticket, dead, beats, attempts at most. Claims; nothing: it lives, or is no more.
TAKE_OVER: Final = Script(r"""
local by, ticket, dead = ARGV[2], ARGV[3], ARGV[4]
if call('HGET', P .. 'beats', dead) ~= ARGV[5] or revoked(by, ticket) then return false end
in_any_case()
call('HDEL', P .. 'beats', dead)
local lost, held, n = {}, call('HKEYS', P .. 'hand:' .. dead), {}
for _, place in ipairs(held) do n[place] = tonumber(call('HGET', P .. 'r:' .. place, 'n')) end
table.sort(held, function(a, b) return n[a] < n[b] end)
for _, place in ipairs(held) do
  local kid, rid = parts(place)
  local r = R(kid, rid)
  local v = call('HMGET', r, 'direct', 'cancel', 'attempt')
  if v[1] or v[2] or tonumber(v[3]) >= tonumber(ARGV[6]) then
    let_go(kid, rid)
    take(kid, rid, by, ticket, 'lost')
    call('HSET', r, 'from', dead, 'beats', ARGV[5])
    lost[#lost + 1] = claim_of(kid, rid)
  else
    queue_again(kid, rid, 0)
  end
end
for _, id in ipairs(call('SMEMBERS', P .. 'dhand:' .. dead)) do put_down(id) end
call('UNLINK', P .. 'hand:' .. dead, P .. 'stop:' .. dead, P .. 'dhand:' .. dead,
     P .. 'void:' .. dead, P .. 'keep:' .. dead)
return lost
""")

#: holder, tickets. Undoes what calls with these tickets have put into the holder's hands, and sees
#: that none ever will: it may be on its way still. What was lost once is the dead holder's again.
UNDO: Final = Script(r"""
local holder, void, undone = ARGV[2], P .. 'void:' .. ARGV[2], {}
in_any_case()
for i = 3, #ARGV do
  undone[ARGV[i]] = true
  call('ZADD', void, call('INCR', P .. 'numbers'), ARGV[i])
end
call('ZREMRANGEBYRANK', void, 0, -10001)
call('HSETNX', P .. 'beats', holder, 0)
local held = call('HGETALL', P .. 'hand:' .. holder)
for i = 1, #held, 2 do
  local kid, rid = parts(held[i])
  local r = R(kid, rid)
  local v = call('HMGET', r, 'ticket', 'why', 'made', 'was', 'from', 'beats')
  if undone[v[1]] and v[2] == 'claim' then
    queue_again(kid, rid, -1)
  elseif undone[v[1]] and v[2] == 'lost' then
    let_go(kid, rid)
    take(kid, rid, v[5], '', 'lost')
    call('HSET', P .. 'beats', v[5], v[6])
  elseif undone[v[1]] then
    let_go(kid, rid)
    call('UNLINK', r)
    call('SREM', P .. 'ran:' .. kid, rid)
    local status = by_runs(kid) or v[4]
    if v[3] ~= '' and status == '' then
      remove(kid)
    else
      set_status(kid, status ~= '' and status)
      if OVER[status] then call('HDEL', E(kid), 'anew') end
      local w = call('HMGET', E(kid), 'completed', 'created')
      if OVER[status] or status == '' then call('ZADD', P .. 'idle', w[1] or w[2], kid) end
      may_pass(kid)
      tell(kid)
    end
  end
end
for _, id in ipairs(call('SMEMBERS', P .. 'dhand:' .. holder)) do
  if undone[call('HGET', P .. 'd:' .. id, 'ticket')] then put_down(id) end
end
return 1
""")

#: holder.
LEAVE: Final = Script(r"""
if call('EXISTS', P .. 'hand:' .. ARGV[2], P .. 'dhand:' .. ARGV[2]) == 0 then
  call('HDEL', P .. 'beats', ARGV[2])
  call('UNLINK', P .. 'void:' .. ARGV[2])
end
return 1
""")

#: kid, after, limit, bytes. Events, what is newest, what was dropped, the status.
EVENTS: Final = Script(r"""
local v = call('HMGET', E(ARGV[2]), 'n', 'newest', 'dropped', 'status')
if not v[1] then return false end
local from, left, bytes, some, found = '(' .. ARGV[3] .. '\255', tonumber(ARGV[4]), 0, 2, {}
local most, full = tonumber(ARGV[5]), false
while left > 0 and not full do
  local count = math.min(some, left)
  local more = call('ZRANGEBYLEX', P .. 'l:' .. ARGV[2], from, '+', 'LIMIT', 0, count)
  for _, event in ipairs(more) do
    if bytes >= most then break end
    found[#found + 1] = event
    bytes = bytes + #event
  end
  full = bytes >= most or #more < count
  from, left, some = '(' .. (more[#more] or ''), left - count, some * 2
end
v[1] = found
return v
""")

#: owner, ID, hook, most. 0: there are so many others.
PUT_HOOK: Final = Script(r"""
local hooks = P .. 'hooks:' .. ARGV[2]
if call('HEXISTS', hooks, ARGV[3]) == 0 and call('HLEN', hooks) >= tonumber(ARGV[5]) then
  return 0
end
call('HSET', hooks, ARGV[3], ARGV[4])
return 1
""")

#: owner, ID. 1: it was there.
DELETE_HOOK: Final = Script(r"""
if call('HDEL', P .. 'hooks:' .. ARGV[2], ARGV[3]) == 0 then return 0 end
for _, id in ipairs(call('SMEMBERS', P .. 'dh:' .. ARGV[2] .. '/' .. ARGV[3])) do drop(id) end
return 1
""")

#: deliveries.
ADD_DELIVERIES: Final = Script(r"""
deliver(2)
return 1
""")

#: holder, ticket, now, limit. Deliveries.
DUE: Final = Script(r"""
local holder, ticket, now, limit = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if revoked(holder, ticket) then return {} end
local found, at = call('ZRANGEBYSCORE', P .. 'due', '-inf', now, 'LIMIT', 0, limit), {}
for _, id in ipairs(found) do at[id] = true end
local early = call('ZRANGEBYSCORE', P .. 'set', '(' .. now, '+inf', 'LIMIT', 0, limit)
for _, id in ipairs(early) do
  if not at[id] then found[#found + 1] = id end
end
if #found == 0 then return {} end
for _, id in ipairs(found) do at[id] = tonumber(call('ZSCORE', P .. 'due', id)) end
table.sort(found, function(a, b) return at[a] < at[b] or (at[a] == at[b] and a < b) end)
in_any_case()
call('HSETNX', P .. 'beats', holder, 0)
local taken = {}
for i = 1, math.min(#found, tonumber(limit)) do
  local id = found[i]
  call('ZREM', P .. 'due', id)
  call('ZREM', P .. 'set', id)
  call('HSET', P .. 'd:' .. id, 'holder', holder, 'ticket', ticket)
  call('SADD', P .. 'dhand:' .. holder, id)
  taken[i] = call('HGET', P .. 'd:' .. id, 'what')
end
return taken
""")

#: ID, due, since, delivery.
PUT_OFF: Final = Script(r"""
local d = P .. 'd:' .. ARGV[2]
if call('EXISTS', d) == 0 then return 0 end
in_any_case()
call('HSET', d, 'due', ARGV[3], 'since', ARGV[4], 'what', ARGV[5])
put_down(ARGV[2])
return 1
""")

#: ID.
DELIVERED: Final = Script(r"""
drop(ARGV[2])
return 1
""")

#: before, transient_before, how many of each at most. How many.
EXPIRE: Final = Script(r"""
local gone = 0
for key, before in pairs({idle = ARGV[2], passing = ARGV[3]}) do
  local old = call('ZRANGEBYSCORE', P .. key, '-inf', '(' .. before, 'LIMIT', 0, ARGV[4])
  if #old > 0 then in_any_case() end
  for _, kid in ipairs(old) do
    if call('EXISTS', E(kid)) == 1 then gone = gone + 1 end
    remove(kid)
  end
end
return gone
""")
