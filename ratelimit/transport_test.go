package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(r *http.Request, status int, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader("")), Request: r}
}

func client(t testing.TB, cfg ratelimit.TransportConfig) *http.Client {
	t.Helper()
	tr, err := ratelimit.NewTransport(cfg)
	require.NoError(t, err)
	return &http.Client{Transport: tr}
}

func get(ctx context.Context, c *http.Client, url string) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// The client of a server that limits by this package is never refused, however
// many ask at once, and gets through as fast as the limit lets it.
func TestTransportPacesItselfByTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := ratelimit.New(ratelimitmem.New(ratelimitmem.Config{Now: time.Now}), ratelimit.Config{})
		require.NoError(t, err)
		plan := newPlan(t, "p", ratelimit.PerSecond(5))
		var mu sync.Mutex
		refused := 0
		c := client(t, ratelimit.TransportConfig{MaxWait: time.Hour, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Millisecond)
			d, err := l.Allow(r.Context(), "k", plan, 1)
			if err != nil {
				return nil, err
			}
			res := answer(r, 200)
			d.WriteHeaders(res.Header, ratelimit.StandardHeaders)
			if !d.Allowed() {
				mu.Lock()
				refused++
				mu.Unlock()
				res.StatusCode = 429
			}
			return res, nil
		})})
		_, err = get(context.Background(), c, "https://api.example.com/") // the first tells the limit
		require.NoError(t, err)
		start := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				status, err := get(context.Background(), c, "https://api.example.com/")
				if err != nil || status != 200 {
					t.Errorf("%d %v", status, err)
				}
			})
		}
		wg.Wait()
		require.Zero(t, refused)
		require.Less(t, time.Since(start), 20*time.Second)
	})
}

func TestTransportHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		base := roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Body != nil {
				b, err := io.ReadAll(r.Body)
				require.NoError(t, err)
				require.Equal(t, "body", string(b))
			}
			if sent++; sent == 1 {
				return answer(r, 429, "Retry-After", "7"), nil
			}
			return answer(r, 200), nil
		})
		c := client(t, ratelimit.TransportConfig{Base: base, Retries: 1})
		start := time.Now()
		res, err := c.Post("https://a/", "text/plain", strings.NewReader("body"))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, 200, res.StatusCode)
		require.Equal(t, 7*time.Second, time.Since(start))

		// Without Retries the caller sees the refusal, and the next request waits.
		sent = 0
		c = client(t, ratelimit.TransportConfig{Base: base})
		status, err := get(context.Background(), c, "https://a/")
		require.NoError(t, err)
		require.Equal(t, 429, status)
		start = time.Now()
		status, err = get(context.Background(), c, "https://b/")
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Zero(t, time.Since(start), "another host has its own budget")
		_, err = get(context.Background(), c, "https://a/")
		require.NoError(t, err)
		require.Equal(t, 7*time.Second, time.Since(start))

		// A date, a body that can't be had again, a wait that is too long, and a
		// caller who doesn't wait.
		sent = 0
		c = client(t, ratelimit.TransportConfig{Retries: 3, MaxWait: time.Minute, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			sent++
			return answer(r, 503, "Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)), nil
		})})
		res, err = c.Post("https://a/", "text/plain", io.MultiReader(strings.NewReader("body")))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, 503, res.StatusCode)
		require.Equal(t, 1, sent)
		_, err = c.Post("https://a/", "text/plain", strings.NewReader("body"))
		var wait *ratelimit.WaitError
		require.ErrorAs(t, err, &wait)
		require.Equal(t, time.Hour, wait.Wait.Round(time.Minute))
		require.Contains(t, wait.Error(), "MaxWait")
		require.Equal(t, 1, sent)

		sent = 0
		c = client(t, ratelimit.TransportConfig{Base: base})
		_, err = get(context.Background(), c, "https://a/")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = get(ctx, c, "https://a/")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestTransportReadsLegacyFields(t *testing.T) {
	for _, reset := range []string{"9", "epoch"} {
		synctest.Test(t, func(t *testing.T) {
			if reset == "epoch" {
				reset = fmt.Sprint(time.Now().Unix() + 9)
				time.Sleep(20 * 365 * 24 * time.Hour) // the bubble begins in 2000
				reset = fmt.Sprint(time.Now().Unix() + 9)
			}
			c := client(t, ratelimit.TransportConfig{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				return answer(r, 200, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", reset), nil
			})})
			_, err := get(context.Background(), c, "https://a/")
			require.NoError(t, err)
			start := time.Now()
			_, err = get(context.Background(), c, "https://a/")
			require.NoError(t, err)
			require.Equal(t, 9*time.Second, time.Since(start))
		})
	}
}

func TestTransportGivesFlightsBack(t *testing.T) {
	broken := errors.New("broken")
	n := 0
	c := client(t, ratelimit.TransportConfig{
		Key: func(*http.Request) string { return fmt.Sprint(n) },
		Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			if n%2 == 0 {
				return nil, broken
			}
			return answer(r, 200, "RateLimit", `"x";r=0`), nil
		}),
	})
	for n = range 3000 { // more keys than are remembered
		_, err := get(context.Background(), c, "https://a/")
		if n%2 == 0 {
			require.ErrorIs(t, err, broken)
		} else {
			require.NoError(t, err)
		}
	}
	_, err := ratelimit.NewTransport(ratelimit.TransportConfig{Retries: -1})
	require.Error(t, err)
}

func TestParseRateLimit(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []ratelimit.ServerLimit
	}{
		{`"minute";r=3;t=42`, []ratelimit.ServerLimit{{"minute", 3, 42 * time.Second}}},
		{` "a\"b\\" ; r=0 `, nil}, // no space before a parameter's semicolon
		{`"a\"b\\"; r=0;t=1 , 	"c";r=5;pk=:YWI=:;x;y=?1;z="s";d=1.25;k=to/ken;at=@1`, []ratelimit.ServerLimit{{`a"b\`, 0, time.Second}, {"c", 5, -1}}},
		{`"a";r=1;r=2`, []ratelimit.ServerLimit{{"a", 2, -1}}},
		{`"a";t=5`, nil},
		{`"a";r=-1`, nil},
		{`"a";r=999999999999999;t=999999999999999`, []ratelimit.ServerLimit{{"a", 999999999999999, 100 * 365 * 24 * time.Hour}}},
		{`"a";r=9999999999999999`, nil},
		{`token;r=1`, nil},
		{`"a";r=1,`, nil},
		{`"a";r=1 "b"`, nil},
		{`"a";R=1`, nil},
		{`"a`, nil},
		{`"a\x"`, nil},
		{"\"a\x7f\";r=1", nil},
		{`"a";r=`, nil},
		{`"a";r=1.`, nil},
		{`"a";r=?2`, nil},
		{`"a";r=:a`, nil},
		{`"a";r=@1.5`, nil},
		{``, nil},
	} {
		require.Equal(t, c.want, ratelimit.ParseRateLimit([]string{c.in}), "%s", c.in)
	}
}
