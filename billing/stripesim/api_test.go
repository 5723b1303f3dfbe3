package stripesim

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"SecretKey":         {SecretKey: "pk_test_x"},
		"APIVersion":        {APIVersion: "2020-01-01"},
		"BaseURL":           {BaseURL: "localhost:8000"},
		"Dunning.Final":     {Dunning: Dunning{Final: "shrug"}},
		"Dunning.Retries":   {Dunning: Dunning{Retries: []time.Duration{time.Second}}},
		"Portal.Proration":  {Portal: Portal{Proration: "maybe"}},
		"Endpoint needs":    {Endpoints: []Endpoint{{}}},
		"Endpoint.URL":      {Endpoints: []Endpoint{{URL: "ftp://x"}}},
		"Endpoint.API":      {Endpoints: []Endpoint{{URL: "http://x", APIVersion: "x"}}},
		"Product needs":     {Products: []Product{{}}},
		"exists already":    {Products: []Product{{ID: "a", Name: "A"}, {ID: "a", Name: "B"}}},
		"LookupKey":         {Products: []Product{{Name: "A", Prices: []Price{{LookupKey: "k"}}}, {Name: "B", Prices: []Price{{LookupKey: "k"}}}}},
		"Interval":          {Products: []Product{{Name: "A", Prices: []Price{{Interval: "eon"}}}}},
		"UnitAmountDecimal": {Products: []Product{{Name: "A", Prices: []Price{{UnitAmountDecimal: "1e9"}}}}},
		"Price.Meter":       {Products: []Product{{Name: "A", Prices: []Price{{Meter: "calls"}}}}},
		"Price \"p\"":       {Products: []Product{{Name: "A", Prices: []Price{{ID: "p"}}}, {Name: "B", Prices: []Price{{ID: "p"}}}}},
		"most is 16":        {Dunning: Dunning{Retries: make([]time.Duration, 17)}},
	} {
		_, err := New(cfg)
		require.ErrorIs(t, err, ErrInvalid, name)
		require.Contains(t, err.Error(), name)
	}
	for _, key := range []string{"sk_live_x", "rk_live_x", "pk_live_x"} {
		_, err := New(Config{SecretKey: key})
		require.ErrorIs(t, err, ErrLiveKey)
		require.NotContains(t, err.Error(), key)
	}
}

func TestErrorsLookLikeStripes(t *testing.T) {
	r := newRig(t)
	got := r.do("GET", "/v1/customers/cus_nobody")
	require.Equal(t, http.StatusNotFound, got.status)
	r.post("/v1/customers")
	require.Regexp(t, `^req_\w{14}$`, got.header.Get("Request-Id"))
	e := got.body["error"].(map[string]any)
	require.Equal(t, "invalid_request_error", text(e, "type"))
	require.Equal(t, "resource_missing", text(e, "code"))
	require.Equal(t, "No such customer: 'cus_nobody'", text(e, "message"))
	require.Contains(t, text(e, "doc_url"), "resource-missing")

	for _, c := range []struct {
		status      int
		method      string
		path        string
		field       string
		code, param string
	}{
		{400, "POST", "/v1/subscriptions", "items[0][price]=price_pro", "parameter_missing", "customer"},
		{400, "POST", "/v1/payment_intents", "amount=lots", "parameter_missing", "currency"},
		{400, "GET", "/v1/customers", "limit=0", "parameter_invalid_integer", "limit"},
		{400, "GET", "/v1/customers", "limit=ten", "parameter_invalid_integer", "limit"},
		{400, "GET", "/v1/customers", "starting_after=cus_none", "resource_missing", "starting_after"},
		{400, "POST", "/v1/customers", "email=nobody", "email_invalid", "email"},
		{400, "POST", "/v1/customers", "metadata=x", "", "metadata"},
		{400, "POST", "/v1/customers", "metadata[" + strings.Repeat("k", 41) + "]=x", "", "metadata"},
		{400, "POST", "/v1/customers", "metadata[k]=" + strings.Repeat("v", 501), "", "metadata[k]"},
		{400, "POST", "/v1/customers", "name[first]=Ada", "", "name"},
		{400, "POST", "/v1/customers", "email]=x", "parameter_unknown", "email]"},
		{400, "GET", "/v1/customers", "created[before]=5", "parameter_unknown", "created"},
		{400, "GET", "/v1/customers", "created=soon", "parameter_invalid_integer", "created"},
		{400, "GET", "/v1/prices", "active=yes", "", "active"},
		{400, "GET", "/v1/prices", "type=weekly", "", "type"},
		{400, "GET", "/v1/customers", "expand[0]=data.a.b.c.d.e", "", "expand"},
		{400, "GET", "/v1/customers", "expand[0]=data..a", "", "expand"},
		{501, "GET", "/v1/customers", "expand[0]=data.tax_ids", "stripesim_unsupported", ""},
		{501, "POST", "/v1/customers", "tax_exempt=none", "stripesim_unsupported", ""},
		{501, "POST", "/v1/subscriptions", "items[0][price_data][currency]=usd", "", ""},
		{501, "GET", "/v1/payouts", "", "stripesim_unsupported", ""},
		{501, "PUT", "/v1/customers", "", "stripesim_unsupported", ""},
		{501, "POST", "/v1/prices", "tiers_mode=volume", "", ""},
	} {
		fields := []string{}
		if c.field != "" {
			fields = append(fields, c.field)
		}
		if c.status == 501 && c.method == "POST" {
			fields = append(fields, "customer=x", "currency=usd")
			switch c.path {
			case "/v1/customers":
				fields = fields[:1]
			case "/v1/subscriptions":
				fields = fields[:2]
			default:
				fields = []string{c.field, "currency=usd"}
			}
		}
		e := r.fails(c.status, c.method, c.path, fields...)
		if c.code != "" {
			require.Equal(t, c.code, text(e, "code"), "%v", c)
		}
		require.Equal(t, c.param, text(e, "param"), "%v: %s", c, text(e, "message"))
	}
	e = r.fails(501, "GET", "/v1/payouts")
	require.Contains(t, text(e, "message"), "GET /v1/payouts")
}

func TestRequestsMustBeAuthorized(t *testing.T) {
	r := newRig(t)
	for header, want := range map[string]string{
		"Bearer sk_test_other_key_12345": "sk_test_****2345",
		"Bearer sk_live_real":            "live key",
		"Bearer x":                       "****",
		"Basic Og==":                     "did not provide",
	} {
		e := r.fails(http.StatusUnauthorized, "GET", "/v1/customers", "Authorization: "+header)
		require.Contains(t, text(e, "message"), want)
		require.NotContains(t, text(e, "message"), "real")
	}
	req := httptest.NewRequest(http.MethodGet, "/v1/customers", nil)
	req.SetBasicAuth(DefaultSecretKey, "")
	rec := httptest.NewRecorder()
	r.h.ServeHTTP(rec, req)
	require.Equal(t, http.StatusOK, rec.Code)

	r.fails(http.StatusBadRequest, "GET", "/v1/customers", "Stripe-Version: 1999-12-31")
	r.fails(http.StatusNotImplemented, "GET", "/v1/customers", "Stripe-Account: acct_1")
	r.fails(http.StatusNotImplemented, "POST", "/v1/customers", "Content-Type: application/json", "name=x")
	big := httptest.NewRequest(http.MethodPost, "/v1/customers", strings.NewReader(strings.Repeat("x", maxBody+1)))
	big.Header.Set("Authorization", "Bearer "+DefaultSecretKey)
	rec = httptest.NewRecorder()
	r.h.ServeHTTP(rec, big)
	require.Equal(t, http.StatusRequestEntityTooLarge, rec.Code)
	many := make([]string, 0, maxFormFields+1)
	for i := range maxFormFields + 1 {
		many = append(many, fmt.Sprintf("metadata[k%d]=v", i))
	}
	r.fails(http.StatusBadRequest, "POST", "/v1/customers", many...)
	r.fails(http.StatusBadRequest, "POST", "/v1/customers", many[:51]...)
}

func TestIdempotencyKeys(t *testing.T) {
	r := newRig(t)
	key := "Idempotency-Key: k1"
	first := r.do("POST", "/v1/customers", key, "name=Ada", "metadata[a]=1")
	require.Equal(t, "k1", first.header.Get("Idempotency-Key"))
	require.Empty(t, first.header.Get("Idempotent-Replayed"))
	again := r.do("POST", "/v1/customers", key, "metadata[a]=1", "name=Ada")
	require.Equal(t, "true", again.header.Get("Idempotent-Replayed"))
	require.Equal(t, first.raw, again.raw)
	require.Equal(t, first.header.Get("Request-Id"), again.header.Get("Original-Request"))
	require.NotEqual(t, first.header.Get("Request-Id"), again.header.Get("Request-Id"))
	require.Len(t, r.get("/v1/customers")["data"], 1)

	e := r.fails(400, "POST", "/v1/customers", key, "name=Bob")
	require.Equal(t, "idempotency_error", text(e, "type"))
	e = r.fails(400, "POST", "/v1/products", key, "name=Bob")
	require.Contains(t, text(e, "message"), "/v1/products")
	r.fails(400, "POST", "/v1/customers", "Idempotency-Key: "+strings.Repeat("k", 256))

	r.sim.busy["k2"] = true // its request is under way
	e = r.fails(409, "POST", "/v1/customers", "Idempotency-Key: k2")
	require.Equal(t, "idempotency_key_in_use", text(e, "code"))

	// What ran and failed is replayed; what was refused before it ran is not.
	decline := []string{"Idempotency-Key: k3", "amount=100", "currency=usd", "payment_method=pm_card_chargeDeclined", "confirm=true"}
	r.fails(402, "POST", "/v1/payment_intents", decline...)
	require.Equal(t, "true", r.do("POST", "/v1/payment_intents", decline...).header.Get("Idempotent-Replayed"))
	r.sim.Inject(Fault{Kind: RateLimited})
	require.Equal(t, 429, r.do("POST", "/v1/customers", "Idempotency-Key: k4").status)
	require.Equal(t, 200, r.do("POST", "/v1/customers", "Idempotency-Key: k4").status)

	r.advance(day)
	require.Empty(t, r.do("POST", "/v1/customers", key, "name=Bob").header.Get("Idempotent-Replayed"), "a key is forgotten after a day")
	require.Equal(t, "k1", text(r.get("/v1/events", "type=customer.created"), "data", 0, "request", "idempotency_key"))
}

func TestConcurrentRequestsWithOneKeyHaveOneEffect(t *testing.T) {
	r := newRig(t)
	const n = 32
	done := make(chan int, n)
	for range n {
		go func() {
			req := httptest.NewRequest(http.MethodPost, "/v1/customers", strings.NewReader("name=Ada"))
			req.Header.Set("Authorization", "Bearer "+DefaultSecretKey)
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Idempotency-Key", "one")
			rec := httptest.NewRecorder()
			r.h.ServeHTTP(rec, req)
			done <- rec.Code
		}()
	}
	for range n {
		require.Contains(t, []int{200, 409}, <-done)
	}
	require.Len(t, r.get("/v1/customers")["data"], 1)
}

func TestPages(t *testing.T) {
	r := newRig(t)
	var ids []string
	for i := range 25 {
		ids = append([]string{text(r.post("/v1/customers", fmt.Sprintf("name=n%d", i), "metadata[team]=red"), "id")}, ids...)
	}
	list := func(v map[string]any) (out []string) {
		for _, x := range v["data"].([]any) {
			out = append(out, text(x, "id"))
		}
		return out
	}
	first := r.get("/v1/customers")
	require.Equal(t, ids[:10], list(first))
	require.Equal(t, true, first["has_more"])
	require.Equal(t, "/v1/customers", first["url"])
	next := r.get("/v1/customers", "starting_after="+ids[9], "limit=15")
	require.Equal(t, ids[10:], list(next))
	require.Equal(t, false, next["has_more"])
	back := r.get("/v1/customers", "ending_before="+ids[20], "limit=5")
	require.Equal(t, ids[15:20], list(back))
	require.Equal(t, true, back["has_more"])
	require.Equal(t, false, r.get("/v1/customers", "ending_before="+ids[3])["has_more"])
	r.fails(400, "GET", "/v1/customers", "starting_after="+ids[0], "ending_before="+ids[3])
	r.fails(400, "GET", "/v1/customers", "limit=101")

	found := r.get("/v1/customers/search", "query=metadata['team']:'red' AND -name:'n3'", "limit=20")
	require.Equal(t, "search_result", found["object"])
	require.Len(t, found["data"], 20)
	rest := r.get("/v1/customers/search", "query=metadata['team']:'red' AND -name:'n3'", "limit=20", "page="+text(found, "next_page"))
	require.Len(t, rest["data"], 4)
	require.Nil(t, rest["next_page"])
	for query, n := range map[string]int{
		`name:"n1"`: 1, `name~"n2"`: 6, `name:'n1' OR name:'n2'`: 2, `metadata["team"]:null`: 0, `-metadata["none"]:null`: 0, `email:null`: 25, `name:'n1' name:'n2'`: 0,
	} {
		require.Len(t, r.get("/v1/customers/search", "query="+query, "limit=100")["data"], n, query)
	}
	r.fails(400, "GET", "/v1/customers/search", "query=nonsense")
	r.fails(400, "GET", "/v1/customers/search", "query=name:'a' AND name:'b' OR name:'c'")
	r.fails(501, "GET", "/v1/customers/search", "query=phone:'1'")

	r.advance(time.Hour)
	at := r.sim.Now().Unix()
	late := text(r.post("/v1/customers", "email=late@example.com"), "id")
	require.Equal(t, []string{late}, list(r.get("/v1/customers", fmt.Sprintf("created[gte]=%d", at))))
	require.Equal(t, []string{late}, list(r.get("/v1/customers", fmt.Sprintf("created[gt]=%d", at-1), fmt.Sprintf("created[lte]=%d", at))))
	require.Empty(t, list(r.get("/v1/customers", fmt.Sprintf("created[lt]=%d", start.Unix()))))
	require.Equal(t, []string{late}, list(r.get("/v1/customers", fmt.Sprintf("created=%d", at))))
	require.Equal(t, []string{late}, list(r.get("/v1/customers", "email=late@example.com")))
}

func TestExpand(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro", "expand[0]=latest_invoice.payment_intent.latest_charge.customer", "expand[1]=items.data.price.product")
	require.Equal(t, cus, text(sub, "latest_invoice", "payment_intent", "latest_charge", "customer", "id"))
	require.Equal(t, "Pro", text(sub, "items", "data", 0, "price", "product", "name"))
	require.Equal(t, cus, text(sub, "customer"))
	list := r.get("/v1/subscriptions", "expand[]=data.customer", "expand[]=data.schedule")
	require.Equal(t, "ada@example.com", text(list, "data", 0, "customer", "email"))
	require.Len(t, at(r.get("/v1/customers/"+cus, "expand[0]=subscriptions.data.latest_invoice"), "subscriptions", "data"), 1)
	require.NotContains(t, r.get("/v1/customers/"+cus), "subscriptions")
	e := r.fails(400, "GET", "/v1/subscriptions/"+text(sub, "id"), "expand[0]=status")
	require.Contains(t, text(e, "message"), "cannot be expanded (status)")
	e = r.fails(501, "GET", "/v1/subscriptions/"+text(sub, "id"), "expand[0]=latest_invoice.tomorrow")
	require.Contains(t, text(e, "message"), "latest_invoice.tomorrow")
	// In a later version other fields are there to be expanded.
	newer := r.get("/v1/invoices/"+text(sub, "latest_invoice", "id"), "Stripe-Version: 2025-03-31.basil", "expand[0]=payments.data.payment.payment_intent", "expand[1]=confirmation_secret")
	require.Equal(t, "succeeded", text(newer, "payments", "data", 0, "payment", "payment_intent", "status"))
	require.NotEmpty(t, text(newer, "confirmation_secret", "client_secret"))
	r.fails(501, "GET", "/v1/invoices/"+text(sub, "latest_invoice", "id"), "Stripe-Version: 2025-03-31.basil", "expand[0]=payment_intent")
}

func TestMetadata(t *testing.T) {
	r := newRig(t)
	cus := text(r.post("/v1/customers", "metadata[a]=1", "metadata[b]=2"), "id")
	got := r.post("/v1/customers/"+cus, "metadata[b]=", "metadata[c]=3")
	require.Equal(t, map[string]any{"a": "1", "c": "3"}, got["metadata"])
	require.Equal(t, map[string]any{"a": "1", "c": "3"}, r.post("/v1/customers/"+cus, "name=x")["metadata"])
	require.Empty(t, r.post("/v1/customers/"+cus, "metadata=")["metadata"])
	require.Equal(t, "Ada", text(r.post("/v1/customers/"+cus, "name=Ada"), "name"))
	require.Nil(t, r.post("/v1/customers/"+cus, "name=")["name"], "an empty text unsets")
}

func TestFaultsOfTheAPI(t *testing.T) {
	r := newRig(t)
	for kind, status := range map[FaultKind]int{RateLimited: 429, ServerError: 500, Unavailable: 503} {
		r.sim.Inject(Fault{Kind: kind, Match: "POST /v1/customers", Times: 2})
		require.Equal(t, 200, r.do("GET", "/v1/customers").status, "another endpoint")
		require.Equal(t, status, r.do("POST", "/v1/customers").status)
		require.Equal(t, status, r.do("POST", "/v1/customers").status)
		require.Equal(t, 200, r.do("POST", "/v1/customers").status)
	}
	r.sim.Inject(Fault{Kind: Unavailable, Times: -1})
	require.Equal(t, 503, r.do("GET", "/v1/events").status)
	r.sim.ClearFaults()
	require.Equal(t, 200, r.do("GET", "/v1/events").status)
	require.Len(t, r.get("/v1/customers")["data"], 3, "a refused request has no effect")
	// Without a connection to close the request is aborted.
	r.sim.Inject(Fault{Kind: Reset})
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { r.do("GET", "/v1/events") })
	r.sim.Inject(Fault{Kind: TimeoutAfter, Match: "POST /v1/customers"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := httptest.NewRequestWithContext(ctx, "POST", "/v1/customers", nil)
	req.Header.Set("Authorization", "Bearer "+DefaultSecretKey)
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { r.h.ServeHTTP(httptest.NewRecorder(), req) })
	require.Len(t, r.get("/v1/customers")["data"], 4, "a time-out after the effect has it")
}

func TestClosedSimulatorAnswers503(t *testing.T) {
	r := newRig(t)
	require.NoError(t, r.sim.Close(t.Context()))
	r.fails(503, "GET", "/v1/customers")
	require.Equal(t, 503, r.page("GET", "/c/pay/x").Code)
}

func TestTheClock(t *testing.T) {
	r := newRig(t)
	require.Equal(t, start, r.sim.Now())
	require.ErrorIs(t, r.sim.AdvanceTo(t.Context(), start.Add(-time.Second)), ErrInvalid)
	r.advance(90 * time.Second)
	require.Equal(t, start.Add(90*time.Second), r.sim.Now())

	// A clock that runs catches up with the next request, each at its instant.
	var ahead atomic.Int64 // deliveries ask for the time from a goroutine of their own
	now := func() time.Time { return start.Add(time.Duration(ahead.Load())) }
	run := newRig(t, func(c *Config) {
		c.Start = time.Time{}
		c.Now = now
	})
	cus := run.customer("visa")
	run.subscribe(cus, "price_pro")
	ahead.Store(int64(start.AddDate(0, 3, 0).Sub(start)))
	run.get("/v1/customers")
	entries := run.sim.Ledger(cus)
	require.Len(t, entries, 4)
	require.Equal(t, time.Date(2025, 2, 28, 13, 0, 0, 0, time.UTC), entries[1].At)
	run.advance(31 * day)
	require.Equal(t, now().Add(31*day), run.sim.Now(), "ahead of the clock that it follows")
	require.Len(t, run.sim.Ledger(cus), 5)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, run.sim.Run(ctx), context.Canceled)
}

func TestTestClocksMoveTheirOwnCustomers(t *testing.T) {
	r := newRig(t)
	frozen := start.Unix()
	clock := text(r.post("/v1/test_helpers/test_clocks", "frozen_time="+itoa(int(frozen))), "id")
	on := text(r.post("/v1/customers", "test_clock="+clock), "id")
	r.card(on, "visa")
	off := r.customer("visa")
	sub := r.subscribe(on, "price_pro")
	r.subscribe(off, "price_pro")
	r.post("/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time="+itoa(int(start.AddDate(0, 2, 1).Unix())))
	require.EqualValues(t, 3*999, r.sim.Collected(on)["usd"])
	require.EqualValues(t, 999, r.sim.Collected(off)["usd"])
	require.Equal(t, clock, text(r.sub(text(sub, "id")), "test_clock"))
	r.fails(400, "POST", "/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time="+itoa(int(frozen)))
	r.fails(400, "POST", "/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time="+itoa(int(start.AddDate(5, 0, 0).Unix())))
	r.fails(400, "POST", "/v1/customers", "test_clock=clock_none")
	r.ok("DELETE", "/v1/test_helpers/test_clocks/"+clock)
	require.Equal(t, true, r.get("/v1/customers/" + on)["deleted"])
}

func TestRemovedEndpointsAreGoneInLaterVersions(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro", "items[1][price]=price_units")
	const basil = "Stripe-Version: 2025-03-31.basil"
	r.fails(404, "GET", "/v1/invoices/upcoming", basil, "customer="+cus)
	r.fails(404, "POST", "/v1/subscription_items/"+text(sub, "items", "data", 1, "id")+"/usage_records", basil, "quantity=1")
	e := r.fails(400, "POST", "/v1/subscriptions/"+text(sub, "id"), basil, "coupon=X")
	require.Equal(t, "parameter_unknown", text(e, "code"))
	r.fails(400, "POST", "/v1/prices", basil, "currency=usd", "unit_amount=1", "product=prod_pro", "recurring[interval]=month", "recurring[usage_type]=metered")
}

func FuzzForm(f *testing.F) {
	for _, seed := range []string{"a=b", "items[0][price]=p&items[0][quantity]=2", "expand[]=a&expand[]=b", "a[b]=1&a=2", "a]=", "[=%zz", "metadata[x][y][z]=1&&&=", "a[[b]]=c"} {
		f.Add(seed)
	}
	routes := newRoutes()
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parseForm(text)
		if err != nil {
			return
		}
		for _, rt := range routes[:30] {
			if checkForm(parsed, rt.specs) == nil {
				parsed.strings("expand")
				parsed.merge("metadata", nil)
				parsed.list("items")
			}
		}
		if again := parsed.canonical(""); again != parsed.canonical("") {
			t.Fatal("a form has one canonical text")
		}
	})
}

func FuzzSearch(f *testing.F) {
	f.Add(`metadata['a']:'b' AND -email~"x"`)
	f.Add(`name:null OR name:"\"quoted\""`)
	f.Fuzz(func(t *testing.T, query string) {
		if match, err := parseSearch(query); err == nil {
			match(func(string) (string, bool) { return "x", true })
		}
	})
}
