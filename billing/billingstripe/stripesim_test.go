package billingstripe_test

import (
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

// simulated is a gateway on a simulator, with the events that it sent.
type simulated struct {
	*billingstripe.Gateway
	sim *stripesim.Server

	mu     sync.Mutex
	events []billing.Event
	errs   []error
}

func simulate(t *testing.T) *simulated {
	t.Helper()
	s := &simulated{}
	var err error
	s.sim, err = stripesim.NewServer(stripesim.Config{
		Start: clock, Seed: 1,
		Products: []stripesim.Product{{ID: "prod_pro", Name: "Pro", Prices: []stripesim.Price{
			{ID: "price_pro", LookupKey: "pro_month_usd", UnitAmount: 999},
			{ID: "price_business", LookupKey: "business_month_usd", UnitAmount: 2999},
		}}},
		Endpoints: []stripesim.Endpoint{{Handler: http.HandlerFunc(s.receive), Secret: testSecret}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.sim.Close()) })
	s.Gateway = newGateway(t, func(c *billingstripe.Config) {
		c.SecretKey, c.URL, c.Now, c.Retries = stripesim.DefaultSecretKey, s.sim.URL, s.sim.Now, -1
	})
	return s
}

func (s *simulated) receive(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	event, err := s.Verify(r.Header, body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, event)
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

// received returns the events that were delivered, by type.
func (s *simulated) received(t *testing.T) map[string]billing.Event {
	t.Helper()
	require.NoError(t, s.sim.Settle(t.Context()))
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.errs)
	types := map[string]billing.Event{}
	for _, e := range s.events {
		types[e.Type] = e
	}
	return types
}

// TestTheGatewayOnASimulatedStripe walks through what an account does.
func TestTheGatewayOnASimulatedStripe(t *testing.T) {
	s := simulate(t)
	ctx := t.Context()
	customer, err := s.CreateCustomer(ctx, billing.CustomerRequest{Account: "acc_1", Email: "a@example.com"}, "k1")
	require.NoError(t, err)
	assert.Equal(t, "acc_1", customer.Account)
	again, err := s.CreateCustomer(ctx, billing.CustomerRequest{Account: "acc_1", Email: "a@example.com"}, "k1")
	require.NoError(t, err)
	assert.Equal(t, customer, again, "one key, one customer")
	_, err = s.CreateCustomer(ctx, billing.CustomerRequest{Account: "acc_2"}, "k1")
	require.ErrorIs(t, err, billing.ErrConflict, "one key, two requests")
	found, err := s.FindCustomer(ctx, "acc_1")
	require.NoError(t, err)
	assert.Equal(t, customer, found)
	_, err = s.FindCustomer(ctx, "acc_0")
	require.ErrorIs(t, err, billing.ErrNotFound)

	prices, err := s.Prices(ctx, []string{"pro_month_usd", "business_month_usd", "gold"})
	require.NoError(t, err)
	require.Len(t, prices, 2)
	assert.Equal(t, billing.Money{Amount: 999, Currency: "USD"}, prices[0].UnitAmount)

	// Somebody subscribes and hasn't paid.
	subscribed, err := s.Subscribe(ctx, billing.SubscribeRequest{
		CustomerID: customer.ID, Account: "acc_1", Items: []billing.LineItem{{PriceID: "price_pro", Quantity: 2}},
	}, "k2")
	require.NoError(t, err)
	assert.Equal(t, billing.StatusIncomplete, subscribed.Subscription.Status)
	assert.Equal(t, int64(1998), subscribed.Invoice.AmountDue)
	assert.NotEmpty(t, subscribed.ClientSecret)
	assert.False(t, subscribed.Setup)
	_, err = s.CancelSubscription(ctx, subscribed.Subscription.ID, billing.CancelRequest{}, "k3")
	require.NoError(t, err)
	ended, err := s.CancelSubscription(ctx, subscribed.Subscription.ID, billing.CancelRequest{}, "k3")
	require.NoError(t, err)
	assert.True(t, ended.Status.Terminal())

	// A trial needs a card set up and nothing paid.
	trial, err := s.Subscribe(ctx, billing.SubscribeRequest{
		CustomerID: customer.ID, Account: "acc_1", Items: []billing.LineItem{{PriceID: "price_pro", Quantity: 1}}, TrialEnd: clock.AddDate(0, 0, 14),
	}, "k4")
	require.NoError(t, err)
	assert.Equal(t, billing.StatusTrialing, trial.Subscription.Status)
	assert.Equal(t, clock.AddDate(0, 0, 14), trial.Subscription.TrialEnd)
	assert.True(t, trial.Setup)
	assert.NotEmpty(t, trial.ClientSecret)
	id, item := trial.Subscription.ID, trial.Subscription.Items[0].ID

	change := billing.UpdateRequest{Items: []billing.UpdateItem{{ID: item, PriceID: "price_business"}}, Proration: "create_prorations"}
	preview, err := s.PreviewUpdate(ctx, customer.ID, id, change)
	require.NoError(t, err)
	assert.Equal(t, int64(2999), preview.Total)
	changed, err := s.UpdateSubscription(ctx, id, change, "k5")
	require.NoError(t, err)
	assert.Equal(t, "price_business", changed.Items[0].Price.ID)
	yes, no, pause, collect := true, false, "void", ""
	for i, step := range []struct {
		req   billing.UpdateRequest
		check func(billing.Subscription) bool
	}{
		{billing.UpdateRequest{CancelAtPeriodEnd: &yes, CancelReason: "unused"}, func(s billing.Subscription) bool { return s.CancelAtPeriodEnd && !s.CanceledAt.IsZero() }},
		{billing.UpdateRequest{CancelAtPeriodEnd: &no}, func(s billing.Subscription) bool { return !s.CancelAtPeriodEnd && s.CanceledAt.IsZero() }},
		{billing.UpdateRequest{PauseCollection: &pause}, func(s billing.Subscription) bool { return s.PauseCollection == "void" }},
		{billing.UpdateRequest{PauseCollection: &collect}, func(s billing.Subscription) bool { return s.PauseCollection == "" }},
		{billing.UpdateRequest{Metadata: map[string]string{"team": "blue"}}, func(s billing.Subscription) bool { return s.Metadata["team"] == "blue" && s.Account == "acc_1" }},
	} {
		got, err := s.UpdateSubscription(ctx, id, step.req, "k6"+string(rune('a'+i)))
		require.NoError(t, err)
		assert.True(t, step.check(got), "step %d: %+v", i, got)
	}
	_, err = s.UpdateSubscription(ctx, "sub_none", billing.UpdateRequest{CancelAtPeriodEnd: &yes}, "k7")
	require.ErrorIs(t, err, billing.ErrNotFound)

	state, err := s.State(ctx, customer.ID)
	require.NoError(t, err)
	require.Len(t, state.Subscriptions, 2)
	assert.Equal(t, id, state.Subscriptions[0].ID, "newest first")
	assert.NotEmpty(t, state.Invoices)

	checkout, err := s.CreateCheckout(ctx, billing.CheckoutRequest{
		CustomerID: customer.ID, Account: "acc_1", Items: []billing.LineItem{{PriceID: "price_pro", Quantity: 1}}, SuccessURL: "https://example.com/?s={CHECKOUT_SESSION_ID}", CancelURL: "https://example.com/",
	}, "k8")
	require.NoError(t, err)
	assert.Equal(t, "open", checkout.Status)
	assert.Equal(t, "acc_1", checkout.Account)
	require.NoError(t, s.ExpireCheckout(ctx, checkout.ID))
	require.ErrorIs(t, s.ExpireCheckout(ctx, checkout.ID), billing.ErrInvalid)
	checkout, err = s.Checkout(ctx, checkout.ID)
	require.NoError(t, err)
	assert.Equal(t, "expired", checkout.Status)
	page, err := s.CreatePortal(ctx, customer.ID, "https://example.com/")
	require.NoError(t, err)
	assert.NotEmpty(t, page)

	// What was delivered is what the list of events has.
	delivered := s.received(t)
	require.Contains(t, delivered, "customer.subscription.created")
	assert.Equal(t, "acc_1", delivered["customer.subscription.created"].Account)
	assert.Equal(t, "k4", delivered["customer.subscription.created"].IdempotencyKey)
	var listed []billing.Event
	after := ""
	for more := true; more; {
		var events []billing.Event
		events, more, err = s.Events(ctx, clock.Add(-time.Hour), after)
		require.NoError(t, err)
		listed = append(listed, events...)
		if len(events) > 0 {
			after = events[len(events)-1].ID
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var want, got []string
	for _, e := range s.events {
		want = append(want, e.ID)
	}
	for _, e := range listed {
		got = append(got, e.ID)
	}
	assert.ElementsMatch(t, want, got)
}

// TestLostAnswersAreFoundAgain: with the same key, a write whose answer was
// lost returns what it did, and does nothing else.
func TestLostAnswersAreFoundAgain(t *testing.T) {
	s := simulate(t)
	for i, fault := range []stripesim.FaultKind{stripesim.ResetAfter, stripesim.TimeoutAfter, stripesim.Reset, stripesim.Unavailable, stripesim.ServerError, stripesim.RateLimited} {
		s.sim.Inject(stripesim.Fault{Kind: fault, Match: "POST /v1/customers", Delay: 3 * time.Second})
		account := "acc_" + string(rune('a'+i))
		req := billing.CustomerRequest{Account: account}
		hasty := newGateway(t, func(c *billingstripe.Config) {
			c.SecretKey, c.URL, c.Retries, c.Timeout = stripesim.DefaultSecretKey, s.sim.URL, -1, 100*time.Millisecond
		})
		_, err := hasty.CreateCustomer(t.Context(), req, "key_"+account)
		if fault == stripesim.RateLimited {
			require.ErrorIs(t, err, billing.ErrUnavailable, fault)
		} else {
			require.ErrorIs(t, err, billing.ErrUnknownOutcome, fault)
		}
		first, err := s.CreateCustomer(t.Context(), req, "key_"+account)
		require.NoError(t, err, fault)
		second, err := s.CreateCustomer(t.Context(), req, "key_"+account)
		require.NoError(t, err, fault)
		assert.Equal(t, first, second)
		found, err := s.FindCustomer(t.Context(), account)
		require.NoError(t, err)
		assert.Equal(t, first.ID, found.ID, "%s: exactly one customer", fault)
	}
}
