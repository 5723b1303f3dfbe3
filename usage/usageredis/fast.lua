-- The step that most steps are: units of a counter that is there, without a
-- key. What is out of the ordinary, such as a crossed threshold, a notice that
-- isn't stored yet or holds that may have expired, changes nothing here and
-- goes to step.lua.
--
-- KEYS: 1 counter. ARGV: 1 n, 2 limit, 3 cap, 4 1 if a durable store is behind,
--   5… thresholds, in units, ascending. Returns: 1 taken, 0 refused or -1 not
--   for here, used, held.
local c = redis.call('HMGET', KEYS[1], 'used', 'held', 'limit', 'ceil')
local used, held, n, cap = tonumber(c[1]), tonumber(c[2]), tonumber(ARGV[1]), tonumber(ARGV[3])
if not used or c[3] ~= ARGV[2] then return {-1, 0, 0} end
local after = used + n
for i = 5, #ARGV do
  local t = tonumber(ARGV[i])
  if t > after then break end
  if used < t or redis.call('HGET', KEYS[1], 'n' .. ARGV[i]) == '0' then return {-1, 0, 0} end
end
if cap >= 0 and n > cap - used - held then
  if held > 0 then return {-1, 0, 0} end
  return {0, used, held}
end
if after + held > 9007199254740992 or ARGV[4] == '1' and (not c[4] or after + held > tonumber(c[4])) then
  return {-1, 0, 0}
end
return {1, redis.call('HINCRBY', KEYS[1], 'used', ARGV[1]), held}
