package billing_test

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingtest"
)

const plansYAML = `
features:
  api: API access
  support: Priority support
plans:
  - id: free
    name: Free
    limits: {requests: 10/minute, kolekts: 10/period}
  - id: pro
    name: Pro
    features: [api]
    limits: {requests: 100/minute, kolekts: 100/period}
    prices:
      - {amount: 9.99 USD, every: month}
      - {amount: 99.90 USD, every: year}
  - id: business
    name: Business
    features: [api, support]
    trial_days: 14
    limits: {requests: 500/minute, kolekts: unlimited}
    prices:
      - {amount: 29.99 USD, every: month}
`

func plans(t testing.TB) *billing.Catalog {
	t.Helper()
	c, err := billing.ParseCatalog("plans.yaml", []byte(plansYAML))
	require.NoError(t, err)
	return c
}

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// rig is a service on a store and a provider in memory.
type rig struct {
	t       testing.TB
	ctx     context.Context
	clock   *clock
	gateway *billingtest.Gateway
	store   billing.Store
	svc     *billing.Service

	mu      sync.Mutex
	notices []billing.Notice
}

func newRig(t testing.TB, change ...func(*billing.Config)) *rig {
	t.Helper()
	r := &rig{t: t, ctx: t.Context(), clock: newClock(), store: billingmem.New()}
	r.gateway = billingtest.NewGateway(plans(t), r.clock.Now)
	r.svc = r.service(r.store, r.gateway, change...)
	return r
}

func (r *rig) service(store billing.Store, gateway billing.Gateway, change ...func(*billing.Config)) *billing.Service {
	cfg := billing.Config{Now: r.clock.Now, Handle: func(_ context.Context, n billing.Notice) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.notices = append(r.notices, n)
		return nil
	}}
	for _, c := range change {
		c(&cfg)
	}
	svc, err := billing.New(plans(r.t), store, gateway, cfg)
	require.NoError(r.t, err)
	return svc
}

// settle delivers the provider's events and handles them.
func (r *rig) settle() billing.Processed {
	r.t.Helper()
	require.NoError(r.t, r.gateway.Deliver(r.svc.Webhook()))
	p, err := r.svc.ProcessPending(r.ctx)
	require.NoError(r.t, err)
	return p
}

// subscribe takes an account to a paid plan by checkout and webhook.
func (r *rig) subscribe(account, plan string) billing.Subscription {
	r.t.Helper()
	c, err := r.svc.Checkout(r.ctx, account, checkoutOf(plan))
	require.NoError(r.t, err)
	s, err := r.gateway.CompleteCheckout(c.ID)
	require.NoError(r.t, err)
	r.settle()
	return s
}

func checkoutOf(plan string) billing.CheckoutOrder {
	return billing.CheckoutOrder{Order: billing.Order{Plan: plan}, SuccessURL: "https://app.example/done?session={CHECKOUT_SESSION_ID}", CancelURL: "https://app.example/plans"}
}

func (r *rig) access(account string) billing.Decision {
	r.t.Helper()
	d, err := r.svc.Access(r.ctx, account)
	require.NoError(r.t, err)
	return d
}

// kinds returns the kinds of the notices that were delivered, in order.
func (r *rig) kinds() []billing.Kind {
	r.mu.Lock()
	defer r.mu.Unlock()
	kinds := []billing.Kind{}
	for _, n := range r.notices {
		kinds = append(kinds, n.Kind)
	}
	return kinds
}

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
