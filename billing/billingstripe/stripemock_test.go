package billingstripe_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
)

// startStripeMock builds a release of stripe-mock from its module below
// internal/stripemock, starts it on the loopback interface, and returns its
// URL.
func startStripeMock(t *testing.T, release string, args ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "stripe-mock")
	build := exec.Command("go", "build", "-o", binary, "github.com/stripe/stripe-mock")
	build.Dir = filepath.Join("..", "..", "internal", "stripemock", release)
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	if out, err := build.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("stripe-mock %s can't be built: %v: %s", release, err, out)
		}
		t.Skipf("stripe-mock %s can't be built, its module may not be there: %v: %s", release, err, out)
	}
	// Both addresses: without -https-addr it listens on every interface.
	cmd := exec.Command(binary, append(args, "-http-addr", "127.0.0.1:0", "-https-addr", "127.0.0.1:0")...)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var addr string
	lines := bufio.NewScanner(stdout)
	for addr == "" && lines.Scan() {
		_, addr, _ = strings.Cut(lines.Text(), "Listening for HTTP at address: ")
	}
	require.NotEmpty(t, addr, "stripe-mock never said where it listens")
	go func() { // a full pipe would block it
		for lines.Scan() {
		}
	}()
	url := "http://" + addr
	require.Eventually(t, func() bool {
		resp, err := http.Get(url)
		if err == nil {
			err = resp.Body.Close()
		}
		return err == nil
	}, 20*time.Second, 20*time.Millisecond)
	return url
}

// recorder is a transport that remembers what was answered.
type recorder struct {
	mu       sync.Mutex
	statuses map[string]int // of "POST /v1/customers"
	versions map[string]bool
	lists    map[string]object // answers to give instead of the mock's, by path
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	if list := r.lists[req.URL.Path]; list != nil && req.Method == http.MethodGet {
		body, err := json.Marshal(list)
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: req}, err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		call := req.Method + " " + req.URL.Path
		r.statuses[call] = max(r.statuses[call], resp.StatusCode)
		r.versions[req.Header.Get("Stripe-Version")] = true
	}
	return resp, err
}

// TestRequestsAreStripes sends every request that the gateway has to Stripe's
// own mock, which checks each against Stripe's OpenAPI description: release
// 0.183 is the version that the requests are written for, 0.185 the next one.
func TestRequestsAreStripes(t *testing.T) {
	for _, mock := range []struct {
		release string
		args    []string
		meters  bool // it knows them
	}{
		{"v183", []string{"-strict-version-check"}, false},
		{"v185", nil, true},
	} {
		t.Run(mock.release, func(t *testing.T) {
			seen := &recorder{statuses: map[string]int{}, versions: map[string]bool{}}
			g, err := billingstripe.New(billingstripe.Config{
				SecretKey:  "sk_test_123",
				URL:        startStripeMock(t, mock.release, mock.args...),
				HTTPClient: &http.Client{Transport: seen},
				Retries:    -1,

				UsageRecords: !mock.meters,
			})
			require.NoError(t, err)
			callEverything(t, g)
			applyEverything(t, g, seen)
			countEverything(t, g, mock.meters)
			for call, status := range seen.statuses {
				assert.Equal(t, http.StatusOK, status, call)
			}
			assert.Equal(t, map[string]bool{"2023-10-16": true}, seen.versions)

			// The control: what Stripe doesn't take is refused.
			_, err = g.UpdateSubscription(t.Context(), "sub_1", billing.UpdateRequest{Proration: "sometimes"}, "k10")
			var failure *billing.GatewayError
			require.ErrorAs(t, err, &failure)
			require.ErrorIs(t, err, billing.ErrInvalid)
			assert.Equal(t, http.StatusBadRequest, failure.Status)
			t.Logf("%d kinds of request accepted", len(seen.statuses))
		})
	}
}

func callEverything(t *testing.T, g *billingstripe.Gateway) {
	t.Helper()
	ctx := t.Context()
	customer, err := g.CreateCustomer(ctx, billing.CustomerRequest{Account: "acc_1", Email: "a@example.com", Name: "A", Metadata: map[string]string{"team": "x"}}, "k1")
	require.NoError(t, err)
	_, err = g.FindCustomer(ctx, `it's \ "acc_1"`)
	require.ErrorIs(t, err, billing.ErrNotFound, "the mock's customer has no account")
	state, err := g.State(ctx, customer.ID)
	require.NoError(t, err)
	require.Len(t, state.Subscriptions, 1)
	require.Len(t, state.Invoices, 1)
	_, err = g.Prices(ctx, []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"})
	require.NoError(t, err)

	items := []billing.LineItem{{PriceID: "price_1", Quantity: 2}, {PriceID: "price_metered"}}
	for key, req := range map[string]billing.SubscribeRequest{
		"k2":  {CustomerID: customer.ID, Account: "acc_1", Items: items},
		"k3":  {CustomerID: customer.ID, Account: "acc_1", Items: items, TrialEnd: time.Now().Add(1000 * time.Hour), CouponID: "coupon_1", Metadata: map[string]string{"a": "b"}},
		"k4":  {CustomerID: customer.ID, Account: "acc_1", Items: items, PromotionCode: "SPRING"},
		"k4b": {CustomerID: customer.ID, Account: "acc_1", Items: items, TrialEnd: time.Now().Add(1000 * time.Hour), TrialWithoutCard: true, PaymentMethod: "pm_1"},
	} {
		_, err := g.Subscribe(ctx, req, key)
		require.NoError(t, err)
	}
	yes, no, void, collect, quantity := true, false, "void", "", int64(3)
	change := billing.UpdateRequest{
		Items: []billing.UpdateItem{
			{ID: "si_1", PriceID: "price_2"}, {ID: "si_2", Quantity: &quantity}, {ID: "si_3", Delete: true}, {PriceID: "price_3", Quantity: &quantity},
		},
		Proration: "always_invoice", ProrationDate: time.Now(), CouponID: "coupon_1",
	}
	for i, req := range []billing.UpdateRequest{
		change,
		{CancelAtPeriodEnd: &yes, CancelReason: "too_expensive"},
		{CancelAtPeriodEnd: &no, CancelReason: "changed my mind"},
		{TrialEnd: time.Now().Add(100 * time.Hour), Metadata: map[string]string{"a": "b"}},
		{TrialEnd: time.Now()},
		{PauseCollection: &void, PauseUntil: time.Now().Add(1000 * time.Hour)},
		{AnchorNow: true, Proration: "none", PauseCollection: &collect},
		{PauseCollection: &collect, PaymentMethod: "pm_1"},
		{Items: change.Items, Proration: "none", IfUnpaid: "pending_if_incomplete"},
	} {
		_, err := g.UpdateSubscription(ctx, "sub_1", req, "k5"+string(rune('a'+i)))
		require.NoError(t, err)
	}
	_, err = g.CancelSubscription(ctx, "sub_1", billing.CancelRequest{Prorate: true, InvoiceNow: true, Reason: "unused"}, "k6")
	require.NoError(t, err)
	_, err = g.PreviewUpdate(ctx, customer.ID, "sub_1", change)
	require.NoError(t, err)
	_, err = g.PreviewUpdate(ctx, customer.ID, "sub_1", billing.UpdateRequest{CancelAtPeriodEnd: &yes, TrialEnd: time.Now()})
	require.NoError(t, err)

	checkout, err := g.CreateCheckout(ctx, billing.CheckoutRequest{
		CustomerID: customer.ID, Account: "acc_1", Items: items, TrialDays: 14, TrialWithoutCard: true, CouponID: "coupon_1",
		SuccessURL: "https://example.com/done?session={CHECKOUT_SESSION_ID}", CancelURL: "https://example.com/plans",
		ExpiresAt: time.Now().Add(time.Hour), Metadata: map[string]string{"a": "b"},
	}, "k7")
	require.NoError(t, err)
	_, err = g.CreateCheckout(ctx, billing.CheckoutRequest{
		CustomerID: customer.ID, Account: "acc_1", Items: items, SuccessURL: "https://example.com/", AllowPromotionCodes: true,
	}, "k8")
	require.NoError(t, err)
	_, err = g.Checkout(ctx, checkout.ID)
	require.NoError(t, err)
	require.NoError(t, g.ExpireCheckout(ctx, checkout.ID))
	page, err := g.CreatePortal(ctx, customer.ID, "https://example.com/account")
	require.NoError(t, err)
	require.NotEmpty(t, page)
	_, _, err = g.Invoices(ctx, customer.ID, "in_1")
	require.NoError(t, err)
	_, err = g.Invoice(ctx, "in_1")
	require.NoError(t, err)
	_, err = g.PayInvoice(ctx, "in_1", billing.PayRequest{PaymentMethod: "pm_1", OffSession: true}, "k20")
	require.NoError(t, err)
	pm, err := g.PaymentMethod(ctx, "pm_1")
	require.NoError(t, err)
	require.Equal(t, "card", pm.Type)
	require.NotEmpty(t, pm.Fingerprint)
	_, err = g.CreateSetup(ctx, customer.ID, "k21")
	require.NoError(t, err)
	require.NoError(t, g.SetPaymentMethod(ctx, customer.ID, "sub_1", pm.ID, "k22"))
	_, err = g.UnpauseSubscription(ctx, "sub_1", "k23")
	require.NoError(t, err)
	for i, req := range []billing.CreditNoteRequest{{}, {ToBalance: true, Reason: billing.RefundOrderChange}, {Open: true}} {
		req.InvoiceID, req.Amount, req.Reference = "in_1", billing.Money{Amount: 100, Currency: "USD"}, "r"
		_, err = g.CreateCreditNote(ctx, req, "k24"+string(rune('a'+i)))
		require.NoError(t, err)
	}
	_, err = g.FindCreditNote(ctx, "in_1", "r")
	require.ErrorIs(t, err, billing.ErrNotFound, "the mock keeps no metadata")
	_, err = g.AddBalance(ctx, customer.ID, billing.Money{Amount: -100, Currency: "USD"}, "r", "k25")
	require.NoError(t, err)
	_, err = g.FindBalance(ctx, customer.ID, "r")
	require.ErrorIs(t, err, billing.ErrNotFound, "the mock keeps no metadata")
	_, _, err = g.Events(ctx, time.Now().Add(-24*time.Hour), "")
	require.NoError(t, err)
	_, _, err = g.Events(ctx, time.Now().Add(-24*time.Hour), "evt_1")
	require.NoError(t, err)
	_, err = g.EraseCustomer(ctx, customer.ID)
	require.NoError(t, err)
}

// countEverything schedules a change, and reports and reads use.
func countEverything(t *testing.T, g *billingstripe.Gateway, meters bool) {
	t.Helper()
	ctx := t.Context()
	state, err := g.State(ctx, "cus_1")
	require.NoError(t, err)
	sub := state.Subscriptions[0]
	_, err = g.Schedule(ctx, sub.ID, billing.ScheduleRequest{
		At: sub.Period.To, Items: []billing.LineItem{{PriceID: "price_1", Quantity: 2}, {PriceID: "price_metered"}}, Metadata: map[string]string{"a": "b"},
	}, "k20")
	require.NoError(t, err)
	_, err = g.Unschedule(ctx, sub.ID, "k21")
	require.NoError(t, err)
	report := billing.UsageReport{CustomerID: "cus_1", ItemID: "si_1", Event: "emails", Identifier: "k22", Quantity: 3, At: time.Now()}
	if meters {
		report.MeterID = "mtr_1"
	}
	require.NoError(t, g.ReportUsage(ctx, report))
	_, err = g.ReportedUsage(ctx, report, time.Now().Add(-time.Hour), time.Now())
	require.NoError(t, err)
}

// applyEverything changes a catalogue that the mock, which keeps nothing, is
// made to have.
func applyEverything(t *testing.T, g *billingstripe.Gateway, seen *recorder) {
	t.Helper()
	apply(t, g, before(t)) // the mock has nothing: all is created
	price := func(id, key string, amount int64, owner string) object {
		o := render.price(billing.Price{
			ID: id, LookupKey: key, ProductID: "prod_1", Active: true, Interval: billing.Month, IntervalCount: 1,
			UnitAmount: billing.Money{Amount: amount, Currency: "USD"}, UnitAmountDecimal: strconv.FormatInt(amount, 10),
		})
		if owner != "" {
			o["metadata"] = object{billing.MetadataPlan: owner}
		}
		return o
	}
	seen.lists = map[string]object{
		"/v1/products": render.list([]any{
			object{"id": "prod_1", "object": "product", "name": "Old", "active": true, "default_price": "price_1", "metadata": object{}},
			object{"id": "prod_2", "object": "product", "name": "Gone", "active": true, "metadata": object{billing.MetadataPlan: "gone"}},
		}),
		"/v1/prices": render.list([]any{price("price_1", "pro_month_usd", 500, ""), price("price_2", "old", 5, "pro")}),
	}
	diff := apply(t, g, catalogOf(t, billing.Plan{ID: "pro", Name: "Pro", Description: "For one", Prices: []billing.PlanPrice{monthly(999, "USD")}}))
	assert.Contains(t, steps(diff), "~ product pro name description plan")
	assert.Contains(t, steps(diff), "~ price pro_month_usd plan")
	assert.Contains(t, steps(diff), "± price pro_month_usd amount")
	assert.Contains(t, steps(diff), "~ product prod_1 default-price")
	assert.Contains(t, steps(diff), "- product gone active")
	seen.lists = nil
	apply(t, g, wide(t, wideBefore))
	seen.lists = map[string]object{
		"/v1/coupons": render.list([]any{
			object{"id": "SPRING", "object": "coupon", "percent_off": 20, "duration": "once", "name": "Old", "metadata": object{}},
			object{"id": "FLAT", "object": "coupon", "percent_off": 20, "duration": "once", "metadata": object{billing.MetadataCoupon: "FLAT"}},
		}),
		"/v1/billing/meters": render.list([]any{
			object{"id": "mtr_1", "object": "billing.meter", "display_name": "Old", "event_name": "emails", "status": "inactive", "default_aggregation": object{"formula": "sum"}},
			object{"id": "mtr_2", "object": "billing.meter", "display_name": "Calls", "event_name": "calls", "status": "active", "default_aggregation": object{"formula": "count"}},
			object{"id": "mtr_3", "object": "billing.meter", "display_name": "Gone", "event_name": "gone", "status": "active", "default_aggregation": object{"formula": "count"}},
		}),
		"/v1/products": render.list([]any{
			object{"id": "prod_1", "object": "product", "name": "Old", "active": true, "metadata": object{billing.MetadataPlan: "pro", billing.MetadataMeter: "emails"}},
		}),
		"/v1/prices": render.list([]any{object{
			"id": "price_9", "object": "price", "active": true, "currency": "usd", "product": "prod_1", "unit_amount": 1, "unit_amount_decimal": "1",
			"metadata":  object{billing.MetadataPlan: "pro", billing.MetadataMeter: "gone"},
			"recurring": object{"interval": "month", "interval_count": 1, "usage_type": "metered", "meter": "mtr_3"},
		}}),
	}
	got := steps(apply(t, g, wide(t, strings.Replace(wideBefore, "plans: [team]", "", 1))))
	assert.Contains(t, got, "~ coupon SPRING name ours")
	assert.Contains(t, got, "+ coupon FLAT off")
	seen.lists = nil
}
