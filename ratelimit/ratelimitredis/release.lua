-- Gives the place ARGV[1] back. Reply: whether it was still held.
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])))
return redis.call('ZREM', KEYS[1], ARGV[1])
