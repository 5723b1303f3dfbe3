-- general decides about one key, whatever its plan, its state and the operation,
-- and appends to the reply: how many requests were admitted (-1 when a span is
-- not the present), a bit for each window that is over, and for each window its
-- use and its wait (-1 for ever). In the list a the plan begins at p: its number
-- of windows, and for each window ID, limit, interval, shadow, and the span's
-- start and end. v is what the key holds.
--
-- A key holds numbers: how many states, their IDs, and their words one after
-- another. An ID modulo 4 is the algorithm. All are integers below 2^53, which
-- a double holds exactly; they are kept as doubles where Redis has struct, and
-- as digits in a Redis made for tests.
general = function(reply, a, p, key, op, cost, m, v)
  local floor, min, max = math.floor, math.min, math.max
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
    local w = p + 6 * i - 5
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
