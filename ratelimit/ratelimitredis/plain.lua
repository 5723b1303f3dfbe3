-- Takes from any number of keys, by plans of one shape: {{.Shape}},
-- none of them a shadow. It is what decide.lua does for most requests, in a third
-- of the time: the windows are written out one after another, and their numbers
-- stay on Lua's stack.
--
-- ARGV[1]: plans, packed: for each window ID, limit, and a bucket's interval or a
-- period's start and end. ARGV[2]: for each key, packed, where its plan begins in
-- ARGV[1], the cost, and how many equal requests of that cost are asked together.
-- Reply: packed, the time; then for each key how many requests were admitted (-1
-- when a period is not the present), and the use of each window.
local struct = rawget(_G, 'struct')
if not struct then
  return 'portable'
end
local call, floor, pack, parse = redis.call, math.floor, struct.pack, struct.unpack
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local plans, asked = ARGV[1], ARGV[2]
local reply = {pack('<d', now)}
local general, begin, {{.Plan}}
for k = 1, #KEYS do
  local at, cost, m = parse('<ddd', asked, 24 * k - 23)
  if at ~= begin then
    begin, {{.Plan}} = at, parse('<{{.PlanFormat}}', plans, at)
  end
  local key = KEYS[k]
  local v = call('GET', key)
  local n, {{.States}}, {{.Words}} = {{.N}}, {{.IDs}}, {{.Zeros}}
  if v then
    if #v == {{.Size}} then
      n, {{.States}}, {{.Words}} = parse('<d{{.StatesFormat}}{{.WordsFormat}}', v)
    else
      n = 0
    end
  end
  if n ~= {{.N}}{{range .Windows}} or state{{.I}} ~= id{{.I}}{{end}} then
    -- The key holds other windows as well, or these in another order.
    if not general then
{{.General}}
    end
    local t = {}
    general(t, { {{.N}}{{range .Windows}}, id{{.I}}, limit{{.I}}, {{if .Bucket}}interval{{.I}}, 0, 0, 0{{else}}0, 0, from{{.I}}, to{{.I}}{{end}}{{end}} }, 1, key, 0, cost, m, v)
    reply[k + 1] = pack('<d{{.StatesFormat}}', t[1]{{range .Windows}}, t[{{.Used}}]{{end}})
  elseif {{.Stale}} then
    reply[k + 1] = pack('<d{{.StatesFormat}}', -1{{range .Windows}}, 0{{end}})
  else
    -- Ask every window, then charge all.
    local before, lowered = 0, false
{{- range .Instants}}
    if {{.}} > before then
      before = {{.}}
    end
{{- end}}
    local admitted, fit = m, 0
{{- range .Windows}}
{{- if .Bucket}}
    local used{{.I}} = word{{.I}} - now
    if used{{.I}} < 0 then
      used{{.I}} = 0
    elseif used{{.I}} > 2 * limit{{.I}} * interval{{.I}} then -- the clock has stepped back
      used{{.I}} = 2 * limit{{.I}} * interval{{.I}}
      word{{.I}}, lowered = now + used{{.I}}, true
    end
    fit = interval{{.I}} > 0 and (limit{{.I}} * interval{{.I}} - used{{.I}}) / (interval{{.I}} * cost) or 0
{{- else}}
    local used{{.I}} = 0
    if end{{.I}} > now then
      used{{.I}} = word{{.I}}
      if end{{.I}} > to{{.I}} then
        end{{.I}}, lowered = to{{.I}}, true
      end
    end
    fit = (limit{{.I}} - used{{.I}}) / cost
{{- end}}
    if fit < admitted then
      admitted = fit >= 1 and floor(fit) or 0
    end
{{- end}}
    if admitted > 0 then
      local units = admitted * cost
{{- range .Windows}}
{{- if .Bucket}}
      used{{.I}} = used{{.I}} + units * interval{{.I}}
      word{{.I}} = now + used{{.I}}
{{- else}}
      used{{.I}} = used{{.I}} + units
      word{{.I}}, end{{.I}} = used{{.I}}, to{{.I}}
{{- end}}
{{- end}}
    end
    if admitted > 0 or lowered then
      local last = 0
{{- range .Instants}}
      if {{.}} > last then
        last = {{.}}
      end
{{- end}}
      if last == before and v then
        -- The key's time to live is right already.
        call('SETRANGE', key, '{{.Offset}}', pack('<{{.WordsFormat}}', {{.Words}}))
      elseif last > now then
        call('SET', key, pack('<d{{.StatesFormat}}{{.WordsFormat}}', n, {{.States}}, {{.Words}}), 'PX', string.format('%d', floor((last - now) / 1000) + 1))
      elseif v then -- what was lowered doesn't matter any more
        call('DEL', key)
      end
    end
    reply[k + 1] = pack('<d{{.StatesFormat}}', admitted{{range .Windows}}, used{{.I}}{{end}})
  end
end
return table.concat(reply)
