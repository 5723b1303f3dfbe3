-- Decides about any number of keys, each by a plan of windows, in one step:
-- nothing runs between the commands of a script.
--
-- ARGV[1]: a list of numbers: for each plan its number of windows, 1 if it is
-- plain (buckets and periods, no shadows), and for each window ID, limit,
-- interval, shadow, and the span's start and end; then for each key where its
-- plan begins in the list, operation, cost and how many equal requests of that
-- cost are asked together. ARGV[2]: how long the plans' part is.
-- Reply: the time; then for each key how many requests were admitted (-1 when
-- a span is not the present), a bit for each window that is over, and for each
-- window its use and its wait (-1 for ever).
--
-- A key holds numbers: how many states, their IDs, and their words one after
-- another. An ID modulo 4 is the algorithm. All are integers below 2^53, which
-- a double holds exactly; they are kept as doubles where Redis has struct, and
-- as digits in a Redis made for tests.
--
-- The plain path at the end is a shorter form of general: it makes no table and
-- no function but what it needs, which is most of a script's time.
local struct = rawget(_G, 'struct')
local floor, min, max = math.floor, math.min, math.max
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local a = cjson.decode(ARGV[1])

-- general decides about one key, whatever its plan and the operation, and
-- appends to the reply.
local function general(reply, key, p, op, cost, m, v)
  local BUCKET, PERIOD, ROLLING, SLOTS = 1, 2, 3, 8
  local WORDS = {1, 2, SLOTS + 3} -- instant | count, end | slot, interval, counts

  local function decode(v)
    if struct then
      local t = {struct.unpack('<' .. string.rep('d', #v / 8), v)}
      t[#t] = nil -- where reading ended
      return t
    end
    local t, n = {}, 0
    for digits in string.gmatch(v, '%S+') do
      n = n + 1
      t[n] = tonumber(digits)
    end
    return t
  end

  local function encode(t)
    if struct then
      return struct.pack('<' .. string.rep('d', #t), unpack(t))
    end
    local digits = {}
    for i = 1, #t do
      digits[i] = string.format('%.0f', t[i])
    end
    return table.concat(digits, ' ')
  end

  local n = a[p]
  local plan = {stale = false, id = {}, limit = {}, interval = {}, shadow = {}, to = {}}
  for i = 1, n do
    local w = p + 6 * i - 4
    plan.id[i], plan.limit[i], plan.interval[i], plan.shadow[i], plan.to[i] = a[w], a[w + 1], a[w + 2], a[w + 3], a[w + 5]
    if a[w] % 4 == PERIOD then
      plan.stale = plan.stale or now < a[w + 4] or now >= a[w + 5]
    end
  end

  -- until_ returns until when the state of an algorithm at t[o] matters.
  local function until_(alg, t, o)
    if alg == BUCKET then
      return t[o]
    elseif alg == PERIOD then
      return t[o + 1]
    end
    for i = o + 2, o + 2 + SLOTS do
      if t[i] > 0 then
        return (t[o] + SLOTS + 1) * t[o + 1]
      end
    end
    return 0
  end

  local function sum(t, o)
    local s = 0
    for i = o + 2, o + 2 + SLOTS do
      s = s + t[i]
    end
    return s
  end

  -- advance makes the present slot the newest one, unless that is ahead.
  local function advance(t, o, adjust)
    local slot = floor(now / t[o + 1])
    local ahead = slot - t[o]
    if ahead > 0 then
      for i = SLOTS, 0, -1 do
        t[o + 2 + i] = i >= ahead and t[o + 2 + i - ahead] or 0
      end
      t[o] = slot
    elseif ahead < -(SLOTS + 1) then
      t[o] = slot
      return not adjust
    end
    return false
  end

  local function rolling_wait(t, o, need)
    for i = SLOTS, 0, -1 do
      need = need - t[o + 2 + i]
      if need <= 0 then
        return (t[o] - i + SLOTS + 1) * t[o + 1] - now
      end
    end
    return -1
  end

  local function rolling_charge(t, o, units)
    if units >= 0 then
      t[o + 2] = min(t[o + 2] + units, 2097151)
      return
    end
    for i = SLOTS, 0, -1 do
      local part = min(t[o + 2 + i], -units)
      t[o + 2 + i] = t[o + 2 + i] - part
      units = units + part
    end
  end

  local base = #reply
  if plan.stale and op ~= 2 then
    reply[base + 1], reply[base + 2] = -1, 0
    for i = 1, 2 * n do
      reply[base + 2 + i] = 0
    end
  else
    -- t is the stored state; o[i] is where window i's words are.
    local t, o = v and decode(v) or {0}, {}
    local first = t[1] + 2
    if t[1] == n then -- nearly always the states are this plan's, in order
      local word = first
      for i = 1, n do
        if t[1 + i] ~= plan.id[i] then
          o = {}
          break
        end
        o[i] = word
        word = word + WORDS[plan.id[i] % 4]
      end
    end
    if not o[n] then
      -- Other plans' windows are kept as long as they matter.
      local ids, words, where = {}, {}, {}
      local word = first
      for i = 1, t[1] do
        local id = t[1 + i]
        local alg = id % 4
        if until_(alg, t, word) > now then
          ids[#ids + 1] = id
          where[id] = #words + 1
          for j = 0, WORDS[alg] - 1 do
            words[#words + 1] = t[word + j]
          end
        end
        word = word + WORDS[alg]
      end
      for i = 1, n do
        local id = plan.id[i]
        if not where[id] then
          ids[#ids + 1] = id
          where[id] = #words + 1
          for j = 1, WORDS[id % 4] do
            words[#words + 1] = 0
          end
          if id % 4 == ROLLING then
            words[where[id] + 1] = plan.interval[i]
          end
        end
      end
      t = {#ids}
      for i = 1, #ids do
        t[1 + i] = ids[i]
      end
      for i = 1, #words do
        t[1 + #ids + i] = words[i]
      end
      for i = 1, n do
        o[i] = 1 + #ids + where[plan.id[i]]
      end
    end

    local dirty, used, admitted, over = false, {}, m, 0
    if op == 2 then
      for i = 1, n do
        local alg, w, limit, interval = plan.id[i] % 4, o[i], plan.limit[i], plan.interval[i]
        if alg == BUCKET then
          local most = 2 * limit * interval
          local units = min(max(cost, -2 * limit), 2 * limit)
          used[i] = min(max(min(max(t[w] - now, 0), most) + units * interval, 0), most)
          t[w] = now + used[i]
        elseif alg == PERIOD then
          used[i] = 0
          if t[w + 1] > now then
            if t[w + 1] == plan.to[i] then
              t[w] = min(max(t[w] + cost, 0), 4294967295)
            end
            used[i] = t[w]
          end
        else
          advance(t, w, true)
          rolling_charge(t, w, cost)
          used[i] = sum(t, w)
        end
      end
      dirty = v or cost > 0
    else
      for i = 1, n do
        local alg, w, limit, interval = plan.id[i] % 4, o[i], plan.limit[i], plan.interval[i]
        local room
        if alg == BUCKET then
          local last = now + 2 * limit * interval
          if t[w] > last then -- the clock has stepped back
            t[w], dirty = last, true
          end
          used[i] = max(t[w] - now, 0)
          room = interval > 0 and floor((limit * interval - used[i]) / interval) or 0
        elseif alg == PERIOD then
          if t[w + 1] > plan.to[i] then
            t[w + 1], dirty = plan.to[i], true
          end
          used[i] = t[w + 1] > now and t[w] or 0
          room = limit - used[i]
        else
          dirty = advance(t, w, false) or dirty
          used[i] = sum(t, w)
          room = limit - used[i]
        end
        local fit = max(floor(room / cost), 0)
        if plan.shadow[i] == 0 then
          admitted = min(admitted, fit)
        elseif fit == 0 then
          over = over + 2 ^ (i - 1)
        end
      end
      if op == 0 and admitted > 0 then
        dirty = true
        for i = 1, n do
          local alg, w = plan.id[i] % 4, o[i]
          if over % (2 ^ i) < 2 ^ (i - 1) then
            local units = admitted * cost
            if alg == BUCKET then
              used[i] = used[i] + units * plan.interval[i]
              t[w] = now + used[i]
            elseif alg == PERIOD then
              used[i] = used[i] + units
              t[w], t[w + 1] = used[i], plan.to[i]
            else
              used[i] = used[i] + units
              rolling_charge(t, w, units)
            end
          end
        end
      end
    end

    reply[base + 1] = admitted
    for i = 1, n do
      local alg, limit, wait = plan.id[i] % 4, plan.limit[i], 0
      if op ~= 2 and (admitted < m or over % (2 ^ i) >= 2 ^ (i - 1)) then
        if cost > limit then
          wait = -1
        elseif alg == BUCKET then
          wait = max(used[i] + (cost - limit) * plan.interval[i], 0)
        elseif used[i] + cost > limit then
          if alg == PERIOD then
            wait = plan.to[i] - now
          else
            wait = rolling_wait(t, o[i], used[i] + cost - limit)
          end
        end
        if wait ~= 0 and over % (2 ^ i) < 2 ^ (i - 1) then
          over = over + 2 ^ (i - 1)
        end
      end
      reply[base + 1 + 2 * i], reply[base + 2 + 2 * i] = used[i], wait
    end
    reply[base + 2] = over

    if dirty then
      local word, last = t[1] + 2, 0
      for i = 1, t[1] do
        local alg = t[1 + i] % 4
        last = max(last, until_(alg, t, word))
        word = word + WORDS[alg]
      end
      if last > now then
        redis.call('SET', key, encode(t), 'PX', string.format('%.0f', floor((last - now) / 1000) + 1))
      elseif v then
        redis.call('DEL', key)
      end
    end
  end
end

local reply = {now}
local at = ARGV[2] - 3
for k = 1, #KEYS do
  at = at + 4
  local p, op, cost, m = a[at], a[at + 1], a[at + 2], a[at + 3]
  local key, n = KEYS[k], a[p]
  local v = redis.call('GET', key)
  local base = #reply
  local plain = struct and op == 0 and a[p + 1] == 1
  local t, size, format
  if plain then
    size = 1 + n
    for i = p + 2, p + 6 * n - 4, 6 do
      size = size + a[i] % 4
    end
    format = size == 6 and '<dddddd' or size == 3 and '<ddd' or size == 4 and '<dddd' or '<' .. string.rep('d', size)
    if not v then
      t = {n}
      for i = 1, n do
        t[1 + i] = a[p + 6 * i - 4]
      end
      for i = 2 + n, size do
        t[i] = 0
      end
    elseif #v == 8 * size then
      t = {struct.unpack(format, v)}
      t[size + 1] = nil
      plain = t[1] == n
      for i = 1, n do
        plain = plain and t[1 + i] == a[p + 6 * i - 4]
      end
    else
      plain = false
    end
  end
  if not plain then
    general(reply, key, p, op, cost, m, v)
  else
    -- The first pass asks every window, the second charges all, the third says
    -- how long those wait that were refused.
    local admitted, dirty, over = m, false, 0
    local word = 2 + n
    for i = 1, n do
      local w = p + 6 * i - 4
      local limit, interval = a[w + 1], a[w + 2]
      local used, fit = 0, 0
      if a[w] % 4 == 1 then
        used = t[word] - now
        if used > 2 * limit * interval then -- the clock has stepped back
          used, dirty = 2 * limit * interval, true
          t[word] = now + used
        elseif used < 0 then
          used = 0
        end
        fit = interval > 0 and floor(floor((limit * interval - used) / interval) / cost) or 0
        word = word + 1
      else
        local to = a[w + 5]
        if now < a[w + 4] or now >= to then
          admitted = -1
        end
        if t[word + 1] > now then
          used = t[word]
          if t[word + 1] > to and admitted >= 0 then
            t[word + 1], dirty = to, true
          end
        end
        fit = floor((limit - used) / cost)
        word = word + 2
      end
      if fit < admitted and admitted > 0 then
        admitted = fit > 0 and fit or 0
      end
      reply[base + 1 + 2 * i] = used
      reply[base + 2 + 2 * i] = 0
    end
    local last = 0
    if admitted > 0 then
      dirty = true
      local units = admitted * cost
      word = 2 + n
      for i = 1, n do
        local w = p + 6 * i - 4
        local at = base + 1 + 2 * i
        local used
        if a[w] % 4 == 1 then
          used = reply[at] + units * a[w + 2]
          t[word] = now + used
          last = max(last, now + used)
          word = word + 1
        else
          used = reply[at] + units
          t[word], t[word + 1] = used, a[w + 5]
          last = max(last, a[w + 5])
          word = word + 2
        end
        reply[at] = used
      end
    elseif admitted < 0 then
      dirty = false
    elseif dirty then
      word = 2 + n
      for i = 1, n do
        local alg = a[p + 6 * i - 4] % 4
        word = word + alg
        last = max(last, t[word - 1])
      end
    end
    if admitted >= 0 and admitted < m then
      for i = 1, n do
        local w = p + 6 * i - 4
        local limit, used, wait = a[w + 1], reply[base + 1 + 2 * i], 0
        if cost > limit then
          wait = -1
        elseif a[w] % 4 == 1 then
          wait = max(used + (cost - limit) * a[w + 2], 0)
        elseif used + cost > limit then
          wait = a[w + 5] - now
        end
        if wait ~= 0 then
          over = over + 2 ^ (i - 1)
          reply[base + 2 + 2 * i] = wait
        end
      end
    end
    reply[base + 1], reply[base + 2] = admitted, over
    if dirty and last > now then
      redis.call('SET', key, struct.pack(format, unpack(t)), 'PX', floor((last - now) / 1000) + 1)
    end
  end
end
return reply
