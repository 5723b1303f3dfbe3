package simcheck

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kolekt/commerce/billing/stripesim"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// client calls the simulator and checks each response against the
// description.
type client struct {
	t       *testing.T
	d       *Description
	sim     *stripesim.Simulator
	version string
	seen    map[string]bool // "GET /v1/customers/{id}"
}

func newClient(t *testing.T, version string) *client {
	d, err := Load()
	require.NoError(t, err)
	sim, err := stripesim.New(stripesim.Config{
		Start: time.Date(2025, 1, 31, 12, 0, 0, 0, time.UTC), Seed: 7, APIVersion: version, BaseURL: "http://sim.test",
		Products: []stripesim.Product{{ID: "prod_pro", Name: "Pro", Prices: []stripesim.Price{
			{ID: "price_pro", LookupKey: "pro", UnitAmount: 999}, {ID: "price_big", LookupKey: "big", UnitAmount: 2999},
			{ID: "price_used", UnitAmountDecimal: "0.5", Metered: true}, {ID: "price_once", UnitAmount: 100, Interval: "once"},
			{ID: "price_meter", UnitAmount: 3, Metered: true, Meter: "calls"},
		}}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sim.Close(context.Background())) })
	return &client{t: t, d: d, sim: sim, version: version, seen: map[string]bool{}}
}

func (c *client) send(method, path string, fields ...string) (int, []byte) {
	c.t.Helper()
	form := url.Values{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		form.Add(name, value)
	}
	target, body := path, io.Reader(strings.NewReader(form.Encode()))
	if method == http.MethodGet {
		target, body = path+"?"+form.Encode(), nil
	}
	req := httptest.NewRequest(method, target, body)
	req.Header.Set("Authorization", "Bearer "+stripesim.DefaultSecretKey)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Stripe-Version", c.version)
	rec := httptest.NewRecorder()
	c.sim.Handler().ServeHTTP(rec, req)
	return rec.Code, rec.Body.Bytes()
}

// do makes a call that must work and checks its response.
func (c *client) do(method, path string, fields ...string) map[string]any {
	c.t.Helper()
	status, body := c.send(method, path, fields...)
	require.Equal(c.t, http.StatusOK, status, "%s %s: %s", method, path, body)
	pattern := c.pattern(method, path)
	c.seen[method+" "+pattern] = true
	checked := body
	if c.version == "2023-10-16" {
		checked = asNext(c.t, body)
	}
	for _, fault := range c.d.Response(method, pattern, checked) {
		assert.Fail(c.t, method+" "+pattern, fault)
	}
	var out map[string]any
	require.NoError(c.t, json.Unmarshal(body, &out))
	return out
}

func (c *client) post(path string, fields ...string) map[string]any {
	c.t.Helper()
	return c.do(http.MethodPost, path, fields...)
}

func (c *client) get(path string, fields ...string) map[string]any {
	c.t.Helper()
	return c.do(http.MethodGet, path, fields...)
}

func (c *client) del(path string, fields ...string) map[string]any {
	c.t.Helper()
	return c.do(http.MethodDelete, path, fields...)
}

// pattern finds the endpoint that a path belongs to.
func (c *client) pattern(method, path string) string {
	c.t.Helper()
	best := ""
	for _, f := range stripesim.Coverage() {
		if f.Method == method && matches(f.Path, path) && (best == "" || strings.Count(f.Path, "{") < strings.Count(best, "{")) {
			best = f.Path
		}
	}
	require.NotEmpty(c.t, best, "%s %s is no endpoint", method, path)
	return best
}

func matches(pattern, path string) bool {
	p, q := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(p) != len(q) {
		return false
	}
	for i := range p {
		if p[i] != q[i] && !strings.HasPrefix(p[i], "{") {
			return false
		}
	}
	return true
}

// asNext renames what 2024-04-10, which is described, named differently from
// the version before.
func asNext(t *testing.T, body []byte) []byte {
	var v any
	require.NoError(t, json.Unmarshal(body, &v))
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			for _, x := range v {
				walk(x)
			}
			switch v["object"] {
			case "product":
				if features, ok := v["features"]; ok {
					v["marketing_features"] = features
					delete(v, "features")
				}
			case "invoice":
				delete(v, "rendering_options")
			}
		}
	}
	walk(v)
	out, err := json.Marshal(v)
	require.NoError(t, err)
	return out
}

// schedule schedules a change of a subscription, and releases it.
func (c *client) schedule(sub string) {
	c.t.Helper()
	schedule := c.post("/v1/subscription_schedules", "from_subscription="+sub)
	path := "/v1/subscription_schedules/" + id(schedule)
	fields := []string{"end_behavior=release", "expand[0]=subscription", "phases[1][iterations]=1", "phases[1][proration_behavior]=none", "phases[1][metadata][plan]=pro", "phases[1][items][0][price]=price_pro"}
	for _, name := range []string{"start_date", "end_date"} {
		fields = append(fields, fmt.Sprintf("phases[0][%s]=%.0f", name, dig(schedule, "phases", 0, name)))
	}
	for i, it := range dig(schedule, "phases", 0, "items").([]any) {
		fields = append(fields, fmt.Sprintf("phases[0][items][%d][price]=%s", i, dig(it, "price")))
		if n := dig(it, "quantity"); n != nil {
			fields = append(fields, fmt.Sprintf("phases[0][items][%d][quantity]=%.0f", i, n))
		}
	}
	for i, d := range dig(schedule, "phases", 0, "discounts").([]any) {
		fields = append(fields, fmt.Sprintf("phases[0][discounts][%d][discount]=%s", i, dig(d, "discount")))
	}
	c.post(path, fields...)
	c.get(path, "expand[0]=phases.items.price")
	c.get("/v1/subscription_schedules", "limit=1")
	c.get("/v1/subscriptions/"+sub, "expand[0]=schedule")
	c.post(path + "/release")
}

func id(v map[string]any) string { s, _ := v["id"].(string); return s }

func dig(v any, path ...any) any {
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

func (c *client) advance(d time.Duration) {
	c.t.Helper()
	require.NoError(c.t, c.sim.Advance(c.t.Context(), d))
}

func TestEveryResponseIsAsStripeDescribesIt(t *testing.T) {
	for _, version := range []string{"2024-04-10", "2023-10-16"} {
		t.Run(version, func(t *testing.T) {
			c := newClient(t, version)
			require.Equal(t, "2024-04-10", c.d.Version())
			c.tour()
			c.events()
			for _, f := range stripesim.Coverage() {
				assert.True(t, c.seen[f.Method+" "+f.Path], "%s %s is not exercised", f.Method, f.Path)
			}
		})
	}
}

// tour calls every endpoint.
func (c *client) tour() {
	cus := id(c.post("/v1/customers", "email=ada@example.com", "name=Ada", "metadata[account]=a1", "address[line1]=1 Road", "address[country]=GB", "payment_method=pm_card_visa"))
	pm := id(c.post("/v1/payment_methods", "type=card", "card[number]=4242424242424242", "card[exp_month]=12", "card[exp_year]=2030", "card[cvc]=123", "billing_details[name]=Ada"))
	c.post("/v1/payment_methods/"+pm+"/attach", "customer="+cus)
	c.post("/v1/payment_methods/"+pm, "metadata[x]=y")
	c.get("/v1/payment_methods/" + pm)
	c.get("/v1/payment_methods", "customer="+cus, "type=card")
	c.get("/v1/customers/"+cus+"/payment_methods", "limit=1")
	c.post("/v1/customers/"+cus, "invoice_settings[default_payment_method]="+pm, "expand[0]=invoice_settings.default_payment_method")
	c.get("/v1/customers/"+cus, "expand[0]=subscriptions", "expand[1]=test_clock")
	c.get("/v1/customers", "email=ada@example.com")
	c.get("/v1/customers/search", "query=metadata['account']:'a1'")
	tx := id(c.post("/v1/customers/"+cus+"/balance_transactions", "amount=-200", "currency=usd", "description=gift"))
	c.get("/v1/customers/" + cus + "/balance_transactions")
	c.get("/v1/customers/" + cus + "/balance_transactions/" + tx)

	prod := id(c.post("/v1/products", "name=Extra", "features[0][name]=Fast", "default_price_data[currency]=usd", "default_price_data[unit_amount]=500", "default_price_data[recurring][interval]=month"))
	c.get("/v1/products/"+prod, "expand[0]=default_price")
	c.post("/v1/products/"+prod, "description=More")
	c.get("/v1/products", "active=true")
	c.del("/v1/products/" + id(c.post("/v1/products", "name=Gone")))
	price := id(c.post("/v1/prices", "currency=usd", "unit_amount=700", "product="+prod, "recurring[interval]=month", "lookup_key=extra"))
	c.get("/v1/prices/"+price, "expand[0]=product")
	c.post("/v1/prices/"+price, "nickname=n")
	c.get("/v1/prices", "lookup_keys[0]=extra", "lookup_keys[1]=pro")

	coupon := id(c.post("/v1/coupons", "percent_off=12.5", "duration=repeating", "duration_in_months=3", "name=Launch"))
	c.post("/v1/coupons", "id=FLAT", "amount_off=300", "currency=usd", "duration=once", "applies_to[products][0]=prod_pro", "expand[0]=applies_to")
	c.get("/v1/coupons/" + coupon)
	c.get("/v1/coupons")
	c.post("/v1/coupons/"+coupon, "name=Start")
	promo := id(c.post("/v1/promotion_codes", "coupon="+coupon, "code=HELLO"))
	c.get("/v1/promotion_codes/" + promo)
	c.post("/v1/promotion_codes/"+promo, "metadata[a]=b")
	c.get("/v1/promotion_codes", "code=hello")

	pi := c.post("/v1/payment_intents", "amount=1000", "currency=usd", "customer="+cus, "payment_method="+pm, "confirm=true", "expand[0]=latest_charge.refunds", "expand[1]=customer")
	c.get("/v1/payment_intents/" + id(pi))
	open := id(c.post("/v1/payment_intents", "amount=1000", "currency=usd"))
	c.post("/v1/payment_intents/"+open, "description=later")
	c.post("/v1/payment_intents/"+open+"/confirm", "payment_method=pm_card_authenticationRequired", "return_url=http://x.test/")
	c.post("/v1/payment_intents/"+open+"/cancel", "cancellation_reason=abandoned")
	c.get("/v1/payment_intents", "customer="+cus)
	charge := dig(pi, "latest_charge", "id").(string)
	c.get("/v1/charges/"+charge, "expand[0]=payment_intent")
	c.get("/v1/charges", "customer="+cus)
	refund := id(c.post("/v1/refunds", "charge="+charge, "amount=100", "reason=requested_by_customer"))
	c.post("/v1/refunds/"+refund, "metadata[a]=b")
	c.get("/v1/refunds/"+refund, "expand[0]=charge")
	c.get("/v1/refunds", "charge="+charge)
	failed, body := c.send(http.MethodPost, "/v1/payment_intents", "amount=1000", "currency=usd", "payment_method=pm_card_chargeDeclined", "confirm=true")
	require.Equal(c.t, http.StatusPaymentRequired, failed)
	c.error(body)

	setup := id(c.post("/v1/setup_intents", "customer="+cus, "payment_method_types[0]=card"))
	c.get("/v1/setup_intents/" + setup)
	c.post("/v1/setup_intents/"+setup+"/confirm", "payment_method=pm_card_authenticationRequired", "return_url=http://x.test/")
	c.post("/v1/setup_intents/" + setup + "/cancel")
	c.get("/v1/setup_intents", "customer="+cus)

	sub := c.post("/v1/subscriptions", "customer="+cus, "items[0][price]=price_pro", "items[0][quantity]=2", "items[1][price]=price_used", "promotion_code="+promo,
		"metadata[a]=b", "payment_settings[save_default_payment_method]=on_subscription",
		"expand[0]=latest_invoice.payment_intent.latest_charge", "expand[1]=customer", "expand[2]=pending_setup_intent", "expand[3]=discounts")
	item, used := dig(sub, "items", "data", 0, "id").(string), dig(sub, "items", "data", 1, "id").(string)
	c.get("/v1/subscriptions/"+id(sub), "expand[0]=default_payment_method", "expand[1]=items.data.price.product")
	c.get("/v1/subscriptions", "customer="+cus, "status=all", "expand[0]=data.latest_invoice")
	c.get("/v1/customers/" + cus + "/subscriptions")
	c.get("/v1/subscription_items", "subscription="+id(sub))
	c.get("/v1/subscription_items/" + item)
	c.post("/v1/subscription_items/"+used+"/usage_records", "quantity=11", "timestamp=now", "action=increment")
	c.get("/v1/subscription_items/" + used + "/usage_record_summaries")
	c.advance(10 * 24 * time.Hour)
	c.get("/v1/invoices/upcoming", "subscription="+id(sub), "subscription_items[0][id]="+item, "subscription_items[0][price]=price_big", "subscription_proration_behavior=create_prorations")
	c.get("/v1/invoices/upcoming/lines", "subscription="+id(sub))
	c.post("/v1/invoices/create_preview", "subscription="+id(sub), "subscription_details[items][0][id]="+item, "subscription_details[items][0][quantity]=3")
	c.post("/v1/subscriptions/"+id(sub), "items[0][id]="+item, "items[0][price]=price_big", "proration_behavior=create_prorations", "add_invoice_items[0][price]=price_once")
	c.post("/v1/subscriptions/"+id(sub), "pause_collection[behavior]=keep_as_draft", "cancel_at_period_end=true", "cancellation_details[feedback]=unused")
	c.post("/v1/subscriptions/"+id(sub), "pause_collection=", "cancel_at_period_end=false")
	c.schedule(id(sub))
	c.del("/v1/subscriptions/" + id(sub) + "/discount")
	c.events()
	c.advance(31 * 24 * time.Hour)
	c.get("/v1/subscriptions/"+id(sub), "expand[0]=latest_invoice.charge", "expand[1]=latest_invoice.lines.data.discounts")
	paused := c.post("/v1/subscriptions", "customer="+id(c.post("/v1/customers", "coupon=FLAT")), "items[0][price]=price_pro", "trial_period_days=7", "trial_settings[end_behavior][missing_payment_method]=pause")
	c.advance(8 * 24 * time.Hour)
	c.post("/v1/payment_methods/pm_card_visa/attach", "customer="+paused["customer"].(string))
	c.post("/v1/subscriptions/"+id(paused)+"/resume", "billing_cycle_anchor=now")
	c.del("/v1/customers/" + paused["customer"].(string) + "/discount")
	c.del("/v1/subscriptions/"+id(paused), "prorate=true", "invoice_now=true")

	c.post("/v1/invoiceitems", "customer="+cus, "amount=1500", "currency=usd", "description=Work")
	ii := id(c.post("/v1/invoiceitems", "customer="+cus, "price=price_once", "quantity=2"))
	c.get("/v1/invoiceitems/"+ii, "expand[0]=customer")
	c.get("/v1/invoiceitems", "customer="+cus, "pending=true")
	c.del("/v1/invoiceitems/" + ii)
	inv := id(c.post("/v1/invoices", "customer="+cus, "pending_invoice_items_behavior=include", "auto_advance=false"))
	c.post("/v1/invoices/"+inv, "description=Thanks")
	c.get("/v1/invoices/" + inv)
	c.get("/v1/invoices/" + inv + "/lines")
	c.post("/v1/invoices/" + inv + "/finalize")
	c.get("/v1/credit_notes/preview", "invoice="+inv, "amount=100")
	note := id(c.post("/v1/credit_notes", "invoice="+inv, "amount=100", "memo=Sorry"))
	c.get("/v1/credit_notes/"+note, "expand[0]=invoice")
	c.get("/v1/credit_notes/" + note + "/lines")
	c.get("/v1/credit_notes", "invoice="+inv)
	c.post("/v1/credit_notes/"+note, "memo=Very sorry")
	c.post("/v1/credit_notes/" + note + "/void")
	c.post("/v1/invoices/"+inv+"/pay", "expand[0]=payment_intent")
	line := dig(c.get("/v1/invoices/"+inv), "lines", "data", 0, "id").(string)
	c.post("/v1/credit_notes", "invoice="+inv, "lines[0][type]=invoice_line_item", "lines[0][invoice_line_item]="+line, "lines[0][amount]=300", "refund_amount=100", "credit_amount=200",
		"expand[0]=refund", "expand[1]=customer_balance_transaction")
	second := func() string {
		c.post("/v1/invoiceitems", "customer="+cus, "amount=2500", "currency=usd")
		return id(c.post("/v1/invoices", "customer="+cus, "pending_invoice_items_behavior=include"))
	}
	gone := second()
	c.del("/v1/invoices/" + gone)
	bad := second()
	c.post("/v1/invoices/" + bad + "/finalize")
	c.post("/v1/invoices/" + bad + "/mark_uncollectible")
	c.post("/v1/invoices/" + bad + "/void")
	c.get("/v1/invoices", "customer="+cus, "limit=100")

	session := c.post("/v1/checkout/sessions", "mode=subscription", "customer="+cus, "line_items[0][price]=price_pro", "line_items[0][quantity]=1", "success_url=http://x.test/{CHECKOUT_SESSION_ID}",
		"client_reference_id=a1", "metadata[a]=b", "allow_promotion_codes=true", "subscription_data[trial_period_days]=7", "expand[0]=line_items")
	c.get("/v1/checkout/sessions/"+id(session), "expand[0]=customer", "expand[1]=subscription")
	c.get("/v1/checkout/sessions/" + id(session) + "/line_items")
	c.get("/v1/checkout/sessions", "customer="+cus)
	c.pay(session)
	c.get("/v1/checkout/sessions/"+id(session), "expand[0]=subscription.latest_invoice", "expand[1]=invoice")
	c.post("/v1/checkout/sessions/" + id(c.post("/v1/checkout/sessions", "mode=setup", "customer="+cus, "success_url=http://x.test/")) + "/expire")
	c.post("/v1/billing_portal/sessions", "customer="+cus, "return_url=http://x.test/")

	meter := id(c.post("/v1/billing/meters", "display_name=Jobs", "event_name=jobs", "default_aggregation[formula]=sum"))
	c.get("/v1/billing/meters/" + meter)
	c.post("/v1/billing/meters/"+meter, "display_name=Tasks")
	c.get("/v1/billing/meters", "status=active")
	c.get("/v1/billing/meters/"+meter+"/event_summaries", "customer="+cus, "start_time=1735689600", "end_time=1767225600")
	c.post("/v1/prices", "currency=usd", "product=prod_pro", "recurring[interval]=month", "recurring[usage_type]=metered", "recurring[meter]="+meter,
		"billing_scheme=tiered", "tiers_mode=graduated", "tiers[0][up_to]=10", "tiers[0][unit_amount]=0", "tiers[1][up_to]=inf", "tiers[1][unit_amount_decimal]=0.25",
		"tiers[1][flat_amount]=5", "expand[0]=tiers")
	c.post("/v1/billing/meter_events", "event_name=calls", "payload[stripe_customer_id]="+cus, "payload[value]=12", "identifier=m1")
	c.post("/v1/billing/meters/" + meter + "/deactivate")
	c.post("/v1/billing/meters/" + meter + "/reactivate")

	dispute, err := c.sim.Dispute(charge, "")
	require.NoError(c.t, err)
	c.get("/v1/disputes/"+dispute, "expand[0]=charge")
	c.get("/v1/disputes", "charge="+charge)
	c.post("/v1/disputes/" + dispute + "/close")

	hook := c.post("/v1/webhook_endpoints", "url=http://127.0.0.1:9/hook", "enabled_events[0]=nothing.happens", "api_version=2024-04-10")
	require.NotEmpty(c.t, hook["secret"])
	c.get("/v1/webhook_endpoints/" + id(hook))
	c.get("/v1/webhook_endpoints")
	c.post("/v1/webhook_endpoints/"+id(hook), "disabled=true")
	c.del("/v1/webhook_endpoints/" + id(hook))

	clock := id(c.post("/v1/test_helpers/test_clocks", "frozen_time=1735689600", "name=Year"))
	onClock := id(c.post("/v1/customers", "test_clock="+clock, "payment_method=pm_card_visa"))
	c.get("/v1/customers/"+onClock, "expand[0]=test_clock")
	c.get("/v1/test_helpers/test_clocks/" + clock)
	c.get("/v1/test_helpers/test_clocks")
	c.post("/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time=1738368000")
	c.del("/v1/test_helpers/test_clocks/" + clock)
	c.post("/v1/payment_methods/" + pm + "/detach")
	c.del("/v1/coupons/" + coupon)
	c.del("/v1/customers/" + cus)
	c.get("/v1/customers/" + cus)
	status, body := c.send(http.MethodGet, "/v1/customers/cus_none")
	require.Equal(c.t, http.StatusNotFound, status)
	c.error(body)
}

// pay completes a checkout session on its page.
func (c *client) pay(session map[string]any) {
	c.t.Helper()
	form := url.Values{"do": {"pay"}, "email": {"ada@example.com"}, "name": {"Ada"}, "number": {"4242 4242 4242 4242"}, "exp": {"12/30"}, "cvc": {"123"}}
	req := httptest.NewRequest(http.MethodPost, session["url"].(string), strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec := httptest.NewRecorder()
	c.sim.Handler().ServeHTTP(rec, req)
	require.Equal(c.t, http.StatusSeeOther, rec.Code, rec.Body.String())
}

func (c *client) error(body []byte) {
	c.t.Helper()
	if c.version == "2023-10-16" {
		body = asNext(c.t, body)
	}
	for _, fault := range c.d.Error(body) {
		assert.Fail(c.t, "error", fault)
	}
}

// events checks the object of every event.
func (c *client) events() {
	after := ""
	count := 0
	for {
		fields := []string{"limit=100"}
		if after != "" {
			fields = append(fields, "starting_after="+after)
		}
		list := c.get("/v1/events", fields...)
		for _, e := range list["data"].([]any) {
			count++
			after = dig(e, "id").(string)
			if count == 1 {
				c.get("/v1/events/" + after)
			}
			if dig(e, "type") == "invoice.upcoming" {
				continue // has no ID by definition
			}
			raw, err := json.Marshal(dig(e, "data", "object"))
			require.NoError(c.t, err)
			if c.version == "2023-10-16" {
				raw = asNext(c.t, raw)
			}
			var object map[string]any
			require.NoError(c.t, json.NewDecoder(bytes.NewReader(raw)).Decode(&object))
			for _, fault := range c.d.Object(object) {
				assert.Fail(c.t, dig(e, "type").(string), fault)
			}
		}
		if list["has_more"] != true {
			break
		}
	}
	require.Greater(c.t, count, 30)
}

// TestParametersAreStripes shows that no endpoint accepts a parameter that
// Stripe's description doesn't have.
func TestParametersAreStripes(t *testing.T) {
	d, err := Load()
	require.NoError(t, err)
	// Accepted in 2023-10-16 and named differently in the described version,
	// or taken away from the description since.
	older := map[string]bool{
		"POST /v1/products features[][name]": true, "POST /v1/products/{id} features[][name]": true,
	}
	for _, f := range stripesim.Coverage() {
		for _, p := range f.Parameters {
			name := f.Method + " " + f.Path + " " + p
			assert.True(t, older[name] || d.Parameter(f.Method, f.Path, p), "%s: no such parameter", name)
		}
	}
}

// TestTheCheckFails is the control: a response with a flaw is refused.
func TestTheCheckFails(t *testing.T) {
	d, err := Load()
	require.NoError(t, err)
	good := `{"id":"evt_1","object":"event","api_version":null,"created":1,"data":{"object":{}},"livemode":false,"pending_webhooks":0,"request":null,"type":"x"}`
	require.Empty(t, d.Response("GET", "/v1/events/{id}", []byte(good)))
	for name, flaw := range map[string]string{
		"wrong type":     strings.Replace(good, `"created":1`, `"created":"1"`, 1),
		"missing":        strings.Replace(good, `"livemode":false,`, ``, 1),
		"unknown field":  strings.Replace(good, `{"id"`, `{"made_up":1,"id"`, 1),
		"wrong constant": strings.Replace(good, `"object":"event"`, `"object":"customer"`, 1),
		"null":           strings.Replace(good, `"type":"x"`, `"type":null`, 1),
	} {
		require.NotEmpty(t, d.Response("GET", "/v1/events/{id}", []byte(flaw)), name)
	}
	require.NotEmpty(t, d.Response("GET", "/v1/nothing", []byte(good)))
	require.False(t, d.Parameter("POST", "/v1/customers", "made_up"))
	require.True(t, d.Parameter("POST", "/v1/subscriptions", "items[][price]"))
}
