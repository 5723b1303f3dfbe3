package ratelimitmem

import (
	"context"
	"hash/maphash"
	"sync/atomic"

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
	pair    bool // a bucket and a period that refuse, in the first two words
	bucket  bool // the only window, in the first word, is a bucket that refuses
	rules   [ratelimit.MaxWindows]rule
}

// Decide implements ratelimit.Decider. It waits for nothing that the context
// could end.
func (d *decider) Decide(_ context.Context, req ratelimit.Request) (out ratelimit.Outcome, used ratelimit.Used, err error) {
	now := d.clock.now()
	out.Now = now
	if d.periods && req.Op != ratelimit.Adjust && d.stale(req.Spans, now) {
		out.SetStale()
		return out, used, nil
	}
	h := hash(d.seed, req.Key)
	sh := &d.scope.shards[h%shards]
	for {
		t := sh.table.Load()
		words, _ := t.find(h)
		if len(words) < d.words {
			if h = d.miss(sh, t, h, &req, now, words == nil); h == 0 {
				// Nothing is known and nothing will be: answer from a blank.
				var blank [maxWords]uint64
				d.apply(&entry{words: blank[:]}, &req, now, &out, &used)
				return out, used, nil
			}
			continue
		}
		if d.bucket && req.Op != ratelimit.Adjust {
			if d.swap(&words[0], &req, now, &out, &used) {
				return out, used, nil
			}
		}
		first, ok := lock(words)
		if !ok {
			sh.next(t)
			continue
		}
		if d.pair && req.Op == ratelimit.Take {
			if next, ok := d.take(&words[1], first, &req, now, &used); ok {
				unlock(words, next)
				return out, used, nil
			}
		}
		e := entry{words: words, first: first}
		d.apply(&e, &req, now, &out, &used)
		unlock(words, e.first)
		return out, used, nil
	}
}

// take is apply for the commonest plan, a bucket and a period in an entry's
// first two words, when both have room. It returns the first word to unlock
// with, or false, having done nothing.
func (d *decider) take(second *uint64, first uint64, req *ratelimit.Request, now int64, levels *ratelimit.Used) (uint64, bool) {
	bucket, period := &d.rules[0], &d.rules[1]
	count, end := unpackPeriod(*second)
	to := req.Spans[1].To
	debt := max(int64(first>>1)-now, 0)
	if end > to || debt > 2*bucket.burst || req.Cost > bucket.limit {
		return first, false
	}
	if end <= now {
		count = 0
	}
	debt += req.Cost * bucket.interval
	count += req.Cost
	if debt > bucket.burst || count > period.limit {
		return first, false
	}
	*second = packPeriod(count, to)
	levels.Set(0, debt)
	levels.Set(1, count)
	return uint64(now+debt) << 1, true
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

// swap decides about a plan of one bucket without taking the lock: the state is
// one word, so that a compare and swap is the whole step. It reports false,
// having done nothing, when somebody else was at the entry or the clock has
// stepped back.
func (d *decider) swap(word *uint64, req *ratelimit.Request, now int64, out *ratelimit.Outcome, levels *ratelimit.Used) bool {
	r := &d.rules[0]
	w := atomic.LoadUint64(word)
	used := max(int64(w>>1)-now, 0)
	if w&locked != 0 || used > 2*r.burst {
		return false
	}
	if req.Cost > r.limit {
		out.SetOver(0, false, ratelimit.WaitForever)
	} else if after := used + req.Cost*r.interval; after > r.burst {
		out.SetOver(0, false, after-r.burst)
	} else if req.Op == ratelimit.Take {
		if !atomic.CompareAndSwapUint64(word, w, uint64(now+after)<<1) {
			return false
		}
		used = after
	}
	levels.Set(0, used)
	return true
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
