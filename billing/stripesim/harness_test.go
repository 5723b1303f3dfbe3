package stripesim

import (
	"context"
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
)

// start is when the clocks of these tests begin: the last of a month, so that
// clamped months show.
var start = time.Date(2025, 1, 31, 12, 0, 0, 0, time.UTC)

const testSecret = "whsec_test"

// rig is a simulator with a client and a receiver of events.
type rig struct {
	t   *testing.T
	sim *Simulator
	h   http.Handler

	mu     sync.Mutex
	events []received
	refuse int // answers of 500 to come
}

type received struct {
	id, typ   string
	object    map[string]any
	previous  map[string]any
	raw       []byte
	signature string
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t}
	cfg := Config{
		Start: start, Seed: 1, BaseURL: "http://sim.test/stripe",
		Products: []Product{
			{ID: "prod_pro", Name: "Pro", Prices: []Price{
				{ID: "price_pro", LookupKey: "pro_monthly", UnitAmount: 999},
				{ID: "price_pro_year", LookupKey: "pro_yearly", UnitAmount: 9990, Interval: "year"},
			}},
			{ID: "prod_business", Name: "Business", Prices: []Price{{ID: "price_business", LookupKey: "business_monthly", UnitAmount: 2999}}},
			{ID: "prod_free", Name: "Free", Prices: []Price{{ID: "price_free", LookupKey: "free_monthly"}}},
			{ID: "prod_units", Name: "Units", Prices: []Price{
				{ID: "price_units", UnitAmountDecimal: "0.25", Metered: true},
				{ID: "price_calls", UnitAmount: 2, Metered: true, Meter: "calls"},
				{ID: "price_setup", UnitAmount: 5000, Interval: "once"},
			}},
		},
		Endpoints: []Endpoint{{Handler: http.HandlerFunc(r.receive), Secret: testSecret}},
	}
	for _, f := range change {
		f(&cfg)
	}
	sim, err := New(cfg)
	require.NoError(t, err)
	r.sim, r.h = sim, sim.Handler()
	t.Cleanup(func() { require.NoError(t, sim.Close(context.Background())) })
	return r
}

func (r *rig) receive(w http.ResponseWriter, req *http.Request) {
	raw, _ := io.ReadAll(req.Body)
	var ev struct {
		ID, Type string
		Data     struct {
			Object   map[string]any
			Previous map[string]any `json:"previous_attributes"`
		}
	}
	if json.Unmarshal(raw, &ev) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse > 0 {
		r.refuse--
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	r.events = append(r.events, received{ev.ID, ev.Type, ev.Data.Object, ev.Data.Previous, raw, req.Header.Get("Stripe-Signature")})
}

// types returns the types of the events received since the last call.
func (r *rig) types() []string {
	r.t.Helper()
	var out []string
	for _, e := range r.take() {
		out = append(out, e.typ)
	}
	return out
}

func (r *rig) take() []received {
	r.t.Helper()
	require.NoError(r.t, r.sim.Settle(r.t.Context()))
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.events
	r.events = nil
	return out
}

type reply struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

// do sends a request with form fields "a=b", and optional headers "H: v".
func (r *rig) do(method, path string, fields ...string) reply {
	r.t.Helper()
	form := url.Values{}
	header := http.Header{}
	for _, f := range fields {
		if name, value, ok := strings.Cut(f, ": "); ok && !strings.Contains(name, "=") {
			header.Set(name, value)
			continue
		}
		name, value, _ := strings.Cut(f, "=")
		form.Add(name, value)
	}
	var body io.Reader
	if method == http.MethodGet {
		path += "?" + form.Encode()
	} else {
		body = strings.NewReader(form.Encode())
	}
	req := httptest.NewRequest(method, path, body)
	req.Header.Set("Authorization", "Bearer "+DefaultSecretKey)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name := range header {
		req.Header.Set(name, header.Get(name))
	}
	rec := httptest.NewRecorder()
	r.h.ServeHTTP(rec, req)
	out := reply{status: rec.Code, header: rec.Result().Header, raw: rec.Body.String()}
	require.NoError(r.t, json.Unmarshal(rec.Body.Bytes(), &out.body), out.raw)
	return out
}

// ok is do for requests that must work.
func (r *rig) ok(method, path string, fields ...string) map[string]any {
	r.t.Helper()
	got := r.do(method, path, fields...)
	require.Equal(r.t, http.StatusOK, got.status, "%s %s: %s", method, path, got.raw)
	return got.body
}

// fails is do for requests that must not; it returns the error object.
func (r *rig) fails(status int, method, path string, fields ...string) map[string]any {
	r.t.Helper()
	got := r.do(method, path, fields...)
	require.Equal(r.t, status, got.status, "%s %s: %s", method, path, got.raw)
	return got.body["error"].(map[string]any)
}

func (r *rig) post(path string, fields ...string) map[string]any {
	r.t.Helper()
	return r.ok(http.MethodPost, path, fields...)
}

func (r *rig) get(path string, fields ...string) map[string]any {
	r.t.Helper()
	return r.ok(http.MethodGet, path, fields...)
}

func (r *rig) advance(d time.Duration) {
	r.t.Helper()
	require.NoError(r.t, r.sim.Advance(r.t.Context(), d))
}

func (r *rig) advanceTo(y int, m time.Month, d, hour int) {
	r.t.Helper()
	require.NoError(r.t, r.sim.AdvanceTo(r.t.Context(), time.Date(y, m, d, hour, 0, 0, 0, time.UTC)))
}

// at digs a value out of nested objects: at(sub, "items", "data", 0, "id").
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			v = v.(map[string]any)[p]
		case int:
			v = v.([]any)[p]
		}
	}
	return v
}

func text(v any, path ...any) string { s, _ := at(v, path...).(string); return s }

func number(v any, path ...any) int64 { n, _ := at(v, path...).(float64); return int64(n) }

// customer makes a customer with a test card as the default.
func (r *rig) customer(token string) string {
	r.t.Helper()
	id := text(r.post("/v1/customers", "email=ada@example.com", "metadata[commerce_account]=acct_1"), "id")
	r.card(id, token)
	return id
}

func (r *rig) card(customer, token string) string {
	r.t.Helper()
	pm := text(r.post("/v1/payment_methods/pm_card_"+token+"/attach", "customer="+customer), "id")
	r.post("/v1/customers/"+customer, "invoice_settings[default_payment_method]="+pm)
	return pm
}

func (r *rig) subscribe(customer, price string, fields ...string) map[string]any {
	r.t.Helper()
	return r.post("/v1/subscriptions", append([]string{"customer=" + customer, "items[0][price]=" + price}, fields...)...)
}

func (r *rig) sub(id string) map[string]any { r.t.Helper(); return r.get("/v1/subscriptions/" + id) }

func trimSpaces(s string) string { return strings.TrimSpace(s) }

// page visits a hosted page under the base URL's path.
func (r *rig) page(method, path string, fields ...string) *httptest.ResponseRecorder {
	r.t.Helper()
	form := url.Values{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		form.Add(name, value)
	}
	req := httptest.NewRequest(method, "/stripe"+path, strings.NewReader(form.Encode()))
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	rec := httptest.NewRecorder()
	r.h.ServeHTTP(rec, req)
	return rec
}
