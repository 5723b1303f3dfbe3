package ratelimitredis

import (
	"sync"
	"time"

	"github.com/kolekt/commerce/ratelimit"
)

// hot is from how many equal requests in one batch on a key is worth taking
// units ahead for.
const hot = 4

// aheads are units that this process has charged to hot keys and not yet
// given to requests. They are charged before they are spent, so that no number
// of processes admits more than the limit.
type aheads struct {
	ttl time.Duration // 0 means that nothing is taken ahead
	max int64

	mu   sync.Mutex
	keys map[denied]*ahead
}

// ahead is what is left of one batch's units for a key.
type ahead struct {
	older   *ahead // of the same plan and cost
	decider *decider
	cost    int64
	spans   *ratelimit.Spans
	left    int64 // requests that are paid for
	until   time.Time
	out     ratelimit.Outcome
	used    ratelimit.Used // with all that was charged
}

// spend admits a request from what was taken ahead. Otherwise giveBack is what
// was left of units that are too old to spend, for the caller to refund.
func (a *aheads) spend(d *decider, op ratelimit.Op, req *ratelimit.Request) (out ratelimit.Outcome, used ratelimit.Used, ok bool, giveBack int64) {
	if a.ttl == 0 || op != ratelimit.Take {
		return out, used, false, 0
	}
	k := denied{d.prefix, req.Key}
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.keys[k]
	if h == nil || h.decider != d || h.cost != req.Cost || h.spans != req.Spans {
		return out, used, false, 0
	}
	if !time.Now().Before(h.until) {
		// What is older ends no later.
		for ; h != nil; h = h.older {
			giveBack += h.left * h.cost
		}
		delete(a.keys, k)
		return out, used, false, giveBack
	}
	h.left--
	used = h.used
	d.uncharge(&used, h.left*h.cost)
	if h.left == 0 {
		if h.older == nil {
			delete(a.keys, k)
		} else {
			a.keys[k] = h.older
		}
	}
	return h.out, used, true, 0
}

// want returns how many requests to pay for ahead, for n equal ones that travel
// together.
func (a *aheads) want(n int64) int64 {
	if a.ttl == 0 || n < hot {
		return 0
	}
	return min(2*n, a.max)
}

// keep takes in what a batch has paid for beyond its own requests.
func (a *aheads) keep(c *call, surplus int64, out ratelimit.Outcome, used ratelimit.Used) {
	life := a.ttl
	for i, r := range c.decider.rules {
		if r.Algorithm == ratelimit.Period { // a unit of this period is none of the next
			life = min(life, time.Duration(c.req.Spans[i].To-out.Now)*time.Microsecond)
		}
	}
	k := denied{c.decider.prefix, c.req.Key}
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	older := a.keys[k]
	if older != nil && (older.decider != c.decider || older.cost != c.req.Cost || older.spans != c.req.Spans) {
		older = nil // of another plan or period: it stays charged
	}
	a.keys[k] = &ahead{
		older: older, decider: c.decider, cost: c.req.Cost, spans: c.req.Spans,
		left: surplus, until: now.Add(life), out: out, used: used,
	}
}

// forget drops what was taken ahead: a reset has given it back already.
func (a *aheads) forget(prefix, key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.keys, denied{prefix, key})
}
