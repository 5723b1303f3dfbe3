package ratelimitredis

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/ratelimit"
)

const (
	// maxFlights is how many round trips are under way at the same time. More
	// would make the batches smaller and Redis do more for each decision.
	maxFlights = 2
	// maxBatch bounds how long one script keeps Redis from others: about half
	// a millisecond.
	maxBatch = 128
	// maxQueue bounds the memory of callers that wait for a Redis that hangs.
	maxQueue = 1 << 16
)

var errQueue = errors.New("ratelimitredis: too many callers wait for Redis")

// batcher sends decisions: at once while few are on the way, and together with
// those that have gathered meanwhile otherwise.
type batcher struct {
	client   redis.UniversalClient
	timeout  time.Duration
	aheads   *aheads
	single   bool        // one server: one script can decide for many keys
	portable atomic.Bool // the server can't run plain scripts

	mu      sync.Mutex
	flights int
	queue   []*call
}

// call is a decision that waits for its batch.
type call struct {
	decider *decider
	op      ratelimit.Op
	req     ratelimit.Request
	key     string
	next    *call // an equal request, decided together
	count   int64 // of the first: how many are asked for, those ahead included
	out     ratelimit.Outcome
	used    ratelimit.Used
	err     error
	done    chan struct{}
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

func newCall(d *decider, op ratelimit.Op, req *ratelimit.Request) *call {
	c := calls.Get().(*call)
	c.decider, c.op, c.req, c.key = d, op, *req, d.prefix+req.Key
	return c
}

// answer returns what became of a call, and the call to the pool.
func (c *call) answer() (out ratelimit.Outcome, used ratelimit.Used, err error) {
	out, used, err = c.out, c.used, c.err
	*c = call{done: c.done}
	calls.Put(c)
	return out, used, err
}

func (b *batcher) do(ctx context.Context, d *decider, op ratelimit.Op, req *ratelimit.Request) (out ratelimit.Outcome, used ratelimit.Used, err error) {
	if err := ctx.Err(); err != nil {
		return out, used, err
	}
	b.mu.Lock()
	if b.flights < maxFlights && len(b.queue) == 0 {
		b.flights++
		b.mu.Unlock()
		defer b.land(ctx)
		c := newCall(d, op, req)
		c.count = 1
		b.decide(ctx, []*call{c})
		return c.answer()
	}
	if len(b.queue) >= maxQueue {
		b.mu.Unlock()
		return out, used, errQueue
	}
	c := newCall(d, op, req)
	b.queue = append(b.queue, c)
	b.mu.Unlock()
	select {
	case <-c.done:
		return c.answer()
	case <-ctx.Done():
		// The call stays in its batch, whose goroutine still writes to it.
		return out, used, ctx.Err()
	}
}

// land ends a flight and starts the next one with those who wait.
func (b *batcher) land(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		b.flights--
		return
	}
	n := min(len(b.queue), maxBatch)
	batch := append(make([]*call, 0, n), b.queue[:n]...)
	rest := copy(b.queue, b.queue[n:])
	clear(b.queue[rest:])
	b.queue = b.queue[:rest]
	// In a goroutine, for the caller that lands has its answer; without the
	// caller's deadline, for the batch is others'.
	go b.fly(context.WithoutCancel(ctx), batch)
}

func (b *batcher) fly(ctx context.Context, batch []*call) {
	defer b.land(ctx)
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	groups := group(batch)
	b.size(groups)
	b.decide(ctx, groups)
	for _, c := range groups {
		for c != nil {
			next := c.next
			c.done <- struct{}{}
			c = next
		}
	}
}

// group chains the calls that ask the same of the same key behind the first of
// them.
func group(batch []*call) []*call {
	type same struct {
		decider *decider
		key     string
		cost    int64
		spans   *ratelimit.Spans
	}
	groups := batch[:0]
	last := make(map[same]*call, len(batch))
	for _, c := range batch {
		if !c.decider.merges || c.op != ratelimit.Take {
			groups = append(groups, c)
			continue
		}
		k := same{c.decider, c.key, c.req.Cost, c.req.Spans}
		if before := last[k]; before != nil {
			before.next = c
		} else {
			groups = append(groups, c)
		}
		last[k] = c
	}
	return groups
}

// size counts the calls of each group and adds what is worth taking ahead.
func (b *batcher) size(groups []*call) {
	for _, first := range groups {
		n := int64(0)
		for c := first; c != nil; c = c.next {
			n++
		}
		first.count = n
		if first.decider.merges && first.op == ratelimit.Take {
			first.count += b.aheads.want(n)
		}
	}
}

// settle hands the verdict about a group to its calls, and the rest of what it
// paid for to those that come next.
func (c *call) settle(v *verdict, ahead *aheads) {
	i := int64(0)
	for each := c; each != nil; each = each.next {
		each.out, each.used = c.decider.outcome(v, each.op, &each.req, i)
		i++
	}
	if c.count > i && v.admitted > i {
		out, used := c.decider.outcome(v, c.op, &c.req, v.admitted-1)
		ahead.keep(c, v.admitted-i, out, used)
	}
}

// fail tells all calls of a group that nobody knows.
func (c *call) fail(err error) {
	for ; c != nil; c = c.next {
		c.err = err
	}
}

// decide asks Redis about all groups, in one round trip as a rule.
func (b *batcher) decide(ctx context.Context, groups []*call) {
	asks := b.asks(groups)
	b.send(ctx, asks, false)
	if again := only(asks, func(a *ask) bool { return isNoScript(a.err()) }); again != nil {
		// Those did nothing, so they alone are sent again.
		b.send(ctx, again, true)
	}
	if again := only(asks, func(a *ask) bool { return a.plain != nil && a.text.Val() == portable }); again != nil {
		b.portable.Store(true)
		for _, a := range again {
			b.decide(ctx, a.calls)
			a.calls = nil
		}
	}
	for _, a := range asks {
		if len(a.calls) > 0 {
			a.settle(b.aheads)
		}
	}
}

// only returns the asks that a filter wants.
func only(asks []*ask, wanted func(*ask) bool) (some []*ask) {
	for _, a := range asks {
		if wanted(a) {
			some = append(some, a)
		}
	}
	return some
}

// asks divides groups by the scripts that decide about them. On a single server
// one run decides for many keys; in a cluster they live on different nodes.
func (b *batcher) asks(groups []*call) (asks []*ask) {
	for i, c := range groups {
		var plain *script
		if c.op == ratelimit.Take && !b.portable.Load() {
			plain = c.decider.plain
		}
		var known *ask
		if b.single {
			for _, a := range asks {
				if a.plain == plain {
					known = a
				}
			}
		}
		if known == nil {
			known = &ask{plain: plain, calls: make([]*call, 0, len(groups)-i)}
			if !b.single {
				known.calls = groups[i : i : i+1]
			}
			asks = append(asks, known)
		}
		known.calls = append(known.calls, c)
	}
	return asks
}

// send sends asks in one round trip to each server. Each keeps its own error.
func (b *batcher) send(ctx context.Context, asks []*ask, whole bool) {
	if len(asks) == 1 {
		_ = b.client.Process(ctx, asks[0].command(ctx, whole))
		return
	}
	pipe := b.client.Pipeline()
	for _, a := range asks {
		_ = pipe.Process(ctx, a.command(ctx, whole)) // queued
	}
	_, _ = pipe.Exec(ctx) // the first of the commands' errors
}
