package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Config configures a Limiter. The zero value is good for an application with
// one limiter.
type Config struct {
	// Name keeps what this limiter counts apart from what others count in the
	// same store: "api", "login". Letters, digits, '-', '_' and '.', at most 32;
	// empty means "default".
	Name string
	// Override may replace the plan of single keys: for a customer with an
	// agreement, or a key that misbehaves. nil from it means no override. It is
	// called once a decision and must be quick.
	Override func(key string, plan *Plan) *Plan
	// OnEvent hears when a key comes near the limit of a Period window or
	// reaches it. It is called on the deciding goroutine: hand over and return.
	OnEvent func(ctx context.Context, e Event)
	// NearPercent is the share of a Period window at which OnEvent hears that it
	// is near, 1 to 99; 0 means 80.
	NearPercent int
	// Now is the clock that proposes billing periods; the store's clock decides.
	// nil means time.Now.
	Now func() time.Time
}

// Limiter decides by plans, on a store. It is safe for concurrent use and owns
// no goroutine.
type Limiter struct {
	store    Store
	name     string
	override func(string, *Plan) *Plan
	now      func() time.Time
	events   *events
}

// New returns a Limiter.
func New(store Store, cfg Config) (*Limiter, error) {
	if store == nil {
		return nil, errors.New("ratelimit: New needs a store: ratelimitmem.New(ratelimitmem.Config{}) serves one process")
	}
	if cfg.Name == "" {
		cfg.Name = "default"
	}
	if len(cfg.Name) > 32 || strings.ContainsFunc(cfg.Name, notNameRune) {
		return nil, fmt.Errorf("ratelimit: Config.Name %q: at most 32 letters, digits, '-', '_' or '.'", cfg.Name)
	}
	if cfg.NearPercent < 0 || cfg.NearPercent > 99 {
		return nil, fmt.Errorf("ratelimit: Config.NearPercent %d is not in 1..99", cfg.NearPercent)
	}
	if cfg.NearPercent == 0 {
		cfg.NearPercent = 80
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Limiter{store: store, name: cfg.Name, override: cfg.Override, now: cfg.Now}
	if cfg.OnEvent != nil {
		l.events = newEvents(cfg.OnEvent, cfg.NearPercent)
	}
	return l, nil
}

// Name returns the limiter's name.
func (l *Limiter) Name() string { return l.name }

// binding is what a limiter prepared for a plan. Bindings hang on the plan, so
// that they live as long as it does.
type binding struct {
	limiter *Limiter
	decider Decider
	next    *binding
}

func (l *Limiter) bind(p *Plan) (*binding, error) {
	for {
		head := p.bound.Load()
		for b := head; b != nil; b = b.next {
			if b.limiter == l {
				return b, nil
			}
		}
		decider, err := l.store.Prepare(l.name, p)
		if err != nil {
			return nil, fmt.Errorf("ratelimit: prepare plan %q: %w", p.name, err)
		}
		b := &binding{limiter: l, decider: decider, next: head}
		if p.bound.CompareAndSwap(head, b) {
			return b, nil
		}
	}
}

// Allow charges cost units to key if every window of the plan has room for
// them, and to no window otherwise. Cost is at least 1. An unlimited plan
// doesn't ask the store.
func (l *Limiter) Allow(ctx context.Context, key string, plan *Plan, cost int64) (d Decision, err error) {
	d.plan, d.cost = plan, cost
	err = l.do(ctx, Take, key, nil, &d)
	return d, err
}

// Peek answers as Allow would, and charges nothing.
func (l *Limiter) Peek(ctx context.Context, key string, plan *Plan, cost int64) (d Decision, err error) {
	d.plan, d.cost = plan, cost
	err = l.do(ctx, Peek, key, nil, &d)
	return d, err
}

// Call is a request with everything that can be said about it.
type Call struct {
	Key  string
	Plan *Plan
	Cost int64 // 0 means 1
	// Anchor is an instant at which a billing period of the key starts, such as
	// the start of its subscription; periods repeat from it in UTC, and on the
	// last day of a month that is too short. Zero means calendar periods. Only
	// Billing windows look at it. Keep it the same through plan changes: a
	// period that is under way keeps its count, but not its end.
	Anchor time.Time
	// Peek charges nothing.
	Peek bool
}

// Do decides about a call; Allow and Peek are the short forms.
func (l *Limiter) Do(ctx context.Context, c Call) (d Decision, err error) {
	d.plan, d.cost = c.Plan, c.Cost
	if c.Cost == 0 {
		d.cost = 1
	}
	op := Take
	if c.Peek {
		op = Peek
	}
	err = l.do(ctx, op, c.Key, &c.Anchor, &d)
	return d, err
}

// do decides about what d asks by its plan and cost, and fills in the rest of
// it. A decision in memory takes little longer than this function's stores, so
// what is rare stands apart.
func (l *Limiter) do(ctx context.Context, op Op, key string, anchor *time.Time, d *Decision) (err error) {
	plan := d.plan
	if key == "" || d.cost < 1 || plan == nil {
		return invalid(key, d)
	}
	b := plan.bound.Load()
	d.spans = plan.spans.Load()
	if b == nil || b.limiter != l || l.override != nil || plan.anchors != 0 || d.spans == nil && plan.periods != 0 {
		if b, err = l.ready(key, anchor, d); b == nil {
			return err
		}
	}
	d.out, d.used, err = b.decider.Decide(ctx, Request{Key: key, Cost: d.cost, Op: op, Spans: d.spans})
	if err == nil && d.out.bits == 0 && l.events == nil {
		d.Allowed = true
		return nil
	}
	return l.conclude(ctx, b.decider, op, key, anchor, d, err)
}

// ready finds the plan that counts, what is prepared for it and its spans; nil
// when the store needn't be asked.
func (l *Limiter) ready(key string, anchor *time.Time, d *Decision) (*binding, error) {
	if l.override != nil {
		if o := l.override(key, d.plan); o != nil {
			d.plan = o
		}
	}
	if d.plan.Unlimited() {
		d.spans, d.Allowed, d.Source = nil, true, FromPlan
		return nil, nil
	}
	b, err := l.bind(d.plan)
	if err != nil {
		*d = Decision{}
		return nil, err
	}
	d.spans = nil
	if d.plan.periods != 0 {
		d.spans = l.spans(d.plan, anchor)
	}
	return b, nil
}

// conclude is what do has to do unless a plain yes was the answer.
func (l *Limiter) conclude(ctx context.Context, decider Decider, op Op, key string, anchor *time.Time, d *Decision, err error) error {
	if err == nil && d.out.Stale() {
		err = l.freshen(ctx, decider, op, key, anchor, d)
	}
	if err != nil {
		*d = Decision{}
		return err
	}
	if d.Allowed = d.out.bits == 0; !d.Allowed {
		if d.Source = d.out.source(); d.Source != FromStore {
			if alone, ok := decider.(*guarded); ok {
				d.plan = alone.plan
			}
		}
		d.conclude()
	}
	if l.events != nil && op == Take {
		l.events.hear(ctx, l.name, key, d)
	}
	return nil
}

func invalid(key string, d *Decision) error {
	plan, cost := d.plan, d.cost
	*d = Decision{}
	switch {
	case key == "":
		return fmt.Errorf("%w: empty key", ErrInvalid)
	case plan == nil:
		return fmt.Errorf("%w: no plan", ErrInvalid)
	}
	return fmt.Errorf("%w: cost %d is below 1; Peek charges nothing, Refund gives back", ErrInvalid, cost)
}

// spans proposes the spans of a call. Calendar spans are the same for every
// key and kept with the plan until the store says that they are over.
func (l *Limiter) spans(p *Plan, anchor *time.Time) *Spans {
	if p.anchored(anchor) {
		return p.spansAt(l.now().UnixMicro(), *anchor)
	}
	if s := p.spans.Load(); s != nil {
		return s
	}
	s := p.spansAt(l.now().UnixMicro(), time.Time{})
	p.spans.CompareAndSwap(nil, s)
	return s
}

// anchored reports whether the spans are those of an anchor alone.
func (p *Plan) anchored(anchor *time.Time) bool {
	return p.anchors != 0 && anchor != nil && !anchor.IsZero()
}

// freshen asks again with the spans of the store's own clock. A second refusal
// means that a border passed in between; the third would take a border in two
// successive round trips, which a day's length excludes.
func (l *Limiter) freshen(ctx context.Context, decider Decider, op Op, key string, anchor *time.Time, d *Decision) (err error) {
	for range 3 {
		if d.plan.anchored(anchor) {
			d.spans = d.plan.spansAt(d.out.Now, *anchor)
		} else {
			d.spans = d.plan.spansAt(d.out.Now, time.Time{})
			d.plan.spans.Store(d.spans)
		}
		d.out, d.used, err = decider.Decide(ctx, Request{Key: key, Cost: d.cost, Op: op, Spans: d.spans})
		if err != nil || !d.out.Stale() {
			return err
		}
	}
	return fmt.Errorf("%w: its clock refuses every period", ErrUnavailable)
}

// Refund gives back what an allowed decision charged: the handler failed, the
// client has gone. Refund a decision once. A period that has ended since is
// left alone, and no window gets more than its limit back.
func (l *Limiter) Refund(ctx context.Context, key string, d Decision) error {
	return l.adjust(ctx, key, &d, -d.cost)
}

func (l *Limiter) adjust(ctx context.Context, key string, d *Decision, cost int64) error {
	if !d.Allowed || d.Source == FromPlan || cost == 0 {
		return nil
	}
	if key == "" {
		return fmt.Errorf("%w: empty key", ErrInvalid)
	}
	plan := d.plan
	if plan.shareOf != nil {
		plan = plan.shareOf
	}
	b, err := l.bind(plan)
	if err != nil {
		return err
	}
	_, _, err = b.decider.Decide(ctx, Request{Key: key, Cost: cost, Op: Adjust, Local: d.Source != FromStore, Spans: d.spans})
	return err
}

// Reservation holds units for work whose cost is known only afterwards, such
// as the tokens of a language model.
type Reservation struct {
	// Decision says whether the estimate had room.
	Decision
	limiter *Limiter
	key     string
	settled bool
}

// Reserve charges an estimate. When the decision allows it, Commit with the
// true cost or Cancel exactly one time; what is never settled stays charged. A
// Reservation is for one goroutine.
func (l *Limiter) Reserve(ctx context.Context, c Call) (*Reservation, error) {
	if c.Peek {
		return nil, fmt.Errorf("%w: a reservation can't peek", ErrInvalid)
	}
	d, err := l.Do(ctx, c)
	if err != nil {
		return nil, err
	}
	return &Reservation{Decision: d, limiter: l, key: c.Key}, nil
}

// Commit settles the reservation at the true cost, at least 0. Less than the
// estimate is given back; more is charged even beyond the limit, so that the
// key waits for it. After an error it may be called again, at the risk of
// settling twice if the first attempt had arrived.
func (r *Reservation) Commit(ctx context.Context, cost int64) error {
	if cost < 0 {
		return fmt.Errorf("%w: cost %d is below 0", ErrInvalid, cost)
	}
	if r.settled {
		return fmt.Errorf("%w: the reservation is settled", ErrInvalid)
	}
	if err := r.limiter.adjust(ctx, r.key, &r.Decision, cost-r.cost); err != nil {
		return err
	}
	r.settled = true
	return nil
}

// Cancel gives the whole reservation back. It does nothing after Commit, so
// that it can be deferred.
func (r *Reservation) Cancel(ctx context.Context) error {
	if r.settled {
		return nil
	}
	return r.Commit(ctx, 0)
}

// Reset forgets all that a key has used, in every window, and reports whether
// there was anything.
func (l *Limiter) Reset(ctx context.Context, key string) (bool, error) {
	if key == "" {
		return false, fmt.Errorf("%w: empty key", ErrInvalid)
	}
	return l.store.Reset(ctx, l.name, key)
}
