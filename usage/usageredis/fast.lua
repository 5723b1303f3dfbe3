-- The step that most steps are: units of a counter that is there, without a
-- key. What is out of the ordinary, such as a crossed threshold, a notice that
-- isn't stored yet or holds that may have expired, changes nothing here and
-- goes to step.lua.
--
-- KEYS: 1 counter. ARGV: 1 n, 2 limit, 3 cap, 4 1 if a durable store is behind,
--   5… thresholds, in units, ascending. Returns: 1 taken, 0 refused or -1 not
--   for here, used, held.
local call, key, argv = redis.call, KEYS[1], ARGV
local c = call('HMGET', key, 'used', 'held', 'limit', 'ceil')
local used, held, limit, n, cap = tonumber(c[1]), tonumber(c[2]), argv[2], tonumber(argv[1]), tonumber(argv[3])
if not used or c[3] ~= limit then return {-1, 0, 0} end
local after = used + n
for i = 5, #argv do
  local t = tonumber(argv[i])
  if t > after then break end
  if used < t or call('HGET', key, 'n' .. argv[i]) == '0' then return {-1, 0, 0} end
end
if cap >= 0 and n > cap - used - held then
  if held > 0 then return {-1, 0, 0} end
  return {0, used, held}
end
if after + held > 9007199254740992 or argv[4] == '1' and (not c[4] or after + held > tonumber(c[4])) then
  return {-1, 0, 0}
end
call('HINCRBY', key, 'used', argv[1])
return {1, after, held}
