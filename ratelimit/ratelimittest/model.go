package ratelimittest

import (
	"github.com/kolekt/commerce/ratelimit"
)

// model is the contract of ratelimit.Decider written as plainly as it can be:
// no packing, no concurrency, no expiry. A store must answer exactly as it
// does at the store's own time.
type model struct {
	buckets map[string]int64
	periods map[string]modelPeriod
	rolling map[string]map[int64]int64 // slot to units
	newest  map[string]int64
}

type modelPeriod struct{ count, end int64 }

func newModel() *model {
	return &model{
		buckets: map[string]int64{}, periods: map[string]modelPeriod{},
		rolling: map[string]map[int64]int64{}, newest: map[string]int64{},
	}
}

func (m *model) reset(key string) {
	for _, held := range []func(string){
		func(k string) { delete(m.buckets, k) },
		func(k string) { delete(m.periods, k) },
		func(k string) { delete(m.rolling, k); delete(m.newest, k) },
	} {
		for k := range m.names() {
			if len(k) > len(key) && k[:len(key)+1] == key+"\x00" {
				held(k)
			}
		}
	}
}

// over reports whether any state of a key doesn't matter any more, so that a
// store may have forgotten it.
func (m *model) over(key string, now int64) bool {
	for k := range m.names() {
		if len(k) <= len(key) || k[:len(key)+1] != key+"\x00" {
			continue
		}
		if m.rolling[k] != nil || m.buckets[k] <= now && m.periods[k].end <= now {
			return true
		}
	}
	return false
}

func (m *model) names() map[string]bool {
	names := map[string]bool{}
	for k := range m.buckets {
		names[k] = true
	}
	for k := range m.periods {
		names[k] = true
	}
	for k := range m.rolling {
		names[k] = true
	}
	return names
}

func (m *model) decide(plan *ratelimit.Plan, op ratelimit.Op, req ratelimit.Request, now int64) (out ratelimit.Outcome, levels ratelimit.Used) {
	out.Now = now
	rules := plan.Rules()
	if op != ratelimit.Adjust {
		for i, r := range rules {
			if r.Algorithm == ratelimit.Period && (now < req.Spans[i].From || now >= req.Spans[i].To) {
				out.SetStale()
				return out, levels
			}
		}
	}
	refused := false
	for i, r := range rules {
		k := req.Key + "\x00" + r.State
		if op == ratelimit.Adjust {
			levels.Set(i, m.used(k, r, now))
			continue
		}
		if p := m.periods[k]; r.Algorithm == ratelimit.Period && p.end > req.Spans[i].To {
			m.periods[k] = modelPeriod{p.count, req.Spans[i].To}
		}
		if last := now + 2*r.Limit*r.Interval; r.Algorithm == ratelimit.Bucket && m.buckets[k] > last {
			m.buckets[k] = last
		}
		used, wait := m.used(k, r, now), int64(0)
		levels.Set(i, used)
		switch {
		case req.Cost > r.Limit:
			wait = ratelimit.WaitForever
		case r.Algorithm == ratelimit.Bucket:
			wait = max(used+req.Cost*r.Interval-r.Limit*r.Interval, 0)
		case r.Algorithm == ratelimit.Period:
			if used+req.Cost > r.Limit {
				wait = req.Spans[i].To - now
			}
		case r.Algorithm == ratelimit.Rolling:
			left := used
			for slot := m.newest[k] - ratelimit.RollingSlots; left+req.Cost > r.Limit; slot++ {
				left -= m.rolling[k][slot]
				wait = (slot+ratelimit.RollingSlots+1)*r.Interval - now
			}
		}
		if wait > 0 {
			out.SetOver(i, r.Shadow, wait)
			refused = refused || !r.Shadow
		}
	}
	if op == ratelimit.Peek || op == ratelimit.Take && refused {
		return out, levels
	}
	for i, r := range rules {
		if out.Over()&(1<<i) != 0 {
			continue
		}
		k := req.Key + "\x00" + r.State
		m.charge(k, r, op, req, i, now)
		levels.Set(i, m.used(k, r, now))
	}
	return out, levels
}

func (m *model) used(k string, r ratelimit.Rule, now int64) int64 {
	switch r.Algorithm {
	case ratelimit.Bucket:
		return min(max(m.buckets[k]-now, 0), 2*r.Limit*r.Interval)
	case ratelimit.Period:
		if p := m.periods[k]; p.end > now {
			return p.count
		}
		return 0
	}
	slots := m.rolling[k]
	if slots == nil {
		slots = map[int64]int64{}
		m.rolling[k] = slots
	}
	slot := now / r.Interval
	switch newest := m.newest[k]; {
	case slot > newest:
		m.newest[k] = slot
	case slot < newest-(ratelimit.RollingSlots+1):
		moved := map[int64]int64{}
		for s, n := range slots {
			moved[s-newest+slot] = n
		}
		m.rolling[k], m.newest[k] = moved, slot
		slots = moved
	}
	sum := int64(0)
	for s, n := range slots {
		if s < m.newest[k]-ratelimit.RollingSlots {
			delete(slots, s)
			continue
		}
		sum += n
	}
	return sum
}

func (m *model) charge(k string, r ratelimit.Rule, op ratelimit.Op, req ratelimit.Request, i int, now int64) {
	switch r.Algorithm {
	case ratelimit.Bucket:
		cost := min(max(req.Cost, -2*r.Limit), 2*r.Limit)
		used := m.used(k, r, now) + cost*r.Interval
		m.buckets[k] = now + min(max(used, 0), 2*r.Limit*r.Interval)
	case ratelimit.Period:
		p := m.periods[k]
		if op == ratelimit.Adjust {
			if p.end <= now || p.end != req.Spans[i].To {
				return
			}
		} else {
			if p.end <= now {
				p.count = 0
			}
			p.end = req.Spans[i].To
		}
		p.count = min(max(p.count+req.Cost, 0), ratelimit.MaxLimit)
		m.periods[k] = p
	case ratelimit.Rolling:
		slots, newest := m.rolling[k], m.newest[k]
		if req.Cost > 0 {
			slots[newest] = min(slots[newest]+req.Cost, ratelimit.MaxRollingLimit)
			return
		}
		back := -req.Cost
		for s := newest - ratelimit.RollingSlots; s <= newest; s++ {
			part := min(slots[s], back)
			slots[s] -= part
			back -= part
		}
	}
}
