package ratelimitmem

import (
	"context"
	"sync/atomic"

	"github.com/kolekt/commerce/ratelimit"
)

// decider decides by any plan.
type decider struct {
	clock   *clock
	secret  *secret
	scope   *scope
	periods bool
	shadow  uint8
	n       int
	words   int // that an entry must have
	rules   [ratelimit.MaxWindows]rule
}

// The plans that nearly everybody has are decided in a short way, and by a
// decider in all else.
type (
	bucket struct{ decider } // one bucket that refuses, in an entry's first word
	pair   struct{ decider } // a bucket and a period that refuse, in its first two words
)

// shortest returns the decider with the shortest way.
func (d *decider) shortest() ratelimit.Decider {
	first, second := &d.rules[0], &d.rules[1]
	switch {
	case d.shadow != 0 || first.kind != ratelimit.Bucket || first.offset != 0:
		return d
	case d.n == 1:
		return &bucket{*d}
	case d.n == 2 && second.kind == ratelimit.Period && second.offset == 1:
		return &pair{*d}
	}
	return d
}

// Decide implements ratelimit.Decider. It waits for nothing that the context
// could end.
func (d *decider) Decide(_ context.Context, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	return d.decide(&req, d.secret.hash(req.Key), d.clock.now())
}

func (d *bucket) Decide(_ context.Context, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	h := d.secret.hash(req.Key)
	now := d.clock.now()
	if req.Op != ratelimit.Adjust {
		if debt, wait, ok := d.swap(h, req.Cost, req.Op, now); ok {
			out := ratelimit.Outcome{Now: now}
			if wait != 0 {
				return refused(out, wait), ratelimit.UsedOf(debt, 0), nil
			}
			return out, ratelimit.UsedOf(debt, 0), nil
		}
	}
	return d.decide(&req, h, now)
}

func refused(out ratelimit.Outcome, wait int64) ratelimit.Outcome {
	out.SetOver(0, false, wait)
	return out
}

func (d *pair) Decide(_ context.Context, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	h := d.secret.hash(req.Key)
	now := d.clock.now()
	if req.Op == ratelimit.Take {
		if debt, count, ok := d.take(h, req.Cost, req.Spans, now); ok {
			return ratelimit.Outcome{Now: now}, ratelimit.UsedOf(debt, count), nil
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
	for {
		t := d.scope.tables[h%shards].Load()
		slot, ok := t.find(h)
		if !ok || t.words() < d.words {
			if h = d.miss(t, h, req, now, !ok); h == 0 {
				// Nothing is known and nothing will be: answer from a blank.
				var blank [maxWords]uint64
				d.apply(&entry{words: blank[:]}, req, now, &out, &used)
				return out, used, nil
			}
			continue
		}
		words := t.entry(slot)
		first, ok := lock(words)
		if !ok {
			d.scope.next(h, t)
			continue
		}
		e := entry{words: words, first: first}
		d.apply(&e, req, now, &out, &used)
		unlock(&words[0], e.first)
		return out, used, nil
	}
}

// take charges both windows when both have room, and returns what of each is
// used then. It reports false, having done nothing, when one has none, or the
// entry isn't there and free, or something is to be mended.
func (d *pair) take(h uint64, cost int64, spans *ratelimit.Spans, now int64) (debt, count int64, ok bool) {
	rate, span := &d.rules[0], &spans[1]
	if now < span.From || now >= span.To || cost > rate.limit {
		return 0, 0, false
	}
	t := d.scope.tables[h%shards].Load()
	slot, ok := t.find(h)
	if !ok || t.words() < 2 {
		return 0, 0, false
	}
	w := slot.pair()
	add, to := cost*rate.interval, packEnd(span.To)
	first := atomic.LoadUint64(&w[0])
	if first&locked != 0 || !atomic.CompareAndSwapUint64(&w[0], first, first|locked) {
		return 0, 0, false
	}
	count, end := int64(w[1]&countMask32), w[1]>>32
	if end != to && unpackEnd(end) <= now {
		count, end = 0, to
	}
	debt = max(int64(first>>1)-now, 0)
	if end > to || debt > 2*rate.burst || debt+add > rate.burst || count+cost > d.rules[1].limit {
		unlock(&w[0], first)
		return 0, 0, false
	}
	debt += add
	count += cost
	w[1] = to<<32 | uint64(count)
	unlock(&w[0], uint64(now+debt)<<1)
	return debt, count, true
}

// miss makes room for an entry that was not found or is too narrow, and
// returns the hash to look for; 0 when it isn't worth an entry.
func (d *decider) miss(t *table, h uint64, req *ratelimit.Request, now int64, absent bool) uint64 {
	if t.words() < d.words {
		d.scope.widen(h, d.words, now)
		return h
	}
	if !absent {
		return h
	}
	if req.Op == ratelimit.Peek || req.Cost < 0 {
		return 0
	}
	if !d.scope.insert(h, now, false) {
		// The common entry of the part; its hash keeps the shard.
		h = h%shards | 1<<63
		d.scope.insert(h, now, true)
	}
	return h
}

// swap decides without taking the lock: the state is one word, so that a
// compare and swap is the whole step. It returns the debt afterwards and how
// long to wait, 0 for no time. It reports false, having done nothing, when the
// entry isn't there, somebody else was at it, or the clock has stepped back.
func (d *bucket) swap(h uint64, cost int64, op ratelimit.Op, now int64) (debt, wait int64, ok bool) {
	t := d.scope.tables[h%shards].Load()
	slot, ok := t.find(h)
	if !ok {
		return 0, 0, false
	}
	r, first := &d.rules[0], &slot[1]
	w := atomic.LoadUint64(first)
	debt = max(int64(w>>1)-now, 0)
	if w&locked != 0 || debt > 2*r.burst {
		return 0, 0, false
	}
	if cost > r.limit {
		return debt, ratelimit.WaitForever, true
	}
	after := debt + cost*r.interval
	if after > r.burst {
		return debt, after - r.burst, true
	}
	if op == ratelimit.Peek {
		return debt, 0, true
	}
	return after, 0, atomic.CompareAndSwapUint64(first, w, uint64(now+after)<<1)
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
