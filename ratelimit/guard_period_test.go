package ratelimit_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
)

// fleet is some instances of an application on one store.
type fleet struct {
	store     *flaky
	instances []*ratelimit.Limiter
	now       time.Time
}

func newFleet(t require.TestingT, n int) *fleet {
	f := &fleet{now: time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)}
	clock := ratelimitmem.Config{Now: func() time.Time { return f.now }}
	f.store = &flaky{Store: ratelimitmem.New(clock)}
	for range n {
		g, err := ratelimit.NewGuard(f.store, ratelimitmem.New(clock), ratelimit.GuardConfig{Instances: n, Misses: 1, Probe: time.Hour, Budget: time.Hour})
		require.NoError(t, err)
		l, err := ratelimit.New(g, ratelimit.Config{Now: func() time.Time { return f.now }})
		require.NoError(t, err)
		f.instances = append(f.instances, l)
	}
	return f
}

// take asks instance i until it refuses, at most n times, and returns how often
// it didn't.
func (f *fleet) take(t require.TestingT, i int, key string, plan *ratelimit.Plan, n int) (admitted int) {
	for range n {
		d, err := f.instances[i].Allow(context.Background(), key, plan, 1)
		require.NoError(t, err)
		if !d.Allowed() {
			break
		}
		admitted++
	}
	return admitted
}

func TestGuardGoesOnFromTheKnownUsageOfAPeriod(t *testing.T) {
	plan := newPlan(t, "p", ratelimit.PerMinute(1000), ratelimit.PerMonth(100), ratelimit.Billing(90, ratelimit.Year))
	t.Run("one instance", func(t *testing.T) {
		f := newFleet(t, 1)
		require.Equal(t, 70, f.take(t, 0, "known", plan, 70))
		f.store.refuse.Store(true)
		d, err := f.instances[0].Peek(context.Background(), "known", plan, 1)
		require.NoError(t, err)
		require.EqualValues(t, 30, d.Window(1).Remaining)
		require.Equal(t, 20, f.take(t, 0, "known", plan, 200), "what is left of the year, and of the month more than that")
		// The control: a key that this process knows nothing of.
		require.Equal(t, 90, f.take(t, 0, "unknown", plan, 200))
	})
	t.Run("used up", func(t *testing.T) {
		f := newFleet(t, 1)
		require.Equal(t, 90, f.take(t, 0, "k", plan, 200))
		f.store.refuse.Store(true)
		require.Zero(t, f.take(t, 0, "k", plan, 200))
		f.now = time.Date(2027, 1, 1, 0, 0, 1, 0, time.UTC)
		require.Equal(t, 90, f.take(t, 0, "k", plan, 200), "another month of another year")
	})
	t.Run("several instances", func(t *testing.T) {
		f := newFleet(t, 4)
		plan := newPlan(t, "p", ratelimit.PerMonth(100))
		for range 15 {
			for i := range f.instances {
				require.Equal(t, 1, f.take(t, i, "k", plan, 1))
			}
		}
		f.store.refuse.Store(true)
		admitted := 0
		for i := range f.instances {
			admitted += f.take(t, i, "k", plan, 200)
		}
		require.Equal(t, 40, admitted, "60 and 40 are the limit")
	})
	t.Run("an upgrade during the outage", func(t *testing.T) {
		f := newFleet(t, 1)
		require.Equal(t, 70, f.take(t, 0, "k", plan, 70))
		f.store.refuse.Store(true)
		require.Equal(t, 130, f.take(t, 0, "k", newPlan(t, "q", ratelimit.PerMonth(200)), 500))
	})
	t.Run("reset", func(t *testing.T) {
		f := newFleet(t, 1)
		require.Equal(t, 70, f.take(t, 0, "k", plan, 70))
		_, err := f.instances[0].Reset(context.Background(), "k")
		require.NoError(t, err)
		f.store.refuse.Store(true)
		require.Equal(t, 90, f.take(t, 0, "k", plan, 200))
	})
	t.Run("peeking and being refused teach as well", func(t *testing.T) {
		f := newFleet(t, 2)
		plan := newPlan(t, "p", ratelimit.PerMonth(100))
		require.Equal(t, 100, f.take(t, 0, "k", plan, 200))
		_, err := f.instances[1].Peek(context.Background(), "k", plan, 1)
		require.NoError(t, err)
		f.store.refuse.Store(true)
		require.Zero(t, f.take(t, 1, "k", plan, 200))
	})
}

// Many callers learn about one key at once, and what they learn isn't added up.
func TestGuardLearnsOnce(t *testing.T) {
	f := newFleet(t, 1)
	plan := newPlan(t, "p", ratelimit.PerMonth(10_000))
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 100 {
				_, err := f.instances[0].Allow(context.Background(), "k", plan, 1)
				require.NoError(t, err)
			}
		})
	}
	all.Wait()
	f.store.refuse.Store(true)
	require.Equal(t, 8400, f.take(t, 0, "k", plan, 20_000))
}

// The documented bounds, over any history of a period: with one outage the
// limit, what the instances didn't know of one another, and one unit each; with
// many, twice the limit.
func TestGuardsBoundOfAPeriod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "instances")
		limit := rapid.IntRange(1, 60).Draw(t, "limit")
		outages := rapid.IntRange(1, 4).Draw(t, "outages")
		plan, err := ratelimit.NewPlan("p", ratelimit.PerMonth(int64(limit)))
		require.NoError(t, err)
		f := newFleet(t, n)
		clock := ratelimitmem.Config{Now: func() time.Time { return f.now }}
		local := make([]*ratelimitmem.Store, n)
		for i := range local {
			local[i] = ratelimitmem.New(clock)
		}
		remote, alone := 0, 0
		known := make([]int, n) // what of the store's count each instance saw last
		for range outages {
			f.store.refuse.Store(false)
			for i := range n { // a process that restarts its guard, and keeps its local store
				g, err := ratelimit.NewGuard(f.store, local[i], ratelimit.GuardConfig{Instances: n, Misses: 1, Probe: time.Hour, Budget: time.Hour})
				require.NoError(t, err)
				f.instances[i], err = ratelimit.New(g, ratelimit.Config{Now: func() time.Time { return f.now }})
				require.NoError(t, err)
			}
			for k := range rapid.IntRange(0, 40).Draw(t, "before") {
				i := rapid.IntRange(0, n-1).Draw(t, fmt.Sprint("who", k))
				remote += f.take(t, i, "k", plan, 1)
				known[i] = remote
			}
			f.store.refuse.Store(true)
			for i := range n {
				alone += f.take(t, i, "k", plan, rapid.IntRange(0, 2*limit).Draw(t, fmt.Sprint("alone", i)))
			}
		}
		share := max(limit/n, 1) * n
		require.LessOrEqual(t, alone, share)
		if outages == 1 {
			unknown := 0
			for i := range n {
				unknown += remote - known[i]
			}
			require.LessOrEqual(t, remote+alone, limit+unknown+n)
		}
	})
}
