// Package ratelimittest proves that a store keeps the contract of
// ratelimit.Store. A store's own test is one call:
//
//	func TestStore(t *testing.T) {
//		ratelimittest.TestStore(t, func(t *testing.T) ratelimittest.Harness {
//			return ratelimittest.Harness{Store: mystore.New()}
//		})
//	}
package ratelimittest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/ratelimit"
)

// Harness is a store under test.
type Harness struct {
	// Store is fresh, or is shared and keeps scopes apart: each test takes a
	// scope of its own.
	Store ratelimit.Store
	// SetNow moves the store's clock. nil when the clock can't be moved; then
	// the tests follow it.
	SetNow func(time.Time)
}

// start is where movable clocks begin: a month that is shorter than its
// neighbours lies ahead.
var start = time.Date(2026, time.January, 31, 22, 59, 30, 0, time.UTC)

// TestStore runs the suite. The constructor is called once for each property.
func TestStore(t *testing.T, newHarness func(t *testing.T) Harness) {
	for _, p := range []struct {
		name string
		test func(*testing.T, *harness)
	}{
		{"AnswersAsTheModel", testAnswersAsTheModel},
		{"AdmitsTheLimitAndCountsDownByOne", testCountsDown},
		{"AdmitsTheLimitUnderConcurrency", testConcurrency},
		{"ChargesAllWindowsOrNone", testAllOrNone},
		{"PeekIsFree", testPeek},
		{"PeekIsFreeUnderConcurrency", testPeekConcurrently},
		{"RefundGivesBack", testRefund},
		{"CommitBeyondTheLimitIsOwed", testCommit},
		{"CostOverTheLimitNeverPasses", testCostOverLimit},
		{"KeysAndScopesAreApart", testApart},
		{"PlanChangeKeepsWhatWasUsed", testPlanChange},
		{"PlansOfOtherWindowsKeepTheirOwn", testOtherWindows},
		{"StalePeriodIsNotDecided", testStale},
		{"RetryAfterIsExact", testRetryAfter},
		{"RefusedRequestsCostNothing", testFlood},
		{"BucketKeepsItsBound", testBucketBound},
		{"BorderOfAPeriodResets", testBorder},
		{"RollingNeverExceedsAnyWindow", testRolling},
		{"ClockStepBackIsBounded", testStepBack},
		{"ShadowReportsAndLetsPass", testShadow},
		{"ResetForgetsTheKey", testReset},
		{"ExportAndErase", testExport},
		{"LeasesAreBounded", testLeases},
		{"LeasesRunOut", testLeasesRunOut},
	} {
		t.Run(p.name, func(t *testing.T) {
			h := &harness{T: t, Harness: newHarness(t)}
			if h.SetNow != nil {
				h.at(start)
			}
			p.test(t, h)
		})
	}
}

type harness struct {
	*testing.T
	Harness
	now time.Time
}

func (h *harness) at(t time.Time) {
	h.now = t
	h.SetNow(t)
}

func (h *harness) advance(d time.Duration) { h.at(h.now.Add(d)) }

// movable skips a test that needs to move the clock.
func (h *harness) movable() {
	h.Helper()
	if h.SetNow == nil {
		h.Skip("the store's clock can't be moved: proved on stores where it can")
	}
}

func (h *harness) limiter(cfg ratelimit.Config) *ratelimit.Limiter {
	h.Helper()
	if cfg.Name == "" {
		cfg.Name = "t-" + rand.Text()[:16]
	}
	if cfg.Now == nil && h.SetNow != nil {
		cfg.Now = func() time.Time { return h.now }
	}
	l, err := ratelimit.New(h.Store, cfg)
	require.NoError(h, err)
	return l
}

func plan(t require.TestingT, windows ...ratelimit.Window) *ratelimit.Plan {
	p, err := ratelimit.NewPlan("p", windows...)
	require.NoError(t, err)
	return p
}

func allow(t require.TestingT, l *ratelimit.Limiter, key string, p *ratelimit.Plan, cost int64) *ratelimit.Decision {
	d, err := l.Allow(context.Background(), key, p, cost)
	require.NoError(t, err)
	return &d
}

// testAnswersAsTheModel runs random operations and compares every number of
// every answer with the model's at the time that the store says it was.
func testAnswersAsTheModel(t *testing.T, h *harness) {
	rapid.Check(t, func(t *rapid.T) {
		scope := "m-" + rand.Text()
		plans := []*ratelimit.Plan{
			drawPlan(t, "first"), drawPlan(t, "second"),
		}
		m := newModel()
		keys := []string{"a", "b"}
		past := map[*ratelimit.Plan][]*ratelimit.Spans{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			p := rapid.SampledFrom(plans).Draw(t, "plan")
			key := rapid.SampledFrom(keys).Draw(t, "key")
			if h.SetNow != nil {
				step := rapid.SampledFrom([]time.Duration{0, 0, time.Microsecond, 7 * time.Millisecond, time.Second, 11 * time.Second,
					time.Minute, 25 * time.Hour, 32 * 24 * time.Hour, -time.Second, -time.Hour}).Draw(t, "clock")
				if step < 0 {
					// What is over may be forgotten, and would be back.
					for _, key := range keys {
						if m.over(key, h.now.UnixMicro()) {
							_, err := h.Store.Reset(context.Background(), scope, key)
							require.NoError(t, err)
							m.reset(key)
						}
					}
				}
				h.advance(step)
			}
			if rapid.IntRange(0, 30).Draw(t, "reset") == 0 {
				_, err := h.Store.Reset(context.Background(), scope, key)
				require.NoError(t, err)
				m.reset(key)
				continue
			}
			decider, err := h.Store.Prepare(scope, p)
			require.NoError(t, err)
			op := ratelimit.Op(rapid.IntRange(0, 2).Draw(t, "op"))
			req := ratelimit.Request{Key: key, Cost: rapid.Int64Range(1, 6).Draw(t, "cost")}
			now := time.Now()
			if h.SetNow != nil {
				now = h.now
			}
			anchor := rapid.SampledFrom([]time.Time{{}, start.AddDate(0, 0, -3)}).Draw(t, "anchor")
			req.Spans = ratelimit.SpansAt(p, now, anchor)
			if op == ratelimit.Adjust {
				req.Cost = rapid.SampledFrom([]int64{-9, -2, -1, 1, 4, 100, 1 << 40}).Draw(t, "adjustment")
				if len(past[p]) > 0 && rapid.Bool().Draw(t, "late") {
					req.Spans = rapid.SampledFrom(past[p]).Draw(t, "past")
				}
			}
			past[p] = append(past[p], req.Spans)
			got, used, err := decider.Decide(context.Background(), op, req)
			require.NoError(t, err)
			want, wantUsed := m.decide(p, op, req, got.Now)
			require.Equal(t, want, got, "operation %d, %+v of %s", op, req, p.Bounds())
			require.Equal(t, wantUsed, used, "operation %d, %+v of %s", op, req, p.Bounds())
			if h.SetNow != nil {
				require.Equal(t, h.now.UnixMicro(), got.Now, "the store decides by its own clock")
			}
		}
	})
}

func drawPlan(t *rapid.T, label string) *ratelimit.Plan {
	limit := rapid.Int64Range(0, 12)
	windows := []ratelimit.Window{
		ratelimit.Rate("minute", limit.Draw(t, label+" minute"), time.Minute),
		ratelimit.PerSecond(limit.Draw(t, label+" second")).WithBurst(rapid.Int64Range(1, 20).Draw(t, label+" burst")),
		ratelimit.PerDay(limit.Draw(t, label+" day")),
		ratelimit.Billing(limit.Draw(t, label+" month"), ratelimit.Month),
		ratelimit.Strict("strict", limit.Draw(t, label+" strict"), 10*time.Second),
	}
	windows = rapid.Permutation(windows).Draw(t, label+" windows")[:rapid.IntRange(1, ratelimit.MaxWindows).Draw(t, label+" n")]
	for i := range windows {
		windows[i].Shadow = rapid.IntRange(0, 5).Draw(t, label+" shadow") == 0
		if windows[i].Limit == 0 {
			windows[i].Burst = 0
		}
	}
	return plan(t, windows...)
}

// testCountsDown covers limits at which arithmetic in doubles of seconds loses
// a unit.
func testCountsDown(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	windows := []ratelimit.Window{
		ratelimit.PerSecond(10), ratelimit.PerSecond(30), ratelimit.PerMinute(100), ratelimit.PerMinute(7),
		ratelimit.PerHour(1000), ratelimit.PerDay(100), ratelimit.PerMonth(33), ratelimit.Strict("strict", 50, time.Hour),
	}
	if h.SetNow != nil {
		for n := int64(1); n <= 60; n++ {
			if n != 10 && n != 30 && n != 7 {
				windows = append(windows, ratelimit.PerSecond(n), ratelimit.PerMinute(n))
			}
		}
		windows = append(windows, ratelimit.PerSecond(2000), ratelimit.PerMinute(1000))
	}
	for _, w := range windows {
		key := fmt.Sprintf("%s-%d", w.Name, w.Limit)
		p := plan(t, w)
		first := allow(t, l, key, p, 1)
		for left := w.Limit - 2; left >= 0; left-- {
			d := allow(t, l, key, p, 1)
			require.True(t, d.Allowed(), "%s: refused with %d left", key, left+1)
			// A moving clock gives units back meanwhile.
			given := int64(0)
			if w.Algorithm == ratelimit.Bucket {
				given = int64(d.At().Sub(first.At())/time.Microsecond)/p.Rules()[0].Interval + 1
			}
			if h.SetNow != nil {
				given = 0
			}
			require.GreaterOrEqual(t, d.Window(0).Remaining, left, key)
			require.LessOrEqual(t, d.Window(0).Remaining, left+given, key)
		}
		if h.SetNow != nil || w.Algorithm != ratelimit.Bucket {
			d := allow(t, l, key, p, 1)
			require.False(t, d.Allowed(), "%s: admitted more than its limit", key)
			require.Equal(t, w.Name, d.Violated())
			require.Positive(t, d.RetryAfter())
		}
	}
}

func testConcurrency(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	// A burst that can't refill meanwhile, and a count that is the tighter one.
	p := plan(t, ratelimit.PerHour(1).WithBurst(150), ratelimit.PerMonth(100))
	var admitted, failed atomic.Int64
	seen := make([]atomic.Int64, 100)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 25 {
				d, err := l.Allow(context.Background(), "one", p, 1)
				switch {
				case err != nil:
					failed.Add(1)
				case d.Allowed():
					admitted.Add(1)
					seen[d.Window(1).Remaining].Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, failed.Load())
	require.EqualValues(t, 100, admitted.Load(), "of 400 requests from 16 callers, against a limit of 100")
	for i := range seen {
		require.EqualValues(t, 1, seen[i].Load(), "each request sees a remainder of its own: %d", i)
	}
	d, err := l.Peek(context.Background(), "one", p, 1)
	require.NoError(t, err)
	require.EqualValues(t, 50, d.Window(0).Remaining, "refused requests charged the other window")
}

func testAllOrNone(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	for _, order := range [][]ratelimit.Window{
		{ratelimit.PerMonth(3), ratelimit.PerHour(100)},
		{ratelimit.PerHour(100), ratelimit.PerMonth(3)},
		{ratelimit.Strict("strict", 3, time.Hour), ratelimit.PerHour(100)},
	} {
		p := plan(t, order...)
		key := order[0].Name
		tight, wide := 0, 1
		if order[0].Limit > 3 {
			tight, wide = 1, 0
		}
		for range 3 {
			require.True(t, allow(t, l, key, p, 1).Allowed())
		}
		for range 5 {
			d := allow(t, l, key, p, 1)
			require.False(t, d.Allowed())
			require.Equal(t, order[tight].Name, d.Violated())
			require.EqualValues(t, 97, d.Window(wide).Remaining, "a refused request must charge no window")
			require.True(t, d.Window(tight).Over)
			require.False(t, d.Window(wide).Over)
		}
	}
}

func testPeek(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	p := plan(t, ratelimit.PerHour(10), ratelimit.PerMonth(5), ratelimit.Strict("strict", 8, time.Hour))
	require.True(t, allow(t, l, "k", p, 2).Allowed())
	for range 20 {
		d, err := l.Peek(context.Background(), "k", p, 3)
		require.NoError(t, err)
		require.True(t, d.Allowed())
		require.EqualValues(t, 3, d.Window(1).Remaining)
		d, err = l.Peek(context.Background(), "k", p, 4)
		require.NoError(t, err)
		require.False(t, d.Allowed())
		require.Equal(t, "month", d.Violated())
		d, err = l.Peek(context.Background(), "never seen", p, 5)
		require.NoError(t, err)
		require.True(t, d.Allowed())
		require.EqualValues(t, 5, d.Window(1).Remaining)
	}
}

// testPeekConcurrently looks while others take: a look that loses a race must
// not take when it tries again.
func testPeekConcurrently(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	p := plan(t, ratelimit.PerHour(1).WithBurst(1000), ratelimit.PerMonth(1000))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				for _, f := range []func(context.Context, string, *ratelimit.Plan, int64) (ratelimit.Decision, error){l.Allow, l.Peek, l.Peek} {
					if d, err := f(context.Background(), "k", p, 1); err != nil || !d.Allowed() {
						t.Errorf("refused: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	d, err := l.Peek(context.Background(), "k", p, 1)
	require.NoError(t, err)
	require.EqualValues(t, 1000-8*25, d.Window(1).Remaining, "after 200 requests and 400 looks")
}

func testRefund(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	p := plan(t, ratelimit.PerHour(10), ratelimit.PerMonth(5), ratelimit.Strict("strict", 8, time.Hour))
	before := allow(t, l, "k", p, 1)
	d := allow(t, l, "k", p, 4)
	require.True(t, d.Allowed())
	refused := allow(t, l, "k", p, 1)
	require.False(t, refused.Allowed())
	require.NoError(t, l.Refund(context.Background(), "k", *refused), "nothing to give back is no error")
	require.NoError(t, l.Refund(context.Background(), "k", *d))
	after, err := l.Peek(context.Background(), "k", p, 1)
	require.NoError(t, err)
	for i := range 3 {
		require.Equal(t, before.Window(i).Remaining, after.Window(i).Remaining, before.Window(i).Name)
	}
	// More than was used gives no more than the limit.
	for range 5 {
		require.NoError(t, l.Refund(context.Background(), "k", *d))
	}
	after, err = l.Peek(context.Background(), "k", p, 1)
	require.NoError(t, err)
	for i, limit := range []int64{10, 5, 8} {
		require.Equal(t, limit, after.Window(i).Remaining)
	}
}

func testCommit(t *testing.T, h *harness) {
	ctx := context.Background()
	l := h.limiter(ratelimit.Config{})
	p := plan(t, ratelimit.PerHour(10), ratelimit.PerMonth(20))
	r, err := l.Reserve(ctx, ratelimit.Call{Key: "less", Plan: p, Cost: 8})
	require.NoError(t, err)
	require.True(t, r.Allowed())
	require.NoError(t, r.Commit(ctx, 3))
	require.ErrorIs(t, r.Commit(ctx, 3), ratelimit.ErrInvalid)
	require.NoError(t, r.Cancel(ctx), "after Commit, Cancel does nothing")
	d, err := l.Peek(ctx, "less", p, 1)
	require.NoError(t, err)
	require.EqualValues(t, 7, d.Window(0).Remaining)
	require.EqualValues(t, 17, d.Window(1).Remaining)

	r, err = l.Reserve(ctx, ratelimit.Call{Key: "more", Plan: p, Cost: 8})
	require.NoError(t, err)
	require.NoError(t, r.Commit(ctx, 15))
	d = *allow(t, l, "more", p, 1)
	require.False(t, d.Allowed())
	require.Greater(t, d.RetryAfter(), 29*time.Minute, "5 units are owed, and 1 is asked for: 6 refills of 6 minutes, less what passed")
	require.EqualValues(t, 5, d.Window(1).Remaining)

	r, err = l.Reserve(ctx, ratelimit.Call{Key: "none", Plan: p, Cost: 8})
	require.NoError(t, err)
	require.NoError(t, r.Cancel(ctx))
	d, err = l.Peek(ctx, "none", p, 1)
	require.NoError(t, err)
	require.EqualValues(t, 10, d.Window(0).Remaining)
}

func testCostOverLimit(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	for _, w := range []ratelimit.Window{ratelimit.PerMinute(5), ratelimit.PerDay(5), ratelimit.Strict("strict", 5, time.Minute), ratelimit.PerMinute(0), ratelimit.PerDay(0)} {
		p := plan(t, w)
		key := fmt.Sprint(w.Algorithm, w.Limit)
		d := allow(t, l, key, p, w.Limit+1)
		require.False(t, d.Allowed())
		require.Equal(t, ratelimit.Never, d.RetryAfter())
		d = allow(t, l, key, p, 1<<62)
		require.False(t, d.Allowed(), "a cost near the end of the integers must not wrap around")
		if w.Limit > 0 {
			require.True(t, allow(t, l, key, p, w.Limit).Allowed(), "the whole limit at once fits, and refusals cost nothing")
		}
	}
}

func testApart(t *testing.T, h *harness) {
	p := plan(t, ratelimit.PerMonth(1))
	l1, l2 := h.limiter(ratelimit.Config{}), h.limiter(ratelimit.Config{})
	for _, key := range []string{"a", "b", "a b", "a:b", "{a}", "ä\x00", "%", string(make([]byte, 500))} {
		require.True(t, allow(t, l1, key, p, 1).Allowed(), "%q", key)
		require.True(t, allow(t, l2, key, p, 1).Allowed(), "%q", key)
		require.False(t, allow(t, l1, key, p, 1).Allowed(), "%q", key)
		require.False(t, allow(t, l2, key, p, 1).Allowed(), "%q", key)
	}
}

func testPlanChange(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	free := plan(t, ratelimit.PerHour(10), ratelimit.PerMonth(10))
	pro := plan(t, ratelimit.PerHour(100), ratelimit.PerMonth(1000), ratelimit.PerDay(500))
	require.True(t, allow(t, l, "k", free, 10).Allowed())
	require.False(t, allow(t, l, "k", free, 1).Allowed())
	d := allow(t, l, "k", pro, 1)
	require.False(t, d.Allowed(), "an upgrade keeps the used fraction of a bucket")
	require.LessOrEqual(t, d.RetryAfter(), 36*time.Second, "but refills at once at the new rate")
	require.EqualValues(t, 990, d.Window(1).Remaining, "and keeps the count of the period")
	require.NoError(t, l.Refund(context.Background(), "k", *allow(t, l, "other", pro, 1)))
	_, err := l.Reset(context.Background(), "k")
	require.NoError(t, err)
	require.True(t, allow(t, l, "k", pro, 30).Allowed())
	d = allow(t, l, "k", free, 1)
	require.False(t, d.Allowed(), "a downgrade doesn't reset what was used")
	require.Equal(t, "month", d.Violated())
	require.EqualValues(t, 0, d.Window(1).Remaining)
	require.EqualValues(t, 7, d.Window(0).Remaining, "3 tenths of the bucket were used")
}

func testOtherWindows(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	a := plan(t, ratelimit.PerMonth(5))
	b := plan(t, ratelimit.PerDay(5), ratelimit.Strict("strict", 9, time.Hour))
	c := plan(t, ratelimit.Strict("strict", 9, time.Hour), ratelimit.PerMonth(5), ratelimit.PerHour(3))
	require.True(t, allow(t, l, "k", a, 2).Allowed())
	require.True(t, allow(t, l, "k", b, 4).Allowed())
	d := allow(t, l, "k", c, 1)
	require.True(t, d.Allowed())
	require.EqualValues(t, 4, d.Window(0).Remaining)
	require.EqualValues(t, 2, d.Window(1).Remaining)
	require.EqualValues(t, 2, d.Window(2).Remaining)
	d = allow(t, l, "k", b, 1)
	require.EqualValues(t, 0, d.Window(0).Remaining)
	require.EqualValues(t, 3, d.Window(1).Remaining)
}

func testStale(t *testing.T, h *harness) {
	p := plan(t, ratelimit.PerMonth(5))
	d, err := h.Store.Prepare("stale-"+rand.Text()[:8], p)
	require.NoError(t, err)
	for _, span := range []ratelimit.Span{
		{From: 0, To: 1_000_000},
		{From: time.Now().AddDate(20, 0, 0).UnixMicro(), To: time.Now().AddDate(21, 0, 0).UnixMicro()},
	} {
		out, _, err := d.Decide(context.Background(), ratelimit.Take, ratelimit.Request{Key: "k", Cost: 1, Spans: &ratelimit.Spans{span}})
		require.NoError(t, err)
		require.True(t, out.Stale())
		require.Positive(t, out.Now)
	}
	// An application server with a wrong clock doesn't change the decision.
	for _, wrong := range []time.Duration{-90 * 24 * time.Hour, 90 * 24 * time.Hour} {
		l := h.limiter(ratelimit.Config{Now: func() time.Time { return time.Now().Add(wrong) }})
		p := plan(t, ratelimit.PerMonth(2))
		require.True(t, allow(t, l, "k", p, 2).Allowed())
		d := allow(t, l, "k", p, 1)
		require.False(t, d.Allowed())
		require.LessOrEqual(t, d.RetryAfter(), 31*24*time.Hour)
	}
}

func testRetryAfter(t *testing.T, h *harness) {
	h.movable()
	l := h.limiter(ratelimit.Config{})
	for _, w := range []ratelimit.Window{
		ratelimit.PerMinute(7), ratelimit.PerSecond(3).WithBurst(11), ratelimit.PerDay(4), ratelimit.Strict("strict", 9, time.Minute),
	} {
		p := plan(t, w)
		key := w.Name
		for allow(t, l, key, p, 1).Allowed() {
			h.advance(10 * time.Millisecond)
		}
		for _, cost := range []int64{1, 2, 3} {
			d, err := l.Peek(context.Background(), key, p, cost)
			require.NoError(t, err)
			require.False(t, d.Allowed())
			was := h.now
			h.advance(d.RetryAfter() - time.Microsecond)
			early, err := l.Peek(context.Background(), key, p, cost)
			require.NoError(t, err)
			require.False(t, early.Allowed(), "%s: a microsecond before RetryAfter", key)
			h.advance(time.Microsecond)
			d, err = l.Peek(context.Background(), key, p, cost)
			require.NoError(t, err)
			require.True(t, d.Allowed(), "%s: at RetryAfter", key)
			h.at(was)
		}
	}
}

// testFlood lets a client in again at the time that it was told, however much it
// asked in between; and what doesn't fit as a whole takes nothing.
func testFlood(t *testing.T, h *harness) {
	h.movable()
	l := h.limiter(ratelimit.Config{})
	for _, w := range []ratelimit.Window{
		ratelimit.PerMinute(10), ratelimit.PerDay(10), ratelimit.Strict("strict", 10, time.Minute),
	} {
		p := plan(t, w)
		require.True(t, allow(t, l, w.Name, p, 8).Allowed())
		for range 20 {
			d := allow(t, l, w.Name, p, 3)
			require.False(t, d.Allowed(), "%s: a cost of 3 where 2 are left", w.Name)
			require.EqualValues(t, 2, d.Window(0).Remaining)
		}
		require.True(t, allow(t, l, w.Name, p, 2).Allowed())
		told := allow(t, l, w.Name, p, 1)
		require.False(t, told.Allowed())
		back := h.now.Add(told.RetryAfter())
		for range 100 {
			h.advance((told.RetryAfter() / 101).Truncate(time.Microsecond))
			d := allow(t, l, w.Name, p, 1)
			require.False(t, d.Allowed(), w.Name)
			require.Equal(t, back.Sub(h.now), d.RetryAfter(), "%s: a refused request pushed its return back", w.Name)
		}
		h.at(back)
		require.True(t, allow(t, l, w.Name, p, 1).Allowed(), w.Name)
		h.at(start)
	}
}

// testBucketBound floods buckets at the end of an idle time, when most can get
// through, and looks at every stretch.
func testBucketBound(t *testing.T, h *harness) {
	h.movable()
	l := h.limiter(ratelimit.Config{})
	for _, w := range []ratelimit.Window{ratelimit.PerSecond(100), ratelimit.PerSecond(100).WithBurst(10)} {
		p := plan(t, w)
		w = p.Windows()[0]
		var at []time.Time
		key := fmt.Sprint(w.Burst)
		for range 4 {
			h.advance(900 * time.Millisecond)
			for range 300 {
				h.advance(time.Millisecond)
				for allow(t, l, key, p, 1).Allowed() {
					at = append(at, h.now)
				}
			}
		}
		for i := range at {
			for j := i; j < len(at); j++ {
				// Burst at once, and Limit in each Per.
				most := w.Burst + at[j].Sub(at[i]).Milliseconds()*w.Limit/1000
				require.LessOrEqual(t, int64(j-i+1), most, "within %v", at[j].Sub(at[i]))
			}
		}
		require.Greater(t, int64(len(at)), 3*w.Burst, "the rate is given in full")
	}
}

func testBorder(t *testing.T, h *harness) {
	h.movable()
	ctx := context.Background()
	l := h.limiter(ratelimit.Config{})
	p := plan(t, ratelimit.Billing(3, ratelimit.Month))
	anchor := time.Date(2025, time.October, 31, 23, 0, 0, 0, time.UTC)
	take := func() *ratelimit.Decision {
		d, err := l.Do(ctx, ratelimit.Call{Key: "k", Plan: p, Anchor: anchor})
		require.NoError(t, err)
		return &d
	}
	for _, border := range []time.Time{
		time.Date(2026, time.January, 31, 23, 0, 0, 0, time.UTC),
		time.Date(2026, time.February, 28, 23, 0, 0, 0, time.UTC),
		time.Date(2026, time.March, 31, 23, 0, 0, 0, time.UTC),
		time.Date(2026, time.April, 30, 23, 0, 0, 0, time.UTC),
	} {
		h.at(border.Add(-time.Microsecond))
		var old *ratelimit.Decision
		for range 3 {
			old = take()
			require.True(t, old.Allowed())
		}
		d := take()
		require.False(t, d.Allowed())
		require.Equal(t, time.Microsecond, d.RetryAfter(), "until %v", border)
		h.at(border)
		d = take()
		require.True(t, d.Allowed(), "a period begins at %v", border)
		require.EqualValues(t, 2, d.Window(0).Remaining)
		// What was charged before the border isn't given back after it.
		require.NoError(t, l.Refund(ctx, "k", *old))
		d = take()
		require.EqualValues(t, 1, d.Window(0).Remaining)
		_, err := l.Reset(ctx, "k")
		require.NoError(t, err)
	}
}

// testRolling floods a strict window and looks at every stretch of its length.
func testRolling(t *testing.T, h *harness) {
	h.movable()
	const limit = 20
	l := h.limiter(ratelimit.Config{})
	p := plan(t, ratelimit.Strict("strict", limit, time.Second))
	rapid.Check(t, func(t *rapid.T) {
		key := rand.Text()
		var admitted []int64
		requests := rapid.IntRange(20, 200).Draw(t, "requests")
		for range requests {
			h.advance(time.Duration(rapid.IntRange(0, 60_000).Draw(t, "gap")) * time.Microsecond)
			d := allow(t, l, key, p, 1)
			if d.Allowed() {
				admitted = append(admitted, d.At().UnixMicro())
			}
		}
		for i := range admitted {
			if i >= limit {
				require.GreaterOrEqual(t, admitted[i]-admitted[i-limit], int64(1_000_000), "%d within a window", limit+1)
			}
		}
	})
}

func testStepBack(t *testing.T, h *harness) {
	h.movable()
	l := h.limiter(ratelimit.Config{})
	for _, w := range []ratelimit.Window{
		ratelimit.PerMinute(10), ratelimit.Strict("strict", 10, time.Minute), ratelimit.PerDay(10),
	} {
		p := plan(t, w)
		h.at(start.AddDate(0, 0, 20))
		require.True(t, allow(t, l, "k", p, 10).Allowed())
		h.at(start) // an hour before midnight
		d := allow(t, l, "k", p, 1)
		require.False(t, d.Allowed(), w.Name)
		require.LessOrEqual(t, d.RetryAfter(), 61*time.Minute, "%s: a step of days must not lock a key out for days", w.Name)
		h.advance(d.RetryAfter())
		require.True(t, allow(t, l, "k", p, 1).Allowed(), w.Name)
	}
}

func testShadow(t *testing.T, h *harness) {
	l := h.limiter(ratelimit.Config{})
	p := plan(t, ratelimit.PerHour(100), ratelimit.PerMonth(2).WithShadow())
	for i := range 5 {
		d := allow(t, l, "k", p, 1)
		require.True(t, d.Allowed())
		require.Equal(t, i >= 2, d.WouldDeny())
		require.Empty(t, d.Violated())
		require.EqualValues(t, 99-i, d.Window(0).Remaining)
		require.EqualValues(t, max(1-i, 0), d.Window(1).Remaining)
	}
}

func testReset(t *testing.T, h *harness) {
	ctx := context.Background()
	l := h.limiter(ratelimit.Config{})
	p := plan(t, ratelimit.PerHour(1), ratelimit.PerMonth(1), ratelimit.Strict("strict", 1, time.Hour))
	was, err := l.Reset(ctx, "k")
	require.NoError(t, err)
	require.False(t, was)
	require.True(t, allow(t, l, "k", p, 1).Allowed())
	require.True(t, allow(t, l, "other", p, 1).Allowed())
	require.False(t, allow(t, l, "k", p, 1).Allowed())
	was, err = l.Reset(ctx, "k")
	require.NoError(t, err)
	require.True(t, was)
	require.True(t, allow(t, l, "k", p, 1).Allowed())
	require.False(t, allow(t, l, "other", p, 1).Allowed(), "the reset of another key")
}

func testExport(t *testing.T, h *harness) {
	ctx := context.Background()
	l := h.limiter(ratelimit.Config{})
	p := plan(t, ratelimit.PerHour(10), ratelimit.PerMonth(10), ratelimit.Strict("strict", 10, time.Hour))
	require.True(t, allow(t, l, "acct", p, 3).Allowed())
	require.True(t, allow(t, l, "other", p, 3).Allowed())
	records := 0
	emit := func(record string, fields map[string]any) error {
		records++
		require.Equal(t, "ratelimit_state", record)
		require.NotEmpty(t, fields["window"])
		require.Positive(t, fields["used"])
		return nil
	}
	require.NoError(t, l.ExportSubject(ctx, "acct", emit))
	require.Equal(t, 3, records)
	stop := errors.New("stop")
	require.ErrorIs(t, l.ExportSubject(ctx, "acct", func(string, map[string]any) error { return stop }), stop)
	for want := int64(3); want >= 0; want -= 3 {
		counts, err := l.EraseSubject(ctx, "acct")
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"ratelimit_state": want}, counts)
	}
	records = 0
	require.NoError(t, l.ExportSubject(ctx, "acct", emit))
	require.Zero(t, records)
	require.NoError(t, l.ExportSubject(ctx, "other", emit))
	require.Equal(t, 3, records, "another account keeps its own")
}

func testLeases(t *testing.T, h *harness) {
	if _, ok := h.Store.(ratelimit.LeaseStore); !ok {
		t.Skip("not a ratelimit.LeaseStore")
	}
	ctx := context.Background()
	l := h.limiter(ratelimit.Config{})
	c := ratelimit.Concurrency{Limit: 5, TTL: time.Hour}
	var mu sync.Mutex
	var held []*ratelimit.Lease
	var wg sync.WaitGroup
	errs := make(chan error, 40)
	for range 8 {
		wg.Go(func() {
			for range 5 {
				lease, err := l.Acquire(ctx, "k", c)
				if err != nil {
					errs <- err
					continue
				}
				if lease.Allowed {
					mu.Lock()
					held = append(held, lease)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Len(t, held, 5, "of 40 attempts for 5 places")
	refused, err := l.Acquire(ctx, "k", c)
	require.NoError(t, err)
	require.False(t, refused.Allowed)
	require.EqualValues(t, 5, refused.Held)
	require.Positive(t, refused.RetryAfter)
	require.LessOrEqual(t, refused.RetryAfter, time.Hour)
	ok, err := refused.Renew(ctx)
	require.NoError(t, err)
	require.False(t, ok, "what is not held can't be renewed")
	ok, err = held[0].Renew(ctx)
	require.NoError(t, err)
	require.True(t, ok, "a full house renews")
	require.NoError(t, held[1].Release(ctx))
	require.NoError(t, held[1].Release(ctx), "twice gives one place back")
	again, err := l.Acquire(ctx, "k", c)
	require.NoError(t, err)
	require.True(t, again.Allowed)
	refused, err = l.Acquire(ctx, "k", c)
	require.NoError(t, err)
	require.False(t, refused.Allowed)
	other, err := l.Acquire(ctx, "other", c)
	require.NoError(t, err)
	require.True(t, other.Allowed)
	require.EqualValues(t, 1, other.Held)
}

func testLeasesRunOut(t *testing.T, h *harness) {
	if _, ok := h.Store.(ratelimit.LeaseStore); !ok {
		t.Skip("not a ratelimit.LeaseStore")
	}
	h.movable()
	ctx := context.Background()
	l := h.limiter(ratelimit.Config{})
	c := ratelimit.Concurrency{Limit: 2, TTL: time.Minute}
	a, err := l.Acquire(ctx, "k", c)
	require.NoError(t, err)
	h.advance(30 * time.Second)
	b, err := l.Acquire(ctx, "k", c)
	require.NoError(t, err)
	require.True(t, b.Allowed)
	refused, err := l.Acquire(ctx, "k", c)
	require.NoError(t, err)
	require.False(t, refused.Allowed)
	require.Equal(t, 30*time.Second, refused.RetryAfter)
	h.advance(30 * time.Second)
	third, err := l.Acquire(ctx, "k", c)
	require.NoError(t, err)
	require.True(t, third.Allowed, "a holder that died gives its place back")
	ok, err := a.Renew(ctx)
	require.NoError(t, err)
	require.False(t, ok, "its place has gone to another")
}
