package billingstripe_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
	"github.com/kolekt/commerce/billing/stripesim"
)

// ask sends a request of its own to the simulator.
func (s *simulated) ask(t *testing.T, method, path string, form url.Values) (int, string) {
	t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
	rec := httptest.NewRecorder()
	s.sim.Handler().ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

// person is a customer with a canary in each place that names one.
func (s *simulated) person(t *testing.T) billing.Customer {
	t.Helper()
	ctx := t.Context()
	c, err := s.CreateCustomer(ctx, billing.CustomerRequest{Account: "canary-account", Email: "canary@example.com", Name: "Canary Bird"}, "erase-c1")
	require.NoError(t, err)
	status, body := s.ask(t, http.MethodPost, "/v1/customers/"+c.ID, url.Values{
		"phone": {"canary-phone"}, "description": {"canary-text"}, "address[line1]": {"canary-road"}, "shipping[name]": {"canary-name"}, "shipping[address][line1]": {"canary-lane"},
	})
	require.Equal(t, http.StatusOK, status, body)
	status, body = s.ask(t, http.MethodPost, "/v1/payment_methods", url.Values{
		"type": {"card"}, "card[token]": {"tok_visa"}, "billing_details[email]": {"canary-card@example.com"}, "billing_details[name]": {"Canary Owner"}, "billing_details[address][line1]": {"canary-street"},
	})
	require.Equal(t, http.StatusOK, status, body)
	var pm struct{ ID string }
	require.NoError(t, json.Unmarshal([]byte(body), &pm))
	status, body = s.ask(t, http.MethodPost, "/v1/payment_methods/"+pm.ID+"/attach", url.Values{"customer": {c.ID}})
	require.Equal(t, http.StatusOK, status, body)
	for _, ended := range []bool{true, false} {
		status, body = s.ask(t, http.MethodPost, "/v1/subscriptions", url.Values{
			"customer": {c.ID}, "items[0][price]": {"price_pro"}, "default_payment_method": {pm.ID},
			"metadata[" + billing.MetadataAccount + "]": {"canary-account"}, "metadata[" + billing.MetadataPlan + "]": {"pro"},
		})
		require.Equal(t, http.StatusOK, status, body)
		var sub struct{ ID string }
		require.NoError(t, json.Unmarshal([]byte(body), &sub))
		if ended {
			status, body = s.ask(t, http.MethodDelete, "/v1/subscriptions/"+sub.ID, nil)
			require.Equal(t, http.StatusOK, status, body)
		}
	}
	return c
}

// found returns the kinds of objects that the simulator still shows with a
// canary.
func (s *simulated) found(t *testing.T, customer string) map[string]int {
	t.Helper()
	kinds := map[string]int{}
	for kind, path := range map[string]string{
		"customer": "/v1/customers/" + customer, "customers": "/v1/customers?limit=100", "subscription": "/v1/subscriptions?status=all&limit=100",
		"invoice": "/v1/invoices?limit=100", "charge": "/v1/charges?limit=100", "intent": "/v1/payment_intents?limit=100", "checkout": "/v1/checkout/sessions?limit=100",
	} {
		_, body := s.ask(t, http.MethodGet, path, nil)
		if n := strings.Count(strings.ToLower(body), "canary"); n > 0 {
			kinds[kind] = n
		}
	}
	return kinds
}

func TestAnErasedCustomerIsGoneButForWhatIsReportedAsKept(t *testing.T) {
	s := simulate(t)
	c := s.person(t)
	before := s.found(t, c.ID)
	for _, kind := range []string{"customer", "customers", "subscription", "invoice", "charge"} {
		require.Contains(t, before, kind, "the control: there is something to erase")
	}
	kept, err := s.EraseCustomer(t.Context(), c.ID)
	require.NoError(t, err)
	assert.Equal(t, map[string]int64{"invoice": 2, "charge": 2, "event_log": 1}, kept)
	left := s.found(t, c.ID)
	delete(left, "invoice")
	delete(left, "charge")
	assert.Empty(t, left, "nothing but what is reported as kept")
	state, err := s.State(t.Context(), c.ID)
	require.NoError(t, err)
	assert.True(t, state.Customer.Deleted)
	assert.Equal(t, billing.StatusCanceled, state.Subscriptions[0].Status)
	assert.Equal(t, map[string]string{billing.MetadataPlan: "pro"}, state.Subscriptions[0].Metadata)
	// The last events have nothing new to tell.
	assert.NotContains(t, fmt.Sprintf("%+v", s.received(t)["customer.deleted"]), "canary")

	// Again, for one that is gone, and for one that never was.
	again, err := s.EraseCustomer(t.Context(), c.ID)
	require.NoError(t, err)
	assert.Equal(t, kept, again)
	none, err := s.EraseCustomer(t.Context(), "cus_nobody")
	require.NoError(t, err)
	assert.Empty(t, none)
	_, err = s.EraseCustomer(t.Context(), "")
	require.ErrorIs(t, err, billing.ErrInvalid)
}

// cutOff lets so many requests through, and then none.
type cutOff struct{ left int }

var errCutOff = errors.New("the process has died")

func (d *cutOff) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.left--; d.left < 0 {
		return nil, errCutOff
	}
	return http.DefaultTransport.RoundTrip(r)
}

// TestAnErasureAtStripeGoesOnAfterACrashAtAnyRequest cuts the erasure off before
// each of its requests, and then has it done whole.
func TestAnErasureAtStripeGoesOnAfterACrashAtAnyRequest(t *testing.T) {
	for crash := 0; ; crash++ {
		s := simulate(t)
		c := s.person(t)
		g := newGateway(t, func(cfg *billingstripe.Config) {
			cfg.SecretKey, cfg.URL, cfg.Now, cfg.Retries = stripesim.DefaultSecretKey, s.sim.URL, s.sim.Now, -1
			cfg.HTTPClient = &http.Client{Transport: &cutOff{crash}}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := g.EraseCustomer(ctx, c.ID)
		cancel()
		if err == nil {
			require.Greater(t, crash, 8, "each step is a request of its own")
			return
		}
		require.ErrorIs(t, err, errCutOff)
		kept, err := s.EraseCustomer(t.Context(), c.ID)
		require.NoError(t, err, "after a crash before request %d", crash)
		require.Equal(t, map[string]int64{"invoice": 2, "charge": 2, "event_log": 1}, kept)
		left := s.found(t, c.ID)
		delete(left, "invoice")
		delete(left, "charge")
		require.Empty(t, left, "after a crash before request %d", crash)
	}
}
