package stripesim

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSubscriptionIsPaidAndRenewed(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	r.types()
	sub := r.subscribe(cus, "price_pro", "expand[0]=latest_invoice.payment_intent")
	require.Equal(t, "active", text(sub, "status"))
	require.Equal(t, "paid", text(sub, "latest_invoice", "status"))
	require.EqualValues(t, 999, number(sub, "latest_invoice", "amount_paid"))
	require.Equal(t, "succeeded", text(sub, "latest_invoice", "payment_intent", "status"))
	require.Equal(t, start.Unix(), number(sub, "current_period_start"))
	require.Equal(t, time.Date(2025, 2, 28, 12, 0, 0, 0, time.UTC).Unix(), number(sub, "current_period_end"))
	require.Equal(t, []string{
		"invoice.created", "customer.subscription.created", "payment_intent.created", "invoice.finalized", "charge.succeeded",
		"payment_intent.succeeded", "invoice.paid", "invoice.payment_succeeded", "customer.subscription.updated",
	}, r.types())

	r.advanceTo(2025, 3, 1, 0)
	sub = r.sub(text(sub, "id"))
	require.Equal(t, time.Date(2025, 3, 31, 12, 0, 0, 0, time.UTC).Unix(), number(sub, "current_period_end"), "the anchor's day comes back")
	inv := r.get("/v1/invoices/" + text(sub, "latest_invoice"))
	require.Equal(t, "paid", text(inv, "status"))
	require.Equal(t, "subscription_cycle", text(inv, "billing_reason"))
	require.Equal(t, time.Date(2025, 2, 28, 13, 0, 0, 0, time.UTC).Unix(), number(inv, "status_transitions", "finalized_at"), "a renewal is a draft for an hour")
	require.Equal(t, start.Unix(), number(inv, "period_start"), "an invoice's own period is the one before")
	require.Equal(t, time.Date(2025, 2, 28, 12, 0, 0, 0, time.UTC).Unix(), number(inv, "lines", "data", 0, "period", "start"))
	require.Equal(t, []string{
		"invoice.upcoming", "invoice.created", "customer.subscription.updated", "payment_intent.created", "invoice.finalized", "charge.succeeded",
		"payment_intent.succeeded", "invoice.paid", "invoice.payment_succeeded",
	}, r.types())
}

func TestIncompleteWaitsForThePaymentAndExpires(t *testing.T) {
	r := newRig(t)
	cus := text(r.post("/v1/customers"), "id")
	pending := func() map[string]any {
		return r.subscribe(cus, "price_pro", "payment_behavior=default_incomplete", "payment_settings[save_default_payment_method]=on_subscription",
			"expand[0]=latest_invoice.payment_intent")
	}
	sub := pending()
	require.Equal(t, "incomplete", text(sub, "status"))
	require.Equal(t, "open", text(sub, "latest_invoice", "status"))
	require.Equal(t, "requires_payment_method", text(sub, "latest_invoice", "payment_intent", "status"))
	require.NotEmpty(t, text(sub, "latest_invoice", "payment_intent", "client_secret"))

	pi := text(sub, "latest_invoice", "payment_intent", "id")
	e := r.fails(http.StatusPaymentRequired, "POST", "/v1/payment_intents/"+pi+"/confirm", "payment_method=pm_card_chargeDeclinedInsufficientFunds")
	require.Equal(t, "card_error", text(e, "type"))
	require.Equal(t, "insufficient_funds", text(e, "decline_code"))
	require.Equal(t, "requires_payment_method", text(e, "payment_intent", "status"))
	require.Equal(t, "incomplete", text(r.sub(text(sub, "id")), "status"))
	require.Nil(t, r.get("/v1/invoices/" + text(sub, "latest_invoice", "id"))["next_payment_attempt"], "a first invoice isn't retried")

	r.post("/v1/payment_intents/"+pi+"/confirm", "payment_method=pm_card_visa")
	paid := r.sub(text(sub, "id"))
	require.Equal(t, "active", text(paid, "status"))
	require.NotEmpty(t, text(paid, "default_payment_method"), "saved as asked for")

	other := pending()
	r.advance(22 * time.Hour)
	require.Equal(t, "incomplete", text(r.sub(text(other, "id")), "status"))
	r.types()
	r.advance(time.Hour)
	gone := r.sub(text(other, "id"))
	require.Equal(t, "incomplete_expired", text(gone, "status"))
	require.NotZero(t, number(gone, "ended_at"))
	require.Equal(t, "void", text(r.get("/v1/invoices/"+text(other, "latest_invoice", "id")), "status"))
	require.Equal(t, []string{"payment_intent.canceled", "invoice.voided", "customer.subscription.updated"}, r.types())
}

func TestPaymentBehaviours(t *testing.T) {
	r := newRig(t)
	cus := r.customer("chargeCustomerFail")
	fields := []string{"customer=" + cus, "items[0][price]=price_pro"}

	e := r.fails(http.StatusPaymentRequired, "POST", "/v1/subscriptions", append(fields, "payment_behavior=error_if_incomplete")...)
	require.Equal(t, "card_declined", text(e, "code"))
	require.Empty(t, r.get("/v1/subscriptions", "status=all")["data"], "nothing was made")

	sub := r.post("/v1/subscriptions", fields...)
	require.Equal(t, "incomplete", text(sub, "status"), "allow_incomplete keeps it")
	e = r.fails(http.StatusBadRequest, "POST", "/v1/subscriptions", append(fields, "payment_behavior=pending_if_incomplete")...)
	require.Equal(t, "payment_behavior", text(e, "param"))

	poor := text(r.post("/v1/customers"), "id")
	r.fails(http.StatusBadRequest, "POST", "/v1/subscriptions", "customer="+poor, "items[0][price]=price_pro")
	free := r.subscribe(poor, "price_free")
	require.Equal(t, "active", text(free, "status"), "nothing is due")

	// An update that can't be paid changes nothing.
	rich := r.customer("visa")
	pro := r.subscribe(rich, "price_pro")
	r.card(rich, "chargeCustomerFail")
	up := []string{"items[0][id]=" + text(pro, "items", "data", 0, "id"), "items[0][price]=price_business", "proration_behavior=always_invoice"}
	r.fails(http.StatusPaymentRequired, "POST", "/v1/subscriptions/"+text(pro, "id"), append(up, "payment_behavior=error_if_incomplete")...)
	require.Equal(t, "price_pro", text(r.sub(text(pro, "id")), "items", "data", 0, "price", "id"))
	r.fails(http.StatusNotImplemented, "POST", "/v1/subscriptions/"+text(pro, "id"), append(up, "payment_behavior=pending_if_incomplete")...)
	late := r.post("/v1/subscriptions/"+text(pro, "id"), up...)
	require.Equal(t, "past_due", text(late, "status"), "allow_incomplete changes it and owes")
	require.Equal(t, "price_business", text(late, "items", "data", 0, "price", "id"))
}

func TestThreeDSecure(t *testing.T) {
	r := newRig(t)
	cus := r.customer("authenticationRequired")
	sub := r.subscribe(cus, "price_pro", "expand[0]=latest_invoice.payment_intent")
	require.Equal(t, "incomplete", text(sub, "status"))
	require.Equal(t, "requires_action", text(sub, "latest_invoice", "payment_intent", "status"))
	pi := text(sub, "latest_invoice", "payment_intent", "id")
	page := r.page(http.MethodGet, "/3ds/"+pi)
	require.Contains(t, page.Body.String(), "ending in 3184")
	r.page(http.MethodPost, "/3ds/"+pi, "do=authorize")
	require.Equal(t, "active", text(r.sub(text(sub, "id")), "status"))

	// Nobody is there to authenticate a renewal.
	r.advanceTo(2025, 3, 1, 0)
	require.Equal(t, "past_due", text(r.sub(text(sub, "id")), "status"))
	inv := r.get("/v1/invoices/"+text(r.sub(text(sub, "id")), "latest_invoice"), "expand[0]=payment_intent")
	require.Equal(t, "authentication_required", text(inv, "payment_intent", "last_payment_error", "decline_code"))

	failing := r.subscribe(cus, "price_business", "expand[0]=latest_invoice.payment_intent")
	r.page(http.MethodPost, "/3ds/"+text(failing, "latest_invoice", "payment_intent", "id"), "do=fail")
	require.Equal(t, "incomplete", text(r.sub(text(failing, "id")), "status"))

	once := r.customer("authenticationRequiredOnSetup")
	first := r.subscribe(once, "price_pro", "expand[0]=latest_invoice.payment_intent")
	r.page(http.MethodPost, "/3ds/"+text(first, "latest_invoice", "payment_intent", "id"), "do=authorize")
	r.advance(40 * 24 * time.Hour)
	require.Equal(t, "active", text(r.sub(text(first, "id")), "status"), "set up once, charged without the customer")
}

func TestDunning(t *testing.T) {
	for final, want := range map[string]string{"cancel": "canceled", "unpaid": "unpaid", "past_due": "past_due"} {
		t.Run(final, func(t *testing.T) {
			r := newRig(t, func(c *Config) { c.Dunning = Dunning{Retries: []time.Duration{day, 2 * day}, Final: final} })
			cus := r.customer("visa")
			id := text(r.subscribe(cus, "price_pro"), "id")
			r.card(cus, "chargeCustomerFail")
			r.advanceTo(2025, 2, 28, 14)
			r.take()
			sub := r.sub(id)
			require.Equal(t, "past_due", text(sub, "status"))
			inv := r.get("/v1/invoices/" + text(sub, "latest_invoice"))
			require.EqualValues(t, 1, number(inv, "attempt_count"))
			require.Equal(t, time.Date(2025, 3, 1, 13, 0, 0, 0, time.UTC).Unix(), number(inv, "next_payment_attempt"))
			require.Equal(t, true, r.get("/v1/customers/" + cus)["delinquent"])
			r.advance(2 * day)
			require.Equal(t, "past_due", text(r.sub(id), "status"))
			r.advance(2 * day)
			sub = r.sub(id)
			require.Equal(t, want, text(sub, "status"))
			inv = r.get("/v1/invoices/" + text(sub, "latest_invoice"))
			require.EqualValues(t, 3, number(inv, "attempt_count"))
			require.Nil(t, inv["next_payment_attempt"])
			if final == "cancel" {
				require.Equal(t, "payment_failed", text(sub, "cancellation_details", "reason"))
			}
			if final == "unpaid" {
				r.advance(31 * day)
				require.Equal(t, "draft", text(r.get("/v1/invoices/"+text(r.sub(id), "latest_invoice")), "status"), "unpaid subscriptions collect drafts")
			}
		})
	}
}

func TestHardDeclinesAreNotChargedAgain(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	id := text(r.subscribe(cus, "price_pro"), "id")
	// A card that is lost after it was saved: there is no test card for it, so
	// the saved one turns bad.
	pm := must[*paymentMethod](r.sim, kindPaymentMethod, text(r.get("/v1/customers/"+cus), "invoice_settings", "default_payment_method"))
	pm.card.decline = because("card_declined", "lost_card", "Your card was declined.")
	r.advanceTo(2025, 3, 30, 0)
	require.Equal(t, "canceled", text(r.sub(id), "status"), "the schedule runs to its end")
	require.EqualValues(t, 1, number(r.get("/v1/invoices/"+text(r.sub(id), "latest_invoice")), "attempt_count"), "and charges once")
	require.Len(t, r.get("/v1/charges", "customer="+cus)["data"], 2)
}

func TestTrials(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		behavior, status string
		owes             int64
	}{{"cancel", "canceled", 0}, {"pause", "paused", 0}, {"create_invoice", "past_due", 999}} {
		cus := text(r.post("/v1/customers"), "id")
		sub := r.subscribe(cus, "price_pro", "trial_period_days=5", "trial_settings[end_behavior][missing_payment_method]="+c.behavior, "expand[0]=pending_setup_intent")
		require.Equal(t, "trialing", text(sub, "status"))
		require.Equal(t, "requires_payment_method", text(sub, "pending_setup_intent", "status"))
		require.Equal(t, number(sub, "trial_end"), number(sub, "current_period_end"))
		r.take()
		r.advance(3 * day)
		require.Contains(t, r.types(), "customer.subscription.trial_will_end")
		r.advance(3 * day)
		sub = r.get("/v1/subscriptions/"+text(sub, "id"), "expand[0]=latest_invoice")
		require.Equal(t, c.status, text(sub, "status"), c.behavior)
		require.Equal(t, c.owes, number(sub, "latest_invoice", "amount_remaining"))
		if c.status == "paused" {
			r.advance(31 * day)
			require.Equal(t, "paused", text(r.sub(text(sub, "id")), "status"))
			r.card(cus, "visa")
			require.Equal(t, "active", text(r.post("/v1/subscriptions/"+text(sub, "id")+"/resume"), "status"))
			require.Equal(t, map[string]int64{"usd": 999}, r.sim.Collected(cus))
		}
	}
	// A setup intent of a trial gives the subscription its card.
	cus := text(r.post("/v1/customers"), "id")
	sub := r.subscribe(cus, "price_pro", "trial_period_days=5")
	r.post("/v1/setup_intents/"+text(sub, "pending_setup_intent")+"/confirm", "payment_method=pm_card_visa")
	r.advance(6 * day)
	require.Equal(t, "active", text(r.sub(text(sub, "id")), "status"))
	require.Equal(t, map[string]int64{"usd": 999}, r.sim.Collected(cus))
	// A trial is extended, and ended at once.
	rich := r.customer("visa")
	sub = r.subscribe(rich, "price_pro", "trial_period_days=5")
	later := r.sim.Now().Add(20 * day).Unix()
	sub = r.post("/v1/subscriptions/"+text(sub, "id"), "trial_end="+itoa(int(later)))
	require.Equal(t, later, number(sub, "current_period_end"))
	r.advance(day)
	sub = r.post("/v1/subscriptions/"+text(sub, "id"), "trial_end=now")
	require.Equal(t, "active", text(sub, "status"))
	require.Equal(t, r.sim.Now().Unix(), number(sub, "billing_cycle_anchor"))
	require.Equal(t, map[string]int64{"usd": 999}, r.sim.Collected(rich))
}

func TestSeats(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro", "items[0][quantity]=3")
	item := text(sub, "items", "data", 0, "id")
	require.Equal(t, map[string]int64{"usd": 2997}, r.sim.Collected(cus))
	// Half of the 28 days are over: two more seats cost half, 999·2/2.
	r.advanceTo(2025, 2, 14, 12)
	r.post("/v1/subscriptions/"+text(sub, "id"), "items[0][id]="+item, "items[0][quantity]=5", "proration_behavior=always_invoice")
	require.Equal(t, map[string]int64{"usd": 2997 + (2498 - 1499)}, r.sim.Collected(cus))
	// An add-on joins, and a seat goes with the period.
	sub = r.post("/v1/subscriptions/"+text(sub, "id"), "items[0][id]="+item, "items[0][quantity]=4", "items[1][price]=price_business", "proration_behavior=none")
	require.Len(t, at(sub, "items", "data"), 2)
	r.advanceTo(2025, 3, 1, 0)
	require.Equal(t, map[string]int64{"usd": 2997 + 999 + 4*999 + 2999}, r.sim.Collected(cus))
	sub = r.post("/v1/subscriptions/"+text(sub, "id"), "items[0][id]="+text(sub, "items", "data", 1, "id"), "items[0][deleted]=true", "proration_behavior=none")
	require.Len(t, at(sub, "items", "data"), 1)
}

func TestIntervalChangeStartsANewPeriod(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro")
	r.advanceTo(2025, 2, 14, 12)
	sub = r.post("/v1/subscriptions/"+text(sub, "id"), "items[0][id]="+text(sub, "items", "data", 0, "id"), "items[0][price]=price_pro_year")
	require.Equal(t, r.sim.Now().Unix(), number(sub, "billing_cycle_anchor"))
	require.Equal(t, r.sim.Now().AddDate(1, 0, 0).Unix(), number(sub, "current_period_end"))
	require.Equal(t, map[string]int64{"usd": 999 + 9990 - 500}, r.sim.Collected(cus), "half a month is credited: 499.5 rounds to 500")

	free := r.customer("visa")
	was := r.subscribe(free, "price_free")
	r.advance(3 * day)
	now := r.post("/v1/subscriptions/"+text(was, "id"), "items[0][id]="+text(was, "items", "data", 0, "id"), "items[0][price]=price_pro")
	require.Equal(t, r.sim.Now().Unix(), number(now, "current_period_start"), "from free to paid, the period begins now")
	require.Equal(t, map[string]int64{"usd": 999}, r.sim.Collected(free))
}

func TestDowngradeLeavesCredit(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_business")
	r.advanceTo(2025, 2, 14, 12)
	r.post("/v1/subscriptions/"+text(sub, "id"), "items[0][id]="+text(sub, "items", "data", 0, "id"), "items[0][price]=price_pro", "proration_behavior=always_invoice")
	// −1499.5 → −1500 and +499.5 → +500: credit of 1000, no money back.
	require.EqualValues(t, -1000, number(r.get("/v1/customers/"+cus), "balance"))
	require.Equal(t, map[string]int64{"usd": 2999}, r.sim.Collected(cus))
	r.advanceTo(2025, 4, 1, 0)
	require.EqualValues(t, 0, number(r.get("/v1/customers/"+cus), "balance"))
	require.Equal(t, map[string]int64{"usd": 2999 + 998}, r.sim.Collected(cus), "999 from the credit, then the last unit of it")
	entries := r.get("/v1/customers/" + cus + "/balance_transactions")["data"].([]any)
	require.Len(t, entries, 3)
}

func TestCancelAndResume(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	id := text(r.subscribe(cus, "price_pro"), "id")
	end := time.Date(2025, 2, 28, 12, 0, 0, 0, time.UTC)
	sub := r.post("/v1/subscriptions/"+id, "cancel_at_period_end=true", "cancellation_details[comment]=Too dear")
	require.Equal(t, true, sub["cancel_at_period_end"])
	require.Equal(t, end.Unix(), number(sub, "cancel_at"))
	sub = r.post("/v1/subscriptions/"+id, "cancel_at_period_end=false")
	require.Nil(t, sub["cancel_at"])
	require.Nil(t, sub["canceled_at"])
	r.post("/v1/subscriptions/"+id, "cancel_at_period_end=true")
	r.take()
	r.advanceTo(2025, 2, 28, 12)
	sub = r.sub(id)
	require.Equal(t, "canceled", text(sub, "status"))
	require.Equal(t, end.Unix(), number(sub, "ended_at"))
	require.Equal(t, start.Unix(), number(sub, "canceled_at"))
	require.Equal(t, []string{"customer.subscription.deleted"}, r.types())
	r.fails(http.StatusBadRequest, "POST", "/v1/subscriptions/"+id, "cancel_at_period_end=false")
	r.fails(http.StatusNotFound, "DELETE", "/v1/subscriptions/"+id)
	require.Equal(t, map[string]int64{"usd": 999}, r.sim.Collected(cus))

	// Now, with the unused half credited.
	now := text(r.subscribe(cus, "price_pro"), "id")
	r.advanceTo(2025, 3, 14, 12)
	got := r.ok(http.MethodDelete, "/v1/subscriptions/"+now, "prorate=true", "invoice_now=true")
	require.Equal(t, "canceled", text(got, "status"))
	require.EqualValues(t, -500, number(r.get("/v1/customers/"+cus), "balance"), "14 of 28 days")

	at := r.sim.Now().Add(3 * day).Unix()
	timed := text(r.subscribe(cus, "price_pro", "cancel_at="+itoa(int(at))), "id")
	r.advance(4 * day)
	require.Equal(t, at, number(r.sub(timed), "ended_at"))
}

func TestDiscountsLastAsLongAsTheySay(t *testing.T) {
	r := newRig(t)
	r.post("/v1/coupons", "id=ONCE", "percent_off=50", "duration=once")
	r.post("/v1/coupons", "id=TWO", "amount_off=400", "currency=usd", "duration=repeating", "duration_in_months=2")
	r.post("/v1/coupons", "id=EVER", "percent_off=10", "duration=forever", "max_redemptions=1")
	for coupon, want := range map[string]int64{
		"ONCE": 499 + 999 + 999 + 999, "TWO": 599 + 599 + 999 + 999, "EVER": 4 * 899,
	} {
		cus := r.customer("visa")
		sub := r.subscribe(cus, "price_pro", "coupon="+coupon)
		require.Equal(t, coupon, text(sub, "discount", "coupon", "id"))
		from := r.sim.Now()
		require.NoError(t, r.sim.AdvanceTo(t.Context(), from.AddDate(0, 3, 5)))
		require.Equal(t, want, r.sim.Collected(cus)["usd"], coupon)
		if coupon == "ONCE" {
			require.Nil(t, r.sub(text(sub, "id"))["discount"], "used up")
		}
	}
	e := r.fails(http.StatusBadRequest, "POST", "/v1/subscriptions", "customer="+r.customer("visa"), "items[0][price]=price_pro", "coupon=EVER")
	require.Equal(t, "coupon_expired", text(e, "code"))

	r.post("/v1/promotion_codes", "coupon=ONCE", "code=FIRST", "restrictions[first_time_transaction]=true")
	promo := text(r.get("/v1/promotion_codes", "code=first"), "data", 0, "id")
	known := r.customer("visa")
	r.subscribe(known, "price_pro", "promotion_code="+promo)
	e = r.fails(http.StatusBadRequest, "POST", "/v1/subscriptions", "customer="+known, "items[0][price]=price_business", "discounts[0][promotion_code]="+promo)
	require.Equal(t, "promotion_code_customer_not_first_time", text(e, "code"))

	// A customer's own coupon lowers what has none of its own.
	own := r.customer("visa")
	r.post("/v1/customers/"+own, "coupon=TWO")
	r.subscribe(own, "price_pro")
	require.EqualValues(t, 599, r.sim.Collected(own)["usd"])
}

func TestDiscountsOfADraftRenewal(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	id := text(r.subscribe(cus, "price_pro"), "id")
	r.post("/v1/coupons", "id=MONTH", "amount_off=999", "currency=usd", "duration=once", "max_redemptions=1")
	r.post("/v1/coupons", "id=TENTH", "percent_off=10", "duration=once")
	r.take()
	r.advanceTo(2025, 2, 28, 12)
	inv := r.get("/v1/invoices/" + text(r.sub(id), "latest_invoice"))
	require.Equal(t, "draft", text(inv, "status"))
	require.Contains(t, r.types(), "invoice.created", "a draft is announced when it is made")
	path := "/v1/invoices/" + text(inv, "id")
	got := r.post(path, "discounts[0][coupon]=TENTH", "expand[0]=discounts")
	require.EqualValues(t, 899, number(got, "amount_due"))
	require.Equal(t, "TENTH", text(got, "discounts", 0, "coupon", "id"))
	require.Equal(t, text(inv, "id"), text(got, "discounts", 0, "invoice"))
	got = r.post(path, "discounts[0][discount]="+text(got, "discounts", 0, "id"), "discounts[1][coupon]=MONTH", "expand[0]=discounts")
	require.EqualValues(t, 0, number(got, "amount_due"))
	require.EqualValues(t, 100, number(got, "total_discount_amounts", 0, "amount"))
	require.EqualValues(t, 899, number(got, "total_discount_amounts", 1, "amount"))
	require.EqualValues(t, 1, number(r.get("/v1/coupons/MONTH"), "times_redeemed"))
	require.EqualValues(t, 999, number(r.post(path, "discounts="), "amount_due"), "cleared")
	require.Equal(t, "coupon_expired", text(r.fails(400, "POST", path, "discounts[0][coupon]=MONTH"), "code"), "a redemption isn't given back")
	r.post("/v1/coupons", "id=FREE", "percent_off=100", "duration=once")
	r.post(path, "discounts[0][coupon]=FREE")
	r.advance(time.Hour)
	require.Equal(t, "paid", text(r.get(path), "status"))
	require.EqualValues(t, 999, r.sim.Collected(cus)["usd"], "a month is free")
	require.Equal(t, "invoice_not_editable", text(r.fails(400, "POST", path, "discounts="), "code"))
	list := r.get("/v1/invoices", "customer="+cus, "expand[0]=data.discounts")
	require.Equal(t, "FREE", text(list, "data", 0, "discounts", 0, "coupon", "id"))
	r.post("/v1/subscriptions/"+id, "items[0][id]="+text(r.sub(id), "items", "data", 0, "id"), "items[0][price]=price_business", "proration_behavior=always_invoice")
	require.EqualValues(t, 999+2995, r.sim.Collected(cus)["usd"], "what was free isn't credited, and an hour is gone")
	r.advanceTo(2025, 4, 1, 0)
	require.EqualValues(t, 999+2995+2999, r.sim.Collected(cus)["usd"], "one month only")

	r.post("/v1/invoiceitems", "customer="+cus, "amount=1000", "currency=usd")
	hand := r.post("/v1/invoices", "customer="+cus, "pending_invoice_items_behavior=include", "discounts[0][coupon]=TENTH")
	require.EqualValues(t, 900, number(hand, "total"))
	r.fails(400, "POST", "/v1/invoices", "customer="+cus, "discounts[0][coupon]=NONE")
}

func TestProrationKnowsDiscounts(t *testing.T) {
	r := newRig(t)
	r.post("/v1/coupons", "id=HALF", "percent_off=50", "duration=forever")
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro", "coupon=HALF")
	require.EqualValues(t, 499, r.sim.Collected(cus)["usd"])
	r.advanceTo(2025, 2, 14, 12)
	r.post("/v1/subscriptions/"+text(sub, "id"), "items[0][id]="+text(sub, "items", "data", 0, "id"), "items[0][price]=price_business", "proration_behavior=always_invoice")
	// 499/2 = 249.5 → 250 back; (2999 − 1500)/2 = 749.5 → 750.
	require.EqualValues(t, 499+750-250, r.sim.Collected(cus)["usd"], "no more is credited than was paid")
}

func TestMeteredPricesBillWhatWasUsed(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro", "items[1][price]=price_units", "items[2][price]=price_calls")
	units := text(sub, "items", "data", 1, "id")
	require.NotContains(t, at(sub, "items", "data", 1), "quantity")
	require.EqualValues(t, 999, r.sim.Collected(cus)["usd"])
	r.fails(http.StatusBadRequest, "POST", "/v1/subscriptions/"+text(sub, "id"), "items[0][id]="+units, "items[0][quantity]=3")

	r.advance(day)
	now := r.sim.Now().Unix()
	r.post("/v1/subscription_items/"+units+"/usage_records", "quantity=100", "timestamp="+itoa(int(now)), "action=increment")
	r.post("/v1/subscription_items/"+units+"/usage_records", "quantity=1", "timestamp="+itoa(int(now)), "action=increment")
	r.post("/v1/subscription_items/"+units+"/usage_records", "quantity=50", "timestamp="+itoa(int(now+1)))
	r.post("/v1/subscription_items/"+units+"/usage_records", "quantity=60", "timestamp="+itoa(int(now+1)), "action=set")
	summary := r.get("/v1/subscription_items/" + units + "/usage_record_summaries")
	require.EqualValues(t, 161, number(summary, "data", 0, "total_usage"))
	event := []string{"event_name=calls", "payload[stripe_customer_id]=" + cus, "payload[value]=7", "identifier=a"}
	r.post("/v1/billing/meter_events", event...)
	e := r.fails(http.StatusBadRequest, "POST", "/v1/billing/meter_events", event...)
	require.Equal(t, "identifier", text(e, "param"), "an identifier counts once")

	r.advanceTo(2025, 3, 1, 0)
	// 161 × 0.25 = 40.25 → 40; 7 × 2 = 14.
	require.EqualValues(t, 999+999+40+14, r.sim.Collected(cus)["usd"])
	e = r.fails(http.StatusBadRequest, "POST", "/v1/subscription_items/"+units+"/usage_records", "quantity=1", "timestamp="+itoa(int(now)))
	require.Equal(t, "timestamp", text(e, "param"), "the period is closed")

	// The last usage is billed when the subscription ends.
	r.post("/v1/subscription_items/"+units+"/usage_records", "quantity=1000", "timestamp=now")
	r.post("/v1/subscriptions/"+text(sub, "id"), "cancel_at_period_end=true")
	r.advanceTo(2025, 4, 2, 0)
	require.EqualValues(t, 999+999+40+14+250, r.sim.Collected(cus)["usd"])
}

func TestPauseCollection(t *testing.T) {
	for behavior, want := range map[string]string{"void": "void", "mark_uncollectible": "uncollectible", "keep_as_draft": "draft"} {
		r := newRig(t)
		cus := r.customer("visa")
		id := text(r.subscribe(cus, "price_pro"), "id")
		resumes := time.Date(2025, 3, 15, 0, 0, 0, 0, time.UTC)
		r.post("/v1/subscriptions/"+id, "pause_collection[behavior]="+behavior, "pause_collection[resumes_at]="+itoa(int(resumes.Unix())))
		r.advanceTo(2025, 3, 10, 0)
		sub := r.sub(id)
		require.Equal(t, "active", text(sub, "status"), "a pause is no status")
		require.Equal(t, want, text(r.get("/v1/invoices/"+text(sub, "latest_invoice")), "status"))
		r.advanceTo(2025, 4, 1, 0)
		require.Nil(t, r.sub(id)["pause_collection"])
		require.EqualValues(t, 2*999, r.sim.Collected(cus)["usd"], "collected again")
	}
}

func TestPreviewIsWhatTheChangeCosts(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro")
	id, item := text(sub, "id"), text(sub, "items", "data", 0, "id")
	r.advanceTo(2025, 2, 9, 3)
	date := itoa(int(r.sim.Now().Unix()))
	before := len(r.sim.db.byID)
	preview := r.get("/v1/invoices/upcoming", "customer="+cus, "subscription="+id, "subscription_items[0][id]="+item, "subscription_items[0][price]=price_business",
		"subscription_proration_behavior=always_invoice", "subscription_proration_date="+date)
	require.NotContains(t, preview, "id")
	require.Len(t, at(preview, "lines", "data"), 2)
	require.Len(t, r.sim.db.byID, before, "a preview has no effect")
	r.advance(time.Hour)
	got := r.post("/v1/subscriptions/"+id, "items[0][id]="+item, "items[0][price]=price_business", "proration_behavior=always_invoice", "proration_date="+date, "expand[0]=latest_invoice")
	require.Equal(t, number(preview, "amount_due"), number(got, "latest_invoice", "amount_paid"), "the date pins the amount")

	next := r.get("/v1/invoices/upcoming", "customer="+cus)
	require.EqualValues(t, 2999, number(next, "amount_due"))
	newer := r.post("/v1/invoices/create_preview", "customer="+cus, "subscription_details[items][0][id]="+item, "subscription_details[items][0][quantity]=2",
		"subscription_details[proration_behavior]=none")
	require.EqualValues(t, 5998, number(newer, "amount_due"))
	r.post("/v1/subscriptions/"+id, "cancel_at_period_end=true")
	e := r.fails(http.StatusBadRequest, "GET", "/v1/invoices/upcoming", "customer="+cus)
	require.Equal(t, "invoice_upcoming_none", text(e, "code"))
	r.fails(http.StatusBadRequest, "GET", "/v1/invoices/upcoming")
}

func TestSubscriptionMistakesAreRefused(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	eur := text(r.post("/v1/prices", "currency=eur", "unit_amount=1", "product=prod_pro", "recurring[interval]=month"), "id")
	old := text(r.post("/v1/prices", "currency=usd", "unit_amount=1", "product=prod_pro", "recurring[interval]=month"), "id")
	r.post("/v1/prices/"+old, "active=false")
	for name, fields := range map[string][]string{
		"customer":                    {"customer=cus_none", "items[0][price]=price_pro"},
		"items":                       {"items[0][price]=price_pro", "items[1][price]=price_pro"},
		"items[0][price]":             {"items[0][price]=price_setup"},
		"items[0][quantity]":          {"items[0][price]=price_units", "items[0][quantity]=1"},
		"trial_end":                   {"items[0][price]=price_pro", "trial_end=5"},
		"trial_period_days":           {"items[0][price]=price_pro", "trial_period_days=9999"},
		"cancel_at":                   {"items[0][price]=price_pro", "cancel_at=5"},
		"coupon":                      {"items[0][price]=price_pro", "coupon=NONE"},
		"default_payment_method":      {"items[0][price]=price_pro", "default_payment_method=pm_none"},
		"add_invoice_items[0][price]": {"items[0][price]=price_pro", "add_invoice_items[0][price]=price_pro"},
		"items[0][metadata]":          {"items[0][price]=price_pro", "items[0][metadata]=x"},
		"discounts":                   {"items[0][price]=price_pro", "coupon=X", "discounts[0][coupon]=X"},
		"items[0][price] ":            {"items[0][price]=" + old},
		"items ":                      {"items[0][price]=price_pro", "items[1][price]=" + eur},
		"items  ":                     {"items[0][price]=price_pro", "items[1][price]=price_pro_year"},
		"items[0][quantity] ":         {"items[0][price]=price_pro", "items[0][quantity]=-1"},
	} {
		if fields[0] != "customer=cus_none" {
			fields = append(fields, "customer="+cus)
		}
		e := r.fails(http.StatusBadRequest, "POST", "/v1/subscriptions", fields...)
		require.Equal(t, trimSpaces(name), text(e, "param"), "%v: %s", fields, text(e, "message"))
	}
	r.fails(http.StatusBadRequest, "POST", "/v1/subscriptions", "customer="+cus)
	r.subscribe(cus, "price_pro")
	e := r.fails(http.StatusBadRequest, "POST", "/v1/subscriptions", "customer="+cus, "items[0][price]="+eur)
	require.Contains(t, text(e, "message"), "cannot combine currencies")
}
