package billing_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

const flowPlansYAML = `
features: {}
plans:
  - id: free
    limits: {kolekts: 10/period}
  - id: pro
    limits: {kolekts: 100/period}
    prices:
      - {amount: 10.00 USD, every: month}
  - id: team
    trial_days: 14
    seats: {minimum: 2, maximum: 8}
    limits: {kolekts: 500/period}
    prices:
      - {amount: 5.00 USD, every: month}
  - id: business
    trial_days: 14
    limits: {kolekts: unlimited}
    prices:
      - {amount: 30.00 USD, every: month}
`

func flowPlans(t testing.TB) *billing.Catalog {
	t.Helper()
	c, err := billing.ParseCatalog("plans.yaml", []byte(flowPlansYAML))
	require.NoError(t, err)
	return c
}

// simRig is a service on a simulated Stripe, over HTTP and with webhooks.
type simRig struct {
	rig
	sim      *stripesim.Server
	stripe   *billingstripe.Gateway
	webhook  atomic.Pointer[http.Handler]
	sequence int
}

// flowSim is a simulator that has the prices of flowPlans.
func flowSim(t testing.TB, webhook http.Handler) *stripesim.Server {
	t.Helper()
	sim, err := stripesim.NewServer(stripesim.Config{
		Start: newClock().now, Seed: 1,
		Products: []stripesim.Product{{Name: "All", Prices: []stripesim.Price{
			{LookupKey: "pro_month_usd", UnitAmount: 1000}, {LookupKey: "team_month_usd", UnitAmount: 500}, {LookupKey: "business_month_usd", UnitAmount: 3000},
		}}},
		Endpoints: []stripesim.Endpoint{{Handler: webhook, Secret: "whsec_sim"}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, sim.Close()) })
	return sim
}

func flowGateway(t testing.TB, sim *stripesim.Server, change ...func(*billingstripe.Config)) *billingstripe.Gateway {
	t.Helper()
	cfg := billingstripe.Config{SecretKey: stripesim.DefaultSecretKey, WebhookSecrets: []string{"whsec_sim"}, URL: sim.URL, Now: sim.Now, Retries: -1}
	for _, c := range change {
		c(&cfg)
	}
	g, err := billingstripe.New(cfg)
	require.NoError(t, err)
	return g
}

func newSimRig(t testing.TB, change ...func(*billing.Config)) *simRig {
	t.Helper()
	r := &simRig{rig: rig{t: t, ctx: t.Context(), store: billingmem.New()}}
	r.sim = flowSim(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { (*r.webhook.Load()).ServeHTTP(w, req) }))
	r.stripe = flowGateway(t, r.sim)
	r.svc = r.serviceOn(r.store, r.stripe, change...)
	handler := r.svc.Webhook()
	r.webhook.Store(&handler)
	return r
}

func (r *simRig) serviceOn(store billing.Store, gateway billing.Gateway, change ...func(*billing.Config)) *billing.Service {
	cfg := billing.Config{Now: r.sim.Now, Handle: func(_ context.Context, n billing.Notice) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.notices = append(r.notices, n)
		return nil
	}}
	for _, c := range change {
		c(&cfg)
	}
	svc, err := billing.New(flowPlans(r.t), store, gateway, cfg)
	require.NoError(r.t, err)
	return svc
}

// settle lets the events arrive and handles them.
func (r *simRig) settle() {
	r.t.Helper()
	require.NoError(r.t, r.sim.Settle(r.ctx))
	_, err := r.svc.ProcessPending(r.ctx)
	require.NoError(r.t, err)
}

// pass moves the clock in steps of a day, as Run would see it.
func (r *simRig) pass(d time.Duration) {
	r.t.Helper()
	for d > 0 {
		step := min(d, day)
		require.NoError(r.t, r.sim.Advance(r.ctx, step))
		r.settle()
		d -= step
	}
}

// api calls the simulated Stripe as the customer's browser would.
func (r *simRig) api(method, path string, fields ...string) map[string]any {
	r.t.Helper()
	return simAPI(r.t, r.sim, method, path, fields...)
}

func simAPI(t testing.TB, sim *stripesim.Server, method, path string, fields ...string) map[string]any {
	t.Helper()
	form := url.Values{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		form.Add(name, value)
	}
	target := sim.URL + path
	var body io.Reader
	if method == http.MethodGet {
		target += "?" + form.Encode()
	} else {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(t.Context(), method, target, body)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	var out map[string]any
	require.NoError(t, json.NewDecoder(res.Body).Decode(&out))
	require.Equal(t, http.StatusOK, res.StatusCode, "%s %s: %v", method, path, out)
	return out
}

// card sets a test card up for the account's customer, as the gateway's client
// library does, and returns the payment method.
func (r *simRig) card(account, token string) string {
	r.t.Helper()
	setup, err := r.svc.SetupPayment(r.ctx, account)
	require.NoError(r.t, err)
	return r.api("POST", "/v1/setup_intents/"+setup.ID+"/confirm", "payment_method=pm_card_"+token)["payment_method"].(string)
}

// paidFor is an account with a subscription that is paid by card.
func (r *simRig) paidFor(account, plan string, seats int64) billing.Subscription {
	r.t.Helper()
	pm := r.card(account, "visa")
	_, err := r.svc.UsePaymentMethod(r.ctx, account, pm)
	require.NoError(r.t, err)
	got, err := r.svc.Subscribe(r.ctx, account, billing.Order{Plan: plan, Seats: seats, NoTrial: true, PaymentMethod: pm})
	require.NoError(r.t, err)
	intent, _, _ := strings.Cut(got.ClientSecret, "_secret_")
	r.api("POST", "/v1/payment_intents/"+intent+"/confirm", "payment_method="+pm)
	r.settle()
	require.Equal(r.t, plan, r.access(account).Plan)
	sub, err := r.svc.Subscription(r.ctx, account)
	require.NoError(r.t, err)
	return sub
}

// checkOut pays on the gateway's page.
func (r *simRig) checkOut(account string, o billing.CheckoutOrder, number string) {
	r.t.Helper()
	c, err := r.svc.Checkout(r.ctx, account, o)
	require.NoError(r.t, err)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	form := url.Values{"do": {"pay"}, "email": {account + "@example.com"}, "name": {account}, "exp": {"12/40"}, "cvc": {"123"}, "number": {number}}
	res, err := client.PostForm(c.URL, form)
	require.NoError(r.t, err)
	defer res.Body.Close()
	page, _ := io.ReadAll(res.Body)
	require.Equal(r.t, http.StatusSeeOther, res.StatusCode, "%s", page)
	r.settle()
}

func (r *simRig) customer(account string) string {
	r.t.Helper()
	a, err := r.svc.Account(r.ctx, account)
	require.NoError(r.t, err)
	return a.CustomerID
}

// moved is what the simulated Stripe's ledger moved for an account, oldest
// first.
func (r *simRig) moved(account string) []int64 {
	r.t.Helper()
	amounts := []int64{}
	for _, e := range r.sim.Ledger(r.customer(account)) {
		amounts = append(amounts, e.Amount)
	}
	return amounts
}

func (r *simRig) why() billing.Audit {
	r.sequence++
	return billing.Audit{Key: "ticket-" + string(rune('a'+r.sequence)), By: "admin:ada", Reason: "apology"}
}

// noticesOf returns the notices of a kind that were delivered.
func (r *simRig) noticesOf(k billing.Kind) []billing.Notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	var of []billing.Notice
	for _, n := range r.notices {
		if n.Kind == k {
			of = append(of, n)
		}
	}
	return of
}
