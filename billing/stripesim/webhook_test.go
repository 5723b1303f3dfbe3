package stripesim

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWebhooksAreSigned(t *testing.T) {
	r := newRig(t)
	r.take()
	r.post("/v1/customers", "Idempotency-Key: k9", "email=ada@example.com")
	got := r.take()
	require.Len(t, got, 1)
	require.Equal(t, Sign(testSecret, start, got[0].raw), got[0].signature)
	require.Regexp(t, `^t=1738324800,v1=[0-9a-f]{64}$`, got[0].signature)
	require.NotEqual(t, Sign("other", start, got[0].raw), got[0].signature)
	var ev map[string]any
	require.NoError(t, json.Unmarshal(got[0].raw, &ev))
	require.Equal(t, "k9", text(ev, "request", "idempotency_key"))
	require.Equal(t, "2023-10-16", text(ev, "api_version"))
	require.EqualValues(t, 1, number(ev, "pending_webhooks"))

	wall := start.Add(-time.Hour)
	var signature atomic.Value
	_, err := r.sim.AddEndpoint(Endpoint{
		Secret: "s", SignatureTime: func() time.Time { return wall },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			signature.Store(req.Header.Get("Stripe-Signature"))
			w.Header().Set("X-Test", "1")
			io.WriteString(w, "thanks")
		}),
	})
	require.NoError(t, err)
	r.post("/v1/customers")
	r.take()
	require.Contains(t, signature.Load(), "t=1738321200,")
}

func TestUpdatesSayWhatChanged(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	sub := r.subscribe(cus, "price_pro")
	r.take()
	r.post("/v1/subscriptions/"+text(sub, "id"), "metadata[seat]=1")
	got := r.take()
	require.Len(t, got, 1)
	require.Equal(t, map[string]any{"metadata": map[string]any{}}, got[0].previous)
	r.post("/v1/subscriptions/"+text(sub, "id"), "metadata[seat]=1")
	require.Empty(t, r.take(), "nothing changed, nothing is said")
}

func TestWebhooksAreRetried(t *testing.T) {
	r := newRig(t)
	r.take()
	r.refuse = 3
	r.post("/v1/customers", "email=a@b.c")
	require.Empty(t, r.take())
	failed := r.get("/v1/events", "delivery_success=false")
	require.Len(t, failed["data"], 1)
	require.EqualValues(t, 1, number(failed, "data", 0, "pending_webhooks"))
	r.advance(4 * time.Minute)
	require.Empty(t, r.take())
	r.advance(time.Minute) // the second attempt
	require.Empty(t, r.take())
	r.advance(30 * time.Minute) // the third
	require.Empty(t, r.take())
	r.advance(2 * time.Hour)
	require.Equal(t, []string{"customer.created"}, r.types())
	require.Empty(t, r.get("/v1/events", "delivery_success=false")["data"])

	r.refuse = 1000
	r.post("/v1/customers")
	r.advance(10 * day)
	require.Equal(t, 1000-1-len(webhookWaits), r.refuse, "the attempts are bounded")
	require.Len(t, r.get("/v1/events", "delivery_success=false")["data"], 1)
}

func TestFaultsOfWebhooks(t *testing.T) {
	r := newRig(t)
	r.take()
	names := func(got []received) (out []string) {
		for _, e := range got {
			out = append(out, text(e.object, "name"))
		}
		return out
	}
	r.sim.Inject(Fault{Kind: DuplicateEvent, Match: "customer.*"})
	r.post("/v1/customers", "name=a")
	got := r.take()
	require.Equal(t, []string{"a", "a"}, names(got))
	require.Equal(t, got[0].id, got[1].id)

	r.sim.Inject(Fault{Kind: ReorderEvent})
	r.post("/v1/customers", "name=b")
	r.post("/v1/customers", "name=c")
	require.Equal(t, []string{"c", "b"}, names(r.take()))
	r.sim.Inject(Fault{Kind: ReorderEvent})
	r.post("/v1/customers", "name=d")
	require.Equal(t, []string{"d"}, names(r.take()), "held back no longer than until all is quiet")

	r.sim.Inject(Fault{Kind: DropEvent, Times: 2})
	r.post("/v1/customers", "name=e")
	r.post("/v1/customers", "name=f")
	r.post("/v1/customers", "name=g")
	require.Equal(t, []string{"g"}, names(r.take()))
	require.Len(t, r.get("/v1/events", "delivery_success=false")["data"], 2, "the list still has them")

	r.sim.Inject(Fault{Kind: DelayEvent, Delay: time.Hour})
	r.post("/v1/customers", "name=h")
	r.post("/v1/customers", "name=i")
	require.Equal(t, []string{"i"}, names(r.take()))
	r.advance(time.Hour)
	require.Equal(t, []string{"h"}, names(r.take()))
}

func TestEventsAreListed(t *testing.T) {
	r := newRig(t)
	cus := r.customer("visa")
	r.subscribe(cus, "price_pro")
	list := r.get("/v1/events", "type=invoice.paid")
	require.Len(t, list["data"], 1)
	ev := r.get("/v1/events/" + text(list, "data", 0, "id"))
	require.Equal(t, "invoice.paid", text(ev, "type"))
	require.Len(t, r.get("/v1/events", "types[0]=invoice.*")["data"], 4)
	r.advance(31 * day)
	require.Empty(t, r.get("/v1/events", "type=customer.created")["data"], "Stripe lists thirty days")
	r.fails(404, "GET", "/v1/events/evt_none")
}

func TestEndpointsOverHTTP(t *testing.T) {
	var mode atomic.Int64
	var got atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		got.Add(1)
		w.WriteHeader(int(mode.Load()))
	}))
	defer srv.Close()
	mode.Store(http.StatusNoContent)
	r := newRig(t)
	hook := r.post("/v1/webhook_endpoints", "url="+srv.URL, "enabled_events[0]=customer.created")
	require.Contains(t, text(hook, "secret"), "whsec_")
	require.NotContains(t, r.get("/v1/webhook_endpoints/"+text(hook, "id")), "secret", "shown once")
	r.post("/v1/products", "name=ignored")
	r.post("/v1/customers")
	r.take()
	require.EqualValues(t, 1, got.Load())
	mode.Store(http.StatusFound)
	r.post("/v1/customers")
	r.take()
	require.Len(t, r.get("/v1/events", "delivery_success=false")["data"], 1, "a redirect is no success")
	r.post("/v1/webhook_endpoints/"+text(hook, "id"), "disabled=true", "description=off", "url="+srv.URL+"/x", "enabled_events[0]=*")
	before := got.Load()
	r.post("/v1/customers")
	r.take()
	require.Equal(t, before, got.Load())
	r.ok("DELETE", "/v1/webhook_endpoints/"+text(hook, "id"))
	r.fails(404, "GET", "/v1/webhook_endpoints/"+text(hook, "id"))
	r.fails(400, "POST", "/v1/webhook_endpoints", "url=nowhere", "enabled_events[0]=*")
	r.fails(400, "POST", "/v1/webhook_endpoints", "url=http://x.test", "enabled_events[0]=*", "api_version=1999")

	_, err := r.sim.AddEndpoint(Endpoint{URL: "http://127.0.0.1:1/"})
	require.NoError(t, err)
	r.post("/v1/customers")
	r.take()
	require.NotEmpty(t, r.get("/v1/events", "delivery_success=false")["data"])
}

func TestControl(t *testing.T) {
	r := newRig(t)
	h := r.sim.Control()
	do := func(method, path, body string) (int, map[string]any) {
		req := httptest.NewRequest(method, path, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+DefaultSecretKey)
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		var out map[string]any
		require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &out))
		return rec.Code, out
	}
	cus := r.customer("visa")
	r.subscribe(cus, "price_pro")
	_, out := do("POST", "/clock", `{"advance":"1h"}`)
	require.Equal(t, "2025-01-31T13:00:00Z", out["now"])
	_, out = do("POST", "/clock", `{"to":"2025-03-01T00:00:00Z"}`)
	require.Equal(t, "2025-03-01T00:00:00Z", out["now"])
	_, out = do("GET", "/clock", "")
	require.Equal(t, "2025-03-01T00:00:00Z", out["now"])
	_, out = do("GET", "/ledger?customer="+cus, "")
	require.Len(t, out["entries"], 2)
	for _, bad := range []string{`{}`, `{"advance":"soon"}`, `{"x":1}`, `{"advance":"1h"} {}`} {
		status, out := do("POST", "/clock", bad)
		require.Equal(t, 400, status)
		require.NotEmpty(t, out["error"])
	}
	status, _ := do("POST", "/faults", `{"kind":"503","match":"GET /v1/customers","times":-1}`)
	require.Equal(t, 200, status)
	require.Equal(t, 503, r.do("GET", "/v1/customers").status)
	status, _ = do("DELETE", "/faults", "")
	require.Equal(t, 200, status)
	require.Equal(t, 200, r.do("GET", "/v1/customers").status)
	for _, bad := range []string{`{"kind":"meteor"}`, `{"kind":"delay","delay":"soon"}`, `[]`} {
		status, _ := do("POST", "/faults", bad)
		require.Equal(t, 400, status)
	}
	status, _ = do("POST", "/faults", `{"kind":"delay","delay":"1h"}`)
	require.Equal(t, 200, status)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/clock", nil))
	require.Equal(t, 401, rec.Code)
	require.Contains(t, NewSecret(), "whsec_")
}
