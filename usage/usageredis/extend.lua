-- Hands the range of units (top - block, top] of a durable counter to Redis.
-- Units below it that Redis has never been handed are lost to it and count as
-- used, until their own hand-over comes, if it ever does.
--
-- KEYS: 1 counter. ARGV: 1 block, 2 top, 3 keep for (ms), 4 end of the period
-- (microseconds). With block 0 the
-- counter begins at top, unless there is one.
local function int(x) return string.format('%.0f', x) end
local block, top = tonumber(ARGV[1]), tonumber(ARGV[2])
local ceiling = tonumber(redis.call('HGET', KEYS[1], 'ceil'))
if block == 0 then
  if not ceiling then
    redis.call('HSET', KEYS[1], 'used', int(top), 'held', '0', 'bare', int(top), 'ceil', int(top), 'to', ARGV[4])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  end
  return 1
end
if not ceiling then return 0 end -- Redis has lost its data since
local used = tonumber(redis.call('HGET', KEYS[1], 'used'))
if top - block >= ceiling then
  used = used + (top - block - ceiling)
  ceiling = top
else
  used = used - block
end
redis.call('HSET', KEYS[1], 'used', int(used), 'ceil', int(ceiling))
return 1
