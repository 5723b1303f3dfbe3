package ratelimitredis

import (
	"context"
	"errors"
	"strconv"
	"sync"
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

var (
	errReply = errors.New("ratelimitredis: unexpected reply of the script")
	errQueue = errors.New("ratelimitredis: too many callers wait for Redis")
)

// batcher sends decisions: at once while few are on the way, and together with
// those that have gathered meanwhile otherwise.
type batcher struct {
	client  redis.UniversalClient
	timeout time.Duration
	aheads  *aheads
	single  bool // one server: one script can decide for many keys

	mu      sync.Mutex
	flights int
	queue   []*call
}

// call is a decision that waits for its batch.
type call struct {
	decider *decider
	req     ratelimit.Request
	key     string
	plan    *planArgs
	next    *call // an equal request, decided together
	count   int64 // of the first: how many are asked for, those ahead included
	out     ratelimit.Outcome
	used    ratelimit.Used
	err     error
	done    chan struct{}
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

func (b *batcher) do(ctx context.Context, d *decider, req *ratelimit.Request) (out ratelimit.Outcome, used ratelimit.Used, err error) {
	if err := ctx.Err(); err != nil {
		return out, used, err
	}
	b.mu.Lock()
	if b.flights < maxFlights && len(b.queue) == 0 {
		b.flights++
		b.mu.Unlock()
		defer b.land(ctx)
		return b.one(ctx, d, req)
	}
	if len(b.queue) >= maxQueue {
		b.mu.Unlock()
		return out, used, errQueue
	}
	c := calls.Get().(*call)
	c.decider, c.req, c.key = d, *req, d.prefix+req.Key
	b.queue = append(b.queue, c)
	b.mu.Unlock()
	select {
	case <-c.done:
		out, used, err = c.out, c.used, c.err
		*c = call{done: c.done}
		calls.Put(c)
		return out, used, err
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
	if b.single {
		b.together(ctx, groups)
	} else {
		b.pipeline(ctx, groups)
	}
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
		if !c.decider.merges || c.req.Op != ratelimit.Take {
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
		if first.decider.merges && first.req.Op == ratelimit.Take {
			first.count += b.aheads.want(n)
		}
	}
}

// settle hands the reply about a group to its calls, and the rest of what it
// paid for to those that come next.
func (b *batcher) settle(first *call, now int64, reply []int64) {
	i := int64(0)
	for c := first; c != nil; c = c.next {
		c.out, c.used = c.decider.outcome(now, reply, &c.req, i)
		i++
	}
	if admitted := reply[0]; first.count > i && admitted > i {
		out, used := first.decider.outcome(now, reply, &first.req, admitted-1)
		b.aheads.keep(first, admitted-i, out, used)
	}
}

func (c *call) fail(err error) {
	for ; c != nil; c = c.next {
		c.err = err
	}
}

// one decides for a single caller.
func (b *batcher) one(ctx context.Context, d *decider, req *ratelimit.Request) (out ratelimit.Outcome, used ratelimit.Used, err error) {
	plan := d.args(req.Spans)
	reply, err := decideScript.run(ctx, b.client, []string{d.prefix + req.Key}, request(plan, req, 1))
	if err != nil {
		return out, used, err
	}
	if len(reply) != 1+d.replyLen() {
		return out, used, errReply
	}
	out, used = d.outcome(reply[0], reply[1:], req, 0)
	return out, used, nil
}

// request is the arguments of one plan and one key.
func request(plan *planArgs, req *ratelimit.Request, m int64) []any {
	var room [256]byte
	b := append(append(room[:0], '['), plan.text...)
	return arguments(appendKey(b, 1, req, m), plan.len)
}

// appendKey appends a key's plan, by where it begins, and what is asked.
func appendKey(b []byte, plan int, req *ratelimit.Request, m int64) []byte {
	return appendNumbers(b, int64(plan), int64(req.Op), req.Cost, m)
}

// arguments closes a list of which the plans' part is so long.
func arguments(list []byte, plans int) []any {
	list[len(list)-1] = ']' // instead of the last comma
	return []any{string(list), strconv.Itoa(plans)}
}

// together decides for all groups in one script.
func (b *batcher) together(ctx context.Context, groups []*call) {
	begins := map[*planArgs]int{} // counted from 1
	keys := make([]string, len(groups))
	list := append(make([]byte, 0, 256+24*len(groups)), '[')
	size := 0
	for i, c := range groups {
		keys[i] = c.key
		p := c.decider.args(c.req.Spans)
		if begins[p] == 0 {
			begins[p] = size + 1
			size += p.len
			list = append(list, p.text...)
		}
		c.plan = p
	}
	want := 1
	for _, c := range groups {
		list = appendKey(list, begins[c.plan], &c.req, c.count)
		want += c.decider.replyLen()
	}
	args := arguments(list, size)
	reply, err := decideScript.run(ctx, b.client, keys, args)
	if err == nil && len(reply) != want {
		err = errReply
	}
	at := 1
	for _, c := range groups {
		if err != nil {
			c.fail(err)
			continue
		}
		b.settle(c, reply[0], reply[at:])
		at += c.decider.replyLen()
	}
}

// pipeline decides for all groups by a script each: in a cluster their keys
// live on different nodes, and the client sends each node its own.
func (b *batcher) pipeline(ctx context.Context, groups []*call) {
	cmds := make([]*redis.IntSliceCmd, len(groups))
	send := func(whole bool, wanted func(i int) bool) {
		pipe := b.client.Pipeline()
		for i, c := range groups {
			if wanted(i) {
				args := decideScript.args(whole, []string{c.key}, request(c.decider.args(c.req.Spans), &c.req, c.count))
				cmds[i] = redis.NewIntSliceCmd(ctx, args...)
				_ = pipe.Process(ctx, cmds[i]) // queued; each command carries its own error
			}
		}
		_, _ = pipe.Exec(ctx) // the first of the commands' errors
	}
	send(false, func(int) bool { return true })
	unknown := false
	for _, cmd := range cmds {
		unknown = unknown || isNoScript(cmd.Err())
	}
	if unknown {
		// Those commands did nothing, so they alone are sent again.
		again := make([]bool, len(cmds))
		for i, cmd := range cmds {
			again[i] = isNoScript(cmd.Err())
		}
		send(true, func(i int) bool { return again[i] })
	}
	for i, c := range groups {
		reply, err := cmds[i].Result()
		if err == nil && len(reply) != 1+c.decider.replyLen() {
			err = errReply
		}
		if err != nil {
			c.fail(err)
			continue
		}
		b.settle(c, reply[0], reply[1:])
	}
}
