-- Takes a place among at most ARGV[2], for ARGV[3] microseconds, under the ID
-- ARGV[1]. Reply: taken or not, places taken, microseconds until one runs out.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local key, id, limit, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
local held = redis.call('ZCARD', key)
if redis.call('ZSCORE', key, id) then
  held = held - 1
elseif held >= limit then
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return {0, held, tonumber(first[2]) - now}
end
redis.call('ZADD', key, string.format('%.0f', now + ttl), id)
local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
redis.call('PEXPIRE', key, string.format('%.0f', math.floor((tonumber(last[2]) - now) / 1000) + 1))
return {1, held + 1, 0}
