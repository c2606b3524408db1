-- One step of one owner: what it asks for is done as a whole, in its order. `clock` stands before this text.
--
-- KEYS[1]  what all keys begin with; it holds the hash tag, so that a cluster keeps all of them in one place.
--          The other keys are made here: which period runs is known by the server's clock alone.
-- ARGV[1]  JSON: {owner, seq, lease, accounts, running, ops}. What is unknown is `false`.
--
-- Money is counted in nanodollars and stays text here: Lua's numbers would lose digits on the way back.

local base, asked = KEYS[1], cjson.decode(ARGV[1])
local owner = asked.owner
local now = clock()
local second, hour = math.floor(now), math.floor(now / 3600)
local DAY = 86400
local MINUTE, FORGET = 60, 180

local OWNERS = base .. ':owners'
local SEAT = base .. ':owner:' .. owner

-- Money ---------------------------------------------------------------------------------------------------

-- Seconds that the amounts of a period are kept after they last changed.
local KEPT = {hour = 2 * DAY, day = 4 * DAY, month = 70 * DAY, total = 400 * DAY}

local function day_of_month(days)  -- days since 1970, by the Gregorian calendar
  local z = days + 719468
  local doe = z % 146097
  local yoe = math.floor(
    (doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local month = math.floor((5 * doy + 2) / 153)
  return doy - math.floor((153 * month + 2) / 5) + 1
end

local function first_hour(period, at)
  if period == 'hour' then return at end
  if period == 'day' then return at - at % 24 end
  if period == 'total' then return 0 end
  local days = math.floor(at / 24)
  return (days - day_of_month(days) + 1) * 24
end

local function purse(period, at)
  return string.format('%s:money:%s:%.0f', base, period, first_hour(period, at))
end

-- `what`: s for settled, r for reserved. An empty model or task stands for all.
local function slot(what, model, task)
  return what .. #model .. ':' .. model .. ':' .. task
end

local function book(what, at, model, task, units)
  local slots = {slot(what, '', ''), slot(what, model, '')}
  if task ~= '' then
    slots[3], slots[4] = slot(what, '', task), slot(what, model, task)
  end
  for period, kept in pairs(KEPT) do
    local key = purse(period, at)
    for _, name in ipairs(slots) do
      local sum = redis.call('HINCRBY', key, name, units)
      if sum <= 0 then redis.call('HDEL', key, name) end
    end
    redis.call('EXPIRE', key, kept)
  end
end

local function sums(account, at)
  local model, task = account[2], account[3]
  local found = redis.call('HMGET', purse(account[1], at), slot('s', model, task), slot('r', model, task))
  return found[1] or '0', found[2] or '0'
end

local function held_by(name) return base .. ':held:' .. name end

local function hold(key, at, units, model, task)
  redis.call('HSET', held_by(owner), key, cjson.encode({string.format('%.0f', at), units, model, task}))
  redis.call('EXPIRE', held_by(owner), KEPT.total)
  book('r', at, model, task, units)
end

-- Takes a reservation back. Returns the hour it was made in; nil if there is none.
local function release(name, key)
  local found = redis.call('HGET', held_by(name), key)
  if not found then return nil end
  local at, units, model, task = unpack(cjson.decode(found))
  redis.call('HDEL', held_by(name), key)
  book('r', tonumber(at), model, task, '-' .. units)
  return tonumber(at)
end

-- What those who will wait keep from those behind them in this step, by budget.
local kept = {}

local function reserve(key, units, model, task, covering, waits)
  if redis.call('HEXISTS', held_by(owner), key) == 1 then return {-1} end
  for _, place in ipairs(covering) do
    local account = asked.accounts[place + 1]
    local settled, reserved = sums(account, hour)
    local left = tonumber(account[4]) - tonumber(settled) - tonumber(reserved)
    if (kept[place] or 0) + tonumber(units) > left then
      if waits and tonumber(units) <= tonumber(account[4]) - tonumber(settled) then
        for _, which in ipairs(covering) do kept[which] = (kept[which] or 0) + tonumber(units) end
      end
      return {0, place, settled, reserved}
    end
  end
  hold(key, hour, units, model, task)
  return {1}
end

local function settle(key, units, model, task, at)
  local made = key ~= '' and release(owner, key) or at or hour
  if units then book('s', made, model, task, units) end
  return {1}
end

-- Reserves what a server that lost it has forgotten, whatever the budgets have left: it is being spent.
local function hold_again(key, units, model, task, at)
  if redis.call('HEXISTS', held_by(owner), key) == 0 then hold(key, at or hour, units, model, task) end
  return {1}
end

-- Frees what this owner does not know of any more: a server that was restored may remember too much.
local function only(keys)
  local known = {}
  for _, key in ipairs(keys) do known[key] = true end
  for _, key in ipairs(redis.call('HKEYS', held_by(owner))) do
    if not known[key] then release(owner, key) end
  end
  return {1}
end

-- Limits --------------------------------------------------------------------------------------------------

local function sent_to(model) return base .. ':sent:' .. model end
local function places_of(model) return base .. ':places:' .. model end
local function under_way(name) return base .. ':running:' .. name end

local function run(model, running)
  if running > 0 then
    redis.call('HSET', places_of(model), owner, running)
    redis.call('HSET', under_way(owner), model, running)
    redis.call('EXPIRE', places_of(model), DAY)
    redis.call('EXPIRE', under_way(owner), KEPT.total)
  else
    redis.call('HDEL', places_of(model), owner)
    redis.call('HDEL', under_way(owner), model)
  end
end

local function running_of(model)
  return tonumber(redis.call('HGET', under_way(owner), model) or '0')
end

-- Requests and tokens that count now, and the seconds they were sent in. A second's count for a minute
-- after it has ended; those of a clock that was ahead count for nothing.
local function sent(model)
  local requests, tokens, seconds, old = 0, 0, {}, {}
  local found = redis.call('HGETALL', sent_to(model))
  for place = 1, #found, 2 do
    local at, number = tonumber(string.sub(found[place], 2)), tonumber(found[place + 1])
    if at < second - 2 * MINUTE then
      old[#old + 1] = found[place]
    elseif at >= second - MINUTE and at <= second + MINUTE then
      seconds[at] = seconds[at] or {0, 0}
      if string.sub(found[place], 1, 1) == 'r' then
        requests = requests + number
        seconds[at][1] = number
      else
        tokens = tokens + number
        seconds[at][2] = number
      end
    end
  end
  for _, name in ipairs(old) do redis.call('HDEL', sent_to(model), name) end
  return requests, tokens, seconds
end

-- Milliseconds until so many requests and tokens have left the minute.
local function room_in(seconds, requests, tokens)
  if requests <= 0 and tokens <= 0 then return 0 end
  local order = {}
  for at in pairs(seconds) do order[#order + 1] = at end
  table.sort(order)
  local free_at = now
  for _, at in ipairs(order) do
    if requests <= 0 and tokens <= 0 then break end
    requests, tokens = requests - seconds[at][1], tokens - seconds[at][2]
    free_at = at + 1 + MINUTE
  end
  return math.max(math.ceil((free_at - now) * 1000), 10)
end

-- How many of the first of these may go as far as one limit is concerned, and what it was sent before.
local function room(limit, wanted)
  local rpm, tpm, places = limit[2], limit[3], limit[4]
  local requests, tokens, seconds = sent(limit[1])
  local free = math.huge
  if places then
    free = places
    for _, number in ipairs(redis.call('HVALS', places_of(limit[1]))) do free = free - tonumber(number) end
  end
  local granted, taken = 0, 0
  for _, size in ipairs(wanted) do
    if granted >= free or (rpm and requests + granted >= rpm) then break end
    if tpm and tokens + taken + math.min(size, tpm) > tpm then break end
    granted, taken = granted + 1, taken + size
  end
  return granted, {requests = requests, tokens = tokens, seconds = seconds, free = free}
end

local function count(limit, granted, taken)
  local key = sent_to(limit[1])
  redis.call('HINCRBY', key, string.format('r%.0f', second), granted)
  redis.call('HINCRBY', key, string.format('t%.0f', second), taken)
  redis.call('EXPIRE', key, FORGET)
  if limit[4] then run(limit[1], running_of(limit[1]) + granted) end
end

-- When the next one may go: milliseconds, or minus the number of places if another one must end before.
local function wait_for(limit, before, granted, taken, next_one)
  local rpm, tpm, places = limit[2], limit[3], limit[4]
  if places and granted >= before.free then return -places end
  local now_sent = before.seconds[second] or {0, 0}
  before.seconds[second] = {now_sent[1] + granted, now_sent[2] + taken}
  return room_in(before.seconds, rpm and before.requests + granted + 1 - rpm or 0,
                 tpm and before.tokens + taken + math.min(next_one, tpm) - tpm or 0)
end

-- Lets go as many of the first as all limits allow. Returns how many, and for each limit when to ask for the
-- others.
local function take(limits, wanted)
  local granted, taken, before = #wanted, 0, {}
  for place, limit in ipairs(limits) do
    local may
    may, before[place] = room(limit, wanted)
    granted = math.min(granted, may)
  end
  for place = 1, granted do taken = taken + wanted[place] end
  local waits = {}
  for place, limit in ipairs(limits) do
    if granted > 0 then count(limit, granted, taken) end
    if granted < #wanted then
      waits[place] = wait_for(limit, before[place], granted, taken, wanted[granted + 1])
    end
  end
  return {granted, waits}
end

local function add(key, name, more)
  if redis.call('HINCRBY', key, name, more) < 0 then redis.call('HSET', key, name, 0) end
end

-- Changes what was counted at a time, or, where nothing was, as near to it as can be. What is taken off
-- must not outlast what it is taken from; what is added may.
local function correct(model, requests, tokens, at)
  local key, found = sent_to(model), nil
  if requests > 0 then  -- it is sent only now
    local which = math.min(math.floor(at), second)
    redis.call('HINCRBY', key, string.format('r%.0f', which), requests)
    redis.call('HINCRBY', key, string.format('t%.0f', which), tokens)
    redis.call('EXPIRE', key, FORGET)
    return
  end
  local start = math.floor(at) + (tokens > 0 and 1 or 0)
  for which = math.min(start, second), math.max(start - MINUTE, second - MINUTE), -1 do
    if redis.call('HEXISTS', key, string.format('r%.0f', which)) == 1 then
      found = which
      break
    end
  end
  for which = start + 1, second do
    if found then break end
    if redis.call('HEXISTS', key, string.format('r%.0f', which)) == 1 then found = which end
  end
  if not found then return end
  if requests ~= 0 then add(key, string.format('r%.0f', found), requests) end
  if tokens ~= 0 then add(key, string.format('t%.0f', found), tokens) end
end

local function give(model, over, requests, tokens, age)
  if over ~= 0 then run(model, running_of(model) - over) end
  if requests ~= 0 or tokens ~= 0 then correct(model, requests, tokens, now - age) end
  return {1}
end

-- Owners --------------------------------------------------------------------------------------------------

local function bury(name)
  for _, key in ipairs(redis.call('HKEYS', held_by(name))) do release(name, key) end
  for _, model in ipairs(redis.call('HKEYS', under_way(name))) do
    redis.call('HDEL', places_of(model), name)
  end
  redis.call('DEL', held_by(name), under_way(name))
  redis.call('ZREM', OWNERS, name)
end

local function sign_out()
  bury(owner)
  return {1}
end

-- The step ------------------------------------------------------------------------------------------------

-- What was asked twice, since nobody knew whether it had been done, or comes late, is done once.
if asked.seq <= tonumber(redis.call('HGET', SEAT, 'seq') or '0') then return {'seen'} end
redis.call('HSET', SEAT, 'seq', string.format('%.0f', asked.seq))
redis.call('EXPIRE', SEAT, DAY)
redis.call('ZADD', OWNERS, now + asked.lease, owner)
redis.call('EXPIRE', OWNERS, KEPT.total)
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', OWNERS, '-inf', '(' .. now, 'LIMIT', 0, 8)) do bury(dead) end

local DO = {reserve = reserve, settle = settle, hold = hold_again, only = only,
            take = take, give = give, sign_out = sign_out}
for model, running in pairs(asked.running) do run(model, running) end
local answers = {}
for place, op in ipairs(asked.ops) do answers[place] = DO[table.remove(op, 1)](unpack(op)) end
local left = {}
for place, account in ipairs(asked.accounts) do left[place] = {sums(account, hour)} end
return {'done', hour, redis.call('HLEN', held_by(owner)), answers, left}
