package billingstripe_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingstripe"
)

const testSecret = "whsec_test"

var clock = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newGateway(t testing.TB, change func(*billingstripe.Config)) *billingstripe.Gateway {
	t.Helper()
	config := billingstripe.Config{SecretKey: "sk_test_1", WebhookSecrets: []string{testSecret}, Now: func() time.Time { return clock }}
	if change != nil {
		change(&config)
	}
	g, err := billingstripe.New(config)
	require.NoError(t, err)
	return g
}

// inEachVersion renders with objects expanded and as IDs.
func inEachVersion(t *testing.T, check func(t *testing.T, r renderer)) {
	for _, v := range versions {
		for _, expand := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/expanded=%t", v, expand), func(t *testing.T) { check(t, renderer{v, expand}) })
		}
	}
}

func at(day int) time.Time { return time.Date(2026, 1, day, 8, 0, 0, 0, time.UTC) }

func someSubscription() billing.Subscription {
	period := billing.Period{From: at(1), To: at(31)}
	return billing.Subscription{
		ID: "sub_1", CustomerID: "cus_1", Account: "acc_1", Status: billing.StatusPastDue,
		Metadata: map[string]string{billing.MetadataAccount: "acc_1", "team": "blue"},
		Items: []billing.Item{
			{ID: "si_1", Quantity: 7, Period: period, Price: billing.Price{
				ID: "price_1", LookupKey: "pro_month", ProductID: "prod_1", UnitAmount: billing.Money{Amount: 999, Currency: "USD"}, UnitAmountDecimal: "999",
				Interval: billing.Month, IntervalCount: 1, Active: true, Metadata: map[string]string{"plan": "pro"}}},
			{ID: "si_2", Period: period, Price: billing.Price{
				ID: "price_2", ProductID: "prod_2", UnitAmount: billing.Money{Amount: 3, Currency: "USD"}, UnitAmountDecimal: "2.5",
				Interval: billing.Month, IntervalCount: 1, Metered: true, MeterID: "mtr_1", Active: true}},
		},
		Period: period, BillingCycleAnchor: at(1), Created: at(1), StartDate: at(1), TrialStart: at(1), TrialEnd: at(3),
		CancelAtPeriodEnd: true, CancelAt: at(31), CanceledAt: at(4), CancelReason: "cancellation_requested",
		PauseCollection: "void", PauseResumesAt: at(20), LatestInvoiceID: "in_1", DefaultPaymentMethod: "pm_1", CollectionMethod: "charge_automatically",
		Discounts: []billing.Discount{{ID: "di_1", CouponID: "half", PromotionCode: "promo_1", PercentOff: "12.5", Duration: "repeating", Start: at(1), End: at(30)}},
	}
}

func someInvoice() billing.Invoice {
	return billing.Invoice{
		ID: "in_1", Number: "A-1", CustomerID: "cus_1", SubscriptionID: "sub_1", Status: billing.InvoiceOpen, BillingReason: "subscription_cycle",
		Currency: "USD", Subtotal: 7000, Total: 7401, Tax: 1401, AmountDue: 7401, AmountPaid: 401, AmountRemaining: 7000, StartingBalance: -100, EndingBalance: -50,
		AmountRefunded: 3, AttemptCount: 2, NextPaymentAttempt: at(9), Created: at(1), FinalizedAt: at(1), PaidAt: at(2), Period: billing.Period{From: at(1), To: at(1)},
		HostedURL: "https://invoice.stripe.com/i/1", PDFURL: "https://pay.stripe.com/1.pdf", PaymentIntentID: "pi_1", ChargeID: "ch_1", ClientSecret: "pi_1_secret_x",
		Lines: []billing.InvoiceLine{
			{ID: "il_1", Description: "7 × pro", Amount: 7000, Quantity: 7, PriceID: "price_1", SubscriptionID: "sub_1", ItemID: "si_1", Discount: 1000, Period: billing.Period{From: at(1), To: at(31)}},
			{ID: "il_2", Description: "Unused time", Amount: -300, Quantity: 1, PriceID: "price_1", SubscriptionID: "sub_1", Proration: true, Period: billing.Period{From: at(5), To: at(31)}},
		},
		Discounts: []billing.Discount{{ID: "di_1", CouponID: "ten", AmountOff: billing.Money{Amount: 1000, Currency: "USD"}, Duration: "forever", Start: at(1)}},
		Metadata:  map[string]string{"a": "b"},
	}
}

func TestEachVersionDecodesToOneSubscription(t *testing.T) {
	want := someSubscription()
	inEachVersion(t, func(t *testing.T, r renderer) {
		event, err := newGateway(t, nil).Decode(r.event(t, "customer.subscription.updated", r.subscription(want)))
		require.NoError(t, err)
		require.NotNil(t, event.Subscription)
		assert.Equal(t, want, *event.Subscription)
		assert.Equal(t, "cus_1", event.CustomerID)
		assert.Equal(t, "acc_1", event.Account)
		assert.Equal(t, "sub_1", event.ObjectID)
		assert.Equal(t, "commerce_1", event.IdempotencyKey)
		assert.Equal(t, r.version.String(), event.APIVersion)
		assert.Equal(t, time.Unix(1764000000, 0).UTC(), event.Created)
		assert.Nil(t, event.Invoice)
	})
}

func TestEachVersionDecodesToOneInvoice(t *testing.T) {
	want := someInvoice()
	inEachVersion(t, func(t *testing.T, r renderer) {
		event, err := newGateway(t, nil).Decode(r.event(t, "invoice.payment_failed", r.invoice(want)))
		require.NoError(t, err)
		require.NotNil(t, event.Invoice)
		assert.Equal(t, want, *event.Invoice)
		assert.Equal(t, "cus_1", event.CustomerID)
	})
}

func TestEachVersionDecodesToOneUpcomingInvoice(t *testing.T) {
	want := someInvoice()
	want.ID, want.Number, want.PaymentIntentID, want.ChargeID, want.ClientSecret = "", "", "", "", ""
	inEachVersion(t, func(t *testing.T, r renderer) {
		event, err := newGateway(t, nil).Decode(r.event(t, "invoice.upcoming", r.invoice(want)))
		require.NoError(t, err)
		require.NotNil(t, event.Invoice)
		assert.Equal(t, want, *event.Invoice)
		assert.Empty(t, event.ObjectID)
		assert.Equal(t, "cus_1", event.CustomerID)
	})
}

func TestEachVersionDecodesToOneCheckout(t *testing.T) {
	want := billing.Checkout{
		ID: "cs_1", URL: "https://checkout.stripe.com/1", Status: "complete", PaymentStatus: "paid", CustomerID: "cus_1", Account: "acc_1",
		SubscriptionID: "sub_1", ExpiresAt: at(2), Created: at(1), Metadata: map[string]string{"a": "b"},
	}
	inEachVersion(t, func(t *testing.T, r renderer) {
		event, err := newGateway(t, nil).Decode(r.event(t, "checkout.session.completed", r.checkout(want)))
		require.NoError(t, err)
		require.NotNil(t, event.Checkout)
		assert.Equal(t, want, *event.Checkout)
		assert.Equal(t, "acc_1", event.Account)
	})
}

func TestEachVersionDecodesToOneCustomer(t *testing.T) {
	want := billing.Customer{
		ID: "cus_1", Account: "acc_1", Email: "a@example.com", Name: "A", Metadata: map[string]string{billing.MetadataAccount: "acc_1"},
		Balance: billing.Money{Amount: -500, Currency: "JPY"}, Created: at(1), DefaultPaymentMethod: "pm_1",
	}
	inEachVersion(t, func(t *testing.T, r renderer) {
		event, err := newGateway(t, nil).Decode(r.event(t, "customer.updated", r.customer(want)))
		require.NoError(t, err)
		require.NotNil(t, event.Customer)
		assert.Equal(t, want, *event.Customer)
		assert.Equal(t, "cus_1", event.CustomerID)

		// The customer of this event is the one before it was deleted.
		event, err = newGateway(t, nil).Decode(r.event(t, "customer.deleted", r.customer(want)))
		require.NoError(t, err)
		assert.True(t, event.Customer.Deleted)
	})
}

// TestAnySubscriptionDecodesTheSameInEachVersion holds for generated
// subscriptions, in currencies that Stripe counts differently too.
func TestAnySubscriptionDecodesTheSameInEachVersion(t *testing.T) {
	g := newGateway(t, nil)
	rapid.Check(t, func(rt *rapid.T) {
		want := drawSubscription(rt)
		for _, v := range versions {
			r := renderer{v, rapid.Bool().Draw(rt, "expand")}
			event, err := g.Decode(r.event(t, "customer.subscription.created", r.subscription(want)))
			if err != nil || event.Subscription == nil {
				rt.Fatalf("%s: %v", v, err)
			}
			if !assert.ObjectsAreEqual(want, *event.Subscription) {
				rt.Fatalf("%s:\n got %+v\nwant %+v", v, *event.Subscription, want)
			}
		}
	})
}

func drawTime(rt *rapid.T, name string) time.Time {
	if rapid.Bool().Draw(rt, name+"?") {
		return time.Time{}
	}
	return time.Unix(rapid.Int64Range(1, 4e9).Draw(rt, name), 0).UTC()
}

func drawSubscription(rt *rapid.T) billing.Subscription {
	words := rapid.StringMatching(`[a-z]{0,8}`)
	currency := rapid.SampledFrom([]string{"USD", "EUR", "JPY", "KWD", "ISK", "UGX", "MGA", "HUF", "TWD"}).Draw(rt, "currency")
	period := billing.Period{From: time.Unix(rapid.Int64Range(1, 2e9).Draw(rt, "from"), 0).UTC()}
	period.To = period.From.Add(time.Duration(rapid.Int64Range(1, 4e7).Draw(rt, "length")) * time.Second)
	s := billing.Subscription{
		ID: "sub_x", CustomerID: "cus_x", Status: billing.Status(rapid.SampledFrom([]string{"active", "trialing", "frozen_in_2031"}).Draw(rt, "status")),
		Period: period, Livemode: rapid.Bool().Draw(rt, "live"),
		BillingCycleAnchor: drawTime(rt, "anchor"), Created: drawTime(rt, "created"), StartDate: drawTime(rt, "start"),
		TrialStart: drawTime(rt, "trial start"), TrialEnd: drawTime(rt, "trial end"), CancelAtPeriodEnd: rapid.Bool().Draw(rt, "cancel"),
		CancelAt: drawTime(rt, "cancel at"), CanceledAt: drawTime(rt, "canceled at"), EndedAt: drawTime(rt, "ended at"),
		CancelReason: words.Draw(rt, "reason"), PauseCollection: words.Draw(rt, "pause"), LatestInvoiceID: words.Draw(rt, "invoice"),
		DefaultPaymentMethod: words.Draw(rt, "method"), CollectionMethod: words.Draw(rt, "collection"),
	}
	if s.PauseCollection != "" {
		s.PauseResumesAt = drawTime(rt, "resumes")
	}
	for i := range rapid.IntRange(1, 4).Draw(rt, "items") {
		amount := rapid.Int64Range(0, 1e9).Draw(rt, "amount")
		if currency == "MGA" {
			amount *= 100
		}
		item := billing.Item{ID: "si_" + strconv.Itoa(i), Period: period, Quantity: rapid.Int64Range(0, 1e6).Draw(rt, "quantity"), Price: billing.Price{
			ID: "price_" + strconv.Itoa(i), LookupKey: words.Draw(rt, "key"), ProductID: words.Draw(rt, "product"), Active: true,
			UnitAmount: billing.Money{Amount: amount, Currency: currency}, UnitAmountDecimal: strconv.FormatInt(amount, 10),
			Interval: rapid.SampledFrom([]billing.Interval{"day", "week", "month", "year", "fortnight"}).Draw(rt, "interval"), IntervalCount: rapid.Int64Range(1, 12).Draw(rt, "count"),
		}}
		if item.Price.Metered = rapid.Bool().Draw(rt, "metered"); item.Price.Metered {
			item.Quantity, item.Price.MeterID = 0, words.Draw(rt, "meter")
		}
		s.Items = append(s.Items, item)
	}
	if rapid.Bool().Draw(rt, "discount?") {
		s.Discounts = []billing.Discount{{ID: "di_1", CouponID: "c", PercentOff: rapid.SampledFrom([]string{"10", "12.5", "33.333333"}).Draw(rt, "percent"), Duration: "forever", Start: drawTime(rt, "discount start")}}
	}
	return s
}

func TestItemsOfFlexibleSubscriptionsKeepTheirPeriods(t *testing.T) {
	want := someSubscription()
	want.Items[0].Period = billing.Period{From: at(5), To: time.Date(2027, 1, 5, 8, 0, 0, 0, time.UTC)}
	want.Period = billing.Period{From: at(1), To: want.Items[0].Period.To} // starts with the second item, ends with the first
	for _, v := range []version{basil, clover, dahlia} {
		r := renderer{v, false}
		event, err := newGateway(t, nil).Decode(r.event(t, "customer.subscription.updated", r.subscription(want)))
		require.NoError(t, err)
		assert.Equal(t, want, *event.Subscription, v)
	}
}

// TestOddEventsAreReadAsFarAsTheyGo holds the shapes that crash or fool other
// decoders.
func TestOddEventsAreReadAsFarAsTheyGo(t *testing.T) {
	head := `"id":"evt_1","object":"event","type":"x.y","created":1764000000,"livemode":false,`
	for name, c := range map[string]struct {
		body string
		want billing.Event
	}{
		"data is null":                                          {`{` + head + `"data":null}`, billing.Event{}},
		"data is missing":                                       {`{` + head + `"request":null}`, billing.Event{}},
		"data is text":                                          {`{` + head + `"data":"x"}`, billing.Event{}},
		"the object is null":                                    {`{` + head + `"data":{"object":null}}`, billing.Event{}},
		"the object is a list":                                  {`{` + head + `"data":{"object":[1]}}`, billing.Event{}},
		"the request is text (2017)":                            {`{` + head + `"request":"req_1"}`, billing.Event{}},
		"an unknown object":                                     {`{` + head + `"data":{"object":{"id":"zz_1","object":"zebra","customer":"cus_1"}}}`, billing.Event{ObjectID: "zz_1", CustomerID: "cus_1"}},
		"an expanded customer":                                  {`{` + head + `"data":{"object":{"id":"pi_1","object":"payment_intent","customer":{"id":"cus_1"},"metadata":{"commerce_account":"acc_1"}}}}`, billing.Event{ObjectID: "pi_1", CustomerID: "cus_1", Account: "acc_1"}},
		"a detached payment method":                             {`{` + head + `"data":{"object":{"id":"pm_1","object":"payment_method","customer":null},"previous_attributes":{"customer":"cus_1"}}}`, billing.Event{ObjectID: "pm_1", CustomerID: "cus_1"}},
		"a customer of Accounts v2":                             {`{` + head + `"data":{"object":{"id":"zz_1","object":"zebra","customer":null,"customer_account":"acct_1","metadata":{"commerce_account":"acc_1"}}}}`, billing.Event{ObjectID: "zz_1", Account: "acc_1"}},
		"metadata of an invoice's subscription (basil)":         {`{` + head + `"data":{"object":{"id":"zz_1","object":"z","parent":{"subscription_details":{"metadata":{"commerce_account":"acc_1"}}}}}}`, billing.Event{ObjectID: "zz_1", Account: "acc_1"}},
		"metadata of an invoice's subscription (before)":        {`{` + head + `"data":{"object":{"id":"zz_1","object":"z","subscription_details":{"metadata":{"commerce_account":"acc_1"}}}}}`, billing.Event{ObjectID: "zz_1", Account: "acc_1"}},
		"a payment link's reference is anybody's":               {`{` + head + `"data":{"object":{"id":"zz_1","object":"z","client_reference_id":"acc_1","payment_link":"plink_1"}}}`, billing.Event{ObjectID: "zz_1"}},
		"a subscription whose amount is text that is no number": {`{` + head + `"data":{"object":{"id":"sub_1","object":"subscription","status":"active","customer":"cus_1","items":{"data":[{"price":{"id":"p","currency":"usd","unit_amount":"much"}}]}}}}`, billing.Event{ObjectID: "sub_1", CustomerID: "cus_1"}},
		"a subscription without a status":                       {`{` + head + `"data":{"object":{"id":"sub_1","object":"subscription","customer":"cus_1"}}}`, billing.Event{ObjectID: "sub_1", CustomerID: "cus_1"}},
		"an amount too large for 64 bits":                       {`{` + head + `"data":{"object":{"id":"in_1","object":"invoice","customer":"cus_1","currency":"usd","total":9223372036854775808}}}`, billing.Event{ObjectID: "in_1", CustomerID: "cus_1"}},
	} {
		t.Run(name, func(t *testing.T) {
			event, err := newGateway(t, nil).Decode([]byte(c.body))
			require.NoError(t, err)
			assert.Equal(t, c.body, string(event.Raw))
			c.want.ID, c.want.Type, c.want.Created, c.want.Raw = "evt_1", "x.y", time.Unix(1764000000, 0).UTC(), event.Raw
			assert.Equal(t, c.want, event)
		})
	}
}

func TestThinEventsNameTheirObject(t *testing.T) {
	body := `{"id":"evt_1","object":"v2.core.event","type":"v1.billing.meter.error_report_triggered","livemode":true,
		"created":"2026-11-23T12:00:00.123Z","context":null,"reason":{"type":"request","request":{"id":"req_1","idempotency_key":"k"}},
		"related_object":{"id":"mtr_1","type":"billing.meter","url":"/v1/billing/meters/mtr_1"}}`
	event, err := newGateway(t, nil).Decode([]byte(body))
	require.NoError(t, err)
	assert.Equal(t, billing.Event{
		ID: "evt_1", Type: "v1.billing.meter.error_report_triggered", Created: clock.Add(123 * time.Millisecond), Livemode: true,
		ObjectID: "mtr_1", IdempotencyKey: "k", Raw: []byte(body),
	}, event)
}

func TestWhatIsNoEventIsRefused(t *testing.T) {
	for _, body := range []string{
		"", "null", "[]", `"x"`, "{}", "\x00", `{"id":"evt_1","object":"event"}`, `{"id":"","object":"event","type":"x"}`, `{"id":1,"object":"event","type":"x"}`,
		`{"id":"evt_1","object":"customer","type":"x"}`, `{"id":"evt_1","object":"event","type":"x"}{}`, `{"id":"evt_1","object":"event","type":"x","created":"yesterday"}`,
		`{"id":"evt_1","object":"event","type":"x","livemode":"no"}`, `{"id":"` + strings.Repeat("x", 256) + `","object":"event","type":"x"}`,
		strings.Repeat("[", 100_000),
	} {
		_, err := newGateway(t, nil).Decode([]byte(body))
		assert.ErrorIs(t, err, billing.ErrPayload, "%.60q", body)
	}
}

// TestNumbersComeAsNumbersOrText covers what Stripe changed or documents both
// ways.
func TestNumbersComeAsNumbersOrText(t *testing.T) {
	for _, c := range []struct{ price, amount, decimal string }{
		{`"unit_amount":999,"unit_amount_decimal":"999"`, "999", "999"},
		{`"unit_amount":"999","unit_amount_decimal":999.0`, "999", "999"},
		{`"unit_amount":null,"unit_amount_decimal":"0.005"`, "0", "0.005"},
		{`"unit_amount":null,"unit_amount_decimal":"2.5"`, "3", "2.5"},
		{`"unit_amount":7`, "7", "7"},
		{`"unit_amount_decimal":"1e2"`, "100", "100"},
		{`"unit_amount":null`, "0", ""},
	} {
		body := `{"id":"e","object":"event","type":"t","data":{"object":{"id":"s","object":"subscription","status":"active","items":{"data":[{"quantity":"2","price":{"currency":"usd",` + c.price + `}}]}}}}`
		event, err := newGateway(t, nil).Decode([]byte(body))
		require.NoError(t, err)
		require.NotNil(t, event.Subscription, c.price)
		item := event.Subscription.Items[0]
		assert.Equal(t, c.amount, strconv.FormatInt(item.Price.UnitAmount.Amount, 10), c.price)
		assert.Equal(t, c.decimal, item.Price.UnitAmountDecimal, c.price)
		assert.EqualValues(t, 2, item.Quantity)
	}
}

func FuzzDecode(f *testing.F) {
	g := newGateway(f, nil)
	for _, v := range versions {
		r := renderer{v, v%2 == 0}
		for kind, o := range map[string]object{
			"customer.subscription.updated": r.subscription(someSubscription()),
			"invoice.paid":                  r.invoice(someInvoice()),
			"checkout.session.completed":    r.checkout(billing.Checkout{ID: "cs_1", Account: "acc_1"}),
			"customer.updated":              r.customer(billing.Customer{ID: "cus_1", Balance: billing.Money{Amount: 1, Currency: "ISK"}}),
		} {
			body, err := json.Marshal(object{"id": "evt_1", "object": "event", "type": kind, "created": 1, "data": object{"object": o}})
			require.NoError(f, err)
			f.Add(body)
		}
	}
	f.Add([]byte(`{"id":"e","object":"v2.core.event","type":"t","created":"2026-01-01T00:00:00Z","related_object":{"id":"cus_1"}}`))
	f.Add([]byte(`{"id":"e","object":"event","type":"t","data":null,"request":"req"}`))
	f.Add([]byte(`{"id":"e","object":"event","type":"t","data":{"object":{"object":"invoice","currency":"mga","total":1e64,"tax":"-1e-64"}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		event, err := g.Decode(body)
		if err != nil {
			require.ErrorIs(t, err, billing.ErrPayload)
			return
		}
		require.NotEmpty(t, event.ID)
		require.NotEmpty(t, event.Type)
		require.Equal(t, body, event.Raw)
		again, err := g.Decode(body)
		require.NoError(t, err)
		require.Equal(t, event, again)
		if s := event.Subscription; s != nil {
			require.NotEmpty(t, s.ID)
			require.NotEmpty(t, s.Status)
		}
	})
}
