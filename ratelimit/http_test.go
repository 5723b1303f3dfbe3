package ratelimit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
)

var noon = time.Date(2026, time.March, 10, 12, 0, 0, 0, time.UTC)

func newLimiter(t testing.TB, cfg ratelimit.Config) *ratelimit.Limiter {
	t.Helper()
	clock := func() time.Time { return noon }
	cfg.Now = clock
	l, err := ratelimit.New(ratelimitmem.New(ratelimitmem.Config{Now: clock}), cfg)
	require.NoError(t, err)
	return l
}

func newPlan(t testing.TB, name string, windows ...ratelimit.Window) *ratelimit.Plan {
	t.Helper()
	p, err := ratelimit.NewPlan(name, windows...)
	require.NoError(t, err)
	return p
}

func byAccount(r *http.Request) (string, error) { return r.Header.Get("Account"), nil }

func wrap(t testing.TB, cfg ratelimit.MiddlewareConfig, next http.HandlerFunc) http.Handler {
	t.Helper()
	mw, err := newLimiter(t, ratelimit.Config{}).Middleware(cfg)
	require.NoError(t, err)
	return mw(next)
}

func serve(h http.Handler, account string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Account", account)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }

func TestMiddlewareWritesTheFields(t *testing.T) {
	h := wrap(t, ratelimit.MiddlewareConfig{
		Key:  byAccount,
		Plan: ratelimit.StaticPlan(newPlan(t, "free", ratelimit.PerMinute(7), ratelimit.PerDay(3), ratelimit.PerHour(1).WithShadow())),
	}, ok)
	w := serve(h, "a")
	require.Equal(t, 200, w.Code)
	require.Equal(t, `"minute";q=7;w=60, "day";q=3;w=86400`, w.Header().Get("RateLimit-Policy"))
	require.Equal(t, `"minute";r=6;t=9, "day";r=2;t=43200`, w.Header().Get("RateLimit"))
	require.Empty(t, w.Header().Get("Retry-After"))
	serve(h, "a")
	serve(h, "a")
	w = serve(h, "a")
	require.Equal(t, 429, w.Code)
	require.Equal(t, `"minute";r=4;t=9, "day";r=0;t=43200`, w.Header().Get("RateLimit"))
	require.Equal(t, "43200", w.Header().Get("Retry-After"))
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.JSONEq(t, `{
		"type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
		"title": "Too Many Requests", "status": 429, "code": "rate_limited",
		"violated-policies": ["day"], "plan": "free",
		"detail": "Plan \"free\" allows 3 per day, and they are used."
	}`, w.Body.String())
	require.Equal(t, 200, serve(h, "b").Code)
}

func TestMiddlewareNamesThePlanThatHelps(t *testing.T) {
	h := wrap(t, ratelimit.MiddlewareConfig{
		Key:  byAccount,
		Plan: ratelimit.StaticPlan(newPlan(t, "free", ratelimit.PerMinute(1))),
		Upgrade: func(_ *http.Request, d *ratelimit.Decision) ratelimit.Upgrade {
			require.Equal(t, "minute", d.Violated())
			return ratelimit.Upgrade{Plan: `p"ro`, URL: "https://example.com/plans?a=1&b=2"}
		},
	}, ok)
	serve(h, "a")
	w := serve(h, "a")
	require.Equal(t, 429, w.Code)
	var body struct {
		Detail  string
		Upgrade struct{ Plan, URL string }
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
	require.Equal(t, `p"ro`, body.Upgrade.Plan)
	require.Equal(t, "https://example.com/plans?a=1&b=2", body.Upgrade.URL)
	require.Contains(t, body.Detail, `Plan "p\"ro" would help.`)
}

func TestMiddlewareLegacyFields(t *testing.T) {
	for _, c := range []struct {
		headers ratelimit.Headers
		reset   string
	}{{ratelimit.LegacyDelta, "20"}, {ratelimit.LegacyEpoch | ratelimit.StandardHeaders, fmt.Sprint(noon.Unix() + 20)}, {ratelimit.NoHeaders, ""}} {
		h := wrap(t, ratelimit.MiddlewareConfig{
			Key: byAccount, Headers: c.headers,
			Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerDay(100), ratelimit.PerMinute(3))),
		}, ok)
		w := serve(h, "a")
		require.Equal(t, c.reset, w.Header().Get("X-RateLimit-Reset"))
		require.Equal(t, c.headers&ratelimit.StandardHeaders != 0, w.Header().Get("RateLimit") != "")
		if c.reset != "" {
			require.Equal(t, "3", w.Header().Get("X-RateLimit-Limit"))
			require.Equal(t, "2", w.Header().Get("X-RateLimit-Remaining"))
		}
	}
}

func TestRetryAfterIsRoundedUp(t *testing.T) {
	h := wrap(t, ratelimit.MiddlewareConfig{
		Key: byAccount, Headers: ratelimit.NoHeaders,
		Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerSecond(100).WithBurst(1))),
	}, ok)
	serve(h, "a")
	require.Equal(t, "1", serve(h, "a").Header().Get("Retry-After"), "10 ms is not 0 s")
}

func TestShadowLetsPass(t *testing.T) {
	refused := 0
	h := wrap(t, ratelimit.MiddlewareConfig{
		Key: byAccount, Shadow: true,
		Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerMinute(1))),
		OnDecision: func(_ *http.Request, key string, d *ratelimit.Decision) {
			require.Equal(t, "a", key)
			if !d.Allowed() {
				refused++
			}
		},
	}, ok)
	for range 3 {
		w := serve(h, "a")
		require.Equal(t, 200, w.Code)
		require.Empty(t, w.Header().Get("Retry-After"))
	}
	require.Equal(t, 2, refused)
}

func TestWhoIsNotIdentifiedIsAnswered401(t *testing.T) {
	h := wrap(t, ratelimit.MiddlewareConfig{
		Key:  byAccount,
		Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerMinute(1))),
		Skip: func(r *http.Request) bool { return r.Header.Get("Account") == "health" },
	}, ok)
	w := serve(h, "")
	require.Equal(t, 401, w.Code)
	require.Contains(t, w.Body.String(), `"code":"unidentified"`)
	for range 3 {
		require.Equal(t, 200, serve(h, "health").Code)
	}
}

type brokenStore struct{ ratelimit.Store }

func (brokenStore) Prepare(string, *ratelimit.Plan) (ratelimit.Decider, error) {
	return nil, errors.New("broken")
}

func TestUndecidedIsAnswered503UnlessOpen(t *testing.T) {
	for _, open := range []bool{false, true} {
		l, err := ratelimit.New(brokenStore{}, ratelimit.Config{})
		require.NoError(t, err)
		heard := 0
		mw, err := l.Middleware(ratelimit.MiddlewareConfig{
			Key: byAccount, FailOpen: open,
			Plan:    ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerMinute(1))),
			OnError: func(_ *http.Request, err error) { heard++; require.ErrorContains(t, err, "broken") },
		})
		require.NoError(t, err)
		w := serve(mw(http.HandlerFunc(ok)), "a")
		require.Equal(t, 1, heard)
		if open {
			require.Equal(t, 200, w.Code)
			continue
		}
		require.Equal(t, 503, w.Code)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
	}
}

func TestFailuresAreRefunded(t *testing.T) {
	status := 500
	h := wrap(t, ratelimit.MiddlewareConfig{
		Key:          byAccount,
		Plan:         ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerDay(2))),
		RefundStatus: func(status int) bool { return status >= 500 },
	}, func(w http.ResponseWriter, _ *http.Request) {
		switch status {
		case 0:
			panic(http.ErrAbortHandler)
		case 200:
		default:
			w.WriteHeader(status)
		}
	})
	for range 4 {
		require.Equal(t, 500, serve(h, "a").Code)
	}
	status = 0
	for range 4 {
		require.Panics(t, func() { serve(h, "a") })
	}
	status = 200
	require.Equal(t, 200, serve(h, "a").Code)
	require.Equal(t, 200, serve(h, "a").Code)
	require.Equal(t, 429, serve(h, "a").Code)
}

func TestRefundingLeavesStreamingAlone(t *testing.T) {
	h := wrap(t, ratelimit.MiddlewareConfig{
		Key:          byAccount,
		Plan:         ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerDay(1))),
		RefundStatus: func(status int) bool { return status != http.StatusOK },
	}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints) // informational: not the answer
		_, _ = w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	})
	w := serve(h, "a")
	require.True(t, w.Flushed)
	require.Equal(t, "part", w.Body.String())
	require.Equal(t, 429, serve(h, "a").Code, "200 is not refunded")
}

type limits map[string]int64

func (l limits) Limit(_ context.Context, account, name string) (int64, time.Duration, error) {
	n, ok := l[account+"/"+name]
	if !ok {
		return 0, 0, errors.New("no such limit")
	}
	return n, time.Minute, nil
}

func TestPlansFromLimits(t *testing.T) {
	catalogue := limits{
		"free/requests": 2, "free/writes": 1,
		"big/requests": -1, "big/writes": -1,
		"half/requests": 3, "half/writes": -1,
		"none/requests": 0, "none/writes": 5,
	}
	plans, err := ratelimit.PlansFrom(catalogue, "requests", "writes")
	require.NoError(t, err)
	h := wrap(t, ratelimit.MiddlewareConfig{Key: byAccount, Plan: plans}, ok)
	require.Equal(t, `"requests";q=2;w=60, "writes";q=1;w=60`, serve(h, "free").Header().Get("RateLimit-Policy"))
	require.Equal(t, 429, serve(h, "free").Code)
	catalogue["free/writes"], catalogue["free/requests"] = 30, 60 // an upgrade applies at once
	w := serve(h, "free")
	require.Equal(t, 429, w.Code, "a bucket that was used up refills at the new rate")
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	for range 20 {
		require.Equal(t, 200, serve(h, "big").Code)
	}
	require.Equal(t, `"requests";q=3;w=60`, serve(h, "half").Header().Get("RateLimit-Policy"))
	w = serve(h, "none")
	require.Equal(t, 429, w.Code)
	require.Empty(t, w.Header().Get("Retry-After"), "it will never be allowed")
	require.Equal(t, 503, serve(h, "unknown").Code)

	r := httptest.NewRequest(http.MethodGet, "/", nil)
	first, err := plans(r, "half")
	require.NoError(t, err)
	second, err := plans(r, "half")
	require.NoError(t, err)
	require.Same(t, first, second, "a plan is made once")

	_, err = ratelimit.PlansFrom(catalogue, "a", "a")
	require.ErrorContains(t, err, "two windows")
	_, err = ratelimit.PlansFrom(nil, "a")
	require.Error(t, err)
	_, err = ratelimit.PlansFrom(catalogue)
	require.Error(t, err)
}

func TestByIP(t *testing.T) {
	proxy := netip.MustParsePrefix("10.0.0.0/8")
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:1234", "", "192.0.2.1"},
		{"192.0.2.1:1234", "203.0.113.9", "192.0.2.1"},                      // not from a proxy: a lie
		{"10.0.0.1:1", "198.51.100.7, 203.0.113.9", "203.0.113.9"},          // the right-most is the proxy's word
		{"10.0.0.1:1", "203.0.113.9, 10.1.1.1", "203.0.113.9"},              // through two proxies
		{"[2001:db8:1:2:3:4:5:6]:443", "", "2001:db8:1:2::/64"},             // one customer
		{"[2001:db8:1:2:ffff::1]:443", "", "2001:db8:1:2::/64"},             // the same
		{"10.0.0.1:1", "2001:db8:9::1", "2001:db8:9::/64"},                  // behind a proxy
		{"[::ffff:192.0.2.1]:443", "", "192.0.2.1"},                         // mapped
		{"10.0.0.1:1", "203.0.113.9, not an address, 10.2.2.2", "10.2.2.2"}, // the walk ends
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		key, err := ratelimit.ByIP(proxy)(r)
		require.NoError(t, err)
		require.Equal(t, c.want, key, "%+v", c)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "@"
	_, err := ratelimit.ByIP()(r)
	require.ErrorContains(t, err, "name the proxy")
}

func TestByHeaderDoesNotKeepTheSecret(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	_, err := ratelimit.ByHeader("x-api-key")(r)
	require.Error(t, err)
	r.Header.Set("X-API-Key", "secret")
	key, err := ratelimit.ByHeader("x-api-key")(r)
	require.NoError(t, err)
	require.NotContains(t, key, "secret")
	require.Len(t, key, 22)
}

func TestMiddlewareConfigIsChecked(t *testing.T) {
	l := newLimiter(t, ratelimit.Config{})
	plan := ratelimit.StaticPlan(newPlan(t, "p"))
	for _, c := range []struct {
		cfg  ratelimit.MiddlewareConfig
		want string
	}{
		{ratelimit.MiddlewareConfig{Plan: plan}, "Key is missing"},
		{ratelimit.MiddlewareConfig{Key: byAccount}, "Plan is missing"},
		{ratelimit.MiddlewareConfig{Key: byAccount, Plan: plan, Headers: 64}, "unknown bit"},
		{ratelimit.MiddlewareConfig{Key: byAccount, Plan: plan, Headers: ratelimit.LegacyDelta | ratelimit.LegacyEpoch}, "can't have both"},
	} {
		_, err := l.Middleware(c.cfg)
		require.ErrorContains(t, err, c.want)
	}
	_, err := ratelimit.New(nil, ratelimit.Config{})
	require.ErrorContains(t, err, "ratelimitmem")
	_, err = ratelimit.New(ratelimitmem.New(ratelimitmem.Config{}), ratelimit.Config{Name: "a b"})
	require.ErrorContains(t, err, "Config.Name")
	_, err = ratelimit.New(ratelimitmem.New(ratelimitmem.Config{}), ratelimit.Config{NearPercent: 100})
	require.ErrorContains(t, err, "Config.NearPercent")
}

func TestAnUnlimitedPlanAsksNoStore(t *testing.T) {
	l, err := ratelimit.New(brokenStore{}, ratelimit.Config{})
	require.NoError(t, err)
	d, err := l.Allow(context.Background(), "k", newPlan(t, "enterprise"), 1_000_000)
	require.NoError(t, err)
	require.True(t, d.Allowed())
	require.Equal(t, ratelimit.FromPlan, d.Source())
	require.NoError(t, l.Refund(context.Background(), "k", d))
	_, some := d.Nearest()
	require.False(t, some)
}

func TestOverride(t *testing.T) {
	vip := newPlan(t, "vip", ratelimit.PerMinute(100))
	l := newLimiter(t, ratelimit.Config{Override: func(key string, _ *ratelimit.Plan) *ratelimit.Plan {
		if key == "vip" {
			return vip
		}
		return nil
	}})
	free := newPlan(t, "free", ratelimit.PerMinute(1))
	d, err := l.Allow(context.Background(), "vip", free, 50)
	require.NoError(t, err)
	require.True(t, d.Allowed())
	require.Equal(t, "vip", d.Plan().Name())
	d, err = l.Allow(context.Background(), "other", free, 50)
	require.NoError(t, err)
	require.False(t, d.Allowed())
}

func TestEventsAreHeardOnceAPeriod(t *testing.T) {
	var heard []string
	ids := map[string]bool{}
	l := newLimiter(t, ratelimit.Config{OnEvent: func(_ context.Context, e ratelimit.Event) {
		heard = append(heard, fmt.Sprintf("%s %s %d/%d", e.Kind, e.Window, e.Used, e.Limit))
		require.False(t, ids[e.ID], e.ID)
		ids[e.ID] = true
	}})
	plan := newPlan(t, "free", ratelimit.PerMinute(1000), ratelimit.PerMonth(10))
	for range 15 {
		_, err := l.Allow(context.Background(), "a", plan, 1)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"near_limit month 8/10", "limit_reached month 10/10"}, heard)
	heard = nil
	for range 5 { // 9 of 10, then refused with a remainder
		_, err := l.Allow(context.Background(), "b", plan, 3)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"near_limit month 9/10", "limit_reached month 9/10"}, heard)
	require.NoError(t, l.ExportSubject(context.Background(), "b", func(string, map[string]any) error { return nil }))
	_, err := l.EraseSubject(context.Background(), "b")
	require.NoError(t, err)
}

func TestInvalidCalls(t *testing.T) {
	ctx := context.Background()
	l := newLimiter(t, ratelimit.Config{})
	plan := newPlan(t, "p", ratelimit.PerMinute(1))
	for _, c := range []ratelimit.Call{{Plan: plan}, {Key: "k"}, {Key: "k", Plan: plan, Cost: -1}} {
		_, err := l.Do(ctx, c)
		require.ErrorIs(t, err, ratelimit.ErrInvalid)
	}
	_, err := l.Reserve(ctx, ratelimit.Call{Key: "k", Plan: plan, Peek: true})
	require.ErrorIs(t, err, ratelimit.ErrInvalid)
	_, err = l.Reset(ctx, "")
	require.ErrorIs(t, err, ratelimit.ErrInvalid)
	_, err = l.EraseSubject(ctx, "")
	require.ErrorIs(t, err, ratelimit.ErrInvalid)
	require.ErrorIs(t, l.ExportSubject(ctx, "", nil), ratelimit.ErrInvalid)
	_, err = l.Acquire(ctx, "k", ratelimit.Concurrency{})
	require.ErrorIs(t, err, ratelimit.ErrInvalid)
	none, err := ratelimit.New(brokenStore{}, ratelimit.Config{})
	require.NoError(t, err)
	_, err = none.Acquire(ctx, "k", ratelimit.Concurrency{Limit: 1})
	require.ErrorIs(t, err, ratelimit.ErrUnsupported)
}

func TestMiddlewareAllocations(t *testing.T) {
	allowed := wrap(t, ratelimit.MiddlewareConfig{
		Key:  func(*http.Request) (string, error) { return "a", nil },
		Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerMinute(1_000_000), ratelimit.PerMonth(1_000_000))),
	}, func(http.ResponseWriter, *http.Request) {})
	denied := wrap(t, ratelimit.MiddlewareConfig{
		Key:  func(*http.Request) (string, error) { return "a", nil },
		Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerMinute(0), ratelimit.PerMonth(0))),
	}, ok)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	w := &discard{h: http.Header{}}
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { allowed.ServeHTTP(w, r) }), 1.0)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { denied.ServeHTTP(w, r) }), 2.0)
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

func ExampleLimiter_Middleware() {
	limiter, err := ratelimit.New(ratelimitmem.New(ratelimitmem.Config{}), ratelimit.Config{Name: "api"})
	if err != nil {
		panic(err)
	}
	free, err := ratelimit.NewPlan("free", ratelimit.PerMinute(1))
	if err != nil {
		panic(err)
	}
	limit, err := limiter.Middleware(ratelimit.MiddlewareConfig{
		Key:  ratelimit.ByIP(),
		Plan: ratelimit.StaticPlan(free),
		Upgrade: func(*http.Request, *ratelimit.Decision) ratelimit.Upgrade {
			return ratelimit.Upgrade{Plan: "pro"}
		},
	})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/things", limit(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "things")
	})))
	for range 2 {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/things", nil))
		fmt.Println(w.Code, w.Header().Get("RateLimit-Policy"))
		fmt.Print(strings.ReplaceAll(w.Body.String(), ",\"", ",\n \""))
	}
	// Output:
	// 200 "minute";q=1;w=60
	// things
	// 429 "minute";q=1;w=60
	// {"type":"https://iana.org/assignments/http-problem-types#quota-exceeded",
	//  "title":"Too Many Requests",
	//  "status":429,
	//  "code":"rate_limited",
	//  "violated-policies":["minute"],
	//  "plan":"free",
	//  "upgrade":{"plan":"pro"},
	//  "detail":"Plan \"free\" allows 1 per minute, and they are used. Plan \"pro\" would help."}
}
