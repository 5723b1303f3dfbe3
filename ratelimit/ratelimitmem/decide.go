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
func (d *decider) Decide(_ context.Context, op ratelimit.Op, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	return d.decide(op, req, d.secret.hash(req.Key), d.clock.now())
}

// Decide is written for a processor that has a line of memory to wait for: it
// goes on meanwhile, into the next decisions, as far as it can keep instructions
// and stores, and until a branch was guessed wrong. So Decide has few of all three
// on the way to a plain yes: what is rare is a call at the end, for which nothing
// is saved. The slot is found by branches, because the processor goes on reading
// only while it knows, or has guessed, where it writes to.
func (d *bucket) Decide(_ context.Context, op ratelimit.Op, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	n, now := len(req.Key), d.clock.tick.Load()
	if n < 8 || n > 16 || now == 0 {
		return d.search(op, req)
	}
	h := d.secret.mix(load8(req.Key, 0), load8(req.Key, n-8), d.secret[1], n)
	t := d.scope.tables[h%shards].Load()
	s := t.at(t.home(h))
	if s.hash() != h {
		var ok bool
		if s, ok = t.find(h); !ok {
			return d.decide(op, req, h, now)
		}
	}
	first := atomic.LoadUint64(&s[1])
	after, ok := d.rules[0].room(first, req.Cost, now)
	// The state is one word, so the swap is the whole step.
	if !ok || op != ratelimit.Take || !atomic.CompareAndSwapUint64(&s[1], first, uint64(now+after)<<1) {
		return d.refuse(op, req, h, now, first)
	}
	return ratelimit.Outcome{Now: now}, ratelimit.UsedOf(after, 0), nil
}

// search is Decide for keys of every length and for every clock.
func (d *bucket) search(op ratelimit.Op, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	h, now := d.secret.hash(req.Key), d.clock.now()
	s, ok := d.scope.tables[h%shards].Load().find(h)
	if !ok {
		return d.decide(op, req, h, now)
	}
	first := atomic.LoadUint64(&s[1])
	after, ok := d.rules[0].room(first, req.Cost, now)
	if !ok || op != ratelimit.Take || !atomic.CompareAndSwapUint64(&s[1], first, uint64(now+after)<<1) {
		return d.refuse(op, req, h, now, first)
	}
	return ratelimit.Outcome{Now: now}, ratelimit.UsedOf(after, 0), nil
}

// refuse refuses without a lock when nothing but room is missing.
func (d *bucket) refuse(op ratelimit.Op, req ratelimit.Request, h uint64, now int64, first uint64) (ratelimit.Outcome, ratelimit.Used, error) {
	r := &d.rules[0]
	after, ok := r.room(first, req.Cost, now)
	// Far beyond its burst, a bucket is what a clock that has stepped back made.
	if ok || op != ratelimit.Take || first&locked != 0 || req.Cost > r.limit || after > 2*r.burst {
		return d.decide(op, req, h, now)
	}
	out := ratelimit.Outcome{Now: now}
	out.SetOver(0, false, after-r.burst)
	return out, ratelimit.UsedOf(after-req.Cost*r.interval, 0), nil
}

// Decide charges both windows when both have room, and leaves all else to the
// long way.
func (d *pair) Decide(_ context.Context, op ratelimit.Op, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	h, now := d.secret.hash(req.Key), d.clock.now()
	t := d.scope.tables[h%shards].Load()
	s, ok := t.find(h)
	if !ok || op != ratelimit.Take || t.words() < 2 {
		return d.decide(op, req, h, now)
	}
	first, span := atomic.LoadUint64(&s[1]), &req.Spans[1]
	after, ok := d.rules[0].room(first, req.Cost, now)
	if !ok || now < span.From || now >= span.To || !atomic.CompareAndSwapUint64(&s[1], first, first|locked) {
		return d.decide(op, req, h, now)
	}
	words, to := s.pair(), packEnd(span.To)
	count, end := int64(words[1]&countMask32), words[1]>>32
	if end != to && unpackEnd(end) <= now {
		count, end = 0, to
	}
	if end > to || count+req.Cost > d.rules[1].limit {
		unlock(&words[0], first)
		return d.decide(op, req, h, now)
	}
	count += req.Cost
	words[1] = to<<32 | uint64(count)
	unlock(&words[0], uint64(now+after)<<1)
	return ratelimit.Outcome{Now: now}, ratelimit.UsedOf(after, count), nil
}

// decide is Decide for every plan, key and operation.
func (d *decider) decide(op ratelimit.Op, req ratelimit.Request, h uint64, now int64) (out ratelimit.Outcome, used ratelimit.Used, err error) {
	out.Now = now
	if d.periods && op != ratelimit.Adjust && d.stale(req.Spans, now) {
		out.SetStale()
		return out, used, nil
	}
	for {
		t := d.scope.tables[h%shards].Load()
		slot, ok := t.find(h)
		if !ok || t.words() < d.words {
			if h = d.miss(t, h, op, req.Cost, now, !ok); h == 0 {
				// Nothing is known and nothing will be: answer from a blank.
				var blank [maxWords]uint64
				d.apply(&entry{words: blank[:]}, op, &req, now, &out, &used)
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
		d.apply(&e, op, &req, now, &out, &used)
		unlock(&words[0], e.first)
		return out, used, nil
	}
}

// miss makes room for an entry that was not found or is too narrow, and
// returns the hash to look for; 0 when it isn't worth an entry.
func (d *decider) miss(t *table, h uint64, op ratelimit.Op, cost, now int64, absent bool) uint64 {
	if t.words() < d.words {
		d.scope.widen(h, d.words, now)
		return h
	}
	if !absent {
		return h
	}
	if op == ratelimit.Peek || cost < 0 {
		return 0
	}
	if !d.scope.insert(h, now, false) {
		// The common entry of the part; its hash keeps the shard.
		h = h%shards | 1<<63
		d.scope.insert(h, now, true)
	}
	return h
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
func (d *decider) apply(e *entry, op ratelimit.Op, req *ratelimit.Request, now int64, out *ratelimit.Outcome, levels *ratelimit.Used) {
	if op == ratelimit.Adjust {
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
	charge := op == ratelimit.Take && over&^d.shadow == 0
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
