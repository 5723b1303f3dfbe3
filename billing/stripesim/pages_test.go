package stripesim

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const payer4242 = "do=pay&email=ada@example.com&name=Ada&exp=12/30&cvc=123&number="

func (r *rig) checkout(fields ...string) map[string]any {
	r.t.Helper()
	return r.post("/v1/checkout/sessions", append([]string{
		"mode=subscription", "line_items[0][price]=price_pro", "line_items[0][quantity]=1", "success_url=http://shop.test/done?session={CHECKOUT_SESSION_ID}",
		"cancel_url=http://shop.test/plans", "client_reference_id=acct_1", "metadata[plan]=pro", "subscription_data[metadata][commerce_account]=acct_1",
	}, fields...)...)
}

func (r *rig) pay(session map[string]any, number string) *httptest.ResponseRecorder {
	r.t.Helper()
	return r.page("POST", strings.TrimPrefix(text(session, "url"), "http://sim.test/stripe"), strings.Split(payer4242+number, "&")...)
}

func TestCheckoutIsPaidOnItsPage(t *testing.T) {
	r := newRig(t)
	s := r.checkout()
	require.Regexp(t, `^http://sim\.test/stripe/c/pay/cs_test_\w{40}$`, text(s, "url"))
	require.Equal(t, "open", text(s, "status"))
	require.EqualValues(t, 999, number(s, "amount_total"))
	path := strings.TrimPrefix(text(s, "url"), "http://sim.test/stripe")
	page := r.page("GET", path)
	require.Equal(t, 200, page.Code)
	require.Contains(t, page.Body.String(), "Subscribe to Pro")
	require.Contains(t, page.Body.String(), "$9.99")
	r.take()

	declined := r.pay(s, "4000 0000 0000 0002")
	require.Equal(t, http.StatusUnprocessableEntity, declined.Code)
	require.Contains(t, declined.Body.String(), "Your card was declined.")
	require.Contains(t, r.pay(s, "4000000000009995").Body.String(), "insufficient funds")
	require.Contains(t, r.pay(s, "4111111111111111").Body.String(), "none of the test cards")
	require.Empty(t, r.get("/v1/customers")["data"], "a declined checkout makes nothing")
	for _, wrong := range []string{"exp=13/30", "exp=12/20", "exp=x", "cvc=1", "email=nobody"} {
		fields := append(strings.Split(payer4242+"4242424242424242", "&"), wrong)
		name, _, _ := strings.Cut(wrong, "=")
		kept := fields[:0:0]
		for _, f := range fields[:len(fields)-1] {
			if !strings.HasPrefix(f, name+"=") {
				kept = append(kept, f)
			}
		}
		require.Equal(t, http.StatusUnprocessableEntity, r.page("POST", path, append(kept, wrong)...).Code, wrong)
	}

	done := r.pay(s, "4242 4242 4242 4242")
	require.Equal(t, http.StatusSeeOther, done.Code, done.Body.String())
	require.Equal(t, "http://shop.test/done?session="+text(s, "id"), done.Header().Get("Location"))
	s = r.get("/v1/checkout/sessions/"+text(s, "id"), "expand[0]=subscription", "expand[1]=line_items", "expand[2]=customer")
	require.Equal(t, "complete", text(s, "status"))
	require.Equal(t, "paid", text(s, "payment_status"))
	require.Nil(t, s["url"])
	require.Equal(t, "active", text(s, "subscription", "status"))
	require.Equal(t, "acct_1", text(s, "subscription", "metadata", "commerce_account"))
	require.Equal(t, "ada@example.com", text(s, "customer", "email"))
	require.NotEmpty(t, text(s, "subscription", "default_payment_method"))
	types := r.types()
	require.Equal(t, "checkout.session.completed", types[len(types)-1])
	require.Contains(t, types, "invoice.paid")
	require.Equal(t, 200, r.pay(map[string]any{"url": "http://sim.test/stripe" + path}, "4242424242424242").Code, "a second click charges nothing")
	require.Equal(t, map[string]int64{"usd": 999}, r.sim.Collected(""))
}

func TestCheckoutWith3DSecure(t *testing.T) {
	r := newRig(t)
	s := r.checkout("customer=" + text(r.post("/v1/customers", "email=ada@example.com", "name=Ada"), "id"))
	step := r.pay(s, "4000002760003184")
	require.Equal(t, "../../3ds/"+text(s, "id"), step.Header().Get("Location"))
	require.Contains(t, r.page("GET", "/3ds/"+text(s, "id")).Body.String(), "3-D Secure")
	failed := r.page("POST", "/3ds/"+text(s, "id"), "do=fail")
	require.Contains(t, failed.Body.String(), "The check failed")
	require.Equal(t, "open", text(r.get("/v1/checkout/sessions/"+text(s, "id")), "status"))
	require.Contains(t, r.page("GET", "/3ds/"+text(s, "id")).Body.String(), "Nothing to confirm")
	r.pay(s, "4000002500003155")
	done := r.page("POST", "/3ds/"+text(s, "id"), "do=authorize")
	require.Contains(t, done.Header().Get("Location"), "http://shop.test/done")
	require.EqualValues(t, 999, r.sim.Collected("")["usd"])

	late := r.checkout()
	r.pay(late, "4000008260003178")
	require.Contains(t, r.page("POST", "/3ds/"+text(late, "id"), "do=authorize").Body.String(), "insufficient funds")
	require.Contains(t, r.page("GET", "/3ds/pi_none").Body.String(), "Nothing to confirm")
}

func TestCheckoutOffers(t *testing.T) {
	r := newRig(t)
	r.post("/v1/coupons", "id=HALF", "percent_off=50", "duration=once", "name=Half off")
	r.post("/v1/promotion_codes", "coupon=HALF", "code=HELLO")
	s := r.checkout("allow_promotion_codes=true")
	path := strings.TrimPrefix(text(s, "url"), "http://sim.test/stripe")
	require.Contains(t, r.page("POST", path, "do=promo", "promo=nothing").Body.String(), "This code is invalid.")
	applied := r.page("POST", path, "do=promo", "promo=hello").Body.String()
	require.Contains(t, applied, "The code HELLO is applied.")
	require.Contains(t, applied, "−$5.00")
	require.Contains(t, applied, "on the first invoice")
	require.EqualValues(t, 499, number(r.get("/v1/checkout/sessions/"+text(s, "id")), "amount_total"))
	r.pay(s, "4242424242424242")
	require.EqualValues(t, 499, r.sim.Collected("")["usd"])

	fixed := r.checkout("discounts[0][coupon]=HALF")
	require.Contains(t, r.page("POST", strings.TrimPrefix(text(fixed, "url"), "http://sim.test/stripe"), "do=promo", "promo=hello").Body.String(), "takes no promotion codes")

	trial := r.checkout("subscription_data[trial_period_days]=7", "payment_method_collection=always")
	require.EqualValues(t, 0, number(trial, "amount_total"))
	page := r.page("GET", strings.TrimPrefix(text(trial, "url"), "http://sim.test/stripe")+"?card=378282246310005").Body.String()
	require.Contains(t, page, "Free until 7 Feb 2025, then $9.99 per month.")
	require.Contains(t, page, `value="1234"`)
	require.Equal(t, http.StatusSeeOther, r.pay(trial, "4000000000000341").Code, "this card can be saved")
	got := r.get("/v1/checkout/sessions/"+text(trial, "id"), "expand[0]=subscription")
	require.Equal(t, "no_payment_required", text(got, "payment_status"))
	require.Equal(t, "trialing", text(got, "subscription", "status"))
	r.advance(8 * day)
	require.Equal(t, "past_due", text(r.sub(text(got, "subscription", "id")), "status"), "and fails later")

	r.post("/v1/coupons", "id=LONG", "percent_off=10", "duration=repeating", "duration_in_months=3")
	r.post("/v1/coupons", "id=EVER", "percent_off=10", "duration=forever")
	for coupon, words := range map[string]string{"LONG": "for 3 months", "EVER": "on each invoice"} {
		s := r.checkout("discounts[0][coupon]=" + coupon)
		require.Contains(t, r.page("GET", strings.TrimPrefix(text(s, "url"), "http://sim.test/stripe")).Body.String(), words)
	}
	end := r.sim.Now().Add(10 * day).Unix()
	dated := r.checkout("subscription_data[trial_end]="+itoa(int(end)), "line_items[1][price]=price_units", "line_items[0][quantity]=2")
	body := r.page("GET", strings.TrimPrefix(text(dated, "url"), "http://sim.test/stripe")).Body.String()
	require.Contains(t, body, "billed by use")
	require.Contains(t, body, "2 × Pro")
}

// TestWhatChangedWhileACheckoutWaited: a coupon that is used up meanwhile, or
// a customer who is gone, stops the payment and leaves nothing behind.
func TestWhatChangedWhileACheckoutWaited(t *testing.T) {
	r := newRig(t)
	r.post("/v1/coupons", "id=ONE", "percent_off=50", "duration=once", "max_redemptions=1")
	s := r.checkout("discounts[0][coupon]=ONE")
	r.subscribe(r.customer("visa"), "price_pro", "coupon=ONE")
	got := r.pay(s, "4242424242424242")
	require.Equal(t, http.StatusUnprocessableEntity, got.Code)
	require.Contains(t, got.Body.String(), "Coupon expired")
	require.Len(t, r.get("/v1/customers")["data"], 1)
	require.EqualValues(t, 499, r.sim.Collected("")["usd"])

	cus := r.customer("visa")
	waiting := r.checkout("customer=" + cus)
	r.ok(http.MethodDelete, "/v1/customers/"+cus)
	require.Contains(t, r.pay(waiting, "4242424242424242").Body.String(), "No such customer")
	r.post("/v1/coupons", "id=TWO", "percent_off=50", "duration=once", "max_redemptions=1")
	e := r.fails(400, "POST", "/v1/subscriptions", "customer="+r.customer("visa"), "items[0][price]=price_pro", "discounts[0][coupon]=TWO", "discounts[1][coupon]=TWO")
	require.Equal(t, "discounts", text(e, "param"))
}

func TestCheckoutExpires(t *testing.T) {
	r := newRig(t)
	s, short := r.checkout(), r.checkout("expires_at="+itoa(int(start.Add(time.Hour).Unix())))
	r.take()
	r.advance(2 * time.Hour)
	require.Equal(t, "expired", text(r.get("/v1/checkout/sessions/"+text(short, "id")), "status"))
	require.Equal(t, []string{"checkout.session.expired"}, r.types())
	r.advance(22 * time.Hour)
	require.Equal(t, "expired", text(r.get("/v1/checkout/sessions/"+text(s, "id")), "status"))
	require.Contains(t, r.pay(s, "4242424242424242").Body.String(), "has expired")
	e := r.fails(400, "POST", "/v1/checkout/sessions/"+text(s, "id")+"/expire")
	require.Contains(t, text(e, "message"), "expired")
	require.Equal(t, http.StatusNotFound, r.page("GET", "/c/pay/cs_test_none").Code)
	require.Len(t, r.get("/v1/checkout/sessions", "status=expired")["data"], 2)
}

func TestCheckoutInSetupMode(t *testing.T) {
	r := newRig(t)
	cus := text(r.post("/v1/customers", "email=ada@example.com"), "id")
	s := r.post("/v1/checkout/sessions", "mode=setup", "customer="+cus, "success_url=http://shop.test/")
	require.Contains(t, r.page("GET", strings.TrimPrefix(text(s, "url"), "http://sim.test/stripe")).Body.String(), "Nothing is charged today.")
	r.pay(s, "4242424242424242")
	s = r.get("/v1/checkout/sessions/"+text(s, "id"), "expand[0]=setup_intent")
	require.Equal(t, "succeeded", text(s, "setup_intent", "status"))
	require.Len(t, r.get("/v1/customers/" + cus + "/payment_methods")["data"], 1)
}

func TestCheckoutMistakesAreRefused(t *testing.T) {
	r := newRig(t)
	good := map[string]string{"mode": "subscription", "line_items[0][price]": "price_pro", "line_items[0][quantity]": "1", "success_url": "http://x.test/"}
	for _, c := range []struct {
		field, value, param string
		status              int
	}{
		{"mode", "", "mode", 400}, {"mode", "payment", "", 501}, {"mode", "x", "mode", 400}, {"success_url", "", "success_url", 400}, {"success_url", "x", "success_url", 400},
		{"cancel_url", "javascript:alert(1)", "cancel_url", 400}, {"line_items[0][price]", "", "line_items[0][price]", 400},
		{"line_items[0][price]", "price_none", "line_items[0][price]", 400}, {"line_items[0][quantity]", "x", "line_items[0][quantity]", 400},
		{"customer", "cus_none", "customer", 400}, {"expires_at", "5", "expires_at", 400}, {"subscription_data[trial_end]", "5", "subscription_data[trial_end]", 400},
		{"subscription_data[trial_period_days]", "9999", "subscription_data[trial_period_days]", 400}, {"ui_mode", "embedded", "", 501},
		{"line_items[0][price]", "price_setup", "line_items[0][price]", 400}, {"line_items[1][price]", "price_units", "line_items[1][price]", 200},
		{"discounts[0][coupon]", "NONE", "coupon", 400}, {"line_items[0][price]", "price_units", "line_items[0][quantity]", 400},
	} {
		fields := []string{}
		for name, value := range good {
			if name != c.field {
				fields = append(fields, name+"="+value)
			}
		}
		if c.value != "" {
			fields = append(fields, c.field+"="+c.value)
		}
		got := r.do("POST", "/v1/checkout/sessions", fields...)
		require.Equal(t, c.status, got.status, "%v %s", c, got.raw)
		if c.status == 400 {
			require.Equal(t, c.param, text(got.body["error"], "param"), "%v %s", c, got.raw)
		}
	}
	r.fails(400, "POST", "/v1/checkout/sessions", "mode=setup", "success_url=http://x.test/", "line_items[0][price]=price_pro")
	r.fails(400, "POST", "/v1/checkout/sessions", "mode=subscription", "success_url=http://x.test/")
	r.fails(400, "POST", "/v1/checkout/sessions", "mode=subscription", "success_url=http://x.test/", "line_items[0][price]=price_pro")
	cus := r.customer("visa")
	r.fails(400, "POST", "/v1/checkout/sessions", "mode=setup", "success_url=http://x.test/", "customer="+cus, "customer_email=a@b.c")
}

func TestThePortal(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro")
	id := text(sub, "id")
	s := r.post("/v1/billing_portal/sessions", "customer="+cus, "return_url=http://shop.test/account")
	path := strings.TrimPrefix(text(s, "url"), "http://sim.test/stripe")
	page := r.page("GET", path).Body.String()
	for _, want := range []string{"Pro", "$9.99", "Renews on 28 Feb 2025.", "Visa ending in 4242", "-0001", "paid", "http://shop.test/account", "$29.99 / month"} {
		require.Contains(t, page, want)
	}
	done := r.page("POST", path, "do=cancel", "subscription="+id)
	require.Equal(t, "?done=cancel", done.Header().Get("Location"))
	require.Equal(t, true, r.sub(id)["cancel_at_period_end"])
	require.Contains(t, r.page("GET", path+"?done=cancel").Body.String(), "Ends on 28 Feb 2025.")
	r.page("POST", path, "do=resume", "subscription="+id)
	require.Equal(t, false, r.sub(id)["cancel_at_period_end"])

	r.advance(14 * day)
	path = strings.TrimPrefix(text(r.post("/v1/billing_portal/sessions", "customer="+cus), "url"), "http://sim.test/stripe")
	preview := r.page("POST", path, "do=preview", "subscription="+id, "price=price_business").Body.String()
	require.Contains(t, preview, "Confirm the change")
	require.Contains(t, preview, "Settled on 28 Feb 2025")
	require.Contains(t, preview, "$10.00") // 2999/2 − 999/2, each rounded: 1500 − 500
	require.Equal(t, "price_pro", text(r.sub(id), "items", "data", 0, "price", "id"), "a preview changes nothing")
	r.page("POST", path, "do=cancel", "subscription="+id)
	r.page("POST", path, "do=change", "subscription="+id, "price=price_business")
	require.Equal(t, "price_business", text(r.sub(id), "items", "data", 0, "price", "id"))
	require.Equal(t, false, r.sub(id)["cancel_at_period_end"], "who changes the plan stays")
	require.Contains(t, r.page("POST", path, "do=preview", "subscription="+id, "price=price_pro_year").Body.String(), "Due now")

	for _, wrong := range [][]string{
		{"do=change", "subscription=" + id, "price=price_units"}, {"do=cancel", "subscription=sub_none"}, {"do=explode", "subscription=" + id},
		{"do=card", "number=4000000000000002", "exp=12/30", "cvc=123"}, {"do=card", "number=1"},
	} {
		require.Equal(t, http.StatusUnprocessableEntity, r.page("POST", path, wrong...).Code, "%v", wrong)
	}
	// A stranger's subscription is out of reach.
	other := text(r.subscribe(r.customer("visa"), "price_pro"), "id")
	require.Equal(t, http.StatusUnprocessableEntity, r.page("POST", path, "do=cancel", "subscription="+other).Code)
	require.Equal(t, "active", text(r.sub(other), "status"))

	// A new card pays what is open.
	r.card(cus, "chargeCustomerFail")
	r.advance(20 * day)
	require.Equal(t, "past_due", text(r.sub(id), "status"))
	require.Contains(t, r.page("GET", path).Body.String(), "has expired")
	path = strings.TrimPrefix(text(r.post("/v1/billing_portal/sessions", "customer="+cus), "url"), "http://sim.test/stripe")
	require.Contains(t, r.page("GET", path).Body.String(), "The last payment failed")
	require.Contains(t, r.page("POST", path, "do=change", "subscription="+id, "price=price_pro_year").Body.String(), "The payment failed")
	r.page("POST", path, "do=card", "number=5555555555554444", "exp=12/30", "cvc=123")
	require.Equal(t, "active", text(r.sub(id), "status"))
	require.Contains(t, r.page("GET", path).Body.String(), "Mastercard ending in 4444")

	require.Equal(t, http.StatusNotFound, r.page("GET", "/p/session/bps_none").Code)
	empty := r.post("/v1/billing_portal/sessions", "customer="+text(r.post("/v1/customers"), "id"))
	body := r.page("GET", strings.TrimPrefix(text(empty, "url"), "http://sim.test/stripe")).Body.String()
	require.Contains(t, body, "There is no running subscription.")
	r.fails(400, "POST", "/v1/billing_portal/sessions", "customer="+cus, "return_url=x")
}

func TestPortalThatCancelsNow(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Portal = Portal{CancelNow: true, Prices: []string{"pro_monthly", "business_monthly"}}
	})
	cus := r.customer("visa")
	id := text(r.subscribe(cus, "price_pro"), "id")
	path := strings.TrimPrefix(text(r.post("/v1/billing_portal/sessions", "customer="+cus), "url"), "http://sim.test/stripe")
	require.NotContains(t, r.page("GET", path).Body.String(), "price_pro_year")
	r.page("POST", path, "do=cancel", "subscription="+id)
	require.Equal(t, "canceled", text(r.sub(id), "status"))
}

func TestInvoicePages(t *testing.T) {
	r := newRig(t)
	cus := text(r.post("/v1/customers", "name=Ada (Lovelace) €"), "id")
	sub := r.subscribe(cus, "price_pro", "payment_behavior=default_incomplete", "expand[0]=latest_invoice")
	path := strings.TrimPrefix(text(sub, "latest_invoice", "hosted_invoice_url"), "http://sim.test/stripe")
	require.Contains(t, r.page("GET", path).Body.String(), "Pay $9.99")
	card := func(number string) *httptest.ResponseRecorder {
		return r.page("POST", path, "do=pay", "number="+number, "exp=12/30", "cvc=123")
	}
	require.Contains(t, card("4000000000000002").Body.String(), "declined")
	require.Contains(t, card("1").Body.String(), "none of the test cards")
	require.Contains(t, card("4000002760003184").Header().Get("Location"), "../3ds/pi_")
	require.Equal(t, "?", card("4242424242424242").Header().Get("Location"))
	require.Equal(t, "active", text(r.sub(text(sub, "id")), "status"))
	require.Contains(t, r.page("GET", path).Body.String(), "paid on 31 Jan 2025")
	file := r.page("GET", strings.TrimPrefix(text(sub, "latest_invoice", "invoice_pdf"), "http://sim.test/stripe"))
	require.Equal(t, "application/pdf", file.Header().Get("Content-Type"))
	require.Regexp(t, `(?s)^%PDF-1\.4.*\(Billed to Ada \\\(Lovelace\\\) \\200 .*%%EOF\n$`, file.Body.String())
	require.Equal(t, http.StatusNotFound, r.page("GET", "/i/none").Code)
	require.Equal(t, http.StatusNotFound, r.page("GET", "/i/none/pdf").Code)
}

var inlineCode = regexp.MustCompile(`(?i)<script|<style|\sstyle=|\son\w+=|javascript:|https?://`)

// TestPagesAreStrict: no inline code, no other host, nothing cached, and no
// markup from what people type.
func TestPagesAreStrict(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MerchantName = `<b>"Shop"&` })
	cus := text(r.post("/v1/customers", "email=x@y.z", `name=<script>alert(1)</script>`), "id")
	sub := r.subscribe(cus, "price_pro", "payment_behavior=default_incomplete", "expand[0]=latest_invoice.payment_intent")
	pi := text(sub, "latest_invoice", "payment_intent", "id")
	r.post("/v1/payment_intents/"+pi+"/confirm", "payment_method=pm_card_authenticationRequired")
	session := r.post("/v1/checkout/sessions", "mode=setup", "customer="+cus, "success_url=http://shop.test/ok")
	portal := r.post("/v1/billing_portal/sessions", "customer="+cus)
	cut := func(v any, path ...any) string { return strings.TrimPrefix(text(v, path...), "http://sim.test/stripe") }
	for _, path := range []string{cut(session, "url"), cut(portal, "url"), cut(sub, "latest_invoice", "hosted_invoice_url"), "/3ds/" + pi, "/c/pay/none"} {
		got := r.page("GET", path)
		require.NotRegexp(t, inlineCode, got.Body.String(), path)
		require.NotContains(t, got.Body.String(), `<b>"Shop"`)
		csp := got.Header().Get("Content-Security-Policy")
		require.Contains(t, csp, "default-src 'none'; style-src 'self'; form-action 'self'")
		require.NotContains(t, csp, "unsafe")
		require.Equal(t, "no-store", got.Header().Get("Cache-Control"))
		require.Equal(t, "nosniff", got.Header().Get("X-Content-Type-Options"))
		asset := regexp.MustCompile(`href="([^"]+\.css)"`).FindStringSubmatch(got.Body.String())
		require.Len(t, asset, 2)
		base, err := url.Parse("http://sim.test/stripe" + path)
		require.NoError(t, err)
		link, err := base.Parse(asset[1])
		require.NoError(t, err)
		require.Regexp(t, `^http://sim\.test/stripe/assets/style\.[0-9a-f]{8}\.css$`, link.String(), "relative, so that any prefix works")
		style := r.page("GET", strings.TrimPrefix(link.Path, "/stripe"))
		require.Equal(t, 200, style.Code)
		require.Contains(t, style.Header().Get("Cache-Control"), "immutable")
		require.NotRegexp(t, `https?://|url\(`, style.Body.String())
	}
	require.Contains(t, r.page("GET", cut(session, "url")).Header().Get("Content-Security-Policy"), "form-action 'self' http://shop.test;", "the way back is allowed")
	require.Equal(t, 404, r.page("GET", "/nothing").Code)
	require.Equal(t, 405, r.page("PUT", "/c/pay/x").Code)
	require.Equal(t, 400, r.page("POST", "/c/pay/x", "a="+strings.Repeat("x", maxForm)).Code)
}

func TestLinksFollowTheRequestWithoutABaseURL(t *testing.T) {
	r := newRig(t, func(c *Config) { c.BaseURL = "" })
	require.Regexp(t, `^http://example\.com/c/pay/`, text(r.checkout(), "url"))
}
