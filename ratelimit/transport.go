package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// TransportConfig configures a Transport. The zero value is good.
type TransportConfig struct {
	// Base sends the requests; nil means http.DefaultTransport.
	Base http.RoundTripper
	// MaxWait is how long a request may be held back; one that would take longer
	// fails at once with a *WaitError. 0 means 30 seconds.
	MaxWait time.Duration
	// Retries is how often a request that was answered with 429, or with 503 and
	// Retry-After, is sent again after the wait. Only requests whose body can be
	// had again (no body, or GetBody) are. 0 means none.
	Retries int
	// Key tells budgets apart; nil means by scheme and host. Use it when one
	// client speaks for several accounts.
	Key func(*http.Request) string
}

// Transport is an http.RoundTripper that paces itself by what servers say of
// their limits: RateLimit, X-RateLimit-* and Retry-After. It holds a request
// back while the server would refuse it. It is safe for concurrent use and
// starts no goroutine.
type Transport struct {
	cfg TransportConfig

	mu      sync.Mutex
	budgets map[string]*budget
}

// maxBudgets bounds the servers that are remembered; beyond it, those without
// a wait are forgotten.
const maxBudgets = 1024

// budget is what a server has left for us.
type budget struct {
	flights   int64     // requests under way
	landed    uint64    // requests that have come back
	remaining int64     // known to be left, less those that were sent since
	known     bool      // whether remaining is
	until     time.Time // when there is at least one more
	reset     time.Duration
	hold      time.Time // no request before this
}

// WaitError says that a request would have been held back for too long. It was
// not sent.
type WaitError struct {
	// Wait is how long the server's limits ask for.
	Wait time.Duration
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("ratelimit: the server's limit asks to wait %v, more than TransportConfig.MaxWait", e.Wait.Round(time.Second))
}

// NewTransport returns a Transport.
func NewTransport(cfg TransportConfig) (*Transport, error) {
	if cfg.MaxWait < 0 || cfg.Retries < 0 {
		return nil, errors.New("ratelimit: TransportConfig.MaxWait and Retries can't be negative")
	}
	if cfg.Base == nil {
		cfg.Base = http.DefaultTransport
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = 30 * time.Second
	}
	if cfg.Key == nil {
		cfg.Key = func(r *http.Request) string { return r.URL.Scheme + "://" + r.URL.Host }
	}
	return &Transport{cfg: cfg, budgets: map[string]*budget{}}, nil
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	key := t.cfg.Key(r)
	for attempt := 0; ; attempt++ {
		before, err := t.take(r.Context(), key)
		if err != nil {
			if r.Body != nil {
				_ = r.Body.Close() // a RoundTripper must, and the error says more
			}
			return nil, err
		}
		res, err := t.cfg.Base.RoundTrip(r)
		if err != nil {
			t.land(key, nil, before)
			return nil, err
		}
		t.land(key, res, before)
		again := attempt < t.cfg.Retries && refused(res)
		if !again {
			return res, nil
		}
		next, ok := replay(r)
		if !ok {
			return res, nil
		}
		// Only a drained body gives its connection back.
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
		_ = res.Body.Close()
		r = next
	}
}

func refused(res *http.Response) bool {
	return res.StatusCode == http.StatusTooManyRequests ||
		res.StatusCode == http.StatusServiceUnavailable && res.Header.Get(headerRetryAfter) != ""
}

// replay returns the request with its body from the start.
func replay(r *http.Request) (*http.Request, bool) {
	if r.Body == nil || r.Body == http.NoBody {
		return r, true
	}
	if r.GetBody == nil {
		return nil, false
	}
	body, err := r.GetBody()
	if err != nil {
		return nil, false
	}
	next := r.Clone(r.Context())
	next.Body = body
	return next, true
}

// take waits until the budget has room and takes a unit of it. It returns how
// many requests have landed before.
func (t *Transport) take(ctx context.Context, key string) (before uint64, err error) {
	start := time.Now()
	for {
		before, wait := t.try(key)
		if wait <= 0 {
			return before, nil
		}
		if wait > t.cfg.MaxWait-time.Since(start) {
			return 0, &WaitError{Wait: wait}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, ctx.Err()
		}
	}
}

func (t *Transport) try(key string) (before uint64, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.budgets[key]
	now := time.Now()
	if b == nil {
		if len(t.budgets) >= maxBudgets {
			for k, b := range t.budgets {
				if b.flights == 0 && !now.Before(b.hold) {
					delete(t.budgets, k)
				}
			}
		}
		b = &budget{}
		t.budgets[key] = b
	}
	if wait = b.hold.Sub(now); wait > 0 {
		return 0, wait
	}
	if b.known {
		if !now.Before(b.until) {
			// One more is all that the server has promised; its answer will say
			// how many there are.
			b.remaining = max(b.remaining, 0) + 1
			b.until = now.Add(max(b.reset, time.Second))
		}
		if b.remaining <= 0 {
			return 0, b.until.Sub(now)
		}
		b.remaining--
	}
	b.flights++
	return b.landed, 0
}

// land learns from a response to a request before which so many had landed.
func (t *Transport) land(key string, res *http.Response, before uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.budgets[key]
	b.flights--
	since := int64(b.landed - before)
	b.landed++
	if res == nil {
		return
	}
	now := time.Now()
	if remaining, reset, ok := left(res.Header); ok {
		// The server may have answered before it saw those that were under way
		// at the same time, whether they have landed since or not: answers
		// overtake each other.
		b.known, b.remaining, b.until, b.reset = true, remaining-b.flights-since, now.Add(reset), reset
	}
	if refused(res) {
		if wait, ok := retryAfter(res.Header, now); ok && now.Add(wait).After(b.hold) {
			b.hold = now.Add(wait)
		}
	}
}

// maxSeconds bounds what a server can make a client wait, in its own sums: a
// century.
const maxSeconds = 100 * 365 * 24 * 3600

// retryAfter reads Retry-After in both its forms.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	v := strings.TrimSpace(h.Get(headerRetryAfter))
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		if n < 0 {
			return 0, false
		}
		return time.Duration(min(n, maxSeconds)) * time.Second, true
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0), true
	}
	return 0, false
}

// left returns what the tightest policy has left, and for how long that holds.
func left(h http.Header) (remaining int64, reset time.Duration, ok bool) {
	for _, l := range ParseRateLimit(h.Values(headerRateLimit)) {
		if l.Reset < 0 {
			continue // without t nobody knows until when
		}
		if !ok || l.Remaining < remaining || l.Remaining == remaining && l.Reset > reset {
			remaining, reset, ok = l.Remaining, l.Reset, true
		}
	}
	if ok {
		return remaining, reset, true
	}
	n, err := strconv.ParseInt(h.Get(headerRemaining), 10, 64)
	if err != nil || n < 0 {
		return 0, 0, false
	}
	seconds, err := strconv.ParseInt(h.Get(headerReset), 10, 64)
	if err != nil || seconds < 0 {
		return 0, 0, false
	}
	if seconds > 1_000_000_000 { // an instant, not a delay: no reset is 30 years away
		return n, max(time.Until(time.Unix(min(seconds, 1<<40), 0)), 0), true
	}
	return n, time.Duration(seconds) * time.Second, true
}
