package usagetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
)

// TestQuotas runs the part of the contract that is about quotas. newStore
// returns an empty store.
func TestQuotas(t *testing.T, newStore func(t *testing.T) usage.QuotaStore) {
	run := func(name string, f func(t *testing.T, s usage.QuotaStore)) {
		t.Run(name, func(t *testing.T) { f(t, newStore(t)) })
	}
	run("ConsumeNeverExceedsTheLimit", consumeExact)
	run("ReserveNeverExceedsTheLimit", reserveExact)
	run("ARefusalChargesNothing", refusalIsFree)
	run("ARetriedKeyCountsOnce", retriedKey)
	run("AKeyForSomethingElseIsRefused", keyReused)
	run("CommitTakesTheActualAmount", commitActual)
	run("ReleaseGivesBack", releaseGivesBack)
	run("AnExpiredReservationComesBack", expiry)
	run("ALateCommitIsCounted", lateCommit)
	run("SettlingInAnotherWayIsAnError", settledTwice)
	run("AnUnknownReservationIsNotFound", unknownReservation)
	run("TheLimitIsTheCallers", changedLimit)
	run("PeriodsAreApart", periodsApart)
	run("HoldsAndCountersTellWhatIs", holdsTell)
	run("NearLimitSortsByShare", nearLimit)
	run("ACancelledContextStopsAStep", cancelled)
}

func op(kind usage.OpKind, n int64, limit int64) usage.Op {
	return usage.Op{
		Kind: kind, Account: "acct", Meter: "units", N: n, Now: start, Expires: start.Add(time.Minute),
		Charge: usage.Charge{Period: march, Limit: limit, Cap: limit, Thresholds: []int{80, 100}},
	}
}

func keyed(o usage.Op, key string) usage.Op {
	o.Key = key
	return o
}

func must(t testing.TB, s usage.QuotaStore, o usage.Op) usage.Decision {
	t.Helper()
	d, err := s.Apply(t.Context(), o)
	require.NoError(t, err)
	return d
}

func counter(t testing.TB, s usage.QuotaStore) usage.Counter {
	t.Helper()
	c, err := s.Counter(t.Context(), "acct", "units", march)
	require.NoError(t, err)
	return c
}

// race runs f in 16 goroutines of 25 calls.
func race(t *testing.T, f func(ctx context.Context, worker, i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for w := range errs {
		wg.Go(func() {
			for i := range 25 {
				errs[w] = errors.Join(errs[w], f(t.Context(), w, i))
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
}

func consumeExact(t *testing.T, s usage.QuotaStore) {
	const limit = 301
	var admitted atomic.Int64
	race(t, func(ctx context.Context, w, i int) error {
		n := int64(1 + (w+i)%3)
		o := op(usage.Consume, n, limit)
		if i%2 == 0 {
			o.Key = fmt.Sprint(w, "-", i)
		}
		d, err := s.Apply(ctx, o)
		if err == nil && d.Allowed {
			admitted.Add(n)
		}
		if err == nil && d.Used > limit {
			err = fmt.Errorf("beyond the limit: %+v", d)
		}
		return err
	})
	// Ones are asked for last, so that the limit is reached to the unit.
	for range 3 {
		if must(t, s, op(usage.Consume, 1, limit)).Allowed {
			admitted.Add(1)
		}
	}
	require.EqualValues(t, limit, admitted.Load())
	require.EqualValues(t, limit, counter(t, s).Used)
}

func reserveExact(t *testing.T, s usage.QuotaStore) {
	const limit = 97
	var committed atomic.Int64
	race(t, func(ctx context.Context, w, i int) error {
		key := fmt.Sprint(w, "-", i)
		n := int64(1 + rand.IntN(3))
		d, err := s.Apply(ctx, keyed(op(usage.Reserve, n, limit), key))
		if err != nil || !d.Allowed {
			return err
		}
		if d.Used+d.Held > limit {
			return fmt.Errorf("beyond the limit: %+v", d)
		}
		if rand.IntN(4) == 0 {
			_, err = s.Apply(ctx, keyed(op(usage.Release, 0, limit), key))
			return err
		}
		actual := rand.Int64N(n + 1)
		d, err = s.Apply(ctx, keyed(op(usage.Commit, actual, limit), key))
		if err == nil && d.Used > limit {
			return fmt.Errorf("beyond the limit: %+v", d)
		}
		committed.Add(actual)
		return err
	})
	c := counter(t, s)
	require.Equal(t, committed.Load(), c.Used)
	require.Zero(t, c.Held)
}

func refusalIsFree(t *testing.T, s usage.QuotaStore) {
	d := must(t, s, op(usage.Consume, 3, 2))
	require.False(t, d.Allowed)
	require.Zero(t, d.Used)
	require.EqualValues(t, 2, d.Remaining)
	require.Equal(t, march.To, d.Reset())
	d = must(t, s, keyed(op(usage.Consume, 3, 2), "k"))
	require.False(t, d.Allowed)
	d = must(t, s, keyed(op(usage.Consume, 3, 3), "k"))
	require.True(t, d.Allowed, "a refused key is free")
	require.False(t, d.Replayed)
	require.False(t, must(t, s, op(usage.Consume, 1, 0)).Allowed, "limit 0 admits nothing")
}

func retriedKey(t *testing.T, s usage.QuotaStore) {
	race(t, func(ctx context.Context, _, i int) error {
		d, err := s.Apply(ctx, keyed(op(usage.Consume, 2, 1000), fmt.Sprint("c", i)))
		if err == nil && !d.Allowed {
			err = errors.New("refused")
		}
		return err
	})
	require.EqualValues(t, 50, counter(t, s).Used)
	race(t, func(ctx context.Context, _, i int) error {
		key := fmt.Sprint("r", i)
		if _, err := s.Apply(ctx, keyed(op(usage.Reserve, 3, 1000), key)); err != nil {
			return err
		}
		_, err := s.Apply(ctx, keyed(op(usage.Commit, 1, 1000), key))
		return err
	})
	c := counter(t, s)
	require.EqualValues(t, 75, c.Used)
	require.Zero(t, c.Held)
	d := must(t, s, keyed(op(usage.Consume, 2, 75), "c1"))
	require.True(t, d.Allowed, "a retry is answered like the first, also at the limit")
	require.True(t, d.Replayed)
}

func keyReused(t *testing.T, s usage.QuotaStore) {
	must(t, s, keyed(op(usage.Consume, 2, 10), "k"))
	for _, o := range []usage.Op{op(usage.Consume, 3, 10), op(usage.Reserve, 2, 10), op(usage.Commit, 2, 10)} {
		_, err := s.Apply(t.Context(), keyed(o, "k"))
		require.ErrorIs(t, err, usage.ErrKeyReused)
	}
	require.EqualValues(t, 2, counter(t, s).Used)
}

func commitActual(t *testing.T, s usage.QuotaStore) {
	for i, actual := range []int64{0, 2, 3, 9} {
		key := fmt.Sprint(i)
		require.True(t, must(t, s, keyed(op(usage.Reserve, 3, 10), key)).Allowed)
		must(t, s, keyed(op(usage.Commit, actual, 10), key))
	}
	c := counter(t, s)
	require.EqualValues(t, 14, c.Used, "what was used is counted beyond the limit too")
	require.Zero(t, c.Held)
	d := must(t, s, op(usage.Consume, 1, 10))
	require.False(t, d.Allowed)
	require.EqualValues(t, 4, d.Overage)
}

func releaseGivesBack(t *testing.T, s usage.QuotaStore) {
	require.True(t, must(t, s, keyed(op(usage.Reserve, 3, 3), "a")).Allowed)
	require.False(t, must(t, s, keyed(op(usage.Reserve, 1, 3), "b")).Allowed)
	for range 2 {
		require.Zero(t, must(t, s, keyed(op(usage.Release, 0, 3), "a")).Held)
	}
	require.True(t, must(t, s, keyed(op(usage.Reserve, 3, 3), "b")).Allowed)
	require.EqualValues(t, 3, counter(t, s).Held)
}

func expiry(t *testing.T, s usage.QuotaStore) {
	require.True(t, must(t, s, keyed(op(usage.Reserve, 3, 3), "crashed")).Allowed)
	next := keyed(op(usage.Reserve, 2, 3), "next")
	next.Now = start.Add(time.Minute - time.Millisecond)
	require.False(t, must(t, s, next).Allowed, "still held")
	next.Now = start.Add(time.Minute)
	next.Expires = start.Add(time.Hour)
	require.True(t, must(t, s, next).Allowed, "back after its TTL")
	require.EqualValues(t, 2, counter(t, s).Held)
	// The crashed holder's own retry reserves anew.
	again := keyed(op(usage.Reserve, 3, 5), "crashed")
	again.Now, again.Expires = next.Now, next.Expires
	d := must(t, s, again)
	require.True(t, d.Allowed)
	require.False(t, d.Replayed)
	require.EqualValues(t, 5, counter(t, s).Held)
}

func lateCommit(t *testing.T, s usage.QuotaStore) {
	must(t, s, keyed(op(usage.Reserve, 3, 3), "slow"))
	other := keyed(op(usage.Consume, 3, 3), "other")
	other.Now = start.Add(time.Hour)
	require.True(t, must(t, s, other).Allowed)
	commit := keyed(op(usage.Commit, 3, 3), "slow")
	commit.Now = other.Now
	d := must(t, s, commit)
	require.True(t, d.Late)
	require.EqualValues(t, 6, d.Used)
	require.EqualValues(t, 3, d.Overage)
	require.Zero(t, counter(t, s).Held)
}

func settledTwice(t *testing.T, s usage.QuotaStore) {
	must(t, s, keyed(op(usage.Reserve, 3, 9), "a"))
	must(t, s, keyed(op(usage.Commit, 2, 9), "a"))
	require.True(t, must(t, s, keyed(op(usage.Commit, 2, 9), "a")).Replayed)
	must(t, s, keyed(op(usage.Reserve, 3, 9), "b"))
	must(t, s, keyed(op(usage.Release, 0, 9), "b"))
	for _, o := range []usage.Op{
		keyed(op(usage.Commit, 3, 9), "a"), keyed(op(usage.Release, 0, 9), "a"),
		keyed(op(usage.Commit, 1, 9), "b"), keyed(op(usage.Reserve, 3, 9), "b"),
	} {
		_, err := s.Apply(t.Context(), o)
		require.ErrorIs(t, err, usage.ErrSettled)
	}
	require.EqualValues(t, 2, counter(t, s).Used)
}

func unknownReservation(t *testing.T, s usage.QuotaStore) {
	for _, kind := range []usage.OpKind{usage.Commit, usage.Release} {
		_, err := s.Apply(t.Context(), keyed(op(kind, 1, 9), "never"))
		require.ErrorIs(t, err, usage.ErrNotFound)
	}
	_, err := s.Hold(t.Context(), "acct", "never")
	require.ErrorIs(t, err, usage.ErrNotFound)
}

func changedLimit(t *testing.T, s usage.QuotaStore) {
	require.True(t, must(t, s, op(usage.Consume, 5, 5)).Allowed)
	require.False(t, must(t, s, op(usage.Consume, 1, 5)).Allowed)
	require.True(t, must(t, s, op(usage.Consume, 1, 6)).Allowed, "an upgrade admits more at once")
	d := must(t, s, op(usage.Consume, 1, 2))
	require.False(t, d.Allowed, "a downgrade admits nothing")
	require.Zero(t, d.Remaining, "and never goes below zero")
	soft := op(usage.Consume, 100, 2)
	soft.Cap = usage.Unlimited
	d = must(t, s, soft)
	require.True(t, d.Allowed)
	require.EqualValues(t, usage.Unlimited, d.Remaining)
	require.EqualValues(t, 104, d.Overage)
}

func periodsApart(t *testing.T, s usage.QuotaStore) {
	require.True(t, must(t, s, op(usage.Consume, 5, 5)).Allowed)
	next := op(usage.Consume, 5, 5)
	next.Period = usage.Period{From: march.To, To: march.To.AddDate(0, 1, 0)}
	next.Now = march.To
	require.True(t, must(t, s, next).Allowed)
	require.EqualValues(t, 5, counter(t, s).Used)
}

func holdsTell(t *testing.T, s usage.QuotaStore) {
	c := counter(t, s)
	require.Equal(t, usage.Counter{Account: "acct", Meter: "units", Period: march}, c, "none yet")
	must(t, s, keyed(op(usage.Reserve, 3, 9), "a"))
	must(t, s, keyed(op(usage.Reserve, 2, 9), "b"))
	must(t, s, keyed(op(usage.Commit, 1, 9), "b"))
	h, err := s.Hold(t.Context(), "acct", "b")
	require.NoError(t, err)
	require.Equal(t, usage.Committed, h.State)
	require.EqualValues(t, 1, h.Actual)
	open, err := s.Holds(t.Context(), "acct", "units", 10)
	require.NoError(t, err)
	require.Equal(t, []usage.Hold{{
		Account: "acct", Key: "a", Meter: "units", Period: march, Kind: usage.Reserve, N: 3, At: start, Expires: start.Add(time.Minute),
	}}, open)
	require.Equal(t, usage.Counter{Account: "acct", Meter: "units", Period: march, Used: 1, Bare: 1, Held: 3, Limit: 9}, counter(t, s))
}

func nearLimit(t *testing.T, s usage.QuotaStore) {
	for account, used := range map[string]int64{"calm": 7, "near": 8, "nearer": 9, "over": 30} {
		o := op(usage.Consume, used, 10)
		o.Account, o.Cap = account, usage.Unlimited
		must(t, s, o)
	}
	got, err := s.NearLimit(t.Context(), "units", start, 80, 2)
	if errors.Is(err, usage.ErrUnsupported) {
		t.Skip("this store can't list counters")
	}
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, "over", got[0].Account)
	require.Equal(t, "nearer", got[1].Account)
	got, err = s.NearLimit(t.Context(), "units", march.To, 80, 2)
	require.NoError(t, err)
	require.Empty(t, got, "the period is over")
}

func cancelled(t *testing.T, s usage.QuotaStore) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Apply(ctx, op(usage.Consume, 1, 10))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, counter(t, s).Used)
}
