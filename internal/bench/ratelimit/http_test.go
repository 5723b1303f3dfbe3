package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/httprate"
	"github.com/labstack/echo/v4"
	"github.com/sethvargo/go-limiter/httplimit"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	throttledmem "github.com/throttled/throttled/v2/store/memstore"
	"github.com/ulule/limiter/v3"
	ululehttp "github.com/ulule/limiter/v3/drivers/middleware/stdlib"
	ululemem "github.com/ulule/limiter/v3/drivers/store/memory"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
)

func account(r *http.Request) (string, error) {
	v := r.Header["Account"]
	if len(v) == 0 {
		return "", errors.New("no account")
	}
	return v[0], nil
}

func middleware(coarse bool, windows ...ratelimit.Window) func(http.Handler) http.Handler {
	store := ratelimitmem.New(ratelimitmem.Config{CoarseClock: coarse})
	l := must(ratelimit.New(store, ratelimit.Config{}))
	return must(l.Middleware(ratelimit.MiddlewareConfig{
		Key: account, Plan: ratelimit.StaticPlan(must(ratelimit.NewPlan("p", windows...))),
	}))
}

// The same middleware serves every router; echo and gin take it through the
// few lines that the documentation of each has.
func TestRouters(t *testing.T) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	routers := map[string]func(mw func(http.Handler) http.Handler) http.Handler{
		"ServeMux": func(mw func(http.Handler) http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("GET /", mw(hello))
			return mux
		},
		"chi": func(mw func(http.Handler) http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Use(mw)
			r.Get("/", hello)
			return r
		},
		"echo": func(mw func(http.Handler) http.Handler) http.Handler {
			e := echo.New()
			e.Use(echo.WrapMiddleware(mw))
			e.GET("/", func(c echo.Context) error { return c.String(200, "hello") })
			return e
		},
		"gin": func(mw func(http.Handler) http.Handler) http.Handler {
			gin.SetMode(gin.ReleaseMode)
			e := gin.New()
			e.Use(func(c *gin.Context) {
				passed := false
				mw(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					passed = true
					c.Request = r
					c.Next()
				})).ServeHTTP(c.Writer, c.Request)
				if !passed {
					c.Abort()
				}
			})
			e.GET("/", func(c *gin.Context) { c.String(200, "hello") })
			return e
		},
	}
	for name, router := range routers {
		t.Run(name, func(t *testing.T) {
			h := router(middleware(false, ratelimit.PerMinute(1)))
			for _, want := range []int{200, 429} {
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Header.Set("Account", "a")
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != want || w.Header().Get("RateLimit-Policy") != `"minute";q=1;w=60` {
					t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
				}
				if (w.Body.String() == "hello") != (want == 200) {
					t.Fatalf("%q", w.Body)
				}
			}
		})
	}
}

// The fields as a structured-field parser of another hand reads them.
func TestFieldsAreStructuredFields(t *testing.T) {
	for _, windows := range [][]ratelimit.Window{
		{ratelimit.PerMinute(10)},
		{ratelimit.PerSecond(100), ratelimit.PerHour(5).WithBurst(2), ratelimit.PerDay(30), ratelimit.Billing(1<<32-1, ratelimit.Year)},
		{ratelimit.PerMinute(0), ratelimit.Strict("a-b_c.D9", 7, 90*time.Second), ratelimit.PerMonth(3).WithShadow()},
	} {
		l := must(ratelimit.New(ratelimitmem.New(ratelimitmem.Config{}), ratelimit.Config{}))
		plan := must(ratelimit.NewPlan("p", windows...))
		for range 12 {
			d := must(l.Allow(context.Background(), "k", plan, 1))
			h := http.Header{}
			d.WriteHeaders(h, ratelimit.StandardHeaders)
			for field, required := range map[string]string{"RateLimit": "r", "RateLimit-Policy": "q"} {
				list, err := httpsfv.UnmarshalList(h.Values(field))
				if err != nil {
					t.Fatalf("%s: %v: %v", field, h, err)
				}
				i := 0
				for _, w := range windows {
					if w.Shadow {
						continue
					}
					item, ok := list[i].(httpsfv.Item)
					if !ok || item.Value != w.Name {
						t.Fatalf("%s: %v", field, h)
					}
					for _, name := range item.Params.Names() {
						v, _ := item.Params.Get(name)
						if n, ok := v.(int64); !ok || n < 0 || name == "w" && n == 0 {
							t.Fatalf("%s: %s is %v", field, name, v)
						}
					}
					if _, ok := item.Params.Get(required); !ok {
						t.Fatalf("%s lacks %s: %v", field, required, h)
					}
					i++
				}
				if i != len(list) {
					t.Fatalf("%s: %v", field, h)
				}
			}
		}
	}
}

type nowhere struct{ h http.Header }

func (w *nowhere) Header() http.Header         { return w.h }
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (w *nowhere) WriteHeader(int)             {}

func BenchmarkMiddleware(b *testing.B) {
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for _, allowed := range []bool{true, false} {
		limit, burst := int64(minute), int64(1<<32-1)
		if !allowed {
			limit, burst = 1, 1
		}
		n := int(limit)
		glStore := must(memorystore.New(&memorystore.Config{Tokens: uint64(limit) * 1000, Interval: time.Hour}))
		if !allowed {
			glStore = must(memorystore.New(&memorystore.Config{Tokens: 1, Interval: time.Hour}))
		}
		gl := must(httplimit.NewMiddleware(glStore, func(r *http.Request) (string, error) { return r.Header["Account"][0], nil }))
		thr := must(throttled.NewGCRARateLimiterCtx(must(throttledmem.NewCtx(0)), throttled.RateQuota{MaxRate: throttled.PerHour(n), MaxBurst: int(min(burst, 1<<31-1)) - 1}))
		thrHTTP := throttled.HTTPRateLimiterCtx{RateLimiter: thr, VaryBy: &throttled.VaryBy{Headers: []string{"Account"}}}
		ul := ululehttp.NewMiddleware(limiter.New(ululemem.NewStore(), limiter.Rate{Period: time.Hour, Limit: limit * 1000}),
			ululehttp.WithKeyGetter(func(r *http.Request) string { return r.Header["Account"][0] }))
		if !allowed {
			ul = ululehttp.NewMiddleware(limiter.New(ululemem.NewStore(), limiter.Rate{Period: time.Hour, Limit: 1}),
				ululehttp.WithKeyGetter(func(r *http.Request) string { return r.Header["Account"][0] }))
		}
		hrLimit := 1 << 30
		if !allowed {
			hrLimit = 1
		}
		hr := httprate.LimitBy(hrLimit, time.Hour, func(r *http.Request) (string, error) { return r.Header["Account"][0], nil })
		w1 := []ratelimit.Window{ratelimit.PerHour(limit).WithBurst(burst), ratelimit.PerMonth(max(limit*1000, 1))}

		keys := names(10_000)
		requests := make([]*http.Request, len(keys))
		for i, k := range keys {
			requests[i] = httptest.NewRequest(http.MethodGet, "/", nil)
			requests[i].Header["Account"] = []string{k}
			requests[i].Header["User-Agent"] = []string{"bench"}
		}
		run := func(h http.Handler) func(n int) {
			w := &nowhere{h: http.Header{}}
			i := 0
			return func(n int) {
				for range n {
					clear(w.h)
					h.ServeHTTP(w, requests[i])
					if i += 7919; i >= len(requests) {
						i -= len(requests)
					}
				}
			}
		}
		contenders := []*contender{
			{name: "ours, 2 windows, standard fields, coarse", run: run(middleware(true, w1...)(nothing))},
			{name: "ours, 2 windows, standard fields, precise", run: run(middleware(false, w1...)(nothing))},
			{name: "throttled", run: run(thrHTTP.RateLimit(nothing))},
			{name: "go-limiter httplimit", run: run(gl.Handle(nothing))},
			{name: "httprate.LimitBy", run: run(hr(nothing))},
			{name: "ulule stdlib", run: run(ul.Handler(nothing))},
			{name: "floor: the bare handler", run: run(nothing)},
		}
		for _, c := range contenders {
			c.run(2 * len(keys))
		}
		takeTurns(40, 10_000, contenders)
		table(b, fmt.Sprintf("middleware, 10,000 keys, allowed: %t", allowed), "ns", 1, contenders)
		for _, c := range contenders {
			fmt.Printf("%-44s %10.1f allocations\n", c.name, testing.AllocsPerRun(2000, func() { c.run(1) }))
		}
	}
}
