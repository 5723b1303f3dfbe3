package billing_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
)

// client asks the handler, mounted under a prefix, as one account.
type client struct {
	t       *testing.T
	handler http.Handler
	account string
}

func newClient(r *rig, t *testing.T) *client {
	t.Helper()
	h, err := r.svc.Handler(billing.HandlerConfig{
		Account: func(r *http.Request) (string, error) {
			if r.Header.Get("Account") == "" {
				return "", errors.New("nobody")
			}
			return r.Header.Get("Account"), nil
		},
		SuccessURL: "https://app.example/paid?session={CHECKOUT_SESSION_ID}", CancelURL: "https://app.example/plans", ReturnURL: "https://app.example/",
	})
	require.NoError(t, err)
	return &client{t, http.StripPrefix("/api/billing", h), "alice"}
}

func (c *client) do(method, path, body string, change ...func(*http.Request)) (int, http.Header, map[string]any) {
	c.t.Helper()
	r := httptest.NewRequest(method, "/api/billing"+path, strings.NewReader(body))
	r.Header.Set("Account", c.account)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	var answer map[string]any
	if strings.Contains(w.Header().Get("Content-Type"), "json") {
		require.NoError(c.t, json.Unmarshal(w.Body.Bytes(), &answer), "%s", w.Body)
	}
	return w.Code, w.Header(), answer
}

func TestHandlerTakesAnAccountThroughItsSubscription(t *testing.T) {
	r := newRig(t)
	c := newClient(r, t)
	status, _, got := c.do("GET", "/plans", "")
	require.Equal(t, 200, status)
	require.Len(t, got["plans"], 3)
	status, _, got = c.do("GET", "/current", "")
	require.Equal(t, 200, status)
	require.Equal(t, "free", got["plan"].(map[string]any)["id"])
	require.NotContains(t, got, "subscription")

	status, _, got = c.do("POST", "/checkout", `{"plan": "pro", "interval": "month"}`)
	require.Equal(t, 200, status)
	require.NotEmpty(t, got["url"])
	_, err := r.gateway.CompleteCheckout(got["id"].(string))
	require.NoError(t, err)
	r.settle()
	_, _, got = c.do("GET", "/current", "")
	require.Equal(t, "pro", got["plan"].(map[string]any)["id"])
	require.Equal(t, "100/minute", got["plan"].(map[string]any)["limits"].(map[string]any)["requests"])
	require.Equal(t, "active", got["subscription"].(map[string]any)["status"])
	require.Equal(t, true, got["access"].(map[string]any)["paid"])

	status, _, got = c.do("POST", "/preview", `{"plan": "business"}`)
	require.Equal(t, 200, status)
	confirm, err := json.Marshal(got["confirm"])
	require.NoError(t, err)
	status, _, got = c.do("POST", "/change", `{"plan": "business", "confirm": `+string(confirm)+`}`)
	require.Equal(t, 200, status, "%v", got)
	require.Equal(t, "business", got["plan"])
	status, _, got = c.do("POST", "/cancel", `{"reason": "too_expensive"}`)
	require.Equal(t, 200, status)
	require.NotEmpty(t, got["ends_at"])
	status, _, got = c.do("POST", "/resume", "")
	require.Equal(t, 200, status)
	require.NotContains(t, got, "ends_at")
	status, _, got = c.do("GET", "/invoices", "")
	require.Equal(t, 200, status)
	require.Len(t, got["invoices"], 2)
	require.Equal(t, true, got["fresh"])
	status, _, got = c.do("POST", "/portal", "")
	require.Equal(t, 200, status)
	require.Contains(t, got["url"], "https://portal.example/")
}

func TestHandlerSaysWhatIsWrong(t *testing.T) {
	r := newRig(t)
	c := newClient(r, t)
	type change = func(*http.Request)
	for _, test := range []struct {
		name, method, path, body string
		change                   change
		status                   int
		code                     string
	}{
		{"nobody", "GET", "/current", "", func(r *http.Request) { r.Header.Del("Account") }, 401, "unauthenticated"},
		{"another site", "POST", "/portal", "", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403, "cross_origin"},
		{"no JSON", "POST", "/checkout", "plan=pro", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415, "body_unreadable"},
		{"broken JSON", "POST", "/checkout", "{", nil, 400, "body_unreadable"},
		{"two values", "POST", "/checkout", `{"plan":"pro"} {}`, nil, 400, "body_unreadable"},
		{"an unknown field", "POST", "/checkout", `{"plan":"pro","price":1}`, nil, 400, "body_unreadable"},
		{"a large body", "POST", "/checkout", `{"plan":"` + strings.Repeat("x", 20<<10) + `"}`, nil, 413, "body_too_large"},
		{"an unknown plan", "POST", "/checkout", `{"plan":"gold"}`, nil, 422, "unknown_plan"},
		{"seats where there are none", "POST", "/checkout", `{"plan":"pro","seats":3}`, nil, 422, "invalid"},
		{"nothing to change", "POST", "/change", `{"plan":"pro"}`, nil, 409, "no_subscription"},
		{"nothing to cancel", "POST", "/cancel", `{}`, nil, 409, "no_subscription"},
		{"nothing to resume", "POST", "/resume", "", nil, 409, "no_subscription"},
	} {
		t.Run(test.name, func(t *testing.T) {
			changes := []change{}
			if test.change != nil {
				changes = append(changes, test.change)
			}
			status, header, got := c.do(test.method, test.path, test.body, changes...)
			require.Equal(t, test.status, status, "%v", got)
			require.Equal(t, test.code, got["code"])
			require.Equal(t, "application/problem+json", header.Get("Content-Type"))
		})
	}

	r.subscribe("alice", "pro")
	status, _, got := c.do("POST", "/checkout", `{"plan":"business"}`)
	require.Equal(t, []any{409, "subscribed"}, []any{status, got["code"]})
	status, _, got = c.do("POST", "/change", `{"plan":"business","confirm":{"due":{"amount":1,"currency":"USD"},"at":"`+r.clock.Now().Format(time.RFC3339)+`"}}`)
	require.Equal(t, []any{409, "amount_changed"}, []any{status, got["code"]})
	r.gateway.Refuse(&billing.GatewayError{Kind: billing.ErrDeclined, DeclineCode: "insufficient_funds"})
	status, _, got = c.do("POST", "/change", `{"plan":"business"}`)
	require.Equal(t, []any{402, "payment_declined", "insufficient_funds"}, []any{status, got["code"], got["decline_code"]})
	r.gateway.Refuse(&billing.GatewayError{Kind: billing.ErrUnavailable, RetryAfter: 1500 * time.Millisecond})
	status, header, got := c.do("POST", "/cancel", `{"now":true}`)
	require.Equal(t, []any{503, "unavailable", "2"}, []any{status, got["code"], header.Get("Retry-After")})
	status, _, got = c.do("POST", "/change", `{"plan":"business"}`)
	require.Equal(t, []any{409, "conflict"}, []any{status, got["code"]})

	_, err := r.svc.Handler(billing.HandlerConfig{})
	require.ErrorIs(t, err, billing.ErrInvalid)
}
