package ratelimitmem_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, time.March, 10, 12, 0, 0, 0, time.UTC)

func fixed() time.Time { return noon }

func limiter(t *testing.T, store ratelimit.Store) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(store, ratelimit.Config{Now: fixed})
	require.NoError(t, err)
	return l
}

func plan(t *testing.T, windows ...ratelimit.Window) *ratelimit.Plan {
	t.Helper()
	p, err := ratelimit.NewPlan("p", windows...)
	require.NoError(t, err)
	return p
}

// prove returns n in the long proof and less otherwise.
func prove(n, otherwise int) int {
	if os.Getenv("COMMERCE_PROVE") == "1" {
		return n
	}
	return otherwise
}

// Decisions race with each other, with the rebuilds that new keys cause, and
// with a plan that makes all entries wider.
func TestEveryKeyGetsExactlyItsLimitWhileTablesGrow(t *testing.T) {
	for _, windows := range [][]ratelimit.Window{
		{ratelimit.PerMinute(5)},
		{ratelimit.PerMinute(9), ratelimit.PerMonth(5)},
		{ratelimit.PerMonth(9), ratelimit.Strict("strict", 5, time.Minute)},
	} {
		t.Run(fmt.Sprint(len(windows), windows[0].Name), func(t *testing.T) {
			store := ratelimitmem.New(ratelimitmem.Config{Now: fixed})
			l := limiter(t, store)
			p := plan(t, windows...)
			wide := plan(t, ratelimit.PerHour(1_000_000))
			keys := prove(200_000, 3_000)
			admitted := make([]atomic.Int32, keys)
			var failed atomic.Int64
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range 2 * keys {
						k := (i*7919 + g*13) % keys
						if g == 0 && i == keys {
							if _, err := l.Allow(context.Background(), "wide", wide, 1); err != nil {
								failed.Add(1)
							}
						}
						d, err := l.Allow(context.Background(), fmt.Sprint("key-", k), p, 1)
						switch {
						case err != nil:
							failed.Add(1)
						case d.Allowed():
							admitted[k].Add(1)
						}
					}
				})
			}
			wg.Wait()
			require.Zero(t, failed.Load())
			for k := range admitted {
				require.EqualValues(t, 5, admitted[k].Load(), "key %d of 8 requests, against a limit of 5", k)
			}
			entries, _ := store.Len(l.Name())
			require.Equal(t, keys+1, entries)
		})
	}
}

// One key, a flood from all sides, refunds in between.
func TestOneKeyUnderFire(t *testing.T) {
	for _, windows := range [][]ratelimit.Window{{ratelimit.PerHour(1000)}, {ratelimit.PerHour(2000), ratelimit.PerDay(1000)}} {
		l := limiter(t, ratelimitmem.New(ratelimitmem.Config{Now: fixed}))
		p := plan(t, windows...)
		var net atomic.Int64
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range prove(200_000, 2000) {
					d, err := l.Allow(context.Background(), "one", p, 1)
					if err != nil {
						t.Error(err)
						return
					}
					if !d.Allowed() {
						continue
					}
					net.Add(1)
					if (i+g)%3 == 0 {
						net.Add(-1)
						if err := l.Refund(context.Background(), "one", d); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1000, net.Load())
	}
}

func TestDeadEntriesMakeRoom(t *testing.T) {
	var now atomic.Pointer[time.Time]
	set := func(t time.Time) { now.Store(&t) }
	set(noon)
	store := ratelimitmem.New(ratelimitmem.Config{Now: func() time.Time { return *now.Load() }})
	l := limiter(t, store)
	p := plan(t, ratelimit.PerMinute(10), ratelimit.Strict("strict", 5, time.Minute))
	most := 0
	for round := range 20 {
		for i := range 2000 {
			_, err := l.Allow(context.Background(), fmt.Sprint(round, "-", i), p, 1)
			require.NoError(t, err)
		}
		entries, _ := store.Len(l.Name())
		most = max(most, entries)
		set(noon.Add(time.Duration(round+1) * time.Hour))
	}
	require.Less(t, most, 8000, "of 40,000 keys, 2,000 at a time were alive")
}

// A flood of new keys neither grows the store nor frees a key that is limited.
func TestTheBoundNeverForgetsALimitedKey(t *testing.T) {
	store := ratelimitmem.New(ratelimitmem.Config{Now: fixed, MaxKeys: 4096})
	l := limiter(t, store)
	p := plan(t, ratelimit.PerMonth(3))
	for range 3 {
		d, err := l.Allow(context.Background(), "limited", p, 1)
		require.NoError(t, err)
		require.True(t, d.Allowed())
	}
	admitted := 0
	for i := range 50_000 {
		d, err := l.Allow(context.Background(), fmt.Sprint("attacker-", i), p, 1)
		require.NoError(t, err)
		if d.Allowed() {
			admitted++
		}
	}
	entries, _ := store.Len(l.Name())
	require.LessOrEqual(t, entries, 4096+256)
	require.LessOrEqual(t, admitted, 4096+3*256, "those beyond the bound share 256 entries")
	d, err := l.Allow(context.Background(), "limited", p, 1)
	require.NoError(t, err)
	require.False(t, d.Allowed())
}

// The figures of the package's documentation.
func TestBytesForEachLiveKey(t *testing.T) {
	const keys = 100_000
	for windows, most := range map[int]float64{1: 34, 2: 51} {
		store := ratelimitmem.New(ratelimitmem.Config{Now: fixed})
		l := limiter(t, store)
		p := plan(t, []ratelimit.Window{ratelimit.PerMonth(10), ratelimit.PerHour(10)}[:windows]...)
		for i := range keys {
			_, err := l.Allow(context.Background(), fmt.Sprint("acct_", i), p, 1)
			require.NoError(t, err)
		}
		_, bytes := store.Len(l.Name())
		require.LessOrEqual(t, float64(bytes)/keys, most, "%d windows", windows)
	}
}

func TestDecisionsDoNotAllocate(t *testing.T) {
	l := limiter(t, ratelimitmem.New(ratelimitmem.Config{}))
	l2, err := ratelimit.New(ratelimitmem.New(ratelimitmem.Config{}), ratelimit.Config{})
	require.NoError(t, err)
	_ = l
	for _, p := range []*ratelimit.Plan{
		plan(t, ratelimit.PerMinute(60)),
		plan(t, ratelimit.PerMinute(60), ratelimit.PerMonth(100)),
		plan(t, ratelimit.PerMinute(60), ratelimit.PerMonth(100), ratelimit.Strict("strict", 50, time.Minute)),
	} {
		require.Zero(t, testing.AllocsPerRun(200, func() { // allowed first, then refused
			if _, err := l2.Allow(context.Background(), "k", p, 1); err != nil {
				t.Error(err)
			}
		}))
	}
}

func TestWindowsOfAScopeAreBounded(t *testing.T) {
	store := ratelimitmem.New(ratelimitmem.Config{Now: fixed})
	l := limiter(t, store)
	var err error
	for i := range 100 {
		if _, err = l.Allow(context.Background(), "k", plan(t, ratelimit.Rate(fmt.Sprint("w", i), 1, time.Minute)), 1); err != nil {
			break
		}
	}
	require.ErrorContains(t, err, "use a limiter for each kind of key")
	_, err = store.Prepare("x", plan(t))
	require.Error(t, err)
}

func TestUnknownScopesAreEmpty(t *testing.T) {
	store := ratelimitmem.New(ratelimitmem.Config{})
	held, err := store.Inspect(context.Background(), "none", "k")
	require.NoError(t, err)
	require.Empty(t, held)
	was, err := store.Reset(context.Background(), "none", "k")
	require.NoError(t, err)
	require.False(t, was)
	entries, bytes := store.Len("none")
	require.Zero(t, entries)
	require.Zero(t, bytes)
	store.Close()
	store.Close()
}

func TestAbandonedLeasesAreSwept(t *testing.T) {
	var now atomic.Pointer[time.Time]
	set := func(t time.Time) { now.Store(&t) }
	set(noon)
	store := ratelimitmem.New(ratelimitmem.Config{Now: func() time.Time { return *now.Load() }})
	l := limiter(t, store)
	var before, after runtime.MemStats
	for round := range 30 {
		if round == 5 {
			runtime.GC()
			runtime.ReadMemStats(&before)
		}
		for i := range 2000 {
			_, err := l.Acquire(context.Background(), fmt.Sprint(round, "-", i), ratelimit.Concurrency{Limit: 1, TTL: time.Second})
			require.NoError(t, err)
		}
		set(noon.Add(time.Duration(round+1) * time.Minute))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(8<<20), "50,000 abandoned places would take more")
	runtime.KeepAlive(store)
}

// A plan with more windows finds entries that were made without room for them,
// by every way to a decision: beyond their end begins another key's.
func TestWiderPlanFindsNarrowEntries(t *testing.T) {
	for _, coarse := range []bool{false, true} {
		store := ratelimitmem.New(ratelimitmem.Config{CoarseClock: coarse})
		defer store.Close()
		l, err := ratelimit.New(store, ratelimit.Config{})
		require.NoError(t, err)
		narrow, err := ratelimit.NewPlan("narrow", ratelimit.PerHour(6))
		require.NoError(t, err)
		wide, err := ratelimit.NewPlan("wide", ratelimit.PerHour(6), ratelimit.PerMonth(100))
		require.NoError(t, err)
		const keys = 2000
		for i := range keys {
			d, err := l.Allow(t.Context(), fmt.Sprintf("key_%06d", i), narrow, 5)
			require.NoError(t, err)
			require.True(t, d.Allowed())
		}
		for round := range 2 {
			for i := range keys {
				d, err := l.Allow(t.Context(), fmt.Sprintf("key_%06d", i), wide, 1)
				require.NoError(t, err)
				require.Equal(t, round == 0, d.Allowed(), "round %d, key %d", round, i)
				require.EqualValues(t, 99, d.Window(1).Remaining)
			}
		}
		entries, _ := store.Len("default")
		require.Equal(t, keys, entries)
	}
}
