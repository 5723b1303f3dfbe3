package billing_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingmem"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/billingtest"
	"github.com/kolekt/commerce/billing/stripesim"
)

// stripe is the production gateway with a simulated Stripe behind it.
type stripe struct {
	*billingstripe.Gateway
	sim *stripesim.Server
}

func newStripe(t *testing.T) stripe {
	t.Helper()
	sim, err := stripesim.NewServer(stripesim.Config{Seed: 1, Products: []stripesim.Product{{ID: "prod_1", Name: "Plans", Prices: []stripesim.Price{
		{ID: "price_pro", LookupKey: "pro_month_usd", UnitAmount: 999},
		{ID: "price_business", LookupKey: "business_month_usd", UnitAmount: 2999},
	}}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sim.Close()) })
	gateway, err := billingstripe.New(billingstripe.Config{
		SecretKey: stripesim.DefaultSecretKey, WebhookSecrets: []string{stripesim.NewSecret()}, URL: sim.URL, Now: sim.Now, Retries: -1,
	})
	require.NoError(t, err)
	return stripe{gateway, sim}
}

// do asks Stripe's API as a customer's browser or a dashboard would.
func (s stripe) do(t *testing.T, method, path string, form url.Values) map[string]any {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.sim.URL+path, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { require.NoError(t, answer.Body.Close()) }()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	var object map[string]any
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&object))
	return object
}

// pay pays the first invoice of a subscription.
func (s stripe) pay(t *testing.T, sub billing.Subscribed) {
	t.Helper()
	intent, _, ok := strings.Cut(sub.ClientSecret, "_secret")
	require.True(t, ok)
	s.do(t, http.MethodPost, "/v1/payment_intents/"+intent+"/confirm", url.Values{"payment_method": {"pm_card_visa"}})
}

// TestTheProductionGatewayHoldsTheContract runs the suite of every gateway on
// the production one.
func TestTheProductionGatewayHoldsTheContract(t *testing.T) {
	billingtest.TestGateway(t, func(t *testing.T) billingtest.GatewayHarness {
		s := newStripe(t)
		return billingtest.GatewayHarness{Gateway: s.Gateway, Monthly: "pro_month_usd", Other: "business_month_usd", Pay: s.pay}
	})
}

func TestFiftyClicksOnTheProductionGateway(t *testing.T) {
	s := newStripe(t)
	catalog, err := billing.ParseCatalog("plans.yaml", []byte(`
plans:
  - {id: free, limits: {documents: 10/period}}
  - {id: pro, limits: {documents: 100/period}, prices: [{amount: 9.99 USD, every: month}]}
  - {id: business, limits: {documents: unlimited}, prices: [{amount: 29.99 USD, every: month}]}
`))
	require.NoError(t, err)
	store := billingmem.New()
	var services []*billing.Service // as many processes
	for range 2 {
		svc, err := billing.New(catalog, store, s.Gateway, billing.Config{Now: s.sim.Now})
		require.NoError(t, err)
		services = append(services, svc)
	}
	clicks := parallel(50, func(i int) (billing.Subscribed, error) {
		return services[i%2].Subscribe(t.Context(), "alice", billing.Order{Plan: "pro"})
	})
	for _, c := range clicks {
		require.NoError(t, c.err)
		require.Equal(t, clicks[0].value.Subscription.ID, c.value.Subscription.ID)
		require.Equal(t, clicks[0].value.ClientSecret, c.value.ClientSecret)
	}
	s.pay(t, clicks[0].value)
	for _, c := range parallel(50, func(i int) (billing.Subscription, error) {
		return services[i%2].ChangePlan(t.Context(), "alice", billing.Order{Plan: "business"}, nil)
	}) {
		if c.err != nil { // the state of the payment may not be here yet
			require.ErrorIs(t, c.err, billing.ErrInvalid)
		}
	}
	_, err = services[0].Sync(t.Context(), "alice")
	require.NoError(t, err)
	for _, c := range parallel(50, func(i int) (billing.Subscription, error) {
		return services[i%2].ChangePlan(t.Context(), "alice", billing.Order{Plan: "business"}, nil)
	}) {
		require.NoError(t, c.err)
	}
	d, err := services[1].Access(t.Context(), "alice")
	require.NoError(t, err)
	require.Equal(t, "business", d.Plan)
	require.Len(t, s.do(t, http.MethodGet, "/v1/customers", nil)["data"], 1)
	require.Len(t, s.do(t, http.MethodGet, "/v1/subscriptions?status=all", nil)["data"], 1)
	require.Len(t, s.do(t, http.MethodGet, "/v1/invoices", nil)["data"], 2)
}
