-- Hands the range of units (top - block, top] of a durable counter to Redis.
-- Units below it that Redis has not been handed are a gap and count as used,
-- until their own hand-over comes, if it ever does. A hand-over that comes
-- again, because the client has sent it twice, fits no gap and does nothing.
--
-- KEYS: 1 counter. ARGV: 1 block, 2 top, 3 keep for (ms), 4 end of the period
-- (microseconds). With block 0 the counter begins at top, unless there is one.
local function int(x) return string.format('%.0f', x) end
local block, top = tonumber(ARGV[1]), tonumber(ARGV[2])
local bottom = top - block
local ceiling = tonumber(redis.call('HGET', KEYS[1], 'ceil'))
if block == 0 then
  if not ceiling then
    redis.call('HSET', KEYS[1], 'used', int(top), 'held', '0', 'stored', '0', 'ceil', int(top), 'to', ARGV[4])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  end
  return 1
end
if not ceiling then return 0 end -- Redis has lost its data since
local used = tonumber(redis.call('HGET', KEYS[1], 'used'))
if bottom >= ceiling then
  if bottom > ceiling then
    redis.call('HSET', KEYS[1], 'gap' .. int(ceiling), int(bottom))
  end
  redis.call('HSET', KEYS[1], 'used', int(used + bottom - ceiling), 'ceil', int(top))
  return 1
end
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local name = string.match(fields[i], '^gap(%d+)$')
  local from, to = name and tonumber(name), tonumber(fields[i + 1])
  if from and from <= bottom and top <= to then
    redis.call('HDEL', KEYS[1], fields[i])
    if from < bottom then redis.call('HSET', KEYS[1], 'gap' .. int(from), int(bottom)) end
    if top < to then redis.call('HSET', KEYS[1], 'gap' .. int(top), int(to)) end
    redis.call('HSET', KEYS[1], 'used', int(used - block))
    return 1
  end
end
return 1
