package billing_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingtest"
)

const teamsYAML = `
plans:
  - id: free
    limits: {documents: 10/period}
  - id: team
    limits: {documents: unlimited}
    seats: {minimum: 3, maximum: 10}
    prices: [{amount: 5.00 USD, every: month}]
`

func TestSeatsArePaidWithinTheirBounds(t *testing.T) {
	catalog, err := billing.ParseCatalog("plans.yaml", []byte(teamsYAML))
	require.NoError(t, err)
	c := newClock()
	g := billingtest.NewGateway(catalog, c.Now)
	svc, err := billing.New(catalog, billingmem.New(), g, billing.Config{Now: c.Now})
	require.NoError(t, err)
	require.Equal(t, catalog, svc.Catalog())
	ctx := t.Context()
	for _, seats := range []int64{1, 2, 11, -1} {
		_, err = svc.Subscribe(ctx, "acme", billing.Order{Plan: "team", Seats: seats})
		require.ErrorIs(t, err, billing.ErrInvalid)
	}
	s, err := svc.Subscribe(ctx, "acme", billing.Order{Plan: "team"})
	require.NoError(t, err)
	require.Equal(t, int64(1500), s.Invoice.AmountDue)
	require.NoError(t, g.PayFirst(s.Subscription.ID))
	_, err = svc.Sync(ctx, "acme")
	require.NoError(t, err)

	p, err := svc.Preview(ctx, "acme", billing.Order{Plan: "team", Seats: 10})
	require.NoError(t, err)
	require.Equal(t, int64(3500), p.Due.Amount)
	require.False(t, p.Downgrade)
	_, err = svc.ChangePlan(ctx, "acme", billing.Order{Plan: "team", Seats: 10}, &p.Confirm)
	require.NoError(t, err)
	d, err := svc.Access(ctx, "acme")
	require.NoError(t, err)
	require.Equal(t, int64(10), d.Quantity)
	_, err = svc.Preview(ctx, "acme", billing.Order{Plan: "team", Seats: 10})
	require.ErrorIs(t, err, billing.ErrInvalid)
}

func TestPortalIsForThisCustomer(t *testing.T) {
	r := newRig(t)
	url, err := r.svc.Portal(r.ctx, "alice", "https://app.example/")
	require.NoError(t, err)
	require.Equal(t, "https://portal.example/"+r.gateway.Customers()[0].ID, url)
}

func TestADifferentOrderWaitsForTheOneUnderWay(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	r.gateway.LoseAnswers(1)
	_, err := r.svc.Cancel(r.ctx, "alice", billing.CancelOptions{})
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	var unknown *billing.GatewayError
	require.ErrorAs(t, err, &unknown)
	require.NotEmpty(t, unknown.IdempotencyKey)

	_, err = r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, nil)
	require.ErrorIs(t, err, billing.ErrConflict)
	require.ErrorContains(t, err, "try again in a minute")
	// A minute later whoever comes finishes it first.
	r.clock.Advance(2 * time.Minute)
	_, err = r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "business"}, nil)
	require.NoError(t, err)
	s := r.gateway.Subscriptions()[0]
	require.False(t, s.CancelAt.IsZero(), "the cancellation took effect, once")
	require.Equal(t, "business", r.access("alice").Plan)
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Empty(t, a.Intents)
}

func TestTheSameOrderJoinsAnOldAttempt(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	r.gateway.LoseAnswers(1)
	_, err := r.svc.Cancel(r.ctx, "alice", billing.CancelOptions{})
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	r.clock.Advance(20 * time.Second)
	_, err = r.svc.Cancel(r.ctx, "alice", billing.CancelOptions{})
	require.NoError(t, err)
	require.Equal(t, billing.ReasonEnding, r.access("alice").Reason)
	require.Equal(t, 2, r.gateway.Calls("UpdateSubscription"))
	n := 0
	for _, e := range r.gateway.Emitted() {
		if e.Type == "customer.subscription.updated" {
			n++
		}
	}
	require.Equal(t, 1, n)
}

func TestYesterdaysClickIsGivenUp(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	lost := &GatewayThatLosesRequests{Gateway: r.gateway}
	svc := r.service(r.store, lost)
	_, err := svc.Cancel(r.ctx, "alice", billing.CancelOptions{})
	require.ErrorIs(t, err, billing.ErrUnknownOutcome)
	r.clock.Advance(25 * time.Hour)
	_, err = r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Equal(t, billing.ReasonActive, r.access("alice").Reason)
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	require.Empty(t, a.Intents)
}

// GatewayThatLosesRequests never delivers an update, and can't say so.
type GatewayThatLosesRequests struct{ *billingtest.Gateway }

func (GatewayThatLosesRequests) UpdateSubscription(context.Context, string, billing.UpdateRequest, string) (billing.Subscription, error) {
	return billing.Subscription{}, errors.New("connection reset by peer") // untyped: who knows?
}

func TestAnAccountInTroubleDoesNotHoldUpTheOthers(t *testing.T) {
	r := newRig(t, func(c *billing.Config) { c.Policy = billing.Policy{Cancel: time.Hour} })
	s := r.subscribe("alice", "pro")
	require.NoError(t, r.gateway.Renew(s.ID, false))
	r.settle()
	r.clock.Advance(2 * time.Hour)
	r.gateway.Refuse(&billing.GatewayError{Kind: billing.ErrUnavailable})
	_, err := r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	due, err := r.store.Accounts(r.ctx, billing.AccountQuery{DueBefore: r.clock.Now().Add(59 * time.Second), Limit: 10})
	require.NoError(t, err)
	require.Empty(t, due)
	r.clock.Advance(2 * time.Minute)
	_, err = r.svc.ProcessPending(r.ctx)
	require.NoError(t, err)
	require.Equal(t, billing.StatusCanceled, r.gateway.Subscriptions()[0].Status)
}

func TestAKeyOfAnotherAccountTakesNothingAway(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	a, err := r.svc.Account(r.ctx, "alice")
	require.NoError(t, err)
	svc := r.service(r.store, billingtest.NewGateway(plans(t), r.clock.Now)) // it knows nobody
	r.clock.Advance(25 * time.Hour)
	report, err := svc.Reconcile(r.ctx)
	require.NoError(t, err)
	require.Equal(t, []billing.Drift{{Account: "alice", What: []string{
		"customer " + a.CustomerID + ": unknown to the gateway: is the key that of another account or mode?",
	}}}, report.Drift)
	require.Equal(t, "pro", r.access("alice").Plan)
}

func TestRunPrunesWhatIsOldAndDone(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "pro")
	events, err := r.store.Events(r.ctx, billing.EventQuery{Limit: 100})
	require.NoError(t, err)
	require.NotEmpty(t, events)
	r.clock.Advance(91 * 24 * time.Hour)
	ctx, cancel := context.WithCancel(r.ctx)
	pruned := make(chan struct{})
	svc := r.service(pruning{r.store, pruned}, r.gateway)
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	<-pruned
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	events, err = r.store.Events(r.ctx, billing.EventQuery{Limit: 100})
	require.NoError(t, err)
	require.Empty(t, events)
}

type pruning struct {
	billing.Store
	pruned chan struct{}
}

func (s pruning) Prune(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := s.Store.Prune(ctx, before, limit)
	close(s.pruned)
	return n, err
}

func TestCloneSharesNothing(t *testing.T) {
	r := newRig(t)
	r.subscribe("alice", "business")
	_, err := r.svc.Checkout(r.ctx, "bob", checkoutOf("pro"))
	require.NoError(t, err)
	for _, id := range []string{"alice", "bob"} {
		a, err := r.svc.Account(r.ctx, id)
		require.NoError(t, err)
		a.Intents = []billing.Intent{{Op: "update", Request: json.RawMessage(`{"a":1}`)}}
		before, err := json.Marshal(a)
		require.NoError(t, err)
		c := a.Clone()
		require.Equal(t, a, c)
		for i := range c.Subscriptions {
			c.Subscriptions[i].Items[0].Quantity = 99
			c.Subscriptions[i].Metadata["x"] = "y"
		}
		for i := range c.Invoices {
			c.Invoices[i].Lines[0].Amount = 99
		}
		for id := range c.Trails {
			c.Trails[id][0].ID = "x"
		}
		if c.Checkout != nil {
			c.Checkout.Metadata["x"] = "y"
		}
		c.Intents[0].Request[1] = 'x'
		after, err := json.Marshal(a)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
	}
}

func TestACallThatIsUnderWayElsewhereIsWaitedFor(t *testing.T) {
	r := newRig(t)
	busy := &billing.GatewayError{Kind: billing.ErrUnknownOutcome, Status: 409, Code: "idempotency_key_in_use"}
	r.gateway.Refuse(busy, busy)
	id, err := r.svc.EnsureCustomer(r.ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, r.gateway.Customers()[0].ID, id)
	require.Equal(t, 3, r.gateway.Calls("CreateCustomer"))
}

func TestAPausedSubscriptionIsReplacedByAnOrder(t *testing.T) {
	r := newRig(t, func(c *billing.Config) { c.CancelDuplicates = true })
	s := r.subscribe("alice", "business")
	r.clock.Advance(15 * 24 * time.Hour)
	require.NoError(t, r.gateway.Change(s.ID, func(s *billing.Subscription) { s.Status = billing.StatusPaused })) // no card at the trial's end
	r.settle()
	require.Equal(t, billing.ReasonPaused, r.access("alice").Reason)
	_, err := r.svc.ChangePlan(r.ctx, "alice", billing.Order{Plan: "pro"}, nil)
	require.ErrorIs(t, err, billing.ErrInvalid)
	r.subscribe("alice", "pro")
	require.Equal(t, "pro", r.access("alice").Plan)
	subs := r.gateway.Subscriptions()
	require.Equal(t, billing.StatusCanceled, subs[0].Status)
	require.Equal(t, billing.StatusActive, subs[1].Status)
}
