package ratelimitredis

import (
	"sync"
	"time"

	"github.com/kolekt/commerce/ratelimit"
)

// denials remembers for a moment who was refused, so that a client that floods
// doesn't make Redis say the same again and again. Nothing but a reset, a
// refund or another plan can let a key pass earlier than it was told; those of
// this process are seen at once, those of others when the entry ends.
type denials struct {
	ttl time.Duration // 0 means that nothing is remembered
	max int

	mu      sync.RWMutex
	entries map[denied]denial
}

// denied is who was refused: a scope's prefix and a key.
type denied struct{ prefix, key string }

type denial struct {
	decider *decider // of the plan: another one asks anew
	cost    int64
	until   time.Time
	at      time.Time
	out     ratelimit.Outcome
	used    ratelimit.Used
}

// find returns the refusal of a request, as it stands by now.
func (d *denials) find(dec *decider, op ratelimit.Op, req *ratelimit.Request) (out ratelimit.Outcome, used ratelimit.Used, ok bool) {
	if d.ttl == 0 || op == ratelimit.Adjust {
		return out, used, false
	}
	d.mu.RLock()
	e, ok := d.entries[denied{dec.prefix, req.Key}]
	d.mu.RUnlock()
	if !ok || e.decider != dec || e.cost != req.Cost {
		return out, used, false
	}
	now := time.Now()
	if !now.Before(e.until) {
		return out, used, false
	}
	out, used = e.out, e.used
	passed := now.Sub(e.at).Microseconds()
	out.Later(passed)
	for i, r := range dec.rules {
		if r.Algorithm == ratelimit.Bucket {
			used.Set(i, max(used.Of(i)-passed, 0))
		}
	}
	return out, used, true
}

// learn remembers a refusal.
func (d *denials) learn(dec *decider, op ratelimit.Op, req *ratelimit.Request, out ratelimit.Outcome, used ratelimit.Used) {
	if d.ttl == 0 || op == ratelimit.Adjust || out.Stale() {
		return
	}
	wait := out.Refused()
	if wait == 0 {
		return
	}
	for i, r := range dec.rules {
		if r.Algorithm == ratelimit.Period { // nothing is said of a period after its end
			wait = min(wait, req.Spans[i].To-out.Now)
		}
	}
	now := time.Now()
	life := time.Duration(min(wait, d.ttl.Microseconds())) * time.Microsecond
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.entries) >= d.max {
		for k, e := range d.entries {
			if !now.Before(e.until) {
				delete(d.entries, k)
			}
		}
		if len(d.entries) >= d.max {
			clear(d.entries) // they are only a shortcut
		}
	}
	d.entries[denied{dec.prefix, req.Key}] = denial{decider: dec, cost: req.Cost, until: now.Add(life), at: now, out: out, used: used}
}

// forget drops what is remembered of a key.
func (d *denials) forget(prefix, key string) {
	if d.ttl == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.entries, denied{prefix, key})
}
