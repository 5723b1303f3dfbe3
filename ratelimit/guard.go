package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// GuardConfig configures a Guard. The zero value is good for one instance.
type GuardConfig struct {
	// Budget is how long a decision may wait for the store; 0 means 25 ms.
	Budget time.Duration
	// Instances is by how many processes the limits are divided while each
	// decides alone; 0 means 1.
	Instances int
	// Misses is after how many failures in a row the store isn't asked any
	// more; 0 means 3.
	Misses int
	// Probe is how often the store is tried again then, in the background; 0
	// means 200 ms.
	Probe time.Duration
	// OnChange hears when the store goes away, with the reason, and with nil
	// when it is back. It is called on a deciding or probing goroutine.
	OnChange func(err error)
}

// Guard is a Store that answers in bounded time whatever the store behind it
// does. While that one is away, each window is enforced as its OnFailure says:
// by a share of its limit on a local store, not at all, or by refusing.
//
// A bucket and a rolling window begin locally as if nothing had been used: soon
// that is true. A period goes on from what the store last said to this process
// about the key, and each instance enforces its share of what was left then. So
// at most the limit is admitted in a period with one outage, plus what other
// instances admitted since this one last asked about the key, plus one unit for
// each instance when fewer units are left than there are instances. About a key
// that the process hasn't asked about in the period it knows nothing, and
// enforces a share of the whole limit. Whatever happens, all instances together
// admit no more than the limit locally in a period, beside what the store
// admits. What is known is kept in the local store, within its bound; a refund
// doesn't lower it.
//
// What is decided locally isn't charged to the store later. A decision that
// misses the budget may have been charged to the store as well.
//
// Guard starts a goroutine for a decision unless the store honours contexts (it
// then has a method HonoursContext() bool that says so), and one for a probe;
// each ends when the store's call does.
type Guard struct {
	remote, local Store
	cfg           GuardConfig
	inline        bool

	away   atomic.Bool // read by every decision
	misses atomic.Int64
	next   atomic.Int64 // when to probe, nanoseconds since start
	probes atomic.Int64 // under way
	start  time.Time
	alone  atomic.Int64 // local decisions

	mu    sync.Mutex
	since time.Time
	err   error

	seed    maphash.Seed
	stripes [64]sync.Mutex // by key: held to learn about it
}

// maxProbes bounds the probes that hang in a store that never answers.
const maxProbes = 4

var (
	_ Store      = (*Guard)(nil)
	_ LeaseStore = (*Guard)(nil)
)

// NewGuard returns a Guard of a store. The local store is one of this process,
// such as ratelimitmem.New(ratelimitmem.Config{}).
func NewGuard(store, local Store, cfg GuardConfig) (*Guard, error) {
	if store == nil || local == nil {
		return nil, errors.New("ratelimit: NewGuard needs a store and a local store, such as ratelimitmem.New(ratelimitmem.Config{})")
	}
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"Budget", int64(cfg.Budget)}, {"Instances", int64(cfg.Instances)}, {"Misses", int64(cfg.Misses)}, {"Probe", int64(cfg.Probe)},
	} {
		if f.n < 0 {
			return nil, fmt.Errorf("ratelimit: GuardConfig.%s is negative", f.name)
		}
	}
	if cfg.Budget == 0 {
		cfg.Budget = 25 * time.Millisecond
	}
	cfg.Instances = max(cfg.Instances, 1)
	if cfg.Misses == 0 {
		cfg.Misses = 3
	}
	if cfg.Probe == 0 {
		cfg.Probe = 200 * time.Millisecond
	}
	g := &Guard{remote: store, local: local, cfg: cfg, start: time.Now(), seed: maphash.MakeSeed()}
	if h, ok := store.(interface{ HonoursContext() bool }); ok {
		g.inline = h.HonoursContext()
	}
	return g, nil
}

// GuardState is how a Guard fares, for health checks.
type GuardState struct {
	Healthy bool
	// Since is when the store went away, and Err why; zero while it is healthy.
	Since time.Time
	Err   error
	// Local counts the decisions that were taken without the store so far.
	Local int64
}

// State returns how the Guard fares.
func (g *Guard) State() GuardState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return GuardState{Healthy: !g.away.Load(), Since: g.since, Err: g.err, Local: g.alone.Load()}
}

// guarded decides for one plan.
type guarded struct {
	guard  *Guard
	remote Decider
	local  Decider // nil when a window is Closed
	plan   *Plan   // the local share
	closed uint8   // windows that refuse
	known  []known
}

// known is a period whose usage is carried over to the local store.
type known struct {
	window       int
	limit, share int64
	local        Decider // of a plan with this window alone
	spans        atomic.Pointer[moved]
}

// moved are the spans of a plan with one window, made of those of the whole.
type moved struct {
	of   *Spans
	here Spans
}

func (k *known) spansOf(of *Spans) *Spans {
	if m := k.spans.Load(); m != nil && m.of == of {
		return &m.here
	}
	m := &moved{of: of, here: Spans{of[k.window]}}
	k.spans.Store(m)
	return &m.here
}

// Prepare implements Store.
func (g *Guard) Prepare(scope string, plan *Plan) (Decider, error) {
	remote, err := g.remote.Prepare(scope, plan)
	if err != nil {
		return nil, err
	}
	d := &guarded{guard: g, remote: remote}
	if d.plan, d.closed, err = plan.share(int64(g.cfg.Instances)); err != nil {
		return nil, err
	}
	if d.closed == 0 {
		if d.local, err = g.local.Prepare(scope, d.plan); err != nil {
			return nil, err
		}
		if d.known, err = g.carryOver(scope, plan, d.plan); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (g *Guard) carryOver(scope string, plan, share *Plan) ([]known, error) {
	var all []known
	for i, w := range share.windows {
		if w.Algorithm != Period || w.Shadow || w.Limit == 0 {
			continue
		}
		alone, err := newPlan(share.name, []Window{w}, false)
		if err != nil {
			return nil, err
		}
		local, err := g.local.Prepare(scope, alone)
		if err != nil {
			return nil, err
		}
		all = append(all, known{window: i, limit: plan.rules[i].Limit, share: w.Limit, local: local})
	}
	return all, nil
}

// learn raises what the local store counts in each period, so that this
// instance's share of what is left is left there. It never lowers it: what was
// decided locally in an earlier outage is unknown to the store.
func (d *guarded) learn(ctx context.Context, req Request, used Used) {
	stripe := &d.guard.stripes[maphash.String(d.guard.seed, req.Key)%uint64(len(d.guard.stripes))]
	stripe.Lock()
	defer stripe.Unlock()
	for i := range d.known {
		k := &d.known[i]
		left := max(k.limit-used.Of(k.window), 0)
		mine := left / int64(d.guard.cfg.Instances)
		if left > 0 {
			mine = max(mine, 1)
		}
		want := k.share - mine
		if want <= 0 {
			continue
		}
		ask := Request{Key: req.Key, Cost: 1, Spans: k.spansOf(req.Spans)}
		out, has, err := k.local.Decide(ctx, Peek, ask)
		if err != nil || out.Stale() || has.Of(0) >= want {
			continue
		}
		ask.Cost = want - has.Of(0)
		_, _, _ = k.local.Decide(ctx, Take, ask) // without it the share is the whole limit's
	}
}

// share is the plan that each of n instances enforces alone, with the same
// windows in the same places.
func (p *Plan) share(n int64) (local *Plan, closed uint8, err error) {
	windows := p.Windows()
	for i := range windows {
		w := &windows[i]
		if w.Limit > 0 {
			w.Limit = max(w.Limit/n, 1)
		}
		if w.Burst > 0 {
			w.Burst = max(w.Burst/n, 1)
		}
		switch w.OnFailure {
		case Open:
			w.Shadow = true
		case Closed:
			if !w.Shadow {
				closed |= 1 << i
			}
		}
	}
	if local, err = newPlan(p.name, windows, false); err != nil {
		return nil, 0, err
	}
	return local, closed, nil
}

// Decide implements Decider.
func (d *guarded) Decide(ctx context.Context, op Op, req Request) (Outcome, Used, error) {
	g := d.guard
	if op == adjustLocal {
		return d.alone(ctx, Adjust, req)
	}
	if g.away.Load() {
		g.probe(ctx, d.remote, req)
		if op == Adjust {
			return Outcome{}, Used{}, fmt.Errorf("%w: nothing was adjusted", ErrUnavailable)
		}
		return d.alone(ctx, op, req)
	}
	out, used, err := d.ask(ctx, op, req)
	if err == nil {
		if g.misses.Load() != 0 {
			g.misses.Store(0)
		}
		if len(d.known) > 0 && op != Adjust && !out.Stale() {
			d.learn(ctx, req, used)
		}
		return out, used, nil
	}
	if ctx.Err() != nil {
		return Outcome{}, Used{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	if g.misses.Add(1) >= int64(g.cfg.Misses) {
		g.leave(err)
	}
	if op == Adjust {
		return Outcome{}, Used{}, err
	}
	return d.alone(ctx, op, req)
}

var errBudget = fmt.Errorf("%w: no answer within the guard's budget", ErrUnavailable)

// ask asks the store and waits no longer than the budget.
func (d *guarded) ask(ctx context.Context, op Op, req Request) (Outcome, Used, error) {
	budget := d.guard.cfg.Budget
	if d.guard.inline {
		ctx, cancel := context.WithTimeout(ctx, budget)
		defer cancel()
		return d.remote.Decide(ctx, op, req)
	}
	type answer struct {
		out  Outcome
		used Used
		err  error
	}
	answers := make(chan answer, 1)
	// Whether the store's client looks at it or not: nobody waits for the
	// answer after this.
	within, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	go func() {
		out, used, err := d.remote.Decide(within, op, req)
		answers <- answer{out, used, err}
	}()
	select {
	case a := <-answers:
		return a.out, a.used, a.err
	case <-within.Done():
		return Outcome{}, Used{}, errBudget
	}
}

// closedWait is when a request that a Closed window refused is told to come
// back: it would pass as soon as the store does.
const closedWait = int64(time.Second / time.Microsecond)

// alone decides without the store.
func (d *guarded) alone(ctx context.Context, op Op, req Request) (Outcome, Used, error) {
	if op != Adjust {
		d.guard.alone.Add(1)
	}
	if d.closed != 0 {
		out := Outcome{Now: time.Now().UnixMicro()}
		for i := range d.plan.rules {
			if d.closed&(1<<i) != 0 {
				out.SetOver(i, false, closedWait)
			}
		}
		out.setSource(FromFailure)
		return out, Used{}, nil
	}
	out, used, err := d.local.Decide(ctx, op, req)
	if d.plan.shadow == 1<<len(d.plan.rules)-1 {
		out.setSource(FromFailure) // every window is open
	} else {
		out.setSource(FromLocal)
	}
	return out, used, err
}

// leave stops asking the store.
func (g *Guard) leave(err error) {
	g.mu.Lock()
	if g.away.Load() {
		g.mu.Unlock()
		return
	}
	g.since, g.err = time.Now(), err
	g.next.Store(int64(time.Since(g.start) + g.cfg.Probe))
	g.away.Store(true)
	g.mu.Unlock()
	if g.cfg.OnChange != nil {
		g.cfg.OnChange(err)
	}
}

func (g *Guard) back() {
	g.mu.Lock()
	if !g.away.Load() {
		g.mu.Unlock()
		return
	}
	g.since, g.err = time.Time{}, nil
	g.misses.Store(0)
	g.away.Store(false)
	g.mu.Unlock()
	if g.cfg.OnChange != nil {
		g.cfg.OnChange(nil)
	}
}

// probe tries the store in the background with a question that charges
// nothing. A probe that hangs doesn't keep the next ones from trying.
func (g *Guard) probe(ctx context.Context, remote Decider, req Request) {
	next := g.next.Load()
	now := int64(time.Since(g.start))
	if now < next || !g.next.CompareAndSwap(next, now+int64(g.cfg.Probe)) {
		return
	}
	if g.probes.Add(1) > maxProbes {
		g.probes.Add(-1)
		return
	}
	req.Cost = 1
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer g.probes.Add(-1)
		// More patient than a decision: a store that has just come back is slow.
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, _, err := remote.Decide(ctx, Peek, req); err == nil {
			g.back()
		}
	}()
}

// Reset implements Store: it forgets locally as well.
func (g *Guard) Reset(ctx context.Context, scope, key string) (bool, error) {
	local, err := g.local.Reset(ctx, scope, key)
	if err != nil {
		return false, err
	}
	was, err := g.remote.Reset(ctx, scope, key)
	return was || local, err
}

// Inspect implements Store: it returns what both stores hold.
func (g *Guard) Inspect(ctx context.Context, scope, key string) ([]Held, error) {
	held, err := g.remote.Inspect(ctx, scope, key)
	if err != nil {
		return nil, err
	}
	local, err := g.local.Inspect(ctx, scope, key)
	if err != nil {
		return nil, err
	}
	return append(held, local...), nil
}

// Acquire implements LeaseStore. Places can't be divided, so there are none
// while the store is away: the error is ErrUnavailable, within the caller's
// context.
func (g *Guard) Acquire(ctx context.Context, scope, key, id string, limit int64, ttl time.Duration) (bool, int64, time.Duration, error) {
	store, ok := g.remote.(LeaseStore)
	if !ok {
		return false, 0, 0, fmt.Errorf("%w: concurrency limits need a LeaseStore", ErrUnsupported)
	}
	return store.Acquire(ctx, scope, key, id, limit, ttl)
}

// Release implements LeaseStore.
func (g *Guard) Release(ctx context.Context, scope, key, id string) (bool, error) {
	store, ok := g.remote.(LeaseStore)
	if !ok {
		return false, fmt.Errorf("%w: concurrency limits need a LeaseStore", ErrUnsupported)
	}
	return store.Release(ctx, scope, key, id)
}
