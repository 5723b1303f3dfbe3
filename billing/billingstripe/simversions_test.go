package billingstripe_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

// inbox keeps the events of an endpoint in the order of delivery.
type inbox struct {
	gateway *billingstripe.Gateway
	mu      sync.Mutex
	events  []billing.Event
	errs    []error
}

func (b *inbox) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	event, err := b.gateway.Verify(r.Header, body)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, event)
	if err != nil {
		b.errs = append(b.errs, err)
	}
}

// canonical writes an event without its version and without what only events
// before basil carry: discounts come as IDs since, and payments not at all.
func canonical(t *testing.T, e billing.Event) string {
	t.Helper()
	bare := func(discounts []billing.Discount) (ids []billing.Discount) {
		for _, d := range discounts {
			ids = append(ids, billing.Discount{ID: d.ID})
		}
		return ids
	}
	e.APIVersion = ""
	if e.Subscription != nil {
		s := *e.Subscription
		s.Discounts = bare(s.Discounts)
		e.Subscription = &s
	}
	if e.Invoice != nil {
		inv := *e.Invoice
		inv.Discounts = bare(inv.Discounts)
		inv.PaymentIntentID, inv.ChargeID = "", ""
		inv.Lines = slices.Clone(inv.Lines)
		for i := range inv.Lines {
			if inv.Lines[i].Proration { // of an invoice item, which names no subscription item since basil
				inv.Lines[i].ItemID = ""
			}
		}
		e.Invoice = &inv
	}
	text, err := json.Marshal(e)
	require.NoError(t, err)
	return string(text)
}

// TestTheSimulatorsVersionsDecodeToOneEvent delivers the events of a year to an
// endpoint of each API version, and demands equal events. The simulator's
// renderer is another one than that of the tests above.
func TestTheSimulatorsVersionsDecodeToOneEvent(t *testing.T) {
	inboxes := make([]*inbox, len(stripesim.Versions()))
	config := stripesim.Config{Start: clock, Seed: 1, Products: []stripesim.Product{{ID: "prod_pro", Name: "Pro", Prices: []stripesim.Price{
		{ID: "price_pro", LookupKey: "pro_month_usd", UnitAmount: 999}, {ID: "price_year", LookupKey: "pro_year_usd", UnitAmount: 9990, Interval: "year"},
	}}}}
	for i, version := range stripesim.Versions() {
		inboxes[i] = &inbox{}
		config.Endpoints = append(config.Endpoints, stripesim.Endpoint{Handler: inboxes[i], Secret: testSecret, APIVersion: version})
	}
	sim, err := stripesim.NewServer(config)
	require.NoError(t, err)
	defer func() { assert.NoError(t, sim.Close()) }()
	g := newGateway(t, func(c *billingstripe.Config) {
		c.SecretKey, c.URL, c.Now, c.Tolerance = stripesim.DefaultSecretKey, sim.URL, sim.Now, 48*time.Hour
	})
	for _, b := range inboxes {
		b.gateway = g
	}
	post := func(path string, fields ...string) object {
		t.Helper()
		form := url.Values{}
		for i := 0; i < len(fields); i += 2 {
			form.Set(fields[i], fields[i+1])
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sim.URL+path, strings.NewReader(form.Encode()))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer func() { assert.NoError(t, resp.Body.Close()) }()
		var o object
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&o))
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s: %v", path, o)
		return o
	}
	card := func(customer, token string) {
		t.Helper()
		method := post("/v1/payment_methods/pm_card_"+token+"/attach", "customer", customer)["id"].(string)
		post("/v1/customers/"+customer, "invoice_settings[default_payment_method]", method)
	}

	ctx := t.Context()
	customer, err := g.CreateCustomer(ctx, billing.CustomerRequest{Account: "acc_1", Email: "a@example.com"}, "k1")
	require.NoError(t, err)
	card(customer.ID, "visa")
	post("/v1/coupons", "id", "quarter", "percent_off", "25", "duration", "forever")
	s := post("/v1/subscriptions", "customer", customer.ID, "items[0][price]", "price_pro", "items[0][quantity]", "2", "coupon", "quarter",
		"metadata[commerce_account]", "acc_1")
	id := s["id"].(string)
	require.NoError(t, sim.Advance(ctx, 40*24*time.Hour)) // a renewal
	item := s["items"].(object)["data"].([]any)[0].(object)["id"].(string)
	_, err = g.UpdateSubscription(ctx, id, billing.UpdateRequest{Proration: "always_invoice", Items: []billing.UpdateItem{{ID: item, PriceID: "price_year"}}}, "k2")
	require.NoError(t, err)
	yes, pause := true, "void"
	_, err = g.UpdateSubscription(ctx, id, billing.UpdateRequest{CancelAtPeriodEnd: &yes, PauseCollection: &pause}, "k3")
	require.NoError(t, err)
	_, err = g.CreateCheckout(ctx, billing.CheckoutRequest{CustomerID: customer.ID, Account: "acc_1", SuccessURL: "https://example.com/", Items: []billing.LineItem{{PriceID: "price_pro", Quantity: 1}}}, "k4")
	require.NoError(t, err)
	trial, err := g.Subscribe(ctx, billing.SubscribeRequest{CustomerID: customer.ID, Account: "acc_1", TrialEnd: sim.Now().AddDate(0, 0, 7), Items: []billing.LineItem{{PriceID: "price_pro", Quantity: 1}}}, "k5")
	require.NoError(t, err)
	card(customer.ID, "chargeCustomerFail")
	require.NoError(t, sim.Advance(ctx, 60*24*time.Hour)) // the trial ends, and payments fail until the end
	_, err = g.CancelSubscription(ctx, id, billing.CancelRequest{Prorate: true, InvoiceNow: true}, "k6")
	require.NoError(t, err)
	require.NoError(t, sim.Settle(ctx))

	kinds := map[string]int{}
	first := inboxes[0].events
	require.Empty(t, inboxes[0].errs)
	for i, b := range inboxes {
		version := stripesim.Versions()[i]
		require.Empty(t, b.errs, version)
		require.Len(t, b.events, len(first), version)
		byID := map[string]billing.Event{}
		for _, e := range b.events {
			byID[e.ID] = e
		}
		for _, want := range first {
			got := byID[want.ID]
			assert.Equal(t, version, got.APIVersion)
			require.JSONEq(t, canonical(t, want), canonical(t, got), "%s in %s", want.Type, version)
		}
	}
	for _, e := range first {
		kinds[e.Type]++
	}
	t.Logf("%d events of %d types in %d versions", len(first), len(kinds), len(inboxes))
	for _, kind := range []string{"customer.subscription.created", "customer.subscription.updated", "customer.subscription.deleted", "invoice.paid", "invoice.payment_failed", "customer.updated"} {
		assert.NotZero(t, kinds[kind], kind)
	}

	// And what the events said last is what the API says now.
	state, err := g.State(ctx, customer.ID)
	require.NoError(t, err)
	last := map[string]billing.Subscription{}
	for _, e := range first {
		if e.Subscription != nil {
			last[e.ObjectID] = *e.Subscription
		}
	}
	require.Len(t, state.Subscriptions, 2)
	for _, now := range state.Subscriptions {
		assert.Equal(t, now, last[now.ID])
	}
	assert.Contains(t, last, trial.Subscription.ID)
}
