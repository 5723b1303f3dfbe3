package ratelimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
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

// batch is how many decisions are timed at once.
const batch = 256

var touched byte

// spread times f with n keys, in an order that caches can't foresee. The keys of
// a batch are touched before its time begins: a request's key has just been
// read, and to fetch it from a list of a million would be most of what is
// measured. Peers gain most, for the keys that they compare with are the same.
func spread(name string, keys []string, f func(key string)) *contender {
	i := 0
	return &contender{name: name, timed: func(n int) (took time.Duration) {
		var now [batch]string
		for done := 0; done < n; done += batch {
			for j := range now {
				now[j] = keys[i]
				touched ^= now[j][0] ^ now[j][len(now[j])-1]
				if i += 7919; i >= len(keys) {
					i %= len(keys)
				}
			}
			start := time.Now()
			for j := range now {
				f(now[j])
			}
			took += time.Since(start)
		}
		return took
	}}
}

// floor is the least that a decision by key consists of: hash the key, find its
// place, change it. With a clock, it reads the time as well.
func floor(keys int, clock bool) func(string) {
	seed, base := maphash.MakeSeed(), time.Now()
	words := make([]atomic.Int64, 2*keys)
	return func(key string) {
		now := int64(1)
		if clock {
			now = int64(time.Since(base))
		}
		w := &words[maphash.String(seed, key)%uint64(len(words))]
		if old := w.Load(); !w.CompareAndSwap(old, old+now) {
			panic("somebody else is here")
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
		if err != nil || !d.Allowed() {
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
	on := names(keys)
	rounds, n := 40, 400*batch
	if keys > 10_000 {
		rounds = 15
	}
	run := func(title string, contenders ...*contender) {
		for _, c := range contenders {
			c.timed(max(keys+batch, n)) // every key is known
		}
		takeTurns(rounds, n, contenders)
		table(b, fmt.Sprintf("%s, %d keys", title, keys), "ns", 1, contenders)
		runtime.GC()
	}
	perMinute, perMonth := ratelimit.PerMinute(minute).WithBurst(1<<32-1), ratelimit.PerMonth(month)
	oneStore, oneCoarse := ours(true, perMinute)
	_, one := ours(false, perMinute)
	run("memory, one window",
		spread("ours", on, one),
		spread("ours, coarse clock", on, oneCoarse),
		spread("go-limiter", on, goLimiter(60_000_000, time.Minute)),
		spread("throttled", on, throttledMem(throttled.PerMin(minute), 1<<31-1)),
		spread("x/time/rate and a map", on, xTime(minute/60, 1<<31-1)),
		spread("ulule", on, ulule(1<<40, time.Minute)),
		spread("floor: hash, look, swap", on, floor(keys, false)),
		spread("floor with a clock", on, floor(keys, true)),
	)
	oneStore.Close()
	twoStore, twoCoarse := ours(true, perMinute, perMonth)
	_, two := ours(false, perMinute, perMonth)
	run("memory, minute and month",
		spread("ours", on, two),
		spread("ours, coarse clock", on, twoCoarse),
		spread("go-limiter twice", on, both(goLimiter(60_000_000, time.Minute), goLimiter(2_592_000_000_000, 30*24*time.Hour))),
		spread("throttled twice", on, both(throttledMem(throttled.PerMin(minute), 1<<31-1), throttledMem(throttled.PerHour(1<<20), 1<<31-1))),
		spread("x/time/rate and a map, twice", on, both(xTime(minute/60, 1<<31-1), xTime(1000, 1<<31-1))),
		spread("ulule twice", on, both(ulule(1<<40, time.Minute), ulule(1<<40, 30*24*time.Hour))),
		spread("floor: hash, look, swap", on, floor(keys, false)),
		spread("floor with a clock", on, floor(keys, true)),
	)
	twoStore.Close()
}

// BenchmarkFootprint prints bytes for each live key and the time of a full
// collection with a million of them. The benchmark itself holds no key: what a
// limiter keeps of one is its own.
func BenchmarkFootprint(b *testing.B) {
	const keys = 1_000_000
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
		{"throttled", func() func(string) { return throttledMem(throttled.PerHour(100), 1<<20) }},
		{"throttled twice", func() func(string) {
			return both(throttledMem(throttled.PerHour(100), 1<<20), throttledMem(throttled.PerDay(100), 1<<20))
		}},
		{"ulule", func() func(string) { return ulule(1<<40, time.Hour) }},
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f := c.make()
		for i := range keys {
			f(fmt.Sprintf("acct_%010d", i))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		took := make([]time.Duration, 15)
		for i := range took {
			start := time.Now()
			runtime.GC()
			took[i] = time.Since(start)
		}
		slices.Sort(took)
		runtime.KeepAlive(f)
		fmt.Printf("%-20s %8.1f bytes a key, full collection best %8v, median %8v\n", c.name,
			(float64(after.HeapAlloc)-float64(before.HeapAlloc))/keys, took[0].Round(10*time.Microsecond), took[len(took)/2].Round(10*time.Microsecond))
	}
}
