-- One quota step, decided as usage.Counter.Step decides it. Redis runs a script
-- as a whole, so that nothing comes between the look and the change.
--
-- All keys carry the account's hash tag and lie in one slot. Expired holds are
-- found in the account's own set of open holds; their names are built here.
--
-- KEYS: 1 counter, 2 open holds of the meter, 3 the step's hold (or 1 again)
-- ARGV: 1 kind (1 reserve, 2 consume, 3 commit, 4 release), 2 n, 3 limit,
--   4 cap, 5 now, 6 expires, 7 from, 8 to, 9 key, 10 meter, 11 base of the
--   account's keys, 12 keep for (ms), 13 1 if a durable store is behind,
--   14 1 if the step has an event, 15 keep the key for ms instead (0: not),
--   16… thresholds, in units, ascending
-- Times are microseconds since 1970. Returns: status, used, held, replayed,
--   late, from and to of the hold, ceiling, thresholds crossed (as indices).
local kind, n, limit, cap = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local now, key, base, durable = tonumber(ARGV[5]), ARGV[9], ARGV[11], ARGV[13] == '1'
local most = 9007199254740992

local function int(x) return string.format('%.0f', x) end

local c = redis.call('HMGET', KEYS[1], 'used', 'held', 'stored', 'ceil')
local used, held, stored = tonumber(c[1]) or 0, tonumber(c[2]) or 0, tonumber(c[3]) or 0
local ceiling = tonumber(c[4])
if durable and not ceiling then
  return {'cold'}
end

local hold
if key ~= '' then
  local h = redis.call('HMGET', KEYS[3], 'meter', 'kind', 'n', 'state', 'actual', 'from', 'to', 'expires')
  if h[1] then
    hold = {meter = h[1], kind = tonumber(h[2]), n = tonumber(h[3]), state = tonumber(h[4]), actual = tonumber(h[5]),
      from = h[6], to = h[7], expires = tonumber(h[8])}
  end
end

local crossed = {}
local function answer(status, replayed, late)
  local from, to = ARGV[7], ARGV[8]
  if hold and replayed then from, to = hold.from, hold.to end
  return {status, int(used), int(held), replayed and 1 or 0, late and 1 or 0, from, to, int(ceiling or -1), crossed}
end

local function pending()
  -- Crossings that nobody has said to have stored come back with each step.
  for i = 16, #ARGV do
    if redis.call('HGET', KEYS[1], 'n' .. ARGV[i]) == '0' then
      crossed[#crossed + 1] = i - 15
    end
  end
end

local function keep()
  if c[1] then
    redis.call('HSET', KEYS[1], 'used', int(used), 'held', int(held), 'stored', int(stored), 'limit', limit)
    return
  end
  redis.call('HSET', KEYS[1], 'used', int(used), 'held', int(held), 'stored', int(stored), 'limit', limit, 'to', ARGV[8])
  redis.call('PEXPIRE', KEYS[1], ARGV[12])
end

local function keephold(state, asked, actual, expires)
  redis.call('HSET', KEYS[3], 'meter', ARGV[10], 'kind', kind > 2 and hold.kind or kind, 'n', int(asked), 'state', state,
    'actual', int(actual), 'from', hold and hold.state ~= 3 and hold.from or ARGV[7],
    'to', hold and hold.state ~= 3 and hold.to or ARGV[8], 'expires', expires)
  if kind <= 2 then
    redis.call('HSET', KEYS[3], 'at', ARGV[5])
  end
  if ARGV[15] ~= '0' then
    redis.call('PEXPIRE', KEYS[3], ARGV[15])
  else
    redis.call('PEXPIRE', KEYS[3], ARGV[12])
  end
end

local function use(x)
  local before = used
  used = used + x
  if ARGV[14] == '1' then stored = stored + x end
  local top = true
  for i = #ARGV, 16, -1 do
    local t = tonumber(ARGV[i])
    if before < t and t <= used then
      -- 0: to be stored; 1: stored, or superseded by a higher one.
      redis.call('HSETNX', KEYS[1], 'n' .. ARGV[i], top and '0' or '1')
      top = false
    end
  end
end

if kind <= 2 then
  if hold then
    if hold.meter ~= ARGV[10] or hold.kind ~= kind or hold.n ~= n then return {'reused'} end
    if hold.state == 2 then return {'settled'} end
    if hold.state < 2 then
      if hold.state == 0 and tonumber(ARGV[6]) > hold.expires then
        redis.call('HSET', KEYS[3], 'expires', ARGV[6])
        redis.call('ZADD', KEYS[2], ARGV[6], key)
      end
      pending()
      return answer('ok', true, false)
    end
  end
  local function free() return cap < 0 or n <= cap - used - held end
  if not free() and held > 0 then
    repeat
      local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[5], 'LIMIT', 0, 100)
      for _, k in ipairs(gone) do
        local name = base .. 'h:' .. k
        local h = redis.call('HMGET', name, 'n', 'from', 'state')
        if h[1] and h[3] == '0' then
          redis.call('HSET', name, 'state', 3)
          if k == key and hold then hold.state = 3 end
          if h[2] == ARGV[7] then
            held = held - tonumber(h[1])
            redis.call('HSET', KEYS[1], 'held', int(held))
          else
            redis.call('HINCRBY', base .. 'c:' .. ARGV[10] .. ':' .. h[2], 'held', '-' .. h[1])
          end
        end
        redis.call('ZREM', KEYS[2], k)
      end
    until #gone < 100
  end
  if not free() then
    pending()
    return answer('no', false, false)
  end
  if used + held + n > most then return {'overflow'} end
  if durable and used + held + n > ceiling then
    return answer('lease', false, false)
  end
  if kind == 1 then
    held = held + n
    keephold(0, n, 0, ARGV[6])
    redis.call('ZADD', KEYS[2], ARGV[6], key)
    redis.call('PEXPIRE', KEYS[2], ARGV[12])
  else
    use(n)
    if key ~= '' then keephold(1, n, n, '0') end
  end
  keep()
  pending()
  return answer('ok', false, false)
end

if not hold then return {'notfound'} end
if hold.meter ~= ARGV[10] or hold.kind ~= 1 then return {'reused'} end
if kind == 4 then
  if hold.state == 1 then return {'settled'} end
  if hold.state == 0 then
    held = held - hold.n
    keephold(2, hold.n, 0, int(hold.expires))
    redis.call('ZREM', KEYS[2], key)
    keep()
    return answer('ok', false, false)
  end
  return answer('ok', true, false)
end
if hold.state == 2 then return {'settled'} end
if hold.state == 1 then
  if hold.actual ~= n then return {'settled'} end
  pending()
  return answer('ok', true, false)
end
if used + held + n > most then return {'overflow'} end
local late = hold.state == 3
if not late then
  held = held - hold.n
  redis.call('ZREM', KEYS[2], key)
end
use(n)
keephold(1, hold.n, n, int(hold.expires))
keep()
pending()
return answer('ok', false, late)
