package billingstripe_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
)

// serve starts a gateway on a server that answers each path with an object.
// It returns the forms and queries that came.
func serve(t *testing.T, answers map[string]func(url.Values) (int, any)) (*billingstripe.Gateway, map[string][]url.Values) {
	t.Helper()
	got := map[string][]url.Values{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		if r.Method == http.MethodDelete { // net/http doesn't parse its body
			body, _ := io.ReadAll(r.Body)
			r.Form, _ = url.ParseQuery(string(body))
		}
		call := r.Method + " " + r.URL.Path
		got[call] = append(got[call], r.Form)
		status, body := http.StatusNotImplemented, any(object{"error": object{"type": "api_error", "message": call}})
		if answer := answers[call]; answer != nil {
			status, body = answer(r.Form)
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}))
	t.Cleanup(server.Close)
	return newGateway(t, func(c *billingstripe.Config) { c.URL, c.Retries = server.URL, -1 }), got
}

func always(body any) func(url.Values) (int, any) {
	return func(url.Values) (int, any) { return http.StatusOK, body }
}

func missing(url.Values) (int, any) {
	return http.StatusNotFound, object{"error": object{"type": "invalid_request_error", "code": "resource_missing"}}
}

// pages answers with the elements behind starting_after, two at a time.
func pages(elements ...object) func(url.Values) (int, any) {
	return func(form url.Values) (int, any) {
		from := 1 + slices.IndexFunc(elements, func(o object) bool { return o["id"] == form.Get("starting_after") })
		to := min(from+2, len(elements))
		return http.StatusOK, object{"object": "list", "data": elements[from:to], "has_more": to < len(elements)}
	}
}

var render = renderer{v2023Oct, false}

// TestLongListsAreReadWhole: Stripe puts ten items or lines into their object
// and no more.
func TestLongListsAreReadWhole(t *testing.T) {
	s, inv := someSubscription(), someInvoice()
	for i := range 5 {
		s.Items = append(s.Items, s.Items[0])
		s.Items[i+2].ID = "si_" + strconv.Itoa(i+3)
		inv.Lines = append(inv.Lines, inv.Lines[0])
		inv.Lines[i+2].ID = "il_" + strconv.Itoa(i+3)
	}
	subscription, invoice := render.subscription(s), render.invoice(inv)
	elements := func(o object, name string) (all []object) {
		for _, e := range o[name].(object)["data"].([]any) {
			all = append(all, e.(object))
		}
		o[name] = object{"object": "list", "data": []any{all[0]}, "has_more": true}
		return all
	}
	items, lines := elements(subscription, "items"), elements(invoice, "lines")
	g, got := serve(t, map[string]func(url.Values) (int, any){
		"GET /v1/customers/cus_1":         always(render.customer(billing.Customer{ID: "cus_1"})),
		"GET /v1/subscriptions":           pages(subscription),
		"GET /v1/subscription_items":      pages(items...),
		"GET /v1/invoices":                pages(invoice),
		"GET /v1/payment_intents/pi_1":    always(object{"id": "pi_1", "object": "payment_intent", "status": "requires_payment_method"}),
		"GET /v1/invoices/in_1/lines":     pages(lines...),
		"GET /v1/invoices/upcoming":       always(invoice),
		"GET /v1/invoices/upcoming/lines": pages(lines...),
	})
	state, err := g.State(t.Context(), "cus_1")
	require.NoError(t, err)
	assert.Equal(t, []billing.Subscription{s}, state.Subscriptions)
	assert.Equal(t, []billing.Invoice{inv}, state.Invoices)
	assert.Equal(t, "all", got["GET /v1/subscriptions"][0].Get("status"))
	assert.Len(t, got["GET /v1/subscription_items"], 4)

	yes := true
	preview, err := g.PreviewUpdate(t.Context(), "cus_1", "sub_1", billing.UpdateRequest{CancelAtPeriodEnd: &yes})
	require.NoError(t, err)
	assert.Equal(t, inv, preview)
	for _, form := range got["GET /v1/invoices/upcoming/lines"] {
		assert.Equal(t, "true", form.Get("subscription_cancel_at_period_end"), "the lines are of the same preview")
		assert.Equal(t, "sub_1", form.Get("subscription"))
	}
}

func TestDeletedCustomersHaveAState(t *testing.T) {
	g, _ := serve(t, map[string]func(url.Values) (int, any){
		"GET /v1/customers/cus_1": always(object{"id": "cus_1", "object": "customer", "deleted": true}),
		"GET /v1/invoices":        missing,
	})
	state, err := g.State(t.Context(), "cus_1")
	require.NoError(t, err)
	assert.Equal(t, billing.State{Customer: billing.Customer{ID: "cus_1", Deleted: true}}, state)

	g, _ = serve(t, map[string]func(url.Values) (int, any){"GET /v1/customers/cus_2": missing})
	_, err = g.State(t.Context(), "cus_2")
	require.ErrorIs(t, err, billing.ErrNotFound)
}

func TestTheOldestCustomerOfAnAccountIsFound(t *testing.T) {
	mine := map[string]string{billing.MetadataAccount: "o'neil\\"}
	g, got := serve(t, map[string]func(url.Values) (int, any){
		"GET /v1/customers/search": func(form url.Values) (int, any) {
			if form.Get("page") == "" {
				return 200, object{"data": []any{
					render.customer(billing.Customer{ID: "cus_3", Created: at(3), Metadata: mine}),
					render.customer(billing.Customer{ID: "cus_0", Created: at(0), Metadata: map[string]string{billing.MetadataAccount: "O'NEIL\\"}}),
				}, "has_more": true, "next_page": "two"}
			}
			return 200, object{"data": []any{render.customer(billing.Customer{ID: "cus_2", Created: at(2), Metadata: mine})}, "has_more": false, "next_page": nil}
		},
	})
	customer, err := g.FindCustomer(t.Context(), "o'neil\\")
	require.NoError(t, err)
	assert.Equal(t, "cus_2", customer.ID)
	assert.Equal(t, `metadata['commerce_account']:'o\'neil\\'`, got["GET /v1/customers/search"][0].Get("query"))
}

func TestCancelingTwiceIsCanceling(t *testing.T) {
	canceled := someSubscription()
	canceled.Status, canceled.EndedAt = billing.StatusCanceled, at(9)
	g, got := serve(t, map[string]func(url.Values) (int, any){
		"DELETE /v1/subscriptions/sub_1": missing,
		"GET /v1/subscriptions/sub_1":    always(render.subscription(canceled)),
		"DELETE /v1/subscriptions/sub_2": missing,
		"GET /v1/subscriptions/sub_2":    missing,
		"DELETE /v1/subscriptions/sub_3": missing,
		"GET /v1/subscriptions/sub_3":    always(render.subscription(someSubscription())),
	})
	s, err := g.CancelSubscription(t.Context(), "sub_1", billing.CancelRequest{Prorate: true, Reason: "it is blue"}, "k")
	require.NoError(t, err)
	assert.Equal(t, canceled, s)
	assert.Equal(t, url.Values{"prorate": {"true"}, "cancellation_details[comment]": {"it is blue"}}, got["DELETE /v1/subscriptions/sub_1"][0])
	for _, id := range []string{"sub_2", "sub_3"} {
		_, err = g.CancelSubscription(t.Context(), id, billing.CancelRequest{}, "k")
		require.ErrorIs(t, err, billing.ErrNotFound)
	}
}

func TestSubscribeReturnsWhatTheClientPaysWith(t *testing.T) {
	s, inv := someSubscription(), someInvoice()
	body := render.subscription(s)
	body["latest_invoice"] = render.invoice(inv)
	g, got := serve(t, map[string]func(url.Values) (int, any){
		"POST /v1/subscriptions":   func(url.Values) (int, any) { return 200, body },
		"GET /v1/promotion_codes":  always(object{"data": []any{object{"id": "promo_7"}}}),
		"POST /v1/subscriptions/x": missing,
	})
	request := billing.SubscribeRequest{
		CustomerID: "cus_1", Account: "acc_1", Items: []billing.LineItem{{PriceID: "price_1", Quantity: 2}, {PriceID: "price_metered"}},
		PromotionCode: "SPRING", Metadata: map[string]string{billing.MetadataAccount: "other", "a": "b"},
	}
	subscribed, err := g.Subscribe(t.Context(), request, "k")
	require.NoError(t, err)
	assert.Equal(t, billing.Subscribed{Subscription: s, Invoice: inv, ClientSecret: "pi_1_secret_x"}, subscribed)
	assert.Equal(t, url.Values{
		"customer": {"cus_1"}, "items[0][price]": {"price_1"}, "items[0][quantity]": {"2"}, "items[1][price]": {"price_metered"},
		"metadata[commerce_account]": {"acc_1"}, "metadata[a]": {"b"}, "payment_behavior": {"default_incomplete"},
		"payment_settings[save_default_payment_method]": {"on_subscription"}, "promotion_code": {"promo_7"},
		"expand[0]": {"latest_invoice.payment_intent"}, "expand[1]": {"pending_setup_intent"},
	}, got["POST /v1/subscriptions"][0])

	// A trial has nothing to pay yet: the card is set up.
	inv.PaymentIntentID, inv.ClientSecret = "", ""
	body["latest_invoice"], body["pending_setup_intent"] = render.invoice(inv), object{"id": "seti_1", "client_secret": "seti_1_secret"}
	request.PromotionCode, request.TrialEnd = "promo_9", clock.Add(time.Hour)
	subscribed, err = g.Subscribe(t.Context(), request, "k")
	require.NoError(t, err)
	assert.Equal(t, "seti_1_secret", subscribed.ClientSecret)
	assert.True(t, subscribed.Setup)
	form := got["POST /v1/subscriptions"][1]
	assert.Equal(t, "promo_9", form.Get("promotion_code"))
	assert.Equal(t, strconv.FormatInt(clock.Unix()+3600, 10), form.Get("trial_end"))
	assert.Len(t, got["GET /v1/promotion_codes"], 1)
}

func TestUpdatesSayOnlyWhatChanges(t *testing.T) {
	yes, three, behavior, collect := true, int64(3), "void", ""
	for name, c := range map[string]struct {
		req  billing.UpdateRequest
		want url.Values
	}{
		"nothing": {billing.UpdateRequest{}, url.Values{}},
		"items": {billing.UpdateRequest{Proration: "none", Items: []billing.UpdateItem{{ID: "si_1", PriceID: "p"}, {ID: "si_2", Delete: true}, {PriceID: "q", Quantity: &three}}},
			url.Values{"items[0][id]": {"si_1"}, "items[0][price]": {"p"}, "items[1][id]": {"si_2"}, "items[1][deleted]": {"true"}, "items[2][price]": {"q"}, "items[2][quantity]": {"3"},
				"proration_behavior": {"none"}, "payment_behavior": {"error_if_incomplete"}}},
		"end":       {billing.UpdateRequest{CancelAtPeriodEnd: &yes, CancelReason: "unused"}, url.Values{"cancel_at_period_end": {"true"}, "cancellation_details[feedback]": {"unused"}}},
		"pause":     {billing.UpdateRequest{PauseCollection: &behavior}, url.Values{"pause_collection[behavior]": {"void"}}},
		"resume":    {billing.UpdateRequest{PauseCollection: &collect}, url.Values{"pause_collection": {""}}},
		"end trial": {billing.UpdateRequest{TrialEnd: clock}, url.Values{"trial_end": {"now"}, "payment_behavior": {"error_if_incomplete"}}},
	} {
		t.Run(name, func(t *testing.T) {
			g, got := serve(t, map[string]func(url.Values) (int, any){"POST /v1/subscriptions/sub_1": always(render.subscription(someSubscription()))})
			_, err := g.UpdateSubscription(t.Context(), "sub_1", c.req, "k")
			require.NoError(t, err)
			assert.Equal(t, c.want, got["POST /v1/subscriptions/sub_1"][0])
		})
	}
}

func TestMistakesNeverReachStripe(t *testing.T) {
	g, got := serve(t, nil)
	ctx := t.Context()
	for _, err := range []error{
		func() error { _, err := g.State(ctx, ""); return err }(),
		func() error { _, err := g.FindCustomer(ctx, ""); return err }(),
		func() error { _, err := g.Checkout(ctx, ""); return err }(),
		func() error { _, err := g.Checkout(ctx, ".."); return err }(),
		g.ExpireCheckout(ctx, ""),
		func() error { _, err := g.CreatePortal(ctx, "", ""); return err }(),
		func() error { _, _, err := g.Invoices(ctx, "", ""); return err }(),
		func() error { _, err := g.PreviewUpdate(ctx, "", "sub_1", billing.UpdateRequest{}); return err }(),
		func() error { _, err := g.UpdateSubscription(ctx, "", billing.UpdateRequest{}, "k"); return err }(),
		func() error {
			_, err := g.UpdateSubscription(ctx, "sub_1", billing.UpdateRequest{Items: []billing.UpdateItem{{ID: "si_1"}}}, "k")
			return err
		}(),
		func() error { _, err := g.CancelSubscription(ctx, "", billing.CancelRequest{}, "k"); return err }(),
		func() error {
			_, err := g.Subscribe(ctx, billing.SubscribeRequest{CustomerID: "cus_1"}, "k")
			return err
		}(),
		func() error { _, err := g.CreateCheckout(ctx, billing.CheckoutRequest{}, "k"); return err }(),
		func() error {
			_, err := g.CreateCheckout(ctx, billing.CheckoutRequest{CustomerID: "c", Items: []billing.LineItem{{PriceID: "p"}}, SuccessURL: "s", CouponID: "c", AllowPromotionCodes: true}, "k")
			return err
		}(),
	} {
		require.ErrorIs(t, err, billing.ErrInvalid)
	}
	assert.Empty(t, got)
}

// stripeEvents is Stripe's list of events: newest first, filtered by time and
// cursors.
func stripeEvents(created []int64, requests *int) func(url.Values) (int, any) {
	return func(form url.Values) (int, any) {
		*requests++
		bound := func(name string, otherwise int64) int64 {
			if n, err := strconv.ParseInt(form.Get(name), 10, 64); err == nil {
				return n
			}
			return otherwise
		}
		index := func(cursor string) int {
			i, err := strconv.Atoi(strings.TrimPrefix(cursor, "evt_"))
			if err != nil || i >= len(created) {
				return -1
			}
			return i
		}
		var match []int // newest first
		for i := len(created) - 1; i >= 0; i-- {
			if created[i] >= bound("created[gte]", 0) && created[i] < bound("created[lt]", 1<<60) {
				match = append(match, i)
			}
		}
		var more bool
		if cursor := form.Get("ending_before"); cursor != "" {
			if index(cursor) < 0 {
				return missing(form)
			}
			match = slices.DeleteFunc(match, func(i int) bool { return i <= index(cursor) })
			if more = len(match) > 100; more {
				match = match[len(match)-100:]
			}
		} else {
			if cursor := form.Get("starting_after"); cursor != "" {
				match = slices.DeleteFunc(match, func(i int) bool { return i >= index(cursor) })
			}
			if more = len(match) > 100; more {
				match = match[:100]
			}
		}
		data := []any{}
		for _, i := range match {
			data = append(data, object{"id": fmt.Sprintf("evt_%d", i), "object": "event", "type": "x", "created": created[i], "html": "<&>"})
		}
		return http.StatusOK, object{"object": "list", "data": data, "has_more": more}
	}
}

func TestEventsComeOldestFirstAndWhole(t *testing.T) {
	now := clock.Unix()
	var spread, burst []int64
	for i := range int64(1234) {
		spread = append(spread, now-1_000_000+i*700)
		burst = append(burst, now-500_000+i/400) // 400 within one second
	}
	for name, created := range map[string][]int64{"none": nil, "few": spread[:5], "spread": spread, "burst": burst} {
		t.Run(name, func(t *testing.T) {
			requests := 0
			g, _ := serve(t, map[string]func(url.Values) (int, any){"GET /v1/events": stripeEvents(created, &requests)})
			var ids []string
			after := ""
			for more := true; more; {
				var events []billing.Event
				var err error
				events, more, err = g.Events(t.Context(), clock.AddDate(0, 0, -30), after)
				require.NoError(t, err)
				for _, e := range events {
					ids = append(ids, e.ID)
					after = e.ID
					assert.Contains(t, string(e.Raw), `"html":"\u003c\u0026\u003e"`, "the bytes as they came")
				}
				require.True(t, len(events) > 0 || !more)
			}
			require.Len(t, ids, len(created))
			for i, id := range ids {
				require.Equal(t, fmt.Sprintf("evt_%d", i), id)
			}
			assert.Less(t, requests, 100)
		})
	}
}

func TestEventsAfterOneThatIsGoneAreFoundByTime(t *testing.T) {
	requests := 0
	created := []int64{clock.Unix() - 100, clock.Unix() - 50}
	g, _ := serve(t, map[string]func(url.Values) (int, any){"GET /v1/events": stripeEvents(created, &requests)})
	events, more, err := g.Events(t.Context(), clock.Add(-time.Minute), "evt_999")
	require.NoError(t, err)
	assert.False(t, more)
	require.Len(t, events, 1)
	assert.Equal(t, "evt_1", events[0].ID)
}

func TestPricesAreThoseAskedFor(t *testing.T) {
	g, got := serve(t, map[string]func(url.Values) (int, any){
		"GET /v1/prices": func(form url.Values) (int, any) {
			price := func(key string, active bool) object {
				return render.price(billing.Price{ID: "price_" + key, LookupKey: key, Active: active, UnitAmount: billing.Money{Amount: 5, Currency: "ISK"}, UnitAmountDecimal: "5"})
			}
			return 200, object{"data": []any{price(form.Get("lookup_keys[0]"), true), price("other", true), price("b", false)}}
		},
	})
	prices, err := g.Prices(t.Context(), strings.Split("abcdefghijkl", ""))
	require.NoError(t, err)
	require.Len(t, prices, 2)
	assert.Equal(t, billing.Price{ID: "price_a", LookupKey: "a", Active: true, UnitAmount: billing.Money{Amount: 5, Currency: "ISK"}, UnitAmountDecimal: "5"}, prices[0])
	assert.Equal(t, "k", prices[1].LookupKey)
	assert.Len(t, got["GET /v1/prices"], 2, "ten keys a request")
	assert.Equal(t, "true", got["GET /v1/prices"][0].Get("active"))
}
