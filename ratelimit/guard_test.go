package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
	"github.com/kolekt/commerce/ratelimit/ratelimittest"
)

func TestGuardKeepsTheStoresContract(t *testing.T) {
	ratelimittest.TestStore(t, func(t *testing.T) ratelimittest.Harness {
		var now atomic.Pointer[time.Time]
		clock := func() time.Time { return *now.Load() }
		// The budget is no part of this test.
		g, err := ratelimit.NewGuard(ratelimitmem.New(ratelimitmem.Config{Now: clock}), ratelimitmem.New(ratelimitmem.Config{}), ratelimit.GuardConfig{Budget: time.Hour})
		require.NoError(t, err)
		return ratelimittest.Harness{Store: g, SetNow: func(t time.Time) { now.Store(&t) }}
	})
}

// flaky is a store that refuses or hangs.
type flaky struct {
	ratelimit.Store
	refuse, hang atomic.Bool
	asked        atomic.Int64
	thaw         chan struct{}
	honours      bool
}

func (f *flaky) HonoursContext() bool { return f.honours }

func (f *flaky) Prepare(scope string, p *ratelimit.Plan) (ratelimit.Decider, error) {
	d, err := f.Store.Prepare(scope, p)
	return &flakyDecider{f, d}, err
}

type flakyDecider struct {
	*flaky
	ratelimit.Decider
}

func (d *flakyDecider) Decide(ctx context.Context, op ratelimit.Op, req ratelimit.Request) (ratelimit.Outcome, ratelimit.Used, error) {
	d.asked.Add(1)
	if d.refuse.Load() {
		return ratelimit.Outcome{}, ratelimit.Used{}, errors.New("connection refused")
	}
	if d.hang.Load() {
		if d.honours {
			<-ctx.Done()
			return ratelimit.Outcome{}, ratelimit.Used{}, ctx.Err()
		}
		<-d.thaw // deaf to the context, as clients are by default
	}
	return d.Decider.Decide(ctx, op, req)
}

func TestGuardBoundsTheWaitAndHeals(t *testing.T) {
	for _, c := range []struct {
		name          string
		hang, honours bool
	}{{"hung", true, false}, {"hung, honours contexts", true, true}, {"refused", false, false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := context.Background()
				f := &flaky{Store: ratelimitmem.New(ratelimitmem.Config{}), thaw: make(chan struct{}), honours: c.honours}
				thaw := sync.OnceFunc(func() { close(f.thaw) })
				defer func() { thaw(); time.Sleep(2 * time.Second) }() // the bubble waits for every goroutine
				var changes []error
				var mu sync.Mutex
				g, err := ratelimit.NewGuard(f, ratelimitmem.New(ratelimitmem.Config{}), ratelimit.GuardConfig{
					Instances: 2,
					OnChange: func(err error) {
						mu.Lock()
						defer mu.Unlock()
						changes = append(changes, err)
					},
				})
				require.NoError(t, err)
				l, err := ratelimit.New(g, ratelimit.Config{})
				require.NoError(t, err)
				plan := newPlan(t, "p", ratelimit.PerHour(10), ratelimit.PerDay(100))
				d, err := l.Allow(ctx, "k", plan, 1)
				require.NoError(t, err)
				require.Equal(t, ratelimit.FromStore, d.Source())
				require.True(t, g.State().Healthy)

				f.hang.Store(c.hang)
				f.refuse.Store(!c.hang)
				start := time.Now()
				admitted := 0
				for range 20 {
					before := time.Now()
					d, err := l.Allow(ctx, "k", plan, 1)
					require.NoError(t, err)
					require.LessOrEqual(t, time.Since(before), 25*time.Millisecond) // of the bubble's clock
					require.Equal(t, ratelimit.FromLocal, d.Source())
					require.EqualValues(t, 5, d.Window(0).Limit, "half of the limit, for there are two instances")
					if d.Allowed() {
						admitted++
					}
				}
				require.Equal(t, 5, admitted, "the limit holds locally")
				if c.hang {
					require.LessOrEqual(t, time.Since(start), 75*time.Millisecond, "three wait, the others don't")
				}
				require.LessOrEqual(t, f.asked.Load(), int64(5), "one before, three misses, a probe")
				state := g.State()
				require.False(t, state.Healthy)
				require.Error(t, state.Err)
				require.EqualValues(t, 20, state.Local)

				// Probes go on, and don't pile up.
				for range 50 {
					time.Sleep(200 * time.Millisecond)
					_, err := l.Allow(ctx, "k", plan, 1)
					require.NoError(t, err)
				}
				f.hang.Store(false)
				f.refuse.Store(false)
				thaw()
				time.Sleep(400 * time.Millisecond)
				_, err = l.Allow(ctx, "k", plan, 1)
				require.NoError(t, err)
				time.Sleep(200 * time.Millisecond)
				d, err = l.Allow(ctx, "k", plan, 1)
				require.NoError(t, err)
				require.Equal(t, ratelimit.FromStore, d.Source(), "healed by itself")
				require.True(t, g.State().Healthy)
				mu.Lock()
				defer mu.Unlock()
				require.Len(t, changes, 2)
				require.Error(t, changes[0])
				require.NoError(t, changes[1])
			})
		})
	}
}

func TestGuardFailsEachWindowItsOwnWay(t *testing.T) {
	ctx := context.Background()
	f := &flaky{Store: ratelimitmem.New(ratelimitmem.Config{})}
	f.refuse.Store(true)
	g, err := ratelimit.NewGuard(f, ratelimitmem.New(ratelimitmem.Config{}), ratelimit.GuardConfig{})
	require.NoError(t, err)
	l, err := ratelimit.New(g, ratelimit.Config{})
	require.NoError(t, err)

	open := newPlan(t, "open", ratelimit.PerHour(1).WithFailure(ratelimit.Open))
	for range 5 {
		d, err := l.Allow(ctx, "k", open, 1)
		require.NoError(t, err)
		require.True(t, d.Allowed())
		require.Equal(t, ratelimit.FromFailure, d.Source())
	}
	mixed := newPlan(t, "mixed", ratelimit.PerDay(1).WithFailure(ratelimit.Open), ratelimit.PerMinute(3))
	admitted := 0
	for range 5 {
		d, err := l.Allow(ctx, "m", mixed, 1)
		require.NoError(t, err)
		if d.Allowed() {
			admitted++
		} else {
			require.Equal(t, "minute", d.Violated())
		}
	}
	require.Equal(t, 3, admitted)
	closed := newPlan(t, "closed", ratelimit.PerMinute(100), ratelimit.PerMonth(10).WithFailure(ratelimit.Closed))
	d, err := l.Allow(ctx, "c", closed, 1)
	require.NoError(t, err)
	require.False(t, d.Allowed())
	require.Equal(t, "month", d.Violated())
	require.Equal(t, time.Second, d.RetryAfter())
	require.Equal(t, ratelimit.FromFailure, d.Source())
}

// Every plan has a share, also one whose share no application could ask for.
func TestGuardDividesEveryPlan(t *testing.T) {
	ctx := context.Background()
	for _, instances := range []int{1, 2, 3, 7, 1000} {
		f := &flaky{Store: ratelimitmem.New(ratelimitmem.Config{})}
		f.refuse.Store(true)
		g, err := ratelimit.NewGuard(f, ratelimitmem.New(ratelimitmem.Config{}), ratelimit.GuardConfig{Instances: instances})
		require.NoError(t, err)
		l, err := ratelimit.New(g, ratelimit.Config{})
		require.NoError(t, err)
		for i, w := range []ratelimit.Window{
			ratelimit.PerSecond(1_000_000), ratelimit.PerSecond(3), ratelimit.PerMinute(1).WithBurst(1 << 22), ratelimit.PerHour(0),
			ratelimit.PerDay(5), ratelimit.Strict("strict", 5, time.Minute),
		} {
			d, err := l.Allow(ctx, fmt.Sprint("k", i), newPlan(t, "p", w), 1)
			require.NoError(t, err, "%d instances, %+v", instances, w)
			require.Equal(t, w.Limit > 0, d.Allowed(), "%d instances, %+v", instances, w)
			require.Equal(t, ratelimit.FromLocal, d.Source())
		}
	}
}

func TestGuardRefundsWhereItCharged(t *testing.T) {
	ctx := context.Background()
	f := &flaky{Store: ratelimitmem.New(ratelimitmem.Config{})}
	g, err := ratelimit.NewGuard(f, ratelimitmem.New(ratelimitmem.Config{}), ratelimit.GuardConfig{Misses: 1, Probe: time.Hour})
	require.NoError(t, err)
	l, err := ratelimit.New(g, ratelimit.Config{})
	require.NoError(t, err)
	plan := newPlan(t, "p", ratelimit.PerDay(3))
	remote, err := l.Allow(ctx, "k", plan, 2)
	require.NoError(t, err)
	f.refuse.Store(true)
	local, err := l.Allow(ctx, "k", plan, 1)
	require.NoError(t, err)
	require.True(t, local.Allowed())
	require.NoError(t, l.Refund(ctx, "k", local))
	d, err := l.Peek(ctx, "k", plan, 1)
	require.NoError(t, err)
	require.EqualValues(t, 1, d.Window(0).Remaining, "two were charged to the store")
	require.ErrorIs(t, l.Refund(ctx, "k", remote), ratelimit.ErrUnavailable, "the store can't take it")

	was, err := g.Reset(ctx, l.Name(), "k")
	require.NoError(t, err)
	require.True(t, was)
}

func TestGuardHandsTheCallersContextOn(t *testing.T) {
	f := &flaky{Store: ratelimitmem.New(ratelimitmem.Config{}), thaw: make(chan struct{})}
	f.hang.Store(true)
	g, err := ratelimit.NewGuard(f, ratelimitmem.New(ratelimitmem.Config{}), ratelimit.GuardConfig{Budget: time.Hour})
	require.NoError(t, err)
	l, err := ratelimit.New(g, ratelimit.Config{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = l.Allow(ctx, "k", newPlan(t, "p", ratelimit.PerDay(3)), 1)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, ratelimit.ErrUnavailable)
	require.True(t, g.State().Healthy, "an impatient caller says nothing about the store")
	close(f.thaw)
}

func TestGuardConfigIsChecked(t *testing.T) {
	store := ratelimitmem.New(ratelimitmem.Config{})
	_, err := ratelimit.NewGuard(store, nil, ratelimit.GuardConfig{})
	require.ErrorContains(t, err, "ratelimitmem")
	_, err = ratelimit.NewGuard(store, store, ratelimit.GuardConfig{Budget: -1})
	require.ErrorContains(t, err, "GuardConfig.Budget")
}
