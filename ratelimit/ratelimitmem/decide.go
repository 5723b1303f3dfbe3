package ratelimitmem

import (
	"context"
	"sync/atomic"

	"github.com/kolekt/commerce/ratelimit"
)

type decider struct {
	clock   *clock
	secret  *secret
	scope   *scope
	shape   shape
	periods bool
	shadow  uint8
	n       int
	words   int // that an entry must have
	rules   [ratelimit.MaxWindows]rule
}

// shape says whether a plan is one of those that nearly everybody has, and
// which have a short way.
type shape uint8

const (
	other  shape = iota
	bucket       // one bucket that refuses, in an entry's first word
	pair         // a bucket and a period that refuse, in its first two words
)

func (d *decider) shapeOf() shape {
	first, second := &d.rules[0], &d.rules[1]
	switch {
	case d.shadow != 0 || first.kind != ratelimit.Bucket || first.offset != 0:
		return other
	case d.n == 1:
		return bucket
	case d.n == 2 && second.kind == ratelimit.Period && second.offset == 1:
		return pair
	}
	return other
}

// Decide implements ratelimit.Decider. It waits for nothing that the context
// could end.
func (d *decider) Decide(_ context.Context, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	now := d.clock.now()
	h := d.secret.hash(req.Key)
	switch {
	case d.shape == pair && req.Op == ratelimit.Take:
		if used, ok := d.take(h, req.Cost, req.Spans, now); ok {
			return ratelimit.Outcome{Now: now}, used, nil
		}
	case d.shape == bucket && req.Op != ratelimit.Adjust:
		if out, used, ok := d.swap(h, req.Cost, req.Op, now); ok {
			return out, used, nil
		}
	}
	return d.decide(&req, h, now)
}

// decide is Decide for every plan, key and operation.
func (d *decider) decide(req *ratelimit.Request, h uint64, now int64) (out ratelimit.Outcome, used ratelimit.Used, err error) {
	out.Now = now
	if d.periods && req.Op != ratelimit.Adjust && d.stale(req.Spans, now) {
		out.SetStale()
		return out, used, nil
	}
	sh := &d.scope.shards[h%shards]
	for {
		t := sh.table.Load()
		words, _ := t.find(h)
		if len(words) < d.words {
			if h = d.miss(sh, t, h, req, now, words == nil); h == 0 {
				// Nothing is known and nothing will be: answer from a blank.
				var blank [maxWords]uint64
				d.apply(&entry{words: blank[:]}, req, now, &out, &used)
				return out, used, nil
			}
			continue
		}
		first, ok := lock(words)
		if !ok {
			sh.next(t)
			continue
		}
		e := entry{words: words, first: first}
		d.apply(&e, req, now, &out, &used)
		unlock(words, e.first)
		return out, used, nil
	}
}

// take charges a plan of the shape pair when both windows have room. It reports
// false, having done nothing, when one has none, or the entry isn't there and
// free, or something is to be mended.
func (d *decider) take(h uint64, cost int64, spans *ratelimit.Spans, now int64) (used ratelimit.Used, ok bool) {
	rate, count := &d.rules[0], &d.rules[1]
	span := &spans[1]
	if now < span.From || now >= span.To || cost > rate.limit {
		return used, false
	}
	words, _ := d.scope.shards[h%shards].table.Load().find(h)
	if len(words) < 2 {
		return used, false
	}
	w := (*[2]uint64)(words)
	first := atomic.LoadUint64(&w[0])
	if first&locked != 0 || !atomic.CompareAndSwapUint64(&w[0], first, first|locked) {
		return used, false
	}
	n, end := int64(w[1]&countMask32), w[1]>>32
	to := packEnd(span.To)
	debt := max(int64(first>>1)-now, 0)
	if end != to {
		if end > to {
			unlock(words, first)
			return used, false
		}
		if unpackEnd(end) <= now {
			n = 0
		}
	}
	after, sum := debt+cost*rate.interval, n+cost
	if debt > 2*rate.burst || after > rate.burst || sum > count.limit {
		unlock(words, first)
		return used, false
	}
	w[1] = to<<32 | uint64(sum)
	unlock(words, uint64(now+after)<<1)
	used.Set(0, after)
	used.Set(1, sum)
	return used, true
}

// miss makes room for an entry that was not found or is too narrow, and
// returns the hash to look for; 0 when it isn't worth an entry.
func (d *decider) miss(sh *shard, t *table, h uint64, req *ratelimit.Request, now int64, absent bool) uint64 {
	if t.words() < d.words {
		sh.widen(d.scope, d.words, now)
		return h
	}
	if !absent {
		return h
	}
	if req.Op == ratelimit.Peek || req.Cost < 0 {
		return 0
	}
	if !sh.insert(d.scope, h, now, false) {
		// The common entry of the part; its hash keeps the shard.
		h = h%shards | 1<<63
		sh.insert(d.scope, h, now, true)
	}
	return h
}

// swap decides about a plan of the shape bucket without taking the lock: the
// state is one word, so that a compare and swap is the whole step. It reports
// false, having done nothing, when the entry isn't there, somebody else was at
// it, or the clock has stepped back.
func (d *decider) swap(h uint64, cost int64, op ratelimit.Op, now int64) (out ratelimit.Outcome, used ratelimit.Used, ok bool) {
	words, _ := d.scope.shards[h%shards].table.Load().find(h)
	if len(words) == 0 {
		return out, used, false
	}
	r := &d.rules[0]
	w := atomic.LoadUint64(&words[0])
	debt := max(int64(w>>1)-now, 0)
	if w&locked != 0 || debt > 2*r.burst {
		return out, used, false
	}
	out.Now = now
	if cost > r.limit {
		out.SetOver(0, false, ratelimit.WaitForever)
	} else if after := debt + cost*r.interval; after > r.burst {
		out.SetOver(0, false, after-r.burst)
	} else if op == ratelimit.Take {
		if !atomic.CompareAndSwapUint64(&words[0], w, uint64(now+after)<<1) {
			return out, used, false
		}
		debt = after
	}
	used.Set(0, debt)
	return out, used, true
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
func (d *decider) apply(e *entry, req *ratelimit.Request, now int64, out *ratelimit.Outcome, levels *ratelimit.Used) {
	if req.Op == ratelimit.Adjust {
		d.adjust(e, req, now, levels)
		return
	}
	cost := req.Cost
	var used [ratelimit.MaxWindows]int64
	over := uint8(0)
	for i := range d.rules[:d.n] {
		r := &d.rules[i]
		wait := int64(0)
		switch r.kind {
		case ratelimit.Bucket:
			debt := max(int64(e.get(r.offset))-now, 0)
			if debt > 2*r.burst {
				debt = 2 * r.burst
				e.set(r.offset, uint64(now+debt))
			}
			used[i] = debt
			if cost <= r.limit {
				wait = debt + cost*r.interval - r.burst
			}
		case ratelimit.Period:
			count, end := unpackPeriod(e.get(r.offset))
			to := req.Spans[i].To
			if end > to {
				e.set(r.offset, packPeriod(count, to))
			}
			if end > now {
				used[i] = count
			}
			if used[i]+cost > r.limit {
				wait = to - now
			}
		case ratelimit.Rolling:
			c := unpackRolling(e, r.offset)
			if c.advance(now / r.interval) {
				c.pack(e, r.offset)
			}
			used[i] = c.sum()
			if need := used[i] + cost - r.limit; need > 0 {
				wait = c.wait(need, r.interval, now)
			}
		}
		if cost > r.limit {
			wait = ratelimit.WaitForever
		}
		if wait > 0 {
			out.SetOver(i, d.shadow&(1<<i) != 0, wait)
			over |= 1 << i
		}
	}
	charge := req.Op == ratelimit.Take && over&^d.shadow == 0
	for i := range d.rules[:d.n] {
		if charge && over&(1<<i) == 0 {
			r := &d.rules[i]
			switch r.kind {
			case ratelimit.Bucket:
				used[i] += cost * r.interval
				e.set(r.offset, uint64(now+used[i]))
			case ratelimit.Period:
				used[i] += cost
				e.set(r.offset, packPeriod(used[i], req.Spans[i].To))
			case ratelimit.Rolling:
				c := unpackRolling(e, r.offset)
				c.advance(now / r.interval)
				c.charge(cost)
				c.pack(e, r.offset)
				used[i] += cost
			}
		}
		levels.Set(i, used[i])
	}
}

func (d *decider) adjust(e *entry, req *ratelimit.Request, now int64, levels *ratelimit.Used) {
	for i := range d.rules[:d.n] {
		r := &d.rules[i]
		used := int64(0)
		switch r.kind {
		case ratelimit.Bucket:
			cost := min(max(req.Cost, -2*r.limit), 2*r.limit)
			debt := min(max(int64(e.get(r.offset))-now, 0), 2*r.burst)
			used = min(max(debt+cost*r.interval, 0), 2*r.burst)
			e.set(r.offset, uint64(now+used))
		case ratelimit.Period:
			count, end := unpackPeriod(e.get(r.offset))
			if end <= now {
				break
			}
			if used = count; req.Spans != nil && end == req.Spans[i].To {
				used = min(max(count+req.Cost, 0), ratelimit.MaxLimit)
				e.set(r.offset, packPeriod(used, end))
			}
		case ratelimit.Rolling:
			c := unpackRolling(e, r.offset)
			c.advance(now / r.interval)
			c.charge(req.Cost)
			c.pack(e, r.offset)
			used = c.sum()
		}
		levels.Set(i, used)
	}
}
