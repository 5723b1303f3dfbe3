package ratelimit

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	golimiter "github.com/sethvargo/go-limiter"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	throttledmem "github.com/throttled/throttled/v2/store/memstore"
	"github.com/ulule/limiter/v3"
	ululemem "github.com/ulule/limiter/v3/drivers/store/memory"
	"golang.org/x/time/rate"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
)

// Limits so high that nothing is refused: every contender does its whole work.
const (
	minute = 600_000
	month  = 2_000_000_000
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func names(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("acct_%010d", i)
	}
	return names
}

// spread calls f with n keys, in an order that caches can't foresee.
func spread(keys []string) func(f func(key string)) func(n int) {
	return func(f func(string)) func(int) {
		i := 0
		return func(n int) {
			for range n {
				f(keys[i])
				if i += 7919; i >= len(keys) {
					i %= len(keys)
				}
			}
		}
	}
}

func ours(coarse bool, windows ...ratelimit.Window) (*ratelimitmem.Store, func(string)) {
	store := ratelimitmem.New(ratelimitmem.Config{CoarseClock: coarse})
	l := must(ratelimit.New(store, ratelimit.Config{}))
	plan := must(ratelimit.NewPlan("p", windows...))
	ctx := context.Background()
	return store, func(key string) {
		d, err := l.Allow(ctx, key, plan, 1)
		if err != nil || !d.Allowed {
			panic(fmt.Sprint("refused: ", err))
		}
	}
}

// goLimiter is made with a token each microsecond or slower: this release
// divides the interval by the tokens without a remainder.
func goLimiter(tokens uint64, per time.Duration) func(string) {
	store := must(memorystore.New(&memorystore.Config{Tokens: tokens, Interval: per}))
	return takeFrom(store)
}

func takeFrom(store golimiter.Store) func(string) {
	ctx := context.Background()
	return func(key string) {
		if _, _, _, ok, err := store.Take(ctx, key); err != nil || !ok {
			panic("refused")
		}
	}
}

func throttledMem(rate throttled.Rate, burst int) func(string) {
	store := must(throttledmem.NewCtx(0))
	l := must(throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{MaxRate: rate, MaxBurst: burst}))
	ctx := context.Background()
	return func(key string) {
		if limited, _, err := l.RateLimitCtx(ctx, key, 1); err != nil || limited {
			panic("refused")
		}
	}
}

func ulule(limit int64, per time.Duration) func(string) {
	l := limiter.New(ululemem.NewStore(), limiter.Rate{Period: per, Limit: limit})
	ctx := context.Background()
	return func(key string) {
		if c, err := l.Get(ctx, key); err != nil || c.Reached {
			panic("refused")
		}
	}
}

func xTime(limit rate.Limit, burst int) func(string) {
	var mu sync.RWMutex
	limiters := map[string]*rate.Limiter{}
	return func(key string) {
		mu.RLock()
		l := limiters[key]
		mu.RUnlock()
		if l == nil {
			l = rate.NewLimiter(limit, burst)
			mu.Lock()
			limiters[key] = l
			mu.Unlock()
		}
		if !l.Allow() {
			panic("refused")
		}
	}
}

func both(a, b func(string)) func(string) { return func(key string) { a(key); b(key) } }

func BenchmarkMemory(b *testing.B) {
	for _, keys := range []int{1, 10_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) { memory(b, keys) })
	}
}

func memory(b *testing.B, keys int) {
	on := spread(names(keys))
	rounds, n := 40, 100_000
	if keys > 10_000 {
		rounds = 15
	}
	fill := max(keys, n)
	run := func(title string, contenders []*contender) {
		for _, c := range contenders {
			c.run(fill)
		}
		takeTurns(rounds, n, contenders)
		table(b, fmt.Sprintf("%s, %d keys", title, keys), "ns", 1, contenders)
	}
	oneStore, one := ours(true, ratelimit.PerMinute(minute).WithBurst(1<<32-1))
	_, onePrecise := ours(false, ratelimit.PerMinute(minute).WithBurst(1<<32-1))
	run("memory, one window", []*contender{
		{name: "ours, coarse clock", run: on(one)},
		{name: "ours, precise clock", run: on(onePrecise)},
		{name: "go-limiter", run: on(goLimiter(60_000_000, time.Minute))},
		{name: "throttled", run: on(throttledMem(throttled.PerMin(minute), 1<<31-1))},
		{name: "x/time/rate and a map", run: on(xTime(minute/60, 1<<31-1))},
		{name: "ulule", run: on(ulule(1<<40, time.Minute))},
	})
	oneStore.Close()
	runtime.GC()
	twoStore, two := ours(true, ratelimit.PerMinute(minute).WithBurst(1<<32-1), ratelimit.PerMonth(month))
	_, twoPrecise := ours(false, ratelimit.PerMinute(minute).WithBurst(1<<32-1), ratelimit.PerMonth(month))
	run("memory, minute and month", []*contender{
		{name: "ours, coarse clock", run: on(two)},
		{name: "ours, precise clock", run: on(twoPrecise)},
		{name: "go-limiter twice", run: on(both(goLimiter(60_000_000, time.Minute), goLimiter(2_592_000_000_000, 30*24*time.Hour)))},
		{name: "throttled twice", run: on(both(throttledMem(throttled.PerMin(minute), 1<<31-1), throttledMem(throttled.PerHour(1<<20), 1<<31-1)))},
		{name: "x/time/rate and a map, twice", run: on(both(xTime(minute/60, 1<<31-1), xTime(1000, 1<<31-1)))},
		{name: "ulule twice", run: on(both(ulule(1<<40, time.Minute), ulule(1<<40, 30*24*time.Hour)))},
	})
	twoStore.Close()
	runtime.GC()
}

// BenchmarkFootprint prints bytes for each live key and the time of a full
// collection with a million of them.
func BenchmarkFootprint(b *testing.B) {
	keys := names(1_000_000)
	for _, c := range []struct {
		name string
		make func() func(string)
	}{
		{"nothing", func() func(string) { return func(string) {} }},
		{"ours, 1 window", func() func(string) {
			_, f := ours(false, ratelimit.PerMonth(month))
			return f
		}},
		{"ours, 2 windows", func() func(string) {
			_, f := ours(false, ratelimit.PerHour(100), ratelimit.PerMonth(month))
			return f
		}},
		{"go-limiter", func() func(string) { return goLimiter(3_600_000_000, time.Hour) }},
		{"go-limiter twice", func() func(string) {
			return both(goLimiter(3_600_000_000, time.Hour), goLimiter(2_592_000_000_000, 30*24*time.Hour))
		}},
		{"throttled", func() func(string) { return throttledMem(throttled.PerHour(100), 1<<31-1) }},
		{"throttled twice", func() func(string) {
			return both(throttledMem(throttled.PerHour(100), 1<<31-1), throttledMem(throttled.PerDay(100), 1<<31-1))
		}},
		{"ulule", func() func(string) { return ulule(1<<40, time.Hour) }},
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f := c.make()
		for _, k := range keys {
			f(k)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		best := time.Hour
		for range 7 {
			start := time.Now()
			runtime.GC()
			best = min(best, time.Since(start))
		}
		runtime.KeepAlive(f)
		fmt.Printf("%-20s %8.1f bytes a key, full collection %8v\n", c.name, float64(after.HeapAlloc-before.HeapAlloc)/float64(len(keys)), best.Round(10*time.Microsecond))
	}
}
