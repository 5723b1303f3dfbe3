package main

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

func TestASignedEventChangesTheAccess(t *testing.T) {
	var webhook http.Handler
	sim, err := stripesim.New(stripesim.Config{
		Products:  []stripesim.Product{{Name: "Pro", Prices: []stripesim.Price{{LookupKey: "pro_month_usd", UnitAmount: 999}}}},
		Endpoints: []stripesim.Endpoint{{Secret: "whsec_test", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { webhook.ServeHTTP(w, r) })}},
	})
	require.NoError(t, err)
	stripe := httptest.NewServer(sim.Handler())
	defer stripe.Close()
	gateway, err := billingstripe.New(billingstripe.Config{SecretKey: stripesim.DefaultSecretKey, WebhookSecrets: []string{"whsec_test"}, URL: stripe.URL})
	require.NoError(t, err)
	service, err := newService(gateway)
	require.NoError(t, err)
	mux := routes(service)
	webhook = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { r.URL.Path = "/webhook"; mux.ServeHTTP(w, r) })

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/subscribe?account=ann", nil))
	require.Equal(t, http.StatusSeeOther, w.Code, w.Body)
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	paid, err := client.PostForm(w.Header().Get("Location"), url.Values{
		"do": {"pay"}, "email": {"ann@example.com"}, "name": {"Ann"}, "number": {"4242424242424242"}, "exp": {"12/40"}, "cvc": {"123"},
	})
	require.NoError(t, err)
	require.NoError(t, paid.Body.Close())
	require.NoError(t, sim.Settle(t.Context()))
	_, err = service.ProcessPending(t.Context())
	require.NoError(t, err)

	w = httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/access?account=ann", nil))
	require.Contains(t, w.Body.String(), `"plan":"pro"`)

	w = httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/webhook", nil))
	require.Equal(t, http.StatusBadRequest, w.Code, "unsigned")
}
