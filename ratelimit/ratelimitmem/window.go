package ratelimitmem

import (
	"github.com/kolekt/commerce/ratelimit"
)

// epoch is when ends of periods begin to count, in seconds since the Unix
// epoch: 2000-01-01. 31 bits of seconds last until 2068.
const epoch = 946_684_800

// state is a counter that entries of a scope have room for.
type state struct {
	name     string
	kind     ratelimit.Algorithm
	offset   int // of its first word in an entry
	interval int64
}

// words returns how many words a state takes. Each has 63 bits to use: bit 0
// of an entry's first word is its lock.
func words(kind ratelimit.Algorithm) int {
	if kind == ratelimit.Rolling {
		return 4
	}
	return 1
}

// rule is a window, ready to be applied.
type rule struct {
	kind     ratelimit.Algorithm
	offset   int
	limit    int64
	interval int64
	burst    int64 // Bucket: limit*interval
}

// room returns what the debt of a bucket would be after a cost, and whether it
// has room for that. The bucket's word is an entry's first, which nobody has
// locked if there is room.
func (r *rule) room(first uint64, cost, now int64) (after int64, ok bool) {
	after = max(int64(first>>1)-now, 0) + cost*r.interval
	return after, first&locked == 0 && cost <= r.limit && after <= r.burst
}

// A count and the end of its period share a word.
func packPeriod(count, end int64) uint64 { return packEnd(end)<<32 | uint64(count) }

func unpackPeriod(w uint64) (count, end int64) {
	if w == 0 {
		return 0, 0
	}
	return int64(w & countMask32), unpackEnd(w >> 32)
}

const countMask32 = 1<<32 - 1

func packEnd(end int64) uint64   { return uint64(end/1_000_000 - epoch) }
func unpackEnd(end uint64) int64 { return (int64(end) + epoch) * 1_000_000 }

// counts of a Rolling window: the newest slot's number, then 9 counts of 21
// bits, the newest first.
type counts struct {
	slot int64
	n    [ratelimit.RollingSlots + 1]int64
}

const countMask = 1<<21 - 1

func unpackRolling(e *entry, offset int) counts {
	c := counts{slot: int64(e.get(offset))}
	for i := range 3 {
		w := e.get(offset + 1 + i)
		for j := range 3 {
			c.n[3*i+j] = int64(w >> (21 * j) & countMask)
		}
	}
	return c
}

func (c *counts) pack(e *entry, offset int) {
	e.set(offset, uint64(c.slot))
	for i := range 3 {
		e.set(offset+1+i, uint64(c.n[3*i])|uint64(c.n[3*i+1])<<21|uint64(c.n[3*i+2])<<42)
	}
}

// advance makes slot the newest one, and reports whether it did so although
// the slots lay ahead of it.
func (c *counts) advance(slot int64) (back bool) {
	ahead := slot - c.slot
	switch {
	case ahead > ratelimit.RollingSlots:
		c.n = [ratelimit.RollingSlots + 1]int64{}
		c.slot = slot
	case ahead > 0:
		copy(c.n[ahead:], c.n[:])
		clear(c.n[:ahead])
		c.slot = slot
	case ahead < -(ratelimit.RollingSlots + 1):
		c.slot = slot
		return true
	}
	return false
}

func (c *counts) sum() (sum int64) {
	for _, n := range c.n {
		sum += n
	}
	return sum
}

// wait returns in how many microseconds the sum will be need lower.
func (c *counts) wait(need, interval, now int64) int64 {
	for i := len(c.n) - 1; i >= 0; i-- {
		if need -= c.n[i]; need <= 0 {
			return (c.slot-int64(i)+ratelimit.RollingSlots+1)*interval - now
		}
	}
	return ratelimit.WaitForever
}

// charge adds n units to the newest slot, or takes -n from the oldest ones.
// What was refunded then leaves early and never late, so the bound holds.
func (c *counts) charge(n int64) {
	if n >= 0 {
		c.n[0] = min(c.n[0]+n, countMask)
		return
	}
	for i := len(c.n) - 1; i >= 0 && n < 0; i-- {
		part := min(c.n[i], -n)
		c.n[i] -= part
		n += part
	}
}

// dead reports whether an entry is the same as none.
func dead(states []state, words []uint64, first uint64, now int64) bool {
	e := entry{words: words, first: first}
	for i := range states {
		s := &states[i]
		if s.offset >= len(words) {
			break // a table from before this state
		}
		if _, until := s.held(&e, now); until > now {
			return false
		}
	}
	return true
}

// held returns what a state holds and until when it matters.
func (s *state) held(e *entry, now int64) (used, until int64) {
	switch w := e.get(s.offset); s.kind {
	case ratelimit.Bucket:
		return int64(w) - now, int64(w)
	case ratelimit.Period:
		return unpackPeriod(w)
	case ratelimit.Rolling:
		c := unpackRolling(e, s.offset)
		if c.slot > now/s.interval+ratelimit.RollingSlots+1 {
			c.slot = now / s.interval
		}
		if used = c.sum(); used == 0 {
			return 0, 0
		}
		return used, (c.slot + ratelimit.RollingSlots + 1) * s.interval
	}
	return 0, 0
}

// entry gives the words of an entry that the caller has locked. The first
// word is kept aside, for writing it is what unlocks.
type entry struct {
	words []uint64
	first uint64 // as stored: shifted by the lock's bit
}

func (e *entry) get(i int) uint64 {
	if i == 0 {
		return e.first >> 1
	}
	return e.words[i]
}

func (e *entry) set(i int, w uint64) {
	if i == 0 {
		e.first = w << 1
		return
	}
	e.words[i] = w
}
