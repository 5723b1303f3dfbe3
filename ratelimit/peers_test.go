package ratelimit_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
)

// Defects that were measured in other limiters, and that no other test shows.

// One refills whole tokens after a truncated interval: 50,000 a second became
// 20,000.
func TestFastRatesAreGivenInFull(t *testing.T) {
	for _, limit := range []int64{20_000, 50_000, 100_000, 1_000_000} {
		now := noon
		clock := func() time.Time { return now }
		l, err := ratelimit.New(ratelimitmem.New(ratelimitmem.Config{Now: clock}), ratelimit.Config{Now: clock})
		require.NoError(t, err)
		p := newPlan(t, "p", ratelimit.PerSecond(limit))
		const second = 100 // steps
		for s := range 3 {
			admitted := int64(0)
			for range second {
				now = now.Add(time.Second / second)
				for {
					d, err := l.Allow(context.Background(), "k", p, max(limit/1000, 1))
					require.NoError(t, err)
					if !d.Allowed() {
						break
					}
					admitted += d.Cost()
				}
			}
			if s > 0 { // the burst is gone
				require.Equal(t, limit, admitted, "in second %d", s+1)
			}
		}
	}
}

// One waits for the whole window whatever is used, one rounds down, one gives
// a date that isn't HTTP's, and one says nothing.
func TestRetryAfterIsNeitherTooEarlyNorTheWholeWindow(t *testing.T) {
	now := noon
	clock := func() time.Time { return now }
	l, err := ratelimit.New(ratelimitmem.New(ratelimitmem.Config{Now: clock}), ratelimit.Config{Now: clock})
	require.NoError(t, err)
	mw, err := l.Middleware(ratelimit.MiddlewareConfig{Key: byAccount, Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerMinute(7)))})
	require.NoError(t, err)
	h := mw(http.HandlerFunc(ok))
	refused := 0
	for range 300 {
		w := serve(h, "a")
		if w.Code == http.StatusOK {
			require.Empty(t, w.Header().Values("Retry-After"))
			now = now.Add(1100 * time.Millisecond)
			continue
		}
		refused++
		seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
		require.NoError(t, err)
		require.LessOrEqual(t, seconds, 9, "a seventh of a minute, rounded up")
		now = now.Add(time.Duration(seconds) * time.Second)
		require.Equal(t, http.StatusOK, serve(h, "a").Code, "it came back when it was told to")
	}
	require.Positive(t, refused)
}

// One shows a limit of 0 for what is below one a second.
func TestSlowRatesAreWrittenAsTheyAre(t *testing.T) {
	h := wrap(t, ratelimit.MiddlewareConfig{
		Key: byAccount, Headers: ratelimit.StandardHeaders | ratelimit.LegacyDelta,
		Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerHour(1))),
	}, ok)
	w := serve(h, "a")
	require.Equal(t, `"hour";q=1;w=3600`, w.Header().Get("RateLimit-Policy"))
	require.Equal(t, "1", w.Header().Get("X-RateLimit-Limit"))
}

// One sends the caller's address back in a header.
func TestAnswersDoNotNameTheKey(t *testing.T) {
	h := wrap(t, ratelimit.MiddlewareConfig{
		Key: ratelimit.ByIP(), Headers: ratelimit.StandardHeaders | ratelimit.LegacyEpoch,
		Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerHour(1))),
	}, ok)
	for range 2 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = "192.0.2.77:1234"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var answer bytes.Buffer
		require.NoError(t, w.Header().Write(&answer))
		answer.Write(w.Body.Bytes())
		require.NotContains(t, answer.String(), "192.0.2.77")
	}
}

// One calls what a client is told when its store is away a precondition that
// the client has to meet, and one panics.
func TestAnErrorOfTheStoreIsNotTheClientsFault(t *testing.T) {
	l, err := ratelimit.New(brokenStore{}, ratelimit.Config{})
	require.NoError(t, err)
	mw, err := l.Middleware(ratelimit.MiddlewareConfig{Key: byAccount, Plan: ratelimit.StaticPlan(newPlan(t, "p", ratelimit.PerHour(1)))})
	require.NoError(t, err)
	w := serve(mw(http.HandlerFunc(ok)), "a")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.NotContains(t, w.Body.String(), "broken", "nor his to read")
}
