package billing_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingpg"
	"github.com/kolekt/commerce/billing/billingtest"
	"github.com/kolekt/commerce/internal/pgtest"
)

var errDead = errors.New("the process is dead")

// process is what dies at its n-th step, before the step has its effect or
// after. A step is a call of the store, the provider or the application; a
// dead process makes none.
type process struct {
	mu    sync.Mutex
	steps int
	at    int // 0: never
	after bool
	dead  bool
}

func (p *process) step(do func() error) error {
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return errDead
	}
	p.steps++
	dies := p.steps == p.at
	p.dead = dies
	p.mu.Unlock()
	if dies && !p.after {
		return errDead
	}
	err := do()
	if dies {
		return errDead
	}
	return err
}

func (p *process) died() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func call[T any](p *process, do func() (T, error)) (v T, err error) {
	err = p.step(func() error {
		got, err := do()
		if err == nil {
			v = got
		}
		return err
	})
	return v, err
}

// mortalStore and mortalGateway are those of a process. What they don't
// override isn't called by the story.
type mortalStore struct {
	billing.Store
	p *process
}

func (s mortalStore) Account(ctx context.Context, id string) (billing.Account, error) {
	return call(s.p, func() (billing.Account, error) { return s.Store.Account(ctx, id) })
}

func (s mortalStore) AccountOf(ctx context.Context, id string) (string, error) {
	return call(s.p, func() (string, error) { return s.Store.AccountOf(ctx, id) })
}

func (s mortalStore) Accounts(ctx context.Context, q billing.AccountQuery) ([]string, error) {
	return call(s.p, func() ([]string, error) { return s.Store.Accounts(ctx, q) })
}

func (s mortalStore) Save(ctx context.Context, c billing.Change) error {
	return s.p.step(func() error { return s.Store.Save(ctx, c) })
}

func (s mortalStore) PutEvent(ctx context.Context, e billing.InboxEvent) (bool, error) {
	return call(s.p, func() (bool, error) { return s.Store.PutEvent(ctx, e) })
}

func (s mortalStore) ClaimEvents(ctx context.Context, now time.Time, lease time.Duration, n int) ([]billing.InboxEvent, error) {
	return call(s.p, func() ([]billing.InboxEvent, error) { return s.Store.ClaimEvents(ctx, now, lease, n) })
}

func (s mortalStore) FinishEvents(ctx context.Context, ids []string) error {
	return s.p.step(func() error { return s.Store.FinishEvents(ctx, ids) })
}

func (s mortalStore) FailEvents(ctx context.Context, f []billing.Failure) error {
	return s.p.step(func() error { return s.Store.FailEvents(ctx, f) })
}

func (s mortalStore) ClaimNotices(ctx context.Context, now time.Time, lease time.Duration, n int) ([]billing.Delivery, error) {
	return call(s.p, func() ([]billing.Delivery, error) { return s.Store.ClaimNotices(ctx, now, lease, n) })
}

func (s mortalStore) SettleNotices(ctx context.Context, ok []string, f []billing.Failure, now time.Time) error {
	return s.p.step(func() error { return s.Store.SettleNotices(ctx, ok, f, now) })
}

type mortalGateway struct {
	billing.Gateway
	p *process
}

func (g mortalGateway) CreateCustomer(ctx context.Context, r billing.CustomerRequest, key string) (billing.Customer, error) {
	return call(g.p, func() (billing.Customer, error) { return g.Gateway.CreateCustomer(ctx, r, key) })
}

func (g mortalGateway) State(ctx context.Context, id string) (billing.State, error) {
	return call(g.p, func() (billing.State, error) { return g.Gateway.State(ctx, id) })
}

func (g mortalGateway) Prices(ctx context.Context, keys []string) ([]billing.Price, error) {
	return call(g.p, func() ([]billing.Price, error) { return g.Gateway.Prices(ctx, keys) })
}

func (g mortalGateway) Subscribe(ctx context.Context, r billing.SubscribeRequest, key string) (billing.Subscribed, error) {
	return call(g.p, func() (billing.Subscribed, error) { return g.Gateway.Subscribe(ctx, r, key) })
}

func (g mortalGateway) UpdateSubscription(ctx context.Context, id string, r billing.UpdateRequest, key string) (billing.Subscription, error) {
	return call(g.p, func() (billing.Subscription, error) { return g.Gateway.UpdateSubscription(ctx, id, r, key) })
}

func (g mortalGateway) CancelSubscription(ctx context.Context, id string, r billing.CancelRequest, key string) (billing.Subscription, error) {
	return call(g.p, func() (billing.Subscription, error) { return g.Gateway.CancelSubscription(ctx, id, r, key) })
}

func (g mortalGateway) CreateCheckout(ctx context.Context, r billing.CheckoutRequest, key string) (billing.Checkout, error) {
	return call(g.p, func() (billing.Checkout, error) { return g.Gateway.CreateCheckout(ctx, r, key) })
}

func (g mortalGateway) Checkout(ctx context.Context, id string) (billing.Checkout, error) {
	return call(g.p, func() (billing.Checkout, error) { return g.Gateway.Checkout(ctx, id) })
}

func (g mortalGateway) ExpireCheckout(ctx context.Context, id string) error {
	return g.p.step(func() error { return g.Gateway.ExpireCheckout(ctx, id) })
}

// ending is what a story came to.
type ending struct {
	plan       string
	reason     billing.Reason
	customers  int
	statuses   []billing.Status
	invoices   int
	kinds      []billing.Kind // of the notices that were handled, each once
	unfinished int            // intents
	stuck      string         // what a person couldn't do, with nobody dead
}

// story is an account's way from a click to a scheduled end, through a
// payment that fails. The process dies at a step of it; a new one takes over,
// and the person repeats what failed.
func story(t *testing.T, store billing.Store, p *process) ending {
	t.Helper()
	r := &rig{t: t, ctx: t.Context(), clock: newClock(), store: store}
	r.gateway = billingtest.NewGateway(plans(t), r.clock.Now)
	handled := map[string]billing.Kind{}
	born := func(p *process) *billing.Service {
		return r.service(mortalStore{store, p}, mortalGateway{r.gateway, p}, func(c *billing.Config) {
			c.Workers = 1 // so that the steps have one order
			c.Handle = func(_ context.Context, n billing.Notice) error {
				return p.step(func() error { handled[n.ID] = n.Kind; return nil })
			}
		})
	}
	svc := born(p)
	var page billing.Checkout
	var sub billing.Subscription
	deliver := func() error {
		if err := r.gateway.Deliver(svc.Webhook()); err != nil {
			return err
		}
		_, err := svc.ProcessPending(r.ctx)
		return err
	}
	once := func(do func() error) func() error { // the world's own steps
		done := false
		return func() error {
			if !done {
				require.NoError(t, do())
				done = true
			}
			return nil
		}
	}
	for i, step := range []func() error{
		func() error { _, err := svc.Subscribe(r.ctx, "alice", billing.Order{Plan: "pro"}); return err },
		deliver,
		func() (err error) { page, err = svc.Checkout(r.ctx, "alice", checkoutOf("pro")); return err },
		once(func() (err error) { sub, err = r.gateway.CompleteCheckout(page.ID); return err }),
		deliver,
		func() error {
			_, err := svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, nil)
			return err
		},
		deliver,
		once(func() error { return r.gateway.Renew(sub.ID, false) }),
		deliver,
		once(func() error { return r.gateway.PayByHand(sub.ID) }),
		deliver,
		func() error { _, err := svc.Cancel(r.ctx, "alice", billing.CancelOptions{}); return err },
		deliver,
		once(func() error { r.clock.Advance(time.Hour); return nil }),
		deliver,
	} {
		for try := 0; ; try++ {
			err := step()
			if err == nil && !p.died() {
				r.clock.Advance(time.Minute)
				break
			}
			if !p.died() || try == 3 {
				return ending{stuck: fmt.Sprintf("step %d: %v", i, err)}
			}
			p = &process{}
			svc = born(p)
			r.clock.Advance(3 * time.Minute)
			_, err = svc.ProcessPending(r.ctx)
			require.NoError(t, err)
		}
	}
	a, err := store.Account(r.ctx, "alice")
	require.NoError(t, err)
	d := billing.Access(plans(t), billing.Policy{}, &a, r.clock.Now())
	end := ending{
		plan: d.Plan, reason: d.Reason, customers: len(r.gateway.Customers()), invoices: len(r.gateway.AllInvoices()),
		kinds: slices.Sorted(maps.Values(handled)), unfinished: len(a.Intents),
	}
	for _, s := range r.gateway.Subscriptions() {
		end.statuses = append(end.statuses, s.Status)
	}
	return end
}

// everyCrash plays the story with a death at every step, before and after its
// effect, and calls check with each ending.
func everyCrash(t *testing.T, stride int, newStore func() billing.Store, check func(name string, got, want ending)) {
	t.Helper()
	whole := &process{}
	want := story(t, newStore(), whole)
	for at := 1; at <= whole.steps; at += stride {
		for _, after := range []bool{false, true} {
			check(fmt.Sprintf("death at step %d of %d, after its effect: %v", at, whole.steps, after),
				story(t, newStore(), &process{at: at, after: after}), want)
		}
	}
}

func wholeStory(t *testing.T, want ending) {
	t.Helper()
	require.Equal(t, ending{
		plan: "business", reason: billing.ReasonEnding, customers: 1,
		statuses: []billing.Status{billing.StatusCanceled, billing.StatusActive}, invoices: 4,
		kinds: []billing.Kind{
			billing.KindInvoiceDrafted, billing.KindInvoicePaid, billing.KindInvoicePaid, billing.KindInvoicePaid,
			billing.KindPaymentFailed, billing.KindPaymentRecovered,
			billing.KindSubscriptionChanged, billing.KindSubscriptionChanged, billing.KindSubscriptionEnding, billing.KindSubscriptionStarted,
		},
	}, want)
}

func TestACrashAtAnyStepLosesNothingAndRepeatsNothing(t *testing.T) {
	n := 0
	everyCrash(t, 1, func() billing.Store { return billingmem.New() }, func(name string, got, want ending) {
		wholeStory(t, want)
		require.Equal(t, want, got, name)
		n++
	})
	require.Greater(t, n, 100)
	t.Logf("%d deaths", n)
}

func TestACrashAtAnyStepOnPostgres(t *testing.T) {
	pool := pgtest.Pool(t)
	require.NoError(t, billingpg.Migrate(t.Context(), pool))
	every := 9
	if os.Getenv("COMMERCE_PROVE") != "" {
		every = 1
	}
	everyCrash(t, every, func() billing.Store {
		_, err := pool.Exec(t.Context(), "truncate billing_accounts, billing_events, billing_notices, billing_cursors")
		require.NoError(t, err)
		return billingpg.New(pool)
	}, func(name string, got, want ending) {
		wholeStory(t, want)
		require.Equal(t, want, got, name)
	})
}

// hasty marks events as done when it hands them out: what the peers do that
// insert the event's ID first.
type hasty struct{ billing.Store }

func (s hasty) ClaimEvents(ctx context.Context, now time.Time, lease time.Duration, n int) ([]billing.InboxEvent, error) {
	events, err := s.Store.ClaimEvents(ctx, now, lease, n)
	for _, e := range events {
		err = errors.Join(err, s.FinishEvents(ctx, []string{e.ID}))
	}
	return events, err
}

func TestControlMarkingBeforeHandlingLosesEvents(t *testing.T) {
	lost := 0
	everyCrash(t, 1, func() billing.Store { return hasty{billingmem.New()} }, func(_ string, got, want ending) {
		wholeStory(t, want)
		if got.stuck != "" || !slices.Equal(want.kinds, got.kinds) {
			lost++
		}
	})
	require.Positive(t, lost, "the proof above can't tell a store that loses events")
	t.Logf("%d deaths lost something", lost)
}

// crowded is a provider whose first call to make a customer waits for a
// second one; without keys, it doesn't know them as the same.
type crowded struct {
	*billingtest.Gateway
	keys  bool
	mu    sync.Mutex
	calls int
	both  chan struct{}
}

func (g *crowded) CreateCustomer(ctx context.Context, r billing.CustomerRequest, key string) (billing.Customer, error) {
	g.mu.Lock()
	g.calls++
	if g.calls == 2 {
		close(g.both)
	}
	if !g.keys {
		key = fmt.Sprint(key, g.calls)
	}
	g.mu.Unlock()
	select {
	case <-g.both:
	case <-ctx.Done():
	}
	return g.Gateway.CreateCustomer(ctx, r, key)
}

func TestCallsThatMeetMakeOneCustomer(t *testing.T) {
	for name, keys := range map[string]bool{"with keys": true, "control, without keys": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			g := &crowded{Gateway: r.gateway, keys: keys, both: make(chan struct{})}
			first, second := r.service(r.store, g), r.service(r.store, g)
			for _, id := range parallel(64, func(i int) (string, error) {
				if i%2 == 0 {
					return first.EnsureCustomer(r.ctx, "alice")
				}
				return second.EnsureCustomer(r.ctx, "alice")
			}) {
				require.NoError(t, id.err)
			}
			if keys {
				require.Len(t, r.gateway.Customers(), 1)
			} else {
				require.Greater(t, len(r.gateway.Customers()), 1)
			}
		})
	}
}
