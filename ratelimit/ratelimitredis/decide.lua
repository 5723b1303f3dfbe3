-- Decides about any number of keys, each by a plan of windows, in one step:
-- nothing runs between the commands of a script.
--
-- ARGV[1]: a list of numbers: plans, as general reads them; then for each key
-- where its plan begins in the list, operation, cost and how many equal requests
-- of that cost are asked together. ARGV[2]: how long the plans' part is.
-- Reply: the time; then for each key what general says.
local struct = rawget(_G, 'struct')
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local general
{{.General}}
local a = cjson.decode(ARGV[1])
local reply = {now}
local at = ARGV[2] - 3
for k = 1, #KEYS do
  at = at + 4
  general(reply, a, a[at], KEYS[k], a[at + 1], a[at + 2], a[at + 3], redis.call('GET', KEYS[k]))
end
return reply
