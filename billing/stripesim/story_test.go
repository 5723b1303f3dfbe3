package stripesim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// teller is an application that calls the simulator over HTTP, and tries
// again with the same idempotency key until it has an answer.
type teller struct {
	t      *testing.T
	srv    *Server
	client *http.Client
	keys   int
	tries  int
	types  map[string]int // events that came, by type and without repetitions
	seen   map[string]bool
}

func newTeller(t *testing.T, faults ...Fault) *teller {
	tl := &teller{t: t, client: &http.Client{Timeout: 10 * time.Second}, types: map[string]int{}, seen: map[string]bool{}}
	srv, err := NewServer(Config{
		Start: start, Seed: 3,
		Products: []Product{
			{Name: "Pro", Prices: []Price{{ID: "pro", UnitAmount: 999}}},
			{Name: "Business", Prices: []Price{{ID: "business", UnitAmount: 2999}}},
		},
		Endpoints: []Endpoint{{Secret: testSecret, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var ev struct{ ID, Type string }
			if err := json.NewDecoder(r.Body).Decode(&ev); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			if !tl.seen[ev.ID] {
				tl.types[ev.Type]++
			}
			tl.seen[ev.ID] = true
		})}},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		tl.client.CloseIdleConnections()
		require.NoError(t, srv.Close())
	})
	tl.srv = srv
	srv.Inject(faults...)
	return tl
}

func (tl *teller) call(method, path string, fields ...string) map[string]any {
	tl.t.Helper()
	form := url.Values{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		form.Add(name, value)
	}
	tl.keys++
	key := fmt.Sprintf("step-%d", tl.keys)
	for range 20 {
		tl.tries++
		status, raw, err := tl.once(method, path, form, key)
		if err != nil || status == http.StatusTooManyRequests || status >= 500 && status != http.StatusNotImplemented {
			continue
		}
		require.Equal(tl.t, http.StatusOK, status, "%s %s: %s", method, path, raw)
		var out map[string]any
		require.NoError(tl.t, json.Unmarshal(raw, &out))
		return out
	}
	tl.t.Fatalf("%s %s: no answer", method, path)
	return nil
}

func (tl *teller) once(method, path string, form url.Values, key string) (int, []byte, error) {
	target, body := tl.srv.URL+path, io.Reader(strings.NewReader(form.Encode()))
	if method == http.MethodGet {
		target, body = target+"?"+form.Encode(), nil
	}
	req, err := http.NewRequestWithContext(tl.t.Context(), method, target, body)
	require.NoError(tl.t, err)
	req.Header.Set("Authorization", "Bearer "+DefaultSecretKey)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := tl.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return res.StatusCode, raw, err
}

func (tl *teller) post(path string, fields ...string) map[string]any {
	tl.t.Helper()
	return tl.call(http.MethodPost, path, fields...)
}

func (tl *teller) to(month time.Month, d, hour int) {
	tl.t.Helper()
	year := 2025
	if month < 0 {
		year, month = 2026, -month
	}
	require.NoError(tl.t, tl.srv.AdvanceTo(tl.t.Context(), time.Date(year, month, d, hour, 0, 0, 0, time.UTC)))
}

func (tl *teller) card(customer, token string) string {
	tl.t.Helper()
	pm := text(tl.post("/v1/payment_methods/pm_card_"+token+"/attach", "customer="+customer), "id")
	tl.post("/v1/customers/"+customer, "invoice_settings[default_payment_method]="+pm)
	return pm
}

// twelveMonths is a customer's year: trial, paid, upgrade, failed, recovered,
// downgrade, refund, cancel, return.
func (tl *teller) twelveMonths() (customer string) {
	tl.t.Helper()
	customer = text(tl.post("/v1/customers", "email=ada@example.com"), "id")
	tl.card(customer, "visa")
	sub := tl.post("/v1/subscriptions", "customer="+customer, "items[0][price]=pro", "trial_period_days=14")
	id, item := text(sub, "id"), text(sub, "items", "data", 0, "id")
	status := func() string {
		return text(tl.call(http.MethodGet, "/v1/subscriptions/"+id), "status")
	}
	require.Equal(tl.t, "trialing", text(sub, "status"))
	tl.to(time.March, 1, 12)
	require.Equal(tl.t, "active", status())
	tl.post("/v1/subscriptions/"+id, "items[0][id]="+item, "items[0][price]=business", "proration_behavior=always_invoice")

	tl.to(time.March, 20, 0)
	tl.card(customer, "chargeCustomerFail")
	tl.to(time.April, 18, 0)
	require.Equal(tl.t, "past_due", status())
	tl.card(customer, "visa")
	tl.to(time.April, 23, 0)
	require.Equal(tl.t, "active", status())

	tl.to(time.May, 1, 12)
	tl.post("/v1/subscriptions/"+id, "items[0][id]="+item, "items[0][price]=pro", "proration_behavior=create_prorations")
	tl.to(time.June, 15, 0)
	sub = tl.call(http.MethodGet, "/v1/subscriptions/"+id, "expand[0]=latest_invoice")
	tl.post("/v1/refunds", "charge="+text(sub, "latest_invoice", "charge"), "amount=500")
	tl.post("/v1/subscriptions/"+id, "cancel_at_period_end=true")
	tl.to(time.August, 1, 12)
	require.Equal(tl.t, "canceled", status())

	tl.post("/v1/coupons", "id=BACK", "percent_off=50", "duration=once")
	tl.post("/v1/subscriptions", "customer="+customer, "items[0][price]=business", "discounts[0][coupon]=BACK")
	tl.to(-time.January, 31, 12)
	return customer
}

// movement is a ledger entry without its identifiers.
type movement struct {
	At     string
	Kind   EntryKind
	Amount int64
}

func movements(entries []Entry) []movement {
	var out []movement
	for _, e := range entries {
		out = append(out, movement{e.At.Format("2006-01-02 15:04"), e.Kind, e.Amount})
	}
	return out
}

// theYear is what twelveMonths moves, to the cent.
var theYear = []movement{
	{"2025-02-14 13:00", Charged, 999},  // the trial's end, an hour after its draft
	{"2025-03-01 12:00", Charged, 928},  // 2999·13/28 − 999·13/28, each rounded
	{"2025-03-14 13:00", Charged, 2999}, //
	{"2025-04-22 13:00", Charged, 2999}, // failed on the 14th and the 17th
	{"2025-05-14 13:00", Charged, 132},  // 999 − (2999·13/30 − 999·13/30)
	{"2025-06-14 13:00", Charged, 999},
	{"2025-06-15 00:00", Refunded, -500},
	{"2025-08-01 12:00", Charged, 1499}, // half of 2999, the discount rounded up
	{"2025-09-01 13:00", Charged, 2999},
	{"2025-10-01 13:00", Charged, 2999},
	{"2025-11-01 13:00", Charged, 2999},
	{"2025-12-01 13:00", Charged, 2999},
	{"2026-01-01 13:00", Charged, 2999},
}

func TestTwelveMonthsCostTheSameUnderEveryFault(t *testing.T) {
	const always = -1
	modes := map[string][]Fault{
		"none":              nil,
		"duplicate events":  {{Kind: DuplicateEvent, Times: always}},
		"reordered events":  {{Kind: ReorderEvent, Match: "invoice.*", Times: always}},
		"delayed events":    {{Kind: DelayEvent, Delay: time.Hour, Times: always}},
		"dropped events":    {{Kind: DropEvent, Match: "customer.*", Times: always}},
		"rate limited":      {{Kind: RateLimited, Match: "POST /v1/*", Times: 5}},
		"server error":      {{Kind: ServerError, Match: "POST /v1/subscriptions*", Times: 5}},
		"unavailable":       {{Kind: Unavailable, Times: 5}},
		"connection reset":  {{Kind: Reset, Match: "POST /v1/*", Times: 5}},
		"reset after":       {{Kind: ResetAfter, Match: "POST /v1/*", Times: 12}},
		"time-out after":    {{Kind: TimeoutAfter, Match: "POST /v1/*", Delay: time.Millisecond, Times: 12}},
		"reset after, once": {{Kind: ResetAfter, Match: "POST /v1/subscriptions"}, {Kind: ResetAfter, Match: "POST /v1/refunds"}},
	}
	for name, faults := range modes {
		t.Run(name, func(t *testing.T) {
			tl := newTeller(t, faults...)
			customer := tl.twelveMonths()
			require.Equal(t, theYear, movements(tl.srv.Ledger(customer)))
			require.Equal(t, map[string]int64{"usd": 25050}, tl.srv.Collected(customer))
			subs := tl.call(http.MethodGet, "/v1/subscriptions", "customer="+customer, "status=all")["data"].([]any)
			require.Len(t, subs, 2, "a repeated request has no second effect")
			require.Equal(t, "active", text(subs, 0, "status"))
			require.Equal(t, "canceled", text(subs, 1, "status"))
			if len(faults) == 0 {
				require.Equal(t, tl.keys, tl.tries)
				require.Equal(t, 2, tl.types["customer.subscription.created"])
				require.Equal(t, 1, tl.types["customer.subscription.deleted"])
				require.Equal(t, 2, tl.types["invoice.payment_failed"])
				require.Equal(t, 1, tl.types["customer.subscription.trial_will_end"])
				require.Equal(t, 1, tl.types["charge.refunded"])
			}
			// An HTTP client repeats some of these requests by itself, so the
			// faults are counted where they are used up.
			for _, f := range tl.srv.faults {
				require.LessOrEqual(t, f.Times, 0, "%s was met", f.Kind)
			}
		})
	}
}

func TestSettleEndsWithItsContext(t *testing.T) {
	block := make(chan struct{})
	sim, err := New(Config{Endpoints: []Endpoint{{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-block })}}})
	require.NoError(t, err)
	_, err = sim.AddProduct(Product{Name: "Pro"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, sim.Settle(ctx), context.Canceled)
	require.ErrorIs(t, sim.Close(ctx), context.Canceled, "a delivery is under way")
	close(block)
	require.NoError(t, sim.Close(t.Context()))
	require.ErrorIs(t, sim.Settle(t.Context()), ErrClosed)
}
