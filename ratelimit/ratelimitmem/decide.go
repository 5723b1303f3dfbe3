package ratelimitmem

import (
	"context"
	"hash/maphash"

	"github.com/kolekt/commerce/ratelimit"
)

type decider struct {
	clock   *clock
	seed    maphash.Seed
	scope   *scope
	n       int
	words   int // that an entry must have
	shadow  uint8
	periods bool
	rules   [ratelimit.MaxWindows]rule
}

// Decide implements ratelimit.Decider. It waits for nothing that the context
// could end.
func (d *decider) Decide(_ context.Context, req ratelimit.Request) (out ratelimit.Outcome, err error) {
	now := d.clock.now()
	out.Now = now
	if d.periods && req.Op != ratelimit.Adjust && d.stale(req.Spans, now) {
		out.Stale = true
		return out, nil
	}
	h := hash(d.seed, req.Key)
	sh := &d.scope.shards[h%shards]
	for {
		t := sh.table.Load()
		if t.words() < d.words {
			sh.widen(d.scope, d.words, now)
			continue
		}
		words, _ := t.find(h)
		if words == nil {
			if req.Op == ratelimit.Peek || req.Cost < 0 {
				// Nothing is known and nothing will be: answer from a blank.
				var blank [maxWords]uint64
				e := entry{words: blank[:]}
				d.apply(&e, &req, now, &out)
				return out, nil
			}
			if !sh.insert(d.scope, h, now, false) {
				// The common entry of the part; its hash keeps the shard.
				h = h%shards | 1<<63
				sh.insert(d.scope, h, now, true)
			}
			continue
		}
		first, ok := lock(words)
		if !ok {
			sh.next(t)
			continue
		}
		e := entry{words: words, first: first}
		d.apply(&e, &req, now, &out)
		unlock(words, e.first)
		return out, nil
	}
}

func (d *decider) stale(spans *ratelimit.Spans, now int64) bool {
	for i := range d.rules[:d.n] {
		if d.rules[i].kind == ratelimit.Period && (now < spans[i].From || now >= spans[i].To) {
			return true
		}
	}
	return false
}

// apply performs a request on an entry that the caller has to itself: first
// every window is asked, then all or none are charged.
func (d *decider) apply(e *entry, req *ratelimit.Request, now int64, out *ratelimit.Outcome) {
	if req.Op == ratelimit.Adjust {
		d.adjust(e, req, now, out)
		return
	}
	cost := req.Cost
	for i := range d.rules[:d.n] {
		r, level := &d.rules[i], &out.Levels[i]
		wait := int64(0)
		switch r.kind {
		case ratelimit.Bucket:
			instant := max(int64(e.get(r.offset)), now)
			if last := now + 2*r.burst; instant > last {
				instant = last
				e.set(r.offset, uint64(last))
			}
			level.Used = instant - now
			if cost <= r.limit {
				wait = level.Used + cost*r.interval - r.burst
			}
		case ratelimit.Period:
			count, end := unpackPeriod(e.get(r.offset))
			to := req.Spans[i].To
			if end > to {
				e.set(r.offset, packPeriod(count, to))
			}
			if end > now {
				level.Used = count
			}
			if level.Used+cost > r.limit {
				wait = to - now
			}
		case ratelimit.Rolling:
			c := unpackRolling(e, r.offset)
			if c.advance(now / r.interval) {
				c.pack(e, r.offset)
			}
			level.Used = c.sum()
			if over := level.Used + cost - r.limit; over > 0 {
				wait = c.wait(over, r.interval, now)
			}
		}
		if cost > r.limit {
			wait = ratelimit.WaitForever
		}
		if wait > 0 {
			level.Wait = wait
			out.Over |= 1 << i
		}
	}
	if req.Op == ratelimit.Peek || out.Over&^d.shadow != 0 {
		return
	}
	for i := range d.rules[:d.n] {
		if out.Over&(1<<i) != 0 {
			continue
		}
		r, level := &d.rules[i], &out.Levels[i]
		switch r.kind {
		case ratelimit.Bucket:
			level.Used += cost * r.interval
			e.set(r.offset, uint64(now+level.Used))
		case ratelimit.Period:
			level.Used += cost
			e.set(r.offset, packPeriod(level.Used, req.Spans[i].To))
		case ratelimit.Rolling:
			c := unpackRolling(e, r.offset)
			c.advance(now / r.interval)
			c.charge(cost)
			c.pack(e, r.offset)
			level.Used += cost
		}
	}
}

func (d *decider) adjust(e *entry, req *ratelimit.Request, now int64, out *ratelimit.Outcome) {
	for i := range d.rules[:d.n] {
		r, level := &d.rules[i], &out.Levels[i]
		switch r.kind {
		case ratelimit.Bucket:
			cost := min(max(req.Cost, -2*r.limit), 2*r.limit)
			debt := min(max(int64(e.get(r.offset))-now, 0), 2*r.burst)
			level.Used = min(max(debt+cost*r.interval, 0), 2*r.burst)
			e.set(r.offset, uint64(now+level.Used))
		case ratelimit.Period:
			count, end := unpackPeriod(e.get(r.offset))
			if end <= now {
				continue
			}
			if level.Used = count; req.Spans == nil || end != req.Spans[i].To {
				continue
			}
			level.Used = min(max(count+req.Cost, 0), ratelimit.MaxLimit)
			e.set(r.offset, packPeriod(level.Used, end))
		case ratelimit.Rolling:
			c := unpackRolling(e, r.offset)
			c.advance(now / r.interval)
			c.charge(req.Cost)
			c.pack(e, r.offset)
			level.Used = c.sum()
		}
	}
}
