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

// term is a plan as one limiter asks about it, for the time of its spans.
// Terms hang on the plan, so that they live as long as it does, and don't change
// once they do: a Decision keeps the one that it was taken by.
type term struct {
	// plain is the limiter when nothing but the decider has a say: no override,
	// no anchor, nobody who listens. Else it is nil.
	plain   *Limiter
	limiter *Limiter
	plan    *Plan
	decider Decider // nil when the plan is unlimited
	spans   *Spans  // nil when the plan has no Period window
	next    *term   // of another limiter
}

// term returns the term of a plan without anchor, and makes the first one.
func (l *Limiter) term(p *Plan) (*term, error) {
	for t := p.terms.Load(); t != nil; t = t.next {
		if t.limiter == l {
			return t, nil
		}
	}
	t := &term{limiter: l, plan: p}
	if p.Unlimited() {
		return p.keep(t), nil
	}
	var err error
	if t.decider, err = l.store.Prepare(l.name, p); err != nil {
		return nil, fmt.Errorf("ratelimit: prepare plan %q: %w", p.name, err)
	}
	if p.periods != 0 {
		t.spans = p.spansAt(l.now().UnixMicro(), time.Time{})
	}
	if l.override == nil && l.events == nil && p.anchors == 0 {
		t.plain = l
	}
	return p.keep(t), nil
}

// keep hangs a term on its plan, instead of its limiter's last one.
func (p *Plan) keep(t *term) *term {
	for {
		head := p.terms.Load()
		t.next = head.without(t.limiter)
		if p.terms.CompareAndSwap(head, t) {
			return t
		}
	}
}

// without returns the terms of other limiters.
func (t *term) without(l *Limiter) *term {
	if t == nil {
		return nil
	}
	if t.limiter == l {
		return t.next
	}
	other := *t
	other.next = t.next.without(l)
	return &other
}

// at returns the term with the spans of an instant and an anchor.
func (t *term) at(now int64, anchor time.Time) *term {
	other := *t
	other.spans = t.plan.spansAt(now, anchor)
	return &other
}

// Allow charges cost units to key if every window of the plan has room for
// them, and to no window otherwise. Cost is at least 1. An unlimited plan
// doesn't ask the store.
func (l *Limiter) Allow(ctx context.Context, key string, plan *Plan, cost int64) (d Decision, err error) {
	// This is compiled into its callers. A function of its own would make the
	// decision in memory before it returned it.
	d.term, d.out, d.used, err = l.take(ctx, key, plan, cost)
	return d, err
}

// Peek answers as Allow would, and charges nothing.
func (l *Limiter) Peek(ctx context.Context, key string, plan *Plan, cost int64) (d Decision, err error) {
	d.term, d.out, d.used, err = l.do(ctx, Peek, key, plan, cost, nil)
	return d, err
}

// take is do for what nearly all decisions are, at the price of little more than
// the store's: a yes of a store about a plan that it knows. Both return the parts
// of a Decision.
func (l *Limiter) take(ctx context.Context, key string, plan *Plan, cost int64) (*term, Outcome, Used, error) {
	if plan != nil && key != "" && cost > 0 {
		if t := plan.terms.Load(); t != nil && t.plain == l {
			out, used, err := t.decider.Decide(ctx, Take, Request{Key: key, Cost: cost, Spans: t.spans})
			if err == nil && out.state == 0 {
				out.state = state(cost) << amountShift
				return t, out, used, nil
			}
			return l.conclude(ctx, Take, key, t, cost, nil, out, used, err)
		}
	}
	return l.do(ctx, Take, key, plan, cost, nil)
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
	if c.Cost == 0 {
		c.Cost = 1
	}
	op := Take
	if c.Peek {
		op = Peek
	}
	d.term, d.out, d.used, err = l.do(ctx, op, c.Key, c.Plan, c.Cost, &c.Anchor)
	return d, err
}

// do decides. The anchor may be nil.
func (l *Limiter) do(ctx context.Context, op Op, key string, plan *Plan, cost int64, anchor *time.Time) (*term, Outcome, Used, error) {
	if key == "" || cost < 1 || plan == nil {
		return nil, Outcome{}, Used{}, invalid(key, plan, cost)
	}
	t := plan.terms.Load()
	if t == nil || t.plain != l {
		var err error
		if t, err = l.ready(key, plan, anchor); err != nil {
			return nil, Outcome{}, Used{}, err
		}
		if t.decider == nil {
			return t, Outcome{state: state(FromPlan << sourceShift).with(cost)}, Used{}, nil
		}
	}
	out, used, err := t.decider.Decide(ctx, op, Request{Key: key, Cost: cost, Spans: t.spans})
	return l.conclude(ctx, op, key, t, cost, anchor, out, used, err)
}

// ready returns the term of the plan that counts.
func (l *Limiter) ready(key string, plan *Plan, anchor *time.Time) (*term, error) {
	if l.override != nil {
		if o := l.override(key, plan); o != nil {
			plan = o
		}
	}
	t, err := l.term(plan)
	if err == nil && plan.anchored(anchor) {
		t = t.at(l.now().UnixMicro(), *anchor)
	}
	return t, err
}

// conclude makes a Decision of a store's answer, and asks again while that is
// for another period.
func (l *Limiter) conclude(ctx context.Context, op Op, key string, t *term, cost int64, anchor *time.Time, out Outcome, used Used, err error) (*term, Outcome, Used, error) {
	// A second refusal means that a border passed in between; the third would
	// take a border in two successive round trips, which a day's length excludes.
	for range 3 {
		if err != nil || !out.Stale() {
			break
		}
		if t.plan.anchored(anchor) {
			t = t.at(out.Now, *anchor)
		} else {
			t = t.plan.keep(t.at(out.Now, time.Time{}))
		}
		out, used, err = t.decider.Decide(ctx, op, Request{Key: key, Cost: cost, Spans: t.spans})
	}
	if err == nil && out.Stale() {
		err = fmt.Errorf("%w: its clock refuses every period", ErrUnavailable)
	}
	if err != nil {
		return nil, Outcome{}, Used{}, err
	}
	if out.state >= 0 {
		out.state = out.state.with(cost)
	}
	if l.events != nil && op == Take {
		l.events.hear(ctx, l.name, key, &Decision{t, out, used})
	}
	return t, out, used, nil
}

func invalid(key string, plan *Plan, cost int64) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: empty key", ErrInvalid)
	case plan == nil:
		return fmt.Errorf("%w: no plan", ErrInvalid)
	}
	return fmt.Errorf("%w: cost %d is below 1; Peek charges nothing, Refund gives back", ErrInvalid, cost)
}

// anchored reports whether the spans are those of an anchor alone.
func (p *Plan) anchored(anchor *time.Time) bool {
	return p.anchors != 0 && anchor != nil && !anchor.IsZero()
}

// Refund gives back what an allowed decision charged: the handler failed, the
// client has gone. Refund a decision once. A period that has ended since is
// left alone, and no window gets more than its limit back.
func (l *Limiter) Refund(ctx context.Context, key string, d Decision) error {
	return l.adjust(ctx, key, &d, -d.Cost())
}

func (l *Limiter) adjust(ctx context.Context, key string, d *Decision, cost int64) error {
	if !d.Allowed() || d.Source() == FromPlan || cost == 0 {
		return nil
	}
	if key == "" {
		return fmt.Errorf("%w: empty key", ErrInvalid)
	}
	t := d.term
	if t.limiter != l {
		var err error
		if t, err = l.term(t.plan); err != nil {
			return err
		}
	}
	op := Adjust
	if d.Source() != FromStore {
		op = adjustLocal
	}
	_, _, err := t.decider.Decide(ctx, op, Request{Key: key, Cost: cost, Spans: d.term.spans})
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
	if err := r.limiter.adjust(ctx, r.key, &r.Decision, cost-r.Cost()); err != nil {
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
