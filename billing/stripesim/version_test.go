package stripesim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

// TestEachVersionTellsTheSameStory sends one life to seven endpoints, each in
// an API version of its own: the production decoder reads the same from all.
func TestEachVersionTellsTheSameStory(t *testing.T) {
	const secret = "whsec_test"
	var sim *stripesim.Simulator
	gateway, err := billingstripe.New(billingstripe.Config{
		SecretKey: stripesim.DefaultSecretKey, WebhookSecrets: []string{secret}, Now: func() time.Time { return sim.Now() },
	})
	require.NoError(t, err)
	var mu sync.Mutex // each endpoint is called by a goroutine of its own
	got := map[string][]billing.Event{}
	var endpoints []stripesim.Endpoint
	for _, version := range stripesim.Versions() {
		endpoints = append(endpoints, stripesim.Endpoint{
			Secret: secret, APIVersion: version,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err == nil {
					var ev billing.Event
					if ev, err = gateway.Verify(r.Header, body); err == nil {
						mu.Lock()
						defer mu.Unlock()
						got[version] = append(got[version], ev)
						return
					}
				}
				t.Errorf("%s: %v", version, err)
				w.WriteHeader(http.StatusBadRequest)
			}),
		})
	}
	sim, err = stripesim.New(stripesim.Config{
		Start: time.Date(2025, 1, 31, 12, 0, 0, 0, time.UTC), Seed: 5, BaseURL: "http://sim.test",
		Products: []stripesim.Product{{Name: "Pro", Prices: []stripesim.Price{
			{ID: "pro", UnitAmount: 999}, {ID: "business", UnitAmount: 2999}, {ID: "calls", UnitAmountDecimal: "0.5", Metered: true, Meter: "calls"},
		}}},
		Endpoints: endpoints,
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, sim.Close(t.Context())) }()
	post := func(path string, fields ...string) map[string]any {
		form := url.Values{}
		for _, f := range fields {
			name, value, _ := strings.Cut(f, "=")
			form.Add(name, value)
		}
		req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
		req.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		rec := httptest.NewRecorder()
		sim.Handler().ServeHTTP(rec, req)
		require.Equal(t, http.StatusOK, rec.Code, rec.Body.String())
		var out map[string]any
		require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &out))
		return out
	}
	cus := post("/v1/customers", "email=ada@example.com", "metadata[commerce_account]=acct_1", "payment_method=pm_card_visa")["id"].(string)
	pm := post("/v1/payment_methods/pm_card_visa/attach", "customer="+cus)["id"].(string)
	post("/v1/customers/"+cus, "invoice_settings[default_payment_method]="+pm)
	post("/v1/coupons", "id=TENTH", "percent_off=12.5", "duration=repeating", "duration_in_months=3")
	promo := post("/v1/promotion_codes", "coupon=TENTH", "code=HELLO")["id"].(string)
	sub := post("/v1/subscriptions", "customer="+cus, "items[0][price]=pro", "items[0][quantity]=2", "items[1][price]=calls", "trial_period_days=7",
		"promotion_code="+promo, "metadata[commerce_account]=acct_1")
	require.NoError(t, sim.Advance(t.Context(), 20*24*time.Hour))
	item := sub["items"].(map[string]any)["data"].([]any)[0].(map[string]any)["id"].(string)
	post("/v1/subscriptions/"+sub["id"].(string), "items[0][id]="+item, "items[0][price]=business", "proration_behavior=always_invoice")
	post("/v1/subscriptions/"+sub["id"].(string), "cancel_at_period_end=true")
	require.NoError(t, sim.Advance(t.Context(), 40*24*time.Hour))
	post("/v1/checkout/sessions", "mode=subscription", "customer="+cus, "success_url=http://x.test/", "line_items[0][price]=pro", "line_items[0][quantity]=1", "client_reference_id=acct_1")
	require.NoError(t, sim.Advance(t.Context(), 25*time.Hour))

	first := got[stripesim.Versions()[0]]
	kinds := map[string]int{}
	for i, ev := range first {
		switch {
		case ev.Subscription != nil:
			kinds["subscription"]++
			require.Equal(t, "acct_1", ev.Account)
			require.False(t, ev.Subscription.Period.IsZero())
			require.Len(t, ev.Subscription.Items, 2)
		case ev.Invoice != nil:
			kinds["invoice"]++
			require.NotEmpty(t, ev.Invoice.SubscriptionID)
			require.NotEmpty(t, ev.Invoice.Lines[0].PriceID)
		case ev.Checkout != nil:
			kinds["checkout"]++
		}
		for _, version := range stripesim.Versions()[1:] {
			require.Len(t, got[version], len(first))
			other := got[version][i]
			require.Equal(t, version, other.APIVersion)
			require.Equal(t, told(ev), told(other), "%s in %s", ev.Type, version)
		}
	}
	require.Greater(t, kinds["subscription"], 5)
	require.Greater(t, kinds["invoice"], 10)
	require.Equal(t, 1, kinds["checkout"])
}

// told leaves out what a version doesn't say in an event: since basil an
// invoice names its payments only where a request expands them, and a discount
// is an ID.
func told(ev billing.Event) billing.Event {
	ev.Raw, ev.APIVersion = nil, ""
	ids := func(in []billing.Discount) []billing.Discount {
		var out []billing.Discount
		for _, d := range in {
			out = append(out, billing.Discount{ID: d.ID})
		}
		return out
	}
	if ev.Invoice != nil {
		inv := *ev.Invoice
		inv.PaymentIntentID, inv.ChargeID, inv.Discounts = "", "", ids(inv.Discounts)
		ev.Invoice = &inv
	}
	if ev.Subscription != nil {
		sub := *ev.Subscription
		sub.Discounts = ids(sub.Discounts)
		ev.Subscription = &sub
	}
	return ev
}
